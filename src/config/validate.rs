//! What no single option can know: names that must exist, sums that must fit, listeners that need a token.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::reader::Context;
use super::units::{format_duration, format_size};
use super::{Address, Auth, Backend, Config, Link, Region};

/// Positions up to here have default ports of their own, and links grow with the square.
const REGIONS_MAX: usize = 64;
/// Claims on AWS are leases of at most this; an attempt that takes as long cannot be fenced.
const AWS_LEASE: Duration = Duration::from_secs(15);
/// EventBridge's bound on a rule's name, less `-to-`, the dash after the prefix and the suffix `-own`. Queues may have
/// longer names.
const RULE_NAME_PARTS_MAX: usize = 64 - 4 - 1 - 4;
const MISSING: &str = "(missing)";

/// A listener that may need tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Services and peers.
    Api,
    /// Operators.
    Admin,
}

impl Auth {
    /// Refuses a listener away from loopback whose tokens are missing, and names them. Also for `run --api` and
    /// `--admin`, which replace the file's address.
    pub fn permits(&self, listener: Listener, address: &Address) -> Result<(), String> {
        if address.is_loopback() {
            return Ok(());
        }
        let needed: &[_] = match listener {
            Listener::Api => &[("api_token", &self.api_token), ("peer_token", &self.peer_token)],
            Listener::Admin => &[("admin_token", &self.admin_token)],
        };
        let absent: Vec<&str> = needed.iter().filter(|(_, token)| token.is_none()).map(|(name, _)| *name).collect();
        match absent.is_empty() {
            true => Ok(()),
            false => Err(format!("a listener away from loopback needs {} in [auth]", absent.join(" and "))),
        }
    }
}

pub(super) fn validate(config: &Config, context: &Context<'_>) {
    regions(config, context);
    listeners(config, context);
    aws(config, context);
    links(config, context);
    limits(config, context);
    // The sums are only worth reading if their terms are.
    if context.is_clean() {
        retention(config, context);
    }
}

fn regions(config: &Config, context: &Context<'_>) {
    let count = config.regions.len();
    // A `region` that is no array of tables has been told so.
    if count == 0 && (context.is_clean() || !context.is_given("region")) {
        context.refuse("region", MISSING, "a topology has at least one `[[region]]`");
    }
    if count > REGIONS_MAX {
        let path = format!("region[{REGIONS_MAX}]");
        context.refuse(&path, count, format!("a topology has at most {REGIONS_MAX} regions"));
    }
    let min_active = config.cluster.min_active;
    if count > 0 && !(1..=count).contains(&min_active) {
        let why = format!("must be between 1 and the number of regions, {count}");
        context.refuse("cluster.min_active", min_active, why);
    }
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let mut directories: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for (index, region) in config.regions.iter().enumerate().filter(|(_, region)| !region.name.is_empty()) {
        if let Some(first) = names.get(region.name.as_str()) {
            let why = format!("region[{first}] has this name already");
            context.refuse(&format!("region[{index}].name"), &region.name, why);
            continue;
        }
        names.insert(&region.name, index);
        if let Some(first) = directories.insert(plain(&region.data_dir), index) {
            let why = format!("region[{first}] keeps its data there already");
            context.refuse(&format!("region[{index}].data_dir"), region.data_dir.display(), why);
        }
    }
}

/// `./data//a/` is `data/a`; `..` stays, as only the file system knows where it leads.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|component| *component != Component::CurDir).collect()
}

fn listeners(config: &Config, context: &Context<'_>) {
    if config.auth.viewer_token.is_some() && config.auth.admin_token.is_none() {
        context.refuse("auth.viewer_token", MISSING, "without `admin_token` everybody may do everything");
    }
    if config.auth.viewer_token.is_some() && config.auth.viewer_token == config.auth.admin_token {
        context.refuse("auth.viewer_token", MISSING, "the same as `admin_token`: viewers could do everything");
    }
    let mut taken: BTreeMap<&Address, (String, bool)> = BTreeMap::new();
    for (index, region) in config.regions.iter().enumerate() {
        let api = region.api.as_ref().map(|address| ("api", address));
        let health = region.health.as_ref().map(|address| ("health", address));
        for (key, address) in [api, Some(("admin", &region.admin)), health].into_iter().flatten() {
            let path = format!("region[{index}].{key}");
            let listener = match key {
                "api" => Some(Listener::Api),
                "admin" => Some(Listener::Admin),
                _ => None,
            };
            if let Some(Err(why)) = listener.map(|listener| config.auth.permits(listener, address)) {
                context.refuse(&path, address, why);
            }
            // Nobody calls a health listener by this file's address, and AWS regions do not share a host.
            let elsewhere = key == "health" && region.backend == Backend::Aws;
            match taken.get(address).filter(|_| address.port != 0) {
                Some((_, true)) if elsewhere => {}
                Some((first, _)) => context.refuse(&path, address, format!("{first} listens there already")),
                None => {
                    taken.insert(address, (path, elsewhere));
                }
            }
        }
    }
}

fn aws(config: &Config, context: &Context<'_>) {
    for (index, region) in config.regions.iter().enumerate() {
        let path = |key: &str| format!("region[{index}].{key}");
        let aws = match (region.backend, &region.aws) {
            (Backend::Embedded, None) => continue,
            (Backend::Embedded, Some(_)) => {
                context.refuse(&path("aws"), MISSING, "only a region with `backend = \"aws\"` has this section");
                continue;
            }
            (Backend::Aws, None) => {
                context.refuse(&path("aws.hub"), MISSING, "an AWS region needs its event bus, by name or ARN");
                continue;
            }
            (Backend::Aws, Some(aws)) => aws,
        };
        if let (Some(external_id), None) = (&aws.external_id, &aws.role_arn) {
            context.refuse(&path("aws.external_id"), external_id, "goes with `role_arn`, which is missing");
        }
        let callers = aws.endpoints.values().flat_map(|endpoints| endpoints.from.keys());
        let mut unknown: Vec<&String> = callers.filter(|caller| config.region(caller).is_none()).collect();
        unknown.sort();
        unknown.dedup();
        for caller in unknown {
            context.refuse(&path("aws.endpoints"), caller, format!("`{caller}` is no region of this file"));
        }
        let longest = config.regions.iter().map(|peer| peer.name.len()).max().unwrap_or_default();
        if aws.prefix.len() + region.name.len() + longest > RULE_NAME_PARTS_MAX {
            let why =
                format!("prefix and the names of two regions have at most {RULE_NAME_PARTS_MAX} characters together");
            context.refuse(&path("aws.prefix"), &aws.prefix, format!("{why}, as EventBridge bounds its rules' names"));
        }
    }
}

fn links(config: &Config, context: &Context<'_>) {
    let mut pairs: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (index, link) in config.links.iter().enumerate() {
        let path = |key: &str| format!("link[{index}].{key}");
        let ends = [("from", &link.from), ("to", &link.to)];
        let mut known = true;
        for (key, name) in ends {
            if config.region(name).is_none() {
                known = false;
                if !name.is_empty() {
                    let names: Vec<&str> = config.regions.iter().map(|region| region.name.as_str()).collect();
                    let why = format!("is no region of this file, expected {}", super::reader::quoted_list(&names));
                    context.refuse(&path(key), name, why);
                }
            }
        }
        if known && link.from == link.to {
            context.refuse(&path("to"), &link.to, "a link joins two different regions");
        } else if let (true, Some(first)) = (known, pairs.insert((&link.from, &link.to), index)) {
            let why = format!("link[{first}] is from {} to {} already", link.from, link.to);
            context.refuse(&path("to"), &link.to, why);
        }
        options(config, context, &format!("link[{index}]"), link);
    }
    options(config, context, "replication", &Link::new("", "", &config.replication));
    for link in config.links().iter().filter(|link| link.enabled && link.attempt_timeout >= AWS_LEASE) {
        if config.region(&link.to).is_none_or(|region: &Region| region.backend != Backend::Aws) {
            continue;
        }
        let own = config.links.iter().position(|other| (&other.from, &other.to) == (&link.from, &link.to));
        let own = own.map(|index| format!("link[{index}].attempt_timeout")).filter(|path| context.is_given(path));
        let why = format!("must be less than the lease of a claim on AWS, {}", format_duration(AWS_LEASE));
        let value = format_duration(link.attempt_timeout);
        context.refuse(own.as_deref().unwrap_or("replication.attempt_timeout"), value, why);
        break;
    }
}

/// Options of one link that must fit each other. A `[[link]]` answers only for what it gives itself.
fn options(config: &Config, context: &Context<'_>, section: &str, link: &Link) {
    let path = |key: &str| format!("{section}.{key}");
    let given = |key: &str| context.is_given(&path(key)) || section == "replication";
    if link.retry_min > link.retry_max && (given("retry_min") || given("retry_max")) {
        let key = if context.is_given(&path("retry_min")) { "retry_min" } else { "retry_max" };
        let (min, max) = (format_duration(link.retry_min), format_duration(link.retry_max));
        let value = if key == "retry_min" { &min } else { &max };
        context.refuse(&path(key), value, format!("retry_min ({min}) must not exceed retry_max ({max})"));
    }
    let most = config.limits.max_request_bytes;
    if link.batch_bytes > most && given("batch_bytes") {
        let why = format!("must not exceed limits.max_request_bytes ({})", format_size(most));
        context.refuse(&path("batch_bytes"), format_size(link.batch_bytes), why);
    }
}

fn limits(config: &Config, context: &Context<'_>) {
    let (entry, request) = (config.limits.max_entry_bytes, config.limits.max_request_bytes);
    if entry > request {
        let why = format!("must not exceed limits.max_request_bytes ({})", format_size(request));
        context.refuse("limits.max_entry_bytes", format_size(entry), why);
    }
    let (segment, log) = (config.log.segment_size, config.log.max_size);
    if segment > log / 2 {
        let why = format!("must be at most half of log.max_size ({})", format_size(log));
        context.refuse("log.segment_size", format_size(segment), why);
    }
}

fn retention(config: &Config, context: &Context<'_>) {
    let kept = config.idempotency.retention;
    let Some(worst) = config.redeliveries().into_iter().max_by_key(|redelivery| redelivery.longest) else { return };
    if kept >= worst.longest {
        return;
    }
    let why = format!("a ledger must keep its keys as long as an event can come again: {}", worst.sum());
    // The culprit is what the file gives; if it gives both, the ledger's retention is where the sum must fit.
    if context.is_given("log.retention")
        && !context.is_given("idempotency.retention")
        && worst.backend == Backend::Embedded
    {
        let why = format!("longer than idempotency.retention ({}); {why}", format_duration(kept));
        context.refuse("log.retention", format_duration(config.log.retention), why);
    } else {
        context.refuse("idempotency.retention", format_duration(kept), why);
    }
}
