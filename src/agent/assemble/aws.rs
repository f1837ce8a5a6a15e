//! Production's choice of adapters for a region on AWS.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::Error;
use crate::{
    agent::{
        documents::managed::PeerTable,
        managed::{DocumentPorts, LEASE, LinkPorts, Managed, PUT_BYTES, Parts, regions::table::TableRegion},
        ordered::{self, Publisher},
        payloads::{Buckets, Pair},
    },
    aws::{
        Clients,
        bus::EventBus,
        claims::ClaimsTable,
        clients::Options,
        items::ItemsTable,
        names::Names,
        objects::{self, S3Objects},
        provision::{
            Place, Plan,
            apply::{Provisioner, Resource, State},
        },
        queue::SqsQueue,
        shared::SharedTable,
    },
    config::{Aws, Config, Link},
    core::{backoff::Backoff, ingress::Ingress, link::Failure},
    embedded::system::{Random, SystemClock},
    faults::{
        self, Faults, clock::SkewedClock, documents::FaultyDocuments, managed::Way, objects::FaultyObjects,
        regions::FaultyRegion,
    },
    metrics::Metrics,
    ports::{
        bus::Bus,
        claims::Claims,
        clock::{Clock, Entropy},
        documents::RemoteDocuments,
        objects::Objects,
        queue::Queue,
        regions::RemoteRegion,
    },
};

/// Of every call but a put, whose time-out is the link's own.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Options that lose nothing, whatever they are. A table without a time to live grows.
const HARMLESS: [&str; 5] =
    ["KmsMasterKeyId", "ReceiveMessageWaitTimeSeconds", "SqsManagedSseEnabled", "VisibilityTimeout", "time to live"];

/// How long a publish through the agent may take in all: two leases, so that the claim of somebody who died can be waited
/// for and taken over.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(25);

/// A running agent and what its `api` listener needs.
pub struct AssembledAws {
    pub agent: Arc<Managed>,
    /// Where there is an `api` listener.
    pub publisher: Option<Publisher>,
    pub hub_names: Vec<String>,
    pub ingress: Ingress,
    pub entropy: Arc<dyn Entropy>,
}

/// Looks whether the region has what it needs and starts its agent.
///
/// # Errors
/// Something is missing, or is made so that events would be lost.
pub async fn assemble_aws(config: Config, region: &str, with_api: bool) -> Result<AssembledAws, Error> {
    let home = config.region(region).ok_or_else(|| Error::no_region(&config, region))?.clone();
    let (Some(names), Some(aws)) = (Names::of(&home), &home.aws) else {
        return Err(Error::Backend(region.to_owned()));
    };
    let others: Vec<String> =
        config.regions.iter().map(|other| other.name.clone()).filter(|name| name != region).collect();
    let metrics = Arc::new(Metrics::new(region, &others)?);
    let entropy: Arc<dyn Entropy> = Arc::new(Random::from_system());
    let system: Arc<dyn Clock> = Arc::new(SystemClock);
    let faults = Arc::new(Faults::new(config.faults.enabled, system.clone(), entropy.clone()));
    let clock: Arc<dyn Clock> = match config.faults.enabled {
        true => Arc::new(SkewedClock::new(system, faults.clone())),
        false => system,
    };
    let crash: faults::CrashHook = Arc::new(|| std::process::abort());
    // Where nobody can order a fault, nothing stands between the loops and AWS.
    let way = |to: &str| config.faults.enabled.then(|| Way::new(to, to == region, faults.clone(), crash.clone()));
    let open = async |aws: &Aws, attempt_timeout: Duration| {
        let options = Options { attempt_timeout, retries: 0, requests: Some(metrics.aws_requests.clone()) };
        Clients::open(aws, region, &options).await
    };
    let clients = open(aws, CALL_TIMEOUT).await;
    let home_of = |failure| Error::Aws { what: format!("region {region}"), failure };
    check(&config, &clients, &home, &names).await?;
    check_peers(&config, &names, async |aws| open(aws, CALL_TIMEOUT).await).await?;

    let open_queue = async |name: String| SqsQueue::open(&clients, &name).await.map_err(home_of);
    let behind = |queue: SqsQueue| -> Arc<dyn Queue> {
        let queue: Arc<dyn Queue> = Arc::new(queue);
        way(region).map_or(queue.clone(), |way| way.queue(queue))
    };
    let queue = async |name: String| open_queue(name).await.map(behind);
    let claims = |clients: &Clients, names: &Names| -> Arc<dyn Claims> {
        let claims: Arc<dyn Claims> = Arc::new(ClaimsTable::new(clients, &names.ledger(), clock.clone()));
        way(&names.region).map_or(claims.clone(), |way| way.claims(claims))
    };
    let bus = |clients: &Clients, names: &Names| -> Arc<dyn Bus> {
        let bus: Arc<dyn Bus> = Arc::new(EventBus::new(clients, &names.hub));
        way(&names.region).map_or(bus.clone(), |way| way.bus(bus))
    };
    let objects_of = |clients: &Clients, link: &Link| -> Arc<dyn Objects> {
        let options = objects::Options::new(link.attempt_timeout);
        let objects: Arc<dyn Objects> = Arc::new(S3Objects::new(clients, options, clock.clone()));
        match config.faults.enabled {
            true => Arc::new(FaultyObjects::new(objects, &link.to, faults.clone(), crash.clone())),
            false => objects,
        }
    };
    let mut links = BTreeMap::new();
    let mut tables: BTreeMap<String, Arc<dyn RemoteDocuments>> = BTreeMap::new();
    for (link, link_names) in names.links(&config) {
        let peer = config.region(&link.to);
        let (Some(peer_names), Some(peer_aws)) = (peer.and_then(Names::of), peer.and_then(|peer| peer.aws.as_ref()))
        else {
            return Err(Error::Mixed(region.to_owned(), link.to));
        };
        // A put must be over before its lease; a ledger's call has its own limit.
        let peer = open(peer_aws, link.attempt_timeout).await;
        if !config.state.is_empty() {
            let items = Arc::new(ItemsTable::new(&peer, &peer_names.documents()));
            let table = FaultyDocuments::new(
                Arc::new(PeerTable::new(&link.to, items, clock.clone(), config.idempotency.retention)),
                &link.to,
                faults.clone(),
                crash.clone(),
            );
            tables.insert(link.to.clone(), Arc::new(table));
        }
        let feed = open_queue(link_names.feed).await?;
        let objects = Pair {
            home: Arc::new(S3Objects::new(&clients, objects::Options::new(CALL_TIMEOUT), clock.clone())),
            peer: objects_of(&peer, &link),
            buckets: Buckets::Own { home: names.bucket.clone(), peer: peer_names.bucket.clone() },
        };
        let ports = LinkPorts {
            since: feed.made_at().await.map_err(home_of)?,
            feed: behind(feed),
            held: queue(link_names.held).await?,
            dead: queue(link_names.dead).await?,
            claims: claims(&peer, &peer_names),
            bus: bus(&peer, &peer_names),
            objects: Some(objects),
        };
        links.insert(link.to, ports);
    }
    let mut regions: BTreeMap<String, Arc<dyn RemoteRegion>> = BTreeMap::new();
    for peer in config.regions.iter().filter(|peer| peer.name != region) {
        let Some((peer_names, peer_aws)) = Names::of(peer).zip(peer.aws.as_ref()) else { continue };
        let shared = SharedTable::new(&open(peer_aws, CALL_TIMEOUT).await, &peer_names.shared());
        let table = TableRegion::new(
            &peer.name,
            Arc::new(shared),
            (clock.clone(), entropy.clone()),
            !config.state.is_empty(),
            config.suspect_after(&peer.name),
        );
        let table = FaultyRegion::new(Arc::new(table), &peer.name, faults.clone(), crash.clone());
        regions.insert(peer.name.clone(), Arc::new(table));
    }
    let bus = bus(&clients, &names);
    let ledger = claims(&clients, &names);
    let options = ordered::Options {
        home: region.to_owned(),
        lease: LEASE,
        attempt_timeout: CALL_TIMEOUT,
        call_timeout: CALL_TIMEOUT,
        patience: PUBLISH_PATIENCE.min(config.limits.request_timeout),
        put_bytes: PUT_BYTES,
        retention: config.idempotency.retention,
        backoff: Backoff { min: config.replication.retry_min, max: config.replication.retry_max },
    };
    let ingress = Ingress {
        key_pointers: config.idempotency.key.clone(),
        reference_pointers: config.claim_check.reference.clone(),
        max_entry_bytes: usize::try_from(config.limits.max_entry_bytes).unwrap_or(usize::MAX),
    };
    let hub_names = vec![region.to_owned(), names.hub.clone(), names.hub_name().to_owned()];
    let publisher = with_api.then(|| {
        let ports = ordered::Ports {
            claims: ledger.clone(),
            bus: bus.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            metrics: metrics.link(region),
        };
        Publisher::new(options, ports)
    });
    let documents = match config.state.is_empty() {
        true => None,
        false => Some(DocumentPorts {
            items: Arc::new(ItemsTable::new(&clients, &names.documents())),
            queue: queue(names.state()).await?,
            peers: tables,
        }),
    };
    let parts = Parts {
        links,
        bus,
        claims: ledger,
        local_keys: match aws.local_keys {
            true => Some(queue(names.local_keys()).await?),
            false => None,
        },
        audit: queue(names.audit()).await?,
        documents,
        regions,
        shared: Arc::new(SharedTable::new(&clients, &names.shared())),
        region: region.to_owned(),
        faults: faults.clone(),
        config: config.clone(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        metrics: metrics.clone(),
    };
    Ok(AssembledAws { agent: Managed::start(parts)?, publisher, hub_names, ingress, entropy })
}

/// Refuses a region that would lose events; what may not be looked at is told and taken on trust.
async fn check(config: &Config, clients: &Clients, home: &crate::config::Region, names: &Names) -> Result<(), Error> {
    let region = &home.name;
    let of = |what: String| move |failure| Error::Aws { what, failure };
    let described = clients.events.describe_event_bus().name(&names.hub).send().await;
    let arn = match described {
        Ok(described) => described.arn().unwrap_or_default().to_owned(),
        Err(error) => return Err(of(format!("hub {}", names.hub_name()))(crate::aws::failure(&error))),
    };
    let place = Place::of_arn(&arn).ok_or_else(|| {
        of(format!("hub {}", names.hub_name()))(Failure::Refused(format!("`{arn}` is no ARN of a bus")))
    })?;
    let expected = home.aws.as_ref().map_or("", |aws| aws.region.as_str());
    if place.region != expected {
        let why = format!("its endpoint answers for {}, the file says {expected}", place.region);
        return Err(of(format!("hub {}", names.hub_name()))(Failure::Refused(why)));
    }
    let plan = Plan::of(config, home, place)
        .map_err(|error| Error::Unsafe { region: region.clone(), wrong: vec![error.to_string()] })?;
    let provisioner = Provisioner { clients, plan: &plan };
    let looks =
        plan.resources().into_iter().filter(|resource| !matches!(resource, Resource::Bus(_) | Resource::Bucket(_)));
    let mut wrong = Vec::new();
    for resource in looks {
        let what = format!("{} {}", resource.kind(), resource.name());
        match provisioner.state(resource).await {
            Ok(State::Absent) => wrong.push(format!("{what} is not there")),
            Ok(State::Same) => {}
            Ok(State::Foreign(differences) | State::Differs(differences)) => {
                for difference in differences {
                    let line = format!("{what}: {difference}");
                    match HARMLESS.iter().any(|option| difference.starts_with(option)) {
                        true => tracing::warn!(line, "not as `hubweave provision` would make it"),
                        false => wrong.push(line),
                    }
                }
            }
            Err(error) => match error.failure {
                Failure::Refused(_) => tracing::warn!(%error, "not looked at; `hubweave doctor` tells more"),
                _ => return Err(of(what)(error.failure)),
            },
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Error::Unsafe { region: region.clone(), wrong }),
    }
}

/// Refuses peers whose hub is not there, or elsewhere: what is put on it may be answered as if it were, and be gone. A peer
/// that does not answer is no reason not to start.
async fn check_peers(config: &Config, names: &Names, open: impl AsyncFn(&Aws) -> Clients) -> Result<(), Error> {
    let mut wrong = Vec::new();
    for (link, _) in names.links(config) {
        let peer = config.region(&link.to);
        let (Some(peer_names), Some(aws)) = (peer.and_then(Names::of), peer.and_then(|peer| peer.aws.as_ref())) else {
            continue;
        };
        let what = format!("hub {} of {}", peer_names.hub_name(), link.to);
        match EventBus::new(&open(aws).await, &peer_names.hub).find().await {
            Ok(Some(arn)) => match Place::of_arn(&arn) {
                Some(place) if place.region == aws.region => {}
                Some(place) => wrong
                    .push(format!("{what}: its endpoint answers for {}, the file says {}", place.region, aws.region)),
                None => wrong.push(format!("{what}: `{arn}` is no ARN of a bus")),
            },
            Ok(None) => {
                wrong.push(format!("{what} is not there: `hubweave provision --region {} --apply` makes it", link.to))
            }
            Err(failure) => tracing::warn!(peer = link.to, %failure, "the peer's hub was not looked at"),
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Error::Unsafe { region: names.region.clone(), wrong }),
    }
}
