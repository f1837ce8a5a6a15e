//! One agent of a region on AWS: its listeners, and how it ends.

use std::{future::Future, sync::Arc};

use tokio::signal::unix::Signal;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    process::{Counted, Error, STOP_WAIT},
    push::{self, push},
};
use crate::{
    admin::{
        managed::{ManagedAdmin, health_router, router},
        watch::keep_history,
    },
    agent::assemble::aws::{AssembledAws, assemble_aws},
    api::{self, listener, managed::ManagedApi},
    config::{Address, Config, Listener},
    core::position::uuid,
    metrics::otlp::Resource,
    ports::documents::Documents,
};

/// Where it listens. An AWS region's services publish on its bus; `api` is for those that want their key claimed first.
pub struct Addresses {
    pub api: Option<Address>,
    pub admin: Address,
    pub health: Option<Address>,
}

/// Runs one agent until SIGTERM, Ctrl-C or `gone`; then it gives back what it holds and stops.
///
/// # Errors
/// It cannot start.
pub async fn run(
    config: Config,
    region: String,
    addresses: Addresses,
    (mut terminate, mut reload): (Signal, Signal),
    gone: impl Future<Output = ()>,
) -> Result<(), Error> {
    let auth = config.auth.clone();
    let given = [(Listener::Admin, Some(&addresses.admin)), (Listener::Api, addresses.api.as_ref())];
    for (listener, address) in given.into_iter().filter_map(|(listener, address)| Some((listener, address?))) {
        auth.permits(listener, address).map_err(|why| Error::Forbidden(format!("{address}: {why}")))?;
    }
    // Ports first: an agent that cannot be reached must not begin to replicate.
    let admin_listener = listener::bind("admin", &addresses.admin).await?;
    let health_listener = match &addresses.health {
        Some(address) => Some(listener::bind("health", address).await?),
        None => None,
    };
    let api_listener = match &addresses.api {
        Some(address) => Some(listener::bind("api", address).await?),
        None => None,
    };
    let (options, limits) = (listener::Options::from(&config.limits), config.limits.clone());
    let otlp = config.otlp.clone();
    let AssembledAws { agent, publisher, hub_names, ingress, entropy } =
        assemble_aws(config, &region, api_listener.is_some()).await?;
    let (stop, servers) = (CancellationToken::new(), TaskTracker::new());
    // Several agents of a region count apart, and none of them has a name.
    let instance = uuid(4, entropy.next_u64(), entropy.next_u64());
    let counted = agent.clone();
    let source = push::Source {
        metrics: agent.metrics.clone(),
        resource: Resource { region: region.clone(), instance, started: agent.clock.now() },
        refresh: Box::new(move || counted.refresh_gauges()),
        clock: agent.clock.clone(),
        entropy: entropy.clone(),
    };
    servers.spawn(push(otlp, source, stop.clone()));
    // Ended after the servers: requests leave marks behind.
    let (unmarked, marking) = (CancellationToken::new(), TaskTracker::new());
    if let (Some(listener), Some(publisher)) = (api_listener, publisher) {
        let observer = Arc::new(Counted(agent.metrics.clone()));
        let auth = auth.clone();
        let documents = agent.documents.clone().map(|documents| Arc::new(documents) as Arc<dyn Documents>);
        let api = Arc::new(ManagedApi {
            publisher,
            closed: agent.refuses(),
            documents,
            hub_names,
            ingress,
            entropy,
            auth,
            limits,
            observer,
        });
        let (marker, until) = (api.clone(), unmarked.clone());
        marking.spawn(async move { marker.publisher.keep_marking(until).await });
        let router = api::managed::router(api);
        servers.spawn(listener::serve(listener, router, options.clone(), stop.clone()));
    }
    let admin = Arc::new(ManagedAdmin::new(agent.clone(), auth));
    servers.spawn(keep_history(admin.clone(), stop.clone()));
    servers.spawn(listener::serve(admin_listener, router(admin.clone()), options.clone(), stop.clone()));
    if let Some(listener) = health_listener {
        servers.spawn(listener::serve(listener, health_router(admin), options, stop.clone()));
    }
    tracing::info!(region, admin = addresses.admin.to_string(), "serving");
    tokio::pin!(gone);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
            () = &mut gone => break,
            _ = reload.recv() => tracing::warn!("SIGHUP: an agent on AWS reads the file when it starts; restart it"),
        }
    }
    agent.drain();
    let stopping = async {
        // Links first: probes and metrics are wanted while they give back what they hold.
        agent.stop().await;
        stop.cancel();
        servers.close();
        servers.wait().await;
        unmarked.cancel();
        marking.close();
        marking.wait().await;
    };
    if tokio::time::timeout(STOP_WAIT, stopping).await.is_err() {
        tracing::warn!("stopped before everything had ended; what was under way comes again");
    }
    tracing::info!(region, "stopped");
    Ok(())
}
