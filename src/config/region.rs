//! `[[region]]`: a place where the backend runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::address::Address;
use super::reader::{Entry, Section, one_of};

/// The default of [`Aws::settle`].
pub const SETTLE: Duration = Duration::from_secs(90);

/// The ports of embedded regions start here and go up by position in the file.
const API_PORT: u16 = 7401;
const ADMIN_PORT: u16 = 7501;

/// What a region's hub, ledger, state store and object store are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// One durable process with local files.
    Embedded,
    /// EventBridge, SQS, DynamoDB and S3.
    Aws,
}

impl Backend {
    /// The word of the topology file.
    pub fn as_str(self) -> &'static str {
        match self {
            Backend::Embedded => "embedded",
            Backend::Aws => "aws",
        }
    }
}

/// One region of the topology.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// Lower-case letters, digits and `-`, at most 63. The only option without a default.
    pub name: String,
    /// Default `embedded`.
    pub backend: Backend,
    /// Where an embedded region keeps everything, relative to the working directory. Default `data/<name>`. No two
    /// regions may share one.
    pub data_dir: PathBuf,
    /// For services and peers. Default 127.0.0.1:7401 plus the position in the file; none on AWS unless given. Away
    /// from loopback it needs `auth.api_token` and `auth.peer_token`.
    pub api: Option<Address>,
    /// For operators. Default 127.0.0.1:7501 plus the position in the file. Away from loopback it needs
    /// `auth.admin_token`.
    pub admin: Address,
    /// `/livez`, `/readyz` and `/region/health` alone, without authentication, on any address, so that a load balancer
    /// need not reach `admin`. Default: none.
    pub health: Option<Address>,
    /// `[region.aws]`, exactly when the backend is `aws`.
    pub aws: Option<Aws>,
}

/// `[region.aws]`: where the region's AWS resources are and how they are reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Aws {
    /// AWS region. Default: the region's name.
    pub region: String,
    /// Base URL for all services: emulators. Default: AWS's own.
    pub endpoint_url: Option<String>,
    /// URLs by service, each possibly by calling region as interface endpoints are regional. See [`Aws::endpoint`].
    pub endpoints: BTreeMap<Service, Endpoints>,
    /// Event bus name or ARN. Required.
    pub hub: String,
    /// Starts the names of queues, rules and tables. Default `hubweave`. Changing it later makes new, empty ones.
    pub prefix: String,
    /// The bucket of claim-check payloads. Default: none; events that refer to an object of this
    /// region, or to one that would have to be copied here, go to the dead letters then.
    pub bucket: Option<String>,
    /// Whether keys of what services put on the bus themselves go into the region's ledger. Default true. Without it a key
    /// that was published here and not through the agent does not suppress what a peer brings under it, and `verify` does
    /// not see it; saves a queue's requests and a row for each event. Neighbour: `api`.
    pub local_keys: bool,
    /// Whether the stamps of all arrivals are looked at. Default true. Without it an event whose stamp was inherited or
    /// forged stays in its region, unnoticed, and arrivals are not counted; heartbeats are looked at all the same. Saves a
    /// queue's requests for each arrival.
    pub audit: bool,
    /// How long a queue must be empty until everything before is taken to be at the peer: its counts are late by up to a
    /// minute. Default 90 s. Less claims more than SQS does, and drains and comes back sooner.
    pub settle: Duration,
    /// A role to assume in the region's account. Default: the agent's own credentials.
    pub role_arn: Option<String>,
    /// Handed in when the role is assumed. Needs `role_arn`.
    pub external_id: Option<String>,
    /// Profile of the shared AWS configuration to start from. Default: none.
    pub profile: Option<String>,
    /// KMS key that encrypts queues, tables and bucket. Default: AWS's own keys. Costs $1 a month and a call price.
    pub kms_key: Option<String>,
    /// Policy ARN that bounds the roles which `provision` makes. Default: none.
    pub permissions_boundary: Option<String>,
    /// Tags on everything that `provision` makes. Default: none.
    pub tags: BTreeMap<String, String>,
}

/// An AWS service whose URL can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// EventBridge.
    Events,
    /// Queues.
    Sqs,
    /// Tables.
    Dynamodb,
    /// Objects.
    S3,
}

const SERVICES: [(&str, Service); 4] =
    [("events", Service::Events), ("sqs", Service::Sqs), ("dynamodb", Service::Dynamodb), ("s3", Service::S3)];

/// The URLs of one service of a region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// For callers that are not named in `from`.
    pub default: Option<String>,
    /// By the calling agent's region.
    pub from: BTreeMap<String, String>,
}

impl Aws {
    /// The URL for calls to a service of this region made by the agent of `caller`: the one for that caller, else the
    /// service's, else `endpoint_url`; `None` for AWS's own.
    pub fn endpoint(&self, service: Service, caller: &str) -> Option<&str> {
        let of_service = self.endpoints.get(&service);
        of_service
            .and_then(|endpoints| endpoints.from.get(caller).or(endpoints.default.as_ref()))
            .or(self.endpoint_url.as_ref())
            .map(String::as_str)
    }

    /// Reads `[region.aws]`; `None` if the file leaves it out.
    fn read(region: &mut Section<'_, '_>, name: &str) -> Option<Aws> {
        let (mut section, given) = region.table_if_given("aws");
        let hub = section.parsed("hub", |text| event_bus(text).map(|()| text.to_owned()));
        let path = section.path_of("hub");
        if given && !section.context().is_given(&path) {
            let why = "an AWS region needs its event bus, by name or ARN";
            section.context().refuse(&path, "(missing)", why);
        }
        let aws = Aws {
            region: section
                .parsed("region", |text| plain(text, 32, "an AWS region").map(str::to_owned))
                .unwrap_or_else(|| name.to_owned()),
            endpoint_url: section.parsed("endpoint_url", url),
            endpoints: read_endpoints(&mut section),
            hub: hub.unwrap_or_default(),
            prefix: section
                .parsed("prefix", |text| plain(text, 32, "a prefix").map(str::to_owned))
                .unwrap_or_else(|| "hubweave".to_owned()),
            bucket: section.parsed("bucket", bucket),
            local_keys: section.boolean("local_keys", true),
            audit: section.boolean("audit", true),
            settle: section.duration("settle", SETTLE, Duration::from_secs(1)..=Duration::from_secs(3_600)),
            role_arn: section.parsed("role_arn", arn),
            external_id: section.parsed("external_id", not_empty),
            profile: section.parsed("profile", not_empty),
            kms_key: section.parsed("kms_key", not_empty),
            permissions_boundary: section.parsed("permissions_boundary", arn),
            tags: read_tags(&mut section),
        };
        section.finish();
        given.then_some(aws)
    }
}

impl Region {
    pub(super) fn read(mut section: Section<'_, '_>, position: usize) -> Region {
        let given = section.entry("name").map(|entry| entry.parsed(region_name));
        if given.is_none() {
            let path = section.path_of("name");
            section.context().refuse(&path, "(missing)", "every region needs a name, such as `eu-central-1`");
        }
        let name = given.flatten().unwrap_or_default();
        let choices = [("embedded", Backend::Embedded), ("aws", Backend::Aws)];
        let backend = section.parsed("backend", |text| one_of(text, &choices)).unwrap_or(Backend::Embedded);
        let data_dir = section.parsed("data_dir", not_empty);
        let address = |text: &str| text.parse::<Address>();
        // The number of regions is bounded far below what would overflow a port.
        let offset = u16::try_from(position).unwrap_or(0) % 100;
        let api = section.parsed("api", address);
        let admin = section.parsed("admin", address);
        let region = Region {
            data_dir: data_dir.map_or_else(|| PathBuf::from("data").join(&name), PathBuf::from),
            api: api.or_else(|| (backend == Backend::Embedded).then(|| Address::loopback(API_PORT + offset))),
            admin: admin.unwrap_or_else(|| Address::loopback(ADMIN_PORT + offset)),
            health: section.parsed("health", address),
            aws: Aws::read(&mut section, &name),
            name,
            backend,
        };
        section.finish();
        region
    }
}

/// `{ sqs = "https://…" }`, `{ sqs = { "us-east-1" = "https://…" } }`, or the other way round
/// `{ "us-east-1" = { sqs = "https://…" } }`.
fn read_endpoints(section: &mut Section<'_, '_>) -> BTreeMap<Service, Endpoints> {
    let mut endpoints: BTreeMap<Service, Endpoints> = BTreeMap::new();
    let mut table = section.table("endpoints");
    for (word, service) in SERVICES {
        let Some(entry) = table.entry(word) else { continue };
        let of_service = endpoints.entry(service).or_default();
        if entry.value.as_str().is_some() {
            of_service.default = entry.parsed(url);
        } else if let Some(mut callers) = entry.table() {
            for (caller, entry) in callers.others() {
                entry.parsed(url).map(|url| of_service.from.insert(caller, url));
            }
        }
    }
    for (caller, entry) in table.others() {
        if !entry.value.is_table() {
            let words: Vec<&str> = SERVICES.iter().map(|(word, _)| *word).collect();
            let known = super::reader::quoted_list(&words);
            entry.refuse(format!("expected a service ({known}), or a region with a table of services"));
            continue;
        }
        let Some(mut services) = entry.table() else { continue };
        for (word, service) in SERVICES {
            let Some(entry) = services.entry(word) else { continue };
            insert_once(&mut endpoints.entry(service).or_default().from, &caller, &entry);
        }
        services.finish();
    }
    endpoints
}

fn insert_once(from: &mut BTreeMap<String, String>, caller: &str, entry: &Entry<'_, '_>) {
    match from.contains_key(caller) {
        true => entry.refuse(format!("the URL for calls from {caller} is given twice")),
        false => {
            entry.parsed(url).map(|url| from.insert(caller.to_owned(), url));
        }
    }
}

fn read_tags(section: &mut Section<'_, '_>) -> BTreeMap<String, String> {
    let tag = |(key, entry): (String, Entry<'_, '_>)| {
        let value = entry.parsed(|text| Ok(text.to_owned()))?;
        if key.is_empty() || key.chars().count() > 128 || value.chars().count() > 256 || key.starts_with("aws:") {
            entry
                .refuse("a tag has a key of 1 to 128 characters that does not start with `aws:`, and at most 256 more");
            return None;
        }
        Some((key, value))
    };
    section.table("tags").others().into_iter().filter_map(tag).collect()
}

fn region_name(text: &str) -> Result<String, String> {
    let right = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    match (1..=63).contains(&text.len()) && text.bytes().all(right) {
        true => Ok(text.to_owned()),
        false => Err("a region's name has 1 to 63 lower-case letters, digits and `-`".to_owned()),
    }
}

fn plain<'t>(text: &'t str, length_max: usize, what: &str) -> Result<&'t str, String> {
    let right = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    match (1..=length_max).contains(&text.len()) && text.bytes().all(right) {
        true => Ok(text),
        false => Err(format!("{what} has 1 to {length_max} letters, digits, `-` and `_`")),
    }
}

fn event_bus(text: &str) -> Result<(), String> {
    let right = |byte: u8| byte.is_ascii_alphanumeric() || b"./_-".contains(&byte);
    if text.starts_with("arn:") {
        return match text.contains(":event-bus/") {
            true => Ok(()),
            false => Err("an event bus's ARN reads `arn:aws:events:REGION:ACCOUNT:event-bus/NAME`".to_owned()),
        };
    }
    match (1..=256).contains(&text.len()) && text.bytes().all(right) {
        true => Ok(()),
        false => Err("an event bus's name has 1 to 256 letters, digits, `.`, `/`, `_` and `-`".to_owned()),
    }
}

fn bucket(text: &str) -> Result<String, String> {
    let right = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    match (3..=63).contains(&text.len()) && text.bytes().all(right) {
        true => Ok(text.to_owned()),
        false => Err("a bucket's name has 3 to 63 lower-case letters, digits, `-` and `.`".to_owned()),
    }
}

fn arn(text: &str) -> Result<String, String> {
    match text.starts_with("arn:") {
        true => Ok(text.to_owned()),
        false => Err("expected an ARN, which starts with `arn:`".to_owned()),
    }
}

fn url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    match !rest.is_empty() && !rest.starts_with('/') && !text.contains(char::is_whitespace) {
        true => Ok(text.to_owned()),
        false => Err("expected a URL that starts with `https://` or `http://`".to_owned()),
    }
}

fn not_empty(text: &str) -> Result<String, String> {
    match text.is_empty() {
        true => Err("must not be empty".to_owned()),
        false => Ok(text.to_owned()),
    }
}
