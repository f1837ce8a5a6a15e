//! What a link tells people and metrics.

/// The state of a link for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Active,
    /// Sends fail; the text says how.
    Retrying(String),
    /// The peer refuses us; the text says why.
    Refused(String),
    Paused,
}

impl Status {
    pub const NAMES: [&str; 5] = ["active", "retrying", "refused", "paused", "disabled"];

    pub fn as_str(&self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Retrying(_) => "retrying",
            Status::Refused(_) => "refused",
            Status::Paused => "paused",
        }
    }
}

/// Why an event of the log is not meant for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skip {
    /// It came over a link; only its origin sends it on.
    Foreign,
    /// The link's pattern does not match.
    Filtered,
    /// It crossed too many links.
    HopLimit,
    /// It is being held and goes its own way.
    Held,
    /// Its source begins with `aws.`: no bus takes that from us.
    AwsSource,
    /// A replay of the hub's archive; it was delivered when it happened.
    Replay,
}

impl Skip {
    pub const ALL: [Skip; 6] =
        [Skip::Foreign, Skip::Filtered, Skip::HopLimit, Skip::Held, Skip::AwsSource, Skip::Replay];

    pub fn as_str(self) -> &'static str {
        match self {
            Skip::Foreign => "foreign",
            Skip::Filtered => "filtered",
            Skip::HopLimit => "hop_limit",
            Skip::Held => "held",
            Skip::AwsSource => "aws_source",
            Skip::Replay => "replay",
        }
    }
}
