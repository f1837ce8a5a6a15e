//! Links: what goes from one region to another, how fast, and what is done with what does not arrive.

use std::time::Duration;

use serde_json::{Map, Number, Value};
use toml::de::DeValue;

use super::PatternCheck;
use super::reader::{Entry, Section, one_of, wide};

/// What a link does with the events that pass its filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Delivers to the peer's hub.
    Deliver,
    /// Everything but the delivery, to compare with hand-wired rules before a cut-over.
    Shadow,
}

impl Mode {
    /// The word of the topology file.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Deliver => "deliver",
            Mode::Shadow => "shadow",
        }
    }
}

/// `[replication]`: the default of every link. Each option may be overridden in a `[[link]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Replication {
    /// False: links exist only where a `[[link]]` says `enabled = true`. Default true: all pairs are linked.
    pub enabled: bool,
    /// Default `deliver`.
    pub mode: Mode,
    /// An EventBridge event pattern, as a TOML table or as JSON in a string (TOML has no null). Default `{}`:
    /// everything. The reserved source `hubweave` always passes. A change applies from a recorded sequence on, never
    /// backwards.
    pub pattern: Value,
    /// Events per second that the link delivers at most; `unlimited` (the default) or a number. Raising it costs the
    /// peer's hub: on AWS its PutEvents quota and money; neighbour: `bytes_per_second`. What is over it waits in the
    /// feed.
    pub events_per_second: Option<u32>,
    /// Bytes per second, `unlimited` by default. Raising it costs inter-region transfer; neighbour:
    /// `events_per_second`.
    pub bytes_per_second: Option<u64>,
    /// Events in one delivery to an embedded peer. Default 4096. More means fewer fsyncs for each event at the peer,
    /// and a longer wait of the first event for the last one's commit; neighbours: `batch_bytes`, `in_flight`.
    pub batch_events: usize,
    /// Bytes in one delivery; one larger event still goes, alone. Default 2 MiB. Raising it costs memory at both ends,
    /// times `in_flight`; it may not exceed `limits.max_request_bytes`.
    pub batch_bytes: u64,
    /// Deliveries under way at once. Default 4. More hides more round-trip time, costs memory, and makes a rewind
    /// repeat more; neighbours: `batch_events`, `attempt_timeout`.
    pub in_flight: usize,
    /// The first wait after a failed delivery; it doubles with jitter up to `retry_max`. Default 100 ms.
    pub retry_min: Duration,
    /// The longest wait between attempts. Default 10 s. Raising it spares a struggling peer and delays the catch-up by
    /// as much after it heals.
    pub retry_max: Duration,
    /// How long one attempt may take. Default 10 s. Raising it costs time to notice a dead peer; lowering it makes
    /// time-outs after success, hence repeats, likelier. On AWS claims are leases of 15 s, so it must stay below that.
    pub attempt_timeout: Duration,
    /// Dead letters kept for the link. Default 10,000. At the bound the link stops, as nothing may be lost: list,
    /// redrive or discard. Raising it costs disk; neighbours: `max_held`, `log.max_size`.
    pub max_dead_letters: u64,
    /// Events that wait for a payload, or retry by themselves, while later ones go on. Default 1,000. At the bound the
    /// link waits. Raising it costs memory and the size of the cursor; neighbour: `claim_check.wait`.
    pub max_held: usize,
}

impl Default for Replication {
    fn default() -> Self {
        Replication {
            enabled: true,
            mode: Mode::Deliver,
            pattern: Value::Object(Map::new()),
            events_per_second: None,
            bytes_per_second: None,
            batch_events: 4096,
            batch_bytes: 2 << 20,
            in_flight: 4,
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(10),
            max_dead_letters: 10_000,
            max_held: 1_000,
        }
    }
}

impl Replication {
    /// Reads `[replication]`, and a `[[link]]`'s own options with `[replication]` as their default.
    pub(super) fn read(section: &mut Section<'_, '_>, default: &Replication, check: PatternCheck) -> Replication {
        let millisecond = Duration::from_millis(1);
        let hour = Duration::from_secs(3_600);
        let rate = default.events_per_second.map(u64::from);
        let rate = section.integer_or_unlimited("events_per_second", rate, u64::from(u32::MAX));
        Replication {
            enabled: section.boolean("enabled", default.enabled),
            mode: section
                .parsed("mode", |text| one_of(text, &[("deliver", Mode::Deliver), ("shadow", Mode::Shadow)]))
                .unwrap_or(default.mode),
            pattern: section
                .entry("pattern")
                .and_then(|entry| read_pattern(&entry, check))
                .unwrap_or_else(|| default.pattern.clone()),
            events_per_second: rate.and_then(|rate| u32::try_from(rate).ok()),
            bytes_per_second: section.size_or_unlimited(
                "bytes_per_second",
                default.bytes_per_second,
                1 << 10..=1 << 40,
            ),
            batch_events: section.integer("batch_events", default.batch_events as u64, 1..=65_536) as usize,
            batch_bytes: section.size("batch_bytes", default.batch_bytes, 1 << 10..=64 << 20),
            in_flight: section.integer("in_flight", default.in_flight as u64, 1..=256) as usize,
            retry_min: section.duration("retry_min", default.retry_min, millisecond..=hour),
            retry_max: section.duration("retry_max", default.retry_max, millisecond..=hour),
            attempt_timeout: section.duration("attempt_timeout", default.attempt_timeout, millisecond * 10..=hour),
            max_dead_letters: section.integer("max_dead_letters", default.max_dead_letters, 1..=100_000),
            max_held: section.integer("max_held", default.max_held as u64, 1..=1_000_000) as usize,
        }
    }
}

/// One directed link, every option resolved: `[[link]]` over `[replication]` over the defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// The region whose events it carries.
    pub from: String,
    /// The region that it delivers to.
    pub to: String,
    /// A link that is not enabled carries nothing, not even the reserved source.
    pub enabled: bool,
    /// See [`Replication::mode`].
    pub mode: Mode,
    /// See [`Replication::pattern`].
    pub pattern: Value,
    /// See [`Replication::events_per_second`].
    pub events_per_second: Option<u32>,
    /// See [`Replication::bytes_per_second`].
    pub bytes_per_second: Option<u64>,
    /// See [`Replication::batch_events`].
    pub batch_events: usize,
    /// See [`Replication::batch_bytes`].
    pub batch_bytes: u64,
    /// See [`Replication::in_flight`].
    pub in_flight: usize,
    /// See [`Replication::retry_min`].
    pub retry_min: Duration,
    /// See [`Replication::retry_max`].
    pub retry_max: Duration,
    /// See [`Replication::attempt_timeout`].
    pub attempt_timeout: Duration,
    /// See [`Replication::max_dead_letters`].
    pub max_dead_letters: u64,
    /// See [`Replication::max_held`].
    pub max_held: usize,
}

impl Link {
    /// A link with these options.
    pub fn new(from: &str, to: &str, options: &Replication) -> Self {
        Link {
            from: from.to_owned(),
            to: to.to_owned(),
            enabled: options.enabled,
            mode: options.mode,
            pattern: options.pattern.clone(),
            events_per_second: options.events_per_second,
            bytes_per_second: options.bytes_per_second,
            batch_events: options.batch_events,
            batch_bytes: options.batch_bytes,
            in_flight: options.in_flight,
            retry_min: options.retry_min,
            retry_max: options.retry_max,
            attempt_timeout: options.attempt_timeout,
            max_dead_letters: options.max_dead_letters,
            max_held: options.max_held,
        }
    }

    pub(super) fn read(mut section: Section<'_, '_>, default: &Replication, check: PatternCheck) -> Link {
        let mut end = |key: &'static str| match section.string(key) {
            Some(name) => name,
            None => {
                let path = section.path_of(key);
                if !section.context().is_given(&path) {
                    section.context().refuse(&path, "(missing)", "a link needs both its regions, `from` and `to`");
                }
                String::new()
            }
        };
        let (from, to) = (end("from"), end("to"));
        let options = Replication::read(&mut section, default, check);
        section.finish();
        Link::new(&from, &to, &options)
    }
}

/// A pattern in either form, checked.
fn read_pattern(entry: &Entry<'_, '_>, check: PatternCheck) -> Option<Value> {
    let pattern = match entry.value {
        DeValue::String(text) => serde_json::from_str(text).map_err(|error| format!("not JSON: {error}")),
        other => to_json(other),
    };
    let checked = pattern.and_then(|pattern| match pattern.is_object() {
        true => check(&pattern).map(|()| pattern),
        false => Err("expected an event pattern: a table, or a JSON object in a string".to_owned()),
    });
    checked.map_err(|why| entry.refuse(why)).ok()
}

fn to_json(value: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(boolean) => Value::Bool(*boolean),
        DeValue::Integer(integer) => wide(integer)
            .and_then(Number::from_i128)
            .map(Value::Number)
            .ok_or_else(|| format!("the number {integer} is too large for a pattern"))?,
        DeValue::Float(float) => {
            let number = float.as_str().parse().ok().and_then(Number::from_f64);
            Value::Number(number.ok_or_else(|| format!("a pattern cannot hold the number {float}"))?)
        }
        DeValue::Datetime(datetime) => {
            return Err(format!("a pattern cannot hold the TOML date {datetime}: put quotes around it"));
        }
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|item| to_json(item.get_ref())).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => {
            let member = |(key, value): (&toml::Spanned<toml::de::DeString<'_>>, &toml::Spanned<DeValue<'_>>)| {
                Ok((key.get_ref().to_string(), to_json(value.get_ref())?))
            };
            Value::Object(table.iter().map(member).collect::<Result<_, String>>()?)
        }
    })
}
