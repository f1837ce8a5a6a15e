//! The sections that hold for the whole topology. Each struct documents its options; the defaults stand in `Default`.

use std::fmt;
use std::time::Duration;

use super::reader::{Entry, Section};

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// `[cluster]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Shown in reports and metrics. Default `hubweave`.
    pub name: String,
    /// Never fewer active regions than this after a failover. Default 1. Raising it refuses more failovers; at the
    /// number of regions none is possible.
    pub min_active: usize,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster { name: "hubweave".to_owned(), min_active: 1 }
    }
}

impl Cluster {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        let default = Cluster::default();
        let name = |text: &str| {
            let right = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            match (1..=63).contains(&text.len()) && text.bytes().all(right) {
                true => Ok(text.to_owned()),
                false => Err("a cluster's name has 1 to 63 letters, digits, `.`, `_` and `-`".to_owned()),
            }
        };
        let cluster = Cluster {
            name: section.parsed("name", name).unwrap_or(default.name),
            // The upper bound is the number of regions, which validation knows.
            min_active: section.integer("min_active", default.min_active as u64, 0..=u64::from(u32::MAX)) as usize,
        };
        section.finish();
        cluster
    }
}

/// `[idempotency]`: what names a business event, and how long it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// JSON pointers into the envelope; the first that finds a string is the key, else origin region and event id.
    /// Default `["/detail/metadata/idempotencyKey", "/detail/idempotencyKey"]`. All regions must agree, and a change
    /// makes known events unknown.
    pub key: Vec<String>,
    /// How long a ledger keeps a key. Default 15 d. It must exceed the longest redelivery (`check` adds that up) and
    /// costs 48 bytes for each event; neighbours: `log.retention`, `claim_check.wait`.
    pub retention: Duration,
}

impl Default for Idempotency {
    fn default() -> Self {
        let key = ["/detail/metadata/idempotencyKey", "/detail/idempotencyKey"];
        Idempotency { key: key.map(str::to_owned).to_vec(), retention: 15 * DAY }
    }
}

impl Idempotency {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        let default = Idempotency::default();
        let idempotency = Idempotency {
            key: section.entry("key").and_then(|entry| pointers(&entry, envelope_pointer)).unwrap_or(default.key),
            retention: section.duration("retention", default.retention, MILLISECOND * 1000..=366 * DAY),
        };
        section.finish();
        idempotency
    }
}

/// What becomes of an event whose payload does not turn up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    /// Dead-lettered after `wait`.
    Hold,
    /// Delivered after `wait`, marked `payload: pending`.
    Forward,
}

/// `[claim_check]`: payloads in objects, which go ahead of the events that refer to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimCheck {
    /// JSON pointers below `/detail` to an S3 URI or `{bucket,key}`. Default `[]`: no event refers to an object.
    pub reference: Vec<String>,
    /// Default `hold`.
    pub missing: Missing,
    /// How long a payload that is missing at home is waited for. Default 10 m. Raising it costs held events
    /// (`max_held`) and counts into the longest redelivery (`idempotency.retention`).
    pub wait: Duration,
    /// Buckets that all regions read: references to them cross a link as they are. Default `[]`.
    pub shared_buckets: Vec<String>,
    /// Objects under way at once for each link. Default 64. Raising it hides more round-trip time and costs connections
    /// and memory (about 256 KiB each); neighbours: `large_transfers`, `max_held`.
    pub transfers: usize,
    /// Objects of 8 MiB and more at once for each link, which small ones do not wait for. Default 4. Raising it costs
    /// bandwidth that small objects need.
    pub large_transfers: usize,
    /// Larger objects go in parts of this size and go on where they were after a failure. Default 32 MiB. Raising it
    /// repeats more after a failure; lowering it costs more calls.
    pub part_size: u64,
    /// Whether an object that is not here yet is read from a peer that has it, for a service that asks for it. Default
    /// false. Costs the peers a call for each object that is nowhere, and hides from a service that its region is behind.
    pub read_through: bool,
}

impl Default for ClaimCheck {
    fn default() -> Self {
        ClaimCheck {
            reference: Vec::new(),
            missing: Missing::Hold,
            wait: Duration::from_secs(600),
            shared_buckets: Vec::new(),
            transfers: 64,
            large_transfers: 4,
            part_size: 32 << 20,
            read_through: false,
        }
    }
}

impl ClaimCheck {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        let default = ClaimCheck::default();
        let missing =
            |text: &str| super::reader::one_of(text, &[("hold", Missing::Hold), ("forward", Missing::Forward)]);
        let claim_check = ClaimCheck {
            reference: section
                .entry("reference")
                .and_then(|e| pointers(&e, detail_pointer))
                .unwrap_or(default.reference),
            missing: section.parsed("missing", missing).unwrap_or(default.missing),
            wait: section.duration("wait", default.wait, MILLISECOND..=4 * DAY),
            shared_buckets: section
                .entry("shared_buckets")
                .and_then(|e| bucket_names(&e))
                .unwrap_or(default.shared_buckets),
            transfers: section.integer("transfers", default.transfers as u64, 1..=1_000) as usize,
            large_transfers: section.integer("large_transfers", default.large_transfers as u64, 1..=100) as usize,
            part_size: section.size("part_size", default.part_size, 5 << 20..=1 << 30),
            read_through: section.boolean("read_through", default.read_through),
        };
        section.finish();
        claim_check
    }
}

/// `[heartbeat]`: events of the reserved source that measure lag end to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Default: 1 s, and 10 s on AWS, where each costs an event for every peer; see
    /// [`Config::heartbeat_interval`](super::Config::heartbeat_interval). Raising it makes the measured lag coarser and
    /// a dead region noticed later.
    pub interval: Option<Duration>,
}

impl Heartbeat {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        let heartbeat = Heartbeat { interval: section.duration_if_given("interval", MILLISECOND * 10..=HOUR) };
        section.finish();
        heartbeat
    }
}

/// `[objective]`: what the operators promise themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objective {
    /// Shown by `/region/health` (never decisive there), used by dashboards and alerts. Default 5 s.
    pub lag: Duration,
}

impl Default for Objective {
    fn default() -> Self {
        Objective { lag: Duration::from_secs(5) }
    }
}

impl Objective {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        let objective = Objective { lag: section.duration("lag", Objective::default().lag, MILLISECOND..=DAY) };
        section.finish();
        objective
    }
}

/// `[failover]`: when a region counts as lost, and what is refused to protect from haste.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    /// A region that was not heard for so long (no heartbeat, no answer) is suspected. Default: four heartbeats, and at
    /// least 2 s; see [`Config::suspect_after`](super::Config::suspect_after). Lowering it suspects regions that are only
    /// slow; raising it adds to the time that a lost region goes unnoticed.
    pub suspect_after: Option<Duration>,
    /// After a region came back, no region is moved out for so long without `--force`. Default 10 s. Raising it protects
    /// from scripts that move users to and fro; drills are exempt.
    pub cool_down: Duration,
    /// A region that a majority suspects for so long is evacuated without a person. Default: never. A network that
    /// flaps then moves users, and what was not delivered waits in the lost region.
    pub auto: Option<Duration>,
}

impl Default for Failover {
    fn default() -> Self {
        Failover { suspect_after: None, cool_down: Duration::from_secs(10), auto: None }
    }
}

impl Failover {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        let failover = Failover {
            suspect_after: section.duration_if_given("suspect_after", MILLISECOND * 100..=HOUR),
            cool_down: section.duration("cool_down", Failover::default().cool_down, Duration::ZERO..=DAY),
            auto: section.duration_if_given("auto", Duration::from_secs(5)..=DAY),
        };
        section.finish();
        failover
    }
}

/// `[faults]`: whether `hubweave fault inject` works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Default false. True lets whoever reaches the admin listener cut links and crash the agent.
    pub enabled: bool,
}

impl Faults {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        let faults = Faults { enabled: section.boolean("enabled", false) };
        section.finish();
        faults
    }
}

/// `[log]`: the embedded hub's log of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// How long events stay for readers and for refilling restored peers; what a link still needs stays longer. Default
    /// 24 h. Raising it costs disk; neighbours: `max_size`, `idempotency.retention` (which must exceed it).
    pub retention: Duration,
    /// Above this the oldest segment goes, also if a link needs it: the link then names what it lost. Default 8 GiB.
    /// Size it as rate x event size x the longest outage of a peer to be survived.
    pub max_size: u64,
    /// The log is deleted from in whole segments of this size. Default 64 MiB. Raising it frees space in larger steps
    /// and lengthens the scan after a crash; `max_size` must hold at least two.
    pub segment_size: u64,
}

impl Default for Log {
    fn default() -> Self {
        Log { retention: DAY, max_size: 8 << 30, segment_size: 64 << 20 }
    }
}

impl Log {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        let default = Log::default();
        let log = Log {
            retention: section.duration("retention", default.retention, MILLISECOND..=366 * DAY),
            max_size: section.size("max_size", default.max_size, 1 << 20..=1 << 46),
            segment_size: section.size("segment_size", default.segment_size, 64 << 10..=4 << 30),
        };
        section.finish();
        log
    }
}

/// `[limits]`: what an agent takes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of one event, as PutEvents counts it. Default 1 MiB, EventBridge's since January 2026. Raising it lets in
    /// events that an AWS peer must get by reference.
    pub max_entry_bytes: u64,
    /// Size of one request's body from a service; a peer's batch may have 80 MiB. Default 8 MiB. Costs that much memory
    /// for each connection; neighbour: `max_connections`.
    pub max_request_bytes: u64,
    /// Connections to one listener; more wait. Default 2,048. Costs a file descriptor and some memory each.
    pub max_connections: usize,
    /// A stamped event that made more hops is skipped and counted. Default 4. A direct link is one hop; raising it lets
    /// a loop through hand-wired rules go round more often.
    pub max_hops: u32,
    /// The longest that a request may take, long polls apart. Default 30 s. Raising it keeps slow callers' connections.
    pub request_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_entry_bytes: 1 << 20,
            max_request_bytes: 8 << 20,
            max_connections: 2048,
            max_hops: 4,
            request_timeout: Duration::from_secs(30),
        }
    }
}

impl Limits {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        let default = Limits::default();
        let limits = Limits {
            max_entry_bytes: section.size("max_entry_bytes", default.max_entry_bytes, 1 << 10..=16 << 20),
            max_request_bytes: section.size("max_request_bytes", default.max_request_bytes, 1 << 10..=1 << 30),
            max_connections: section.integer("max_connections", default.max_connections as u64, 1..=1_000_000) as usize,
            max_hops: section.integer("max_hops", u64::from(default.max_hops), 1..=64) as u32,
            request_timeout: section.duration("request_timeout", default.request_timeout, MILLISECOND * 10..=HOUR),
        };
        section.finish();
        limits
    }
}

/// `[auth]`: bearer tokens. A listener on loopback needs none; every other one does, `health` excepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    /// What agents show each other. Default: none.
    pub peer_token: Option<Secret>,
    /// What services show the api listener. Default: none.
    pub api_token: Option<Secret>,
    /// What operators show the admin listener. Default: none.
    pub admin_token: Option<Secret>,
    /// What shows there who may look and change nothing: a Prometheus, a status page on a wall. Default: none.
    pub viewer_token: Option<Secret>,
}

impl Auth {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        let auth = Auth {
            peer_token: section.parsed("peer_token", secret),
            api_token: section.parsed("api_token", secret),
            admin_token: section.parsed("admin_token", secret),
            viewer_token: section.parsed("viewer_token", secret),
        };
        section.finish();
        auth
    }
}

/// Text that neither `Debug` nor an error message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that compares or sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

fn secret(text: &str) -> Result<Secret, String> {
    match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(Secret(text.to_owned())),
        false => {
            Err("a token is not empty and has visible ASCII characters only, as it travels in a header".to_owned())
        }
    }
}

/// What a header may carry, kept to itself: it may be a token.
pub(super) fn header_value(text: &str) -> Result<Secret, String> {
    let visible = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    match !text.trim().is_empty() && text.bytes().all(visible) {
        true => Ok(Secret(text.trim().to_owned())),
        false => Err("a header's value is not empty and has visible ASCII characters only".to_owned()),
    }
}

fn pointers(entry: &Entry<'_, '_>, parse: fn(&str) -> Result<String, String>) -> Option<Vec<String>> {
    let items = entry.list()?;
    // All of them are read before the verdict, so that each bad one is told.
    let read: Vec<Option<String>> = items.iter().map(|item| item.parsed(parse)).collect();
    read.into_iter().collect()
}

fn bucket_names(entry: &Entry<'_, '_>) -> Option<Vec<String>> {
    let name = |text: &str| match text.is_empty() || text.contains('/') {
        true => Err("the name of a bucket, without `s3://` and key".to_owned()),
        false => Ok(text.to_owned()),
    };
    let read: Vec<Option<String>> = entry.list()?.iter().map(|item| item.parsed(name)).collect();
    read.into_iter().collect()
}

/// RFC 6901: empty, or parts that each start with `/`, in which `~` is written `~0` and `/` is written `~1`.
fn pointer(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err("a JSON pointer starts with `/`, as in `/detail/idempotencyKey`".to_owned());
    }
    match text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1'])) {
        true => Ok(()),
        false => Err("in a JSON pointer `~` is written `~0`, and `/` within a name `~1`".to_owned()),
    }
}

fn envelope_pointer(text: &str) -> Result<String, String> {
    const MEMBERS: [&str; 9] =
        ["version", "id", "detail-type", "source", "account", "time", "region", "resources", "detail"];
    pointer(text)?;
    let first = text.split('/').nth(1).unwrap_or_default();
    match MEMBERS.contains(&first) {
        true => Ok(text.to_owned()),
        false => Err(format!("an event has no member `{first}`: the pointer should start with `/detail/`")),
    }
}

fn detail_pointer(text: &str) -> Result<String, String> {
    pointer(text)?;
    match text.starts_with("/detail/") {
        true => Ok(text.to_owned()),
        false => Err("references stand in an event's detail: the pointer should start with `/detail/`".to_owned()),
    }
}
