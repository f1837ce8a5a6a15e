//! The topology file: one TOML document that every agent and every command reads.
//!
//! [`Config::parse`] does all of it: `${NAME}` is replaced (`interpolate`), the document is walked with the place of
//! each value at hand (`reader`), each section turns into a plain struct (with its defaults, beside its
//! documentation, in `options`, `region`, `link` and `state`), and what no single option can know is checked at
//! the end (`validate`). Whatever is wrong is collected into one [`Error`]. [`explain()`] says what a file will do.
//!
//! Every option, its default and what it costs: `config/reference.toml`.

mod address;
mod error;
mod explain;
mod interpolate;
mod link;
mod options;
mod otlp;
mod reader;
mod region;
mod retention;
mod state;
mod syntax;
#[cfg(test)]
mod tests;
mod units;
mod validate;

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use serde_json::Value;

use crate::core::pattern::Pattern;
use toml::de::DeTable;

pub use address::Address;
pub use error::{Error, Problem};
pub use explain::{Explanation, explain};
pub use link::{Link, Mode, Replication};
pub use options::{
    Auth, ClaimCheck, Cluster, Failover, Faults, Heartbeat, Idempotency, Limits, Log, Missing, Objective, Secret,
};
pub use otlp::Otlp;
pub use region::{Aws, Backend, Endpoints, Region, SETTLE, Service};
pub use retention::{BYTES_PER_KEY, Redelivery, Term};
pub use state::{Dynamodb, Kind, StateType};
pub use units::{format_duration, format_size, parse_duration, parse_size};
pub use validate::Listener;

/// Says whether an event pattern can be compiled, and if not, why; the reason ends up in the error's line.
pub type PatternCheck = fn(&Value) -> Result<(), String>;

/// The one place that says what a valid pattern is.
const PATTERN_CHECK: PatternCheck = |pattern| Pattern::parse(pattern).map(drop).map_err(|error| error.to_string());

/// A valid topology with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[cluster]`.
    pub cluster: Cluster,
    /// `[[region]]`, in the order of the file. At least one.
    pub regions: Vec<Region>,
    /// `[replication]`: the default of every link.
    pub replication: Replication,
    /// `[[link]]`, in the order of the file, already resolved over `[replication]`. Only the links that the file names:
    /// use [`Config::links()`] or [`Config::link`] for all that exist.
    pub links: Vec<Link>,
    /// `[idempotency]`.
    pub idempotency: Idempotency,
    /// `[claim_check]`.
    pub claim_check: ClaimCheck,
    /// `[state.TYPE]` by type.
    pub state: BTreeMap<String, StateType>,
    /// `[heartbeat]`.
    pub heartbeat: Heartbeat,
    /// `[objective]`.
    pub objective: Objective,
    /// `[failover]`.
    pub failover: Failover,
    /// `[faults]`.
    pub faults: Faults,
    /// `[log]`.
    pub log: Log,
    /// `[limits]`.
    pub limits: Limits,
    /// `[auth]`.
    pub auth: Auth,
    /// `[otlp]`.
    pub otlp: Otlp,
}

impl Config {
    /// Reads and parses a file; `-` is standard input. `${NAME}` comes from the process's environment.
    pub fn load(path: &str) -> Result<Config, Error> {
        if path.starts_with("ssm://") || path.starts_with("s3://") {
            return Err(Error::unreadable(path, "cannot be read: this build lacks the aws backend"));
        }
        let (file, bytes) = match path {
            "-" => {
                let mut bytes = Vec::new();
                ("standard input", std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes))
            }
            path => (path, std::fs::read(path)),
        };
        let bytes = bytes.map_err(|error| Error::unreadable(file, format_args!("cannot be read: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes().iter().take(valid).filter(|byte| **byte == b'\n').count();
            Error::unreadable(file, format_args!("line {line} is not UTF-8 text"))
        })?;
        Config::parse(&text, file, &|name| std::env::var(name).ok())
    }

    /// Parses a topology; `file` is what errors call it, `env` resolves `${NAME}`.
    pub fn parse(text: &str, file: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Error> {
        parse_with(text, file, env, PATTERN_CHECK)
    }

    /// The region of this name.
    pub fn region(&self, name: &str) -> Option<&Region> {
        self.regions.iter().find(|region| region.name == name)
    }

    /// Every ordered pair of different regions, with all options resolved, in the order of the file; also those that
    /// are not enabled.
    pub fn links(&self) -> Vec<Link> {
        let pairs = self.regions.iter().flat_map(|from| self.regions.iter().map(move |to| (from, to)));
        pairs.filter(|(from, to)| from.name != to.name).map(|(from, to)| self.link(&from.name, &to.name)).collect()
    }

    /// The options of one directed link. Both must be regions of the file; a link of a region to itself, or with a
    /// region that the file does not have, is not enabled.
    pub fn link(&self, from: &str, to: &str) -> Link {
        if let Some(link) = self.links.iter().find(|link| link.from == from && link.to == to) {
            return link.clone();
        }
        let mut link = Link::new(from, to, &self.replication);
        link.enabled &= from != to && self.region(from).is_some() && self.region(to).is_some();
        link
    }

    /// Document types and the fields of their documents.
    pub fn schemas(&self) -> crate::core::state::Schemas {
        state::schemas(&self.state)
    }

    /// How often this region sends a heartbeat: as configured, else 1 s, and 10 s on AWS.
    pub fn heartbeat_interval(&self, region: &str) -> Duration {
        let on_aws = self.region(region).is_some_and(|region| region.backend == Backend::Aws);
        self.heartbeat.interval.unwrap_or(Duration::from_secs(if on_aws { 10 } else { 1 }))
    }

    /// How long nothing may be heard of this region before its peers suspect it: as configured, else four of its
    /// heartbeats, and at least 2 s.
    pub fn suspect_after(&self, region: &str) -> Duration {
        let default = (4 * self.heartbeat_interval(region)).max(Duration::from_secs(2));
        self.failover.suspect_after.unwrap_or(default)
    }
}

/// [`Config::parse`] with the judge of patterns handed in.
fn parse_with(
    text: &str,
    file: &str,
    env: &dyn Fn(&str) -> Option<String>,
    check: PatternCheck,
) -> Result<Config, Error> {
    let original = reader::Context::new(file, text);
    let text = interpolate::interpolate(text, env).map_err(|refused| syntax::unresolved(&original, text, refused))?;
    let context = reader::Context::new(file, &text);
    let document = DeTable::parse(&text).map_err(|error| syntax::error(&context, &text, &error))?;
    let config = read(&context, document.get_ref(), check);
    validate::validate(&config, &context);
    match Error::of(context.into_problems()) {
        Some(error) => Err(error),
        None => Ok(config),
    }
}

/// Every section, with defaults for what is missing or wrong.
fn read(context: &reader::Context<'_>, document: &DeTable<'_>, check: PatternCheck) -> Config {
    let mut root = context.root(document);
    let regions = root.tables("region").into_iter().enumerate();
    let mut replication = root.table("replication");
    let defaults = Replication::read(&mut replication, &Replication::default(), check);
    replication.finish();
    let config = Config {
        cluster: Cluster::read(root.table("cluster")),
        regions: regions.map(|(position, section)| Region::read(section, position)).collect(),
        links: root.tables("link").into_iter().map(|section| Link::read(section, &defaults, check)).collect(),
        replication: defaults,
        idempotency: Idempotency::read(root.table("idempotency")),
        claim_check: ClaimCheck::read(root.table("claim_check")),
        state: state::read(root.table("state")),
        heartbeat: Heartbeat::read(root.table("heartbeat")),
        objective: Objective::read(root.table("objective")),
        failover: Failover::read(root.table("failover")),
        faults: Faults::read(root.table("faults")),
        log: Log::read(root.table("log")),
        limits: Limits::read(root.table("limits")),
        auth: Auth::read(root.table("auth")),
        otlp: Otlp::read(root.table("otlp")),
    };
    root.finish();
    config
}
