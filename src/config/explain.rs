//! What `hubweave check` prints: what this file will do, with every default and sum spelled out.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::units::{approximate_size, format_duration, format_size};
use super::{Address, Backend, Config, Link, Mode, Redelivery};

/// EventBridge's bound on a rule's pattern.
const AWS_PATTERN_CHARACTERS_MAX: usize = 2_048;
/// A queue's counts are late by so much.
const COUNTS_LATE: Duration = Duration::from_secs(60);
const LEDGER_RATES: [u64; 3] = [10, 100, 1000];

/// A topology, explained. Serializes for `--json`; `Display` is for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// `cluster.name`.
    pub cluster: String,
    /// `cluster.min_active`.
    pub min_active: usize,
    /// In the order of the file.
    pub regions: Vec<RegionView>,
    /// Every enabled link.
    pub links: Vec<LinkView>,
    /// Directions without an enabled link, one line for each pair.
    pub exchanges_nothing: Vec<PairView>,
    /// Ledger retention against the longest redelivery.
    pub retention: RetentionView,
    /// The size of one region's ledger at some rates.
    pub ledger: Vec<LedgerView>,
    /// Bounds on what is taken in and kept.
    pub limits: LimitsView,
    /// What is legal and may still surprise.
    pub notes: Vec<String>,
}

/// One region.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RegionView {
    /// Its name.
    pub name: String,
    /// Embedded or AWS.
    pub backend: Backend,
    /// Of an embedded region.
    pub data_dir: Option<String>,
    /// The event bus of an AWS region.
    pub hub: Option<String>,
    /// Whether an AWS region keeps keys of what services put on its bus.
    pub local_keys: Option<bool>,
    /// Whether an AWS region looks at the stamps of all arrivals.
    pub audit: Option<bool>,
    /// For services and peers.
    pub api: Option<Address>,
    /// For operators.
    pub admin: Address,
    /// For load balancers.
    pub health: Option<Address>,
    /// Between its heartbeats.
    pub heartbeat_seconds: f64,
}

/// One enabled link.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LinkView {
    /// The region whose events it carries.
    pub from: String,
    /// The region that it delivers to.
    pub to: String,
    /// Deliver or shadow.
    pub mode: Mode,
    /// The filter.
    pub pattern: Value,
    /// `null`: unlimited.
    pub events_per_second: Option<u32>,
    /// `null`: unlimited.
    pub bytes_per_second: Option<u64>,
    /// Events in one delivery.
    pub batch_events: usize,
    /// Bytes in one delivery.
    pub batch_bytes: u64,
    /// Deliveries under way at once.
    pub in_flight: usize,
    /// The first wait after a failure.
    pub retry_min_seconds: f64,
    /// The longest wait.
    pub retry_max_seconds: f64,
    /// One attempt.
    pub attempt_timeout_seconds: f64,
    /// At this many the link stops.
    pub max_dead_letters: u64,
    /// At this many the link waits.
    pub max_held: usize,
}

/// Two regions of which at least one sends the other nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairView {
    /// Both, in the order of the file.
    pub regions: [String; 2],
    /// The directions that are off, as (from, to).
    pub disabled: Vec<[String; 2]>,
}

/// Ledger retention against the longest redelivery.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RetentionView {
    /// How long a key is remembered.
    pub ledger_seconds: f64,
    /// From this age on an event is rejected, and redriven by an explicit flag only.
    pub expiry_seconds: f64,
    /// How long the embedded hub keeps events.
    pub log_seconds: f64,
    /// For each backend in use; each fits into `ledger_seconds`, else the file is refused.
    pub redelivery: Vec<Redelivery>,
    #[serde(skip)]
    durations: [Duration; 3],
}

/// A ledger at a steady rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LedgerView {
    /// Into one region, from all sources.
    pub events_per_second: u64,
    /// Once it is `retention` old.
    pub bytes: u64,
}

/// `[limits]` and `[log]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LimitsView {
    /// One event.
    pub max_entry_bytes: u64,
    /// One request.
    pub max_request_bytes: u64,
    /// Of one listener.
    pub max_connections: usize,
    /// Of a stamped event.
    pub max_hops: u32,
    /// Of one request.
    pub request_timeout_seconds: f64,
    /// Of an embedded hub's log.
    pub log_max_bytes: u64,
}

/// Says what this topology will do.
pub fn explain(config: &Config) -> Explanation {
    let durations = [config.idempotency.retention, config.expiry(), config.log.retention];
    Explanation {
        cluster: config.cluster.name.clone(),
        min_active: config.cluster.min_active,
        regions: regions(config),
        links: config.links().into_iter().filter(|link| link.enabled).map(link_view).collect(),
        exchanges_nothing: unlinked(config),
        retention: RetentionView {
            ledger_seconds: durations[0].as_secs_f64(),
            expiry_seconds: durations[1].as_secs_f64(),
            log_seconds: durations[2].as_secs_f64(),
            redelivery: config.redeliveries(),
            durations,
        },
        ledger: LEDGER_RATES
            .map(|rate| LedgerView { events_per_second: rate, bytes: config.ledger_bytes(rate) })
            .to_vec(),
        limits: LimitsView {
            max_entry_bytes: config.limits.max_entry_bytes,
            max_request_bytes: config.limits.max_request_bytes,
            max_connections: config.limits.max_connections,
            max_hops: config.limits.max_hops,
            request_timeout_seconds: config.limits.request_timeout.as_secs_f64(),
            log_max_bytes: config.log.max_size,
        },
        notes: notes(config),
    }
}

fn regions(config: &Config) -> Vec<RegionView> {
    let view = |region: &super::Region| RegionView {
        name: region.name.clone(),
        backend: region.backend,
        data_dir: (region.backend == Backend::Embedded).then(|| region.data_dir.display().to_string()),
        hub: region.aws.as_ref().map(|aws| aws.hub.clone()),
        local_keys: region.aws.as_ref().map(|aws| aws.local_keys),
        audit: region.aws.as_ref().map(|aws| aws.audit),
        api: region.api.clone(),
        admin: region.admin.clone(),
        health: region.health.clone(),
        heartbeat_seconds: config.heartbeat_interval(&region.name).as_secs_f64(),
    };
    config.regions.iter().map(view).collect()
}

fn link_view(link: Link) -> LinkView {
    LinkView {
        from: link.from,
        to: link.to,
        mode: link.mode,
        pattern: link.pattern,
        events_per_second: link.events_per_second,
        bytes_per_second: link.bytes_per_second,
        batch_events: link.batch_events,
        batch_bytes: link.batch_bytes,
        in_flight: link.in_flight,
        retry_min_seconds: link.retry_min.as_secs_f64(),
        retry_max_seconds: link.retry_max.as_secs_f64(),
        attempt_timeout_seconds: link.attempt_timeout.as_secs_f64(),
        max_dead_letters: link.max_dead_letters,
        max_held: link.max_held,
    }
}

fn unlinked(config: &Config) -> Vec<PairView> {
    let mut pairs = Vec::new();
    for (index, one) in config.regions.iter().enumerate() {
        for other in config.regions.iter().skip(index + 1) {
            let directions = [[&one.name, &other.name], [&other.name, &one.name]];
            let off = directions.into_iter().filter(|[from, to]| !config.link(from, to).enabled);
            let disabled: Vec<[String; 2]> = off.map(|ends| ends.map(String::clone)).collect();
            if !disabled.is_empty() {
                pairs.push(PairView { regions: [one.name.clone(), other.name.clone()], disabled });
            }
        }
    }
    pairs
}

fn notes(config: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    let count = config.regions.len();
    if count > 1 && config.cluster.min_active == count {
        notes.push(format!("cluster.min_active is {count}, the number of regions: no failover is possible"));
    }
    if config.faults.enabled {
        notes.push("faults.enabled: whoever reaches the admin listeners can cut links and crash agents".to_owned());
    }
    for region in &config.regions {
        let name = &region.name;
        if count > 1 && region.api.as_ref().is_some_and(Address::is_unspecified) {
            notes
                .push(format!("{name}: peers on other hosts cannot call its api address; give a name, run with --api"));
        }
        if config.heartbeat_interval(name) > config.objective.lag {
            let (interval, lag) = (config.heartbeat_interval(name), config.objective.lag);
            let (interval, lag) = (format_duration(interval), format_duration(lag));
            notes.push(format!("{name}: heartbeats every {interval} cannot show a lag objective of {lag} in time"));
        }
        let Some(aws) = &region.aws else { continue };
        if !aws.local_keys {
            notes.push(format!(
                "{name}: local_keys = false: a key that services publish here without the agent makes a second effect \
                 when a peer brings it, and verify does not see it; so does a key that was published through an agent which \
                 died, or whose caller hung up, before its claim was marked"
            ));
        }
        if aws.settle < COUNTS_LATE {
            notes.push(format!(
                "{name}: settle = {}: counts of queues are late by up to {}, so a failover may take for done what is not",
                format_duration(aws.settle),
                format_duration(COUNTS_LATE)
            ));
        }
        if !aws.audit {
            notes.push(format!(
                "{name}: audit = false: an event whose stamp was inherited or forged stays here, and nobody notices"
            ));
        }
        if aws.bucket.is_none() && !config.claim_check.reference.is_empty() {
            notes.push(format!(
                "{name}: no bucket, although claim_check.reference is set: events that refer to an object go to the dead \
                 letters, unless it is in claim_check.shared_buckets"
            ));
        }
        if !config.state.is_empty() && region.api.is_none() {
            notes.push(format!("{name}: has no `api`, so services change documents by State Operation events alone"));
        }
        if config.limits.max_entry_bytes > 1 << 20 {
            notes.push(format!("{name}: PutEvents takes 1 MiB, larger events get there by reference"));
        }
        for link in config.links().iter().filter(|link| link.from == *name && link.enabled) {
            let length = link.pattern.to_string().chars().count();
            if length > AWS_PATTERN_CHARACTERS_MAX {
                let most = AWS_PATTERN_CHARACTERS_MAX;
                notes.push(format!(
                    "{name} to {}: the pattern has {length} characters, an AWS rule takes {most}",
                    link.to
                ));
            }
        }
    }
    notes
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.regions.len() == 1 { "region" } else { "regions" };
        let (name, count) = (&self.cluster, self.regions.len());
        writeln!(f, "cluster {name}: {count} {plural}, at least {} active", self.min_active)?;
        writeln!(f, "\nregions")?;
        self.regions.iter().try_for_each(|region| write_region(f, region))?;
        if !self.links.is_empty() {
            writeln!(f, "\nlinks")?;
        }
        self.links.iter().try_for_each(|link| write_link(f, link))?;
        for pair in &self.exchanges_nothing {
            match pair.disabled.as_slice() {
                [[from, to]] => writeln!(f, "  {from} to {to}: exchanges nothing in this direction")?,
                _ => writeln!(f, "  {} and {}: exchanges nothing", pair.regions[0], pair.regions[1])?,
            }
        }
        self.write_retention(f)?;
        let limits = &self.limits;
        writeln!(f, "\nlimits")?;
        let (entry, request) = (format_size(limits.max_entry_bytes), format_size(limits.max_request_bytes));
        writeln!(f, "  an event {entry}, a request {request} in {}", seconds(limits.request_timeout_seconds))?;
        writeln!(f, "  {} connections to a listener, {} hops", limits.max_connections, limits.max_hops)?;
        writeln!(f, "  an embedded hub's log {}", format_size(limits.log_max_bytes))?;
        if !self.notes.is_empty() {
            writeln!(f, "\nnotes")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  {note}"))
    }
}

impl Explanation {
    fn write_retention(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ledger, expiry, log] = self.retention.durations.map(format_duration);
        writeln!(f, "\nretention")?;
        writeln!(f, "  ledger {ledger}, log {log}")?;
        for redelivery in &self.retention.redelivery {
            writeln!(f, "  longest redelivery, {}: {}", redelivery.backend.as_str(), redelivery.sum())?;
        }
        writeln!(f, "  an event older than {expiry} is redriven by an explicit flag only")?;
        let size = |view: &LedgerView| format!("{} at {}/s", approximate_size(view.bytes), view.events_per_second);
        let sizes: Vec<String> = self.ledger.iter().map(size).collect();
        writeln!(f, "  a region's ledger: {}", sizes.join(", "))
    }
}

fn write_region(f: &mut fmt::Formatter<'_>, region: &RegionView) -> fmt::Result {
    write!(f, "  {}: {}", region.name, region.backend.as_str())?;
    if let Some(hub) = &region.hub {
        write!(f, ", hub {hub}")?;
    }
    for (option, value) in [("local_keys", region.local_keys), ("audit", region.audit)] {
        if value == Some(false) {
            write!(f, ", without {option}")?;
        }
    }
    if let Some(api) = &region.api {
        write!(f, ", api {api}")?;
    }
    write!(f, ", admin {}", region.admin)?;
    if let Some(health) = &region.health {
        write!(f, ", health {health}")?;
    }
    if let Some(data_dir) = &region.data_dir {
        write!(f, ", data in {data_dir}")?;
    }
    writeln!(f, ", heartbeat every {}", seconds(region.heartbeat_seconds))
}

fn write_link(f: &mut fmt::Formatter<'_>, link: &LinkView) -> fmt::Result {
    let filter = match link.pattern.as_object().is_some_and(serde_json::Map::is_empty) {
        true => "everything".to_owned(),
        false => link.pattern.to_string(),
    };
    let pace = match (link.events_per_second, link.bytes_per_second) {
        (None, None) => "unpaced".to_owned(),
        (Some(events), None) => format!("{events} events/s"),
        (None, Some(bytes)) => format!("{}/s", format_size(bytes)),
        (Some(events), Some(bytes)) => format!("{events} events/s and {}/s", format_size(bytes)),
    };
    writeln!(f, "  {} to {}: {}, {filter}, {pace}", link.from, link.to, link.mode.as_str())
}

fn seconds(seconds: f64) -> String {
    format_duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}
