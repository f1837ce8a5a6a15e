//! Points in time as plain numbers. Nothing here reads a clock: `now` is always handed in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Nanoseconds since the Unix epoch, UTC. Fits until the year 2554.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    pub const ZERO: Timestamp = Timestamp(0);

    pub fn from_millis(milliseconds: u64) -> Self {
        Timestamp(milliseconds.saturating_mul(1_000_000))
    }

    /// Whole and fractional seconds, as EventBridge's `Time` and Prometheus gauges carry them.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    pub fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Without its fraction, as EventBridge stamps an event that brings no time of its own.
    pub fn whole_seconds(self) -> Timestamp {
        Timestamp(self.0 - self.0 % 1_000_000_000)
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later (clocks step back).
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub fn plus(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    pub fn minus(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Later by so many milliseconds, or earlier.
    pub fn shifted(self, milliseconds: i64) -> Timestamp {
        let by = Duration::from_millis(milliseconds.unsigned_abs());
        if milliseconds < 0 { self.minus(by) } else { self.plus(by) }
    }

    /// RFC 3339 in UTC; a fraction only where there is one, as EventBridge's `time` has none.
    pub fn to_rfc3339(self) -> String {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(timestamp) => timestamp.to_string(),
            Err(_) => "9999-12-31T23:59:59Z".to_owned(),
        }
    }

    /// Parses RFC 3339 with any offset. `None` for other text and for times before 1970.
    pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
        let parsed: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(parsed.as_nanosecond()).ok().map(Timestamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_with_and_without_a_fraction() {
        for text in ["2026-11-23T10:00:00Z", "2026-11-23T10:00:00.123456789Z"] {
            assert_eq!(Timestamp::parse_rfc3339(text).map(Timestamp::to_rfc3339).as_deref(), Some(text));
        }
        assert_eq!(
            Timestamp::parse_rfc3339("2026-11-23T12:00:00+02:00"),
            Timestamp::parse_rfc3339("2026-11-23T10:00:00Z")
        );
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
    }
}
