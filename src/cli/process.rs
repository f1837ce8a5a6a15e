//! One region's process: the agent, its listeners, and how it ends.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use axum::http::StatusCode;
use futures::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    push::{self, push},
    topology,
};
use crate::{
    admin::{self, Admin, Reload, watch::keep_history},
    agent::{
        assemble::{self, Assembled, assemble},
        ordered,
    },
    api::{self, Api, Observer, listener},
    config::{Address, Config, Listener},
    core::ingress::Ingress,
    metrics::{Metrics, otlp::Resource},
    ports::{documents::Documents, hub::Published},
};

/// Where this process listens instead of where the file says.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub api: Option<Address>,
    pub admin: Option<Address>,
    pub health: Option<Address>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Assemble(#[from] assemble::Error),
    #[error(transparent)]
    Listener(#[from] listener::Error),
    #[error("{0}")]
    Forbidden(String),
    #[error("signals cannot be received: {0}")]
    Signals(std::io::Error),
    /// What was acknowledged is safe; what was on its way is not known.
    #[error("the disk failed and the agent must start again: {0}")]
    Disk(String),
}

/// After this a stop goes on whatever is still running.
pub(super) const STOP_WAIT: Duration = Duration::from_secs(12);

/// Runs one region until SIGTERM, Ctrl-C or `gone`; then drains and stops.
///
/// # Errors
/// It cannot start, or the hub failed.
pub async fn run(
    config: Config,
    path: String,
    region: String,
    overrides: Overrides,
    gone: impl Future<Output = ()>,
) -> Result<(), Error> {
    let (mut terminate, mut reload_signal) = (
        signal(SignalKind::terminate()).map_err(Error::Signals)?,
        signal(SignalKind::hangup()).map_err(Error::Signals)?,
    );
    let home = config.region(&region).cloned();
    let addresses = home
        .as_ref()
        .map(|home| (overrides.api.or(home.api.clone()), home.admin.clone(), overrides.health.or(home.health.clone())));
    let Some((api_address, admin_address, health_address)) = addresses else {
        return Err(assemble::Error::no_region(&config, &region).into());
    };
    let admin_address = overrides.admin.unwrap_or(admin_address);
    #[cfg(feature = "aws")]
    if home.is_some_and(|home| home.backend == crate::config::Backend::Aws) {
        let addresses = super::managed::Addresses { api: api_address, admin: admin_address, health: health_address };
        return super::managed::run(config, region, addresses, (terminate, reload_signal), gone).await;
    }
    for (listener, address) in [(Listener::Api, api_address.as_ref()), (Listener::Admin, Some(&admin_address))] {
        if let Some(address) = address {
            config.auth.permits(listener, address).map_err(|why| Error::Forbidden(format!("{address}: {why}")))?;
        }
    }
    // Ports first: an agent that cannot be reached must not begin to replicate.
    let admin_listener = listener::bind("admin", &admin_address).await?;
    let api_listener = match &api_address {
        Some(address) => Some(listener::bind("api", address).await?),
        None => None,
    };
    let health_listener = match &health_address {
        Some(address) => Some(listener::bind("health", address).await?),
        None => None,
    };
    let assembled = assemble(config.clone(), &region).await?;
    let stop = CancellationToken::new();
    let servers = TaskTracker::new();
    let options = listener::Options::from(&config.limits);
    if let Some(listener) = api_listener {
        servers.spawn(listener::serve(
            listener,
            api_router(&config, &region, &assembled),
            options.clone(),
            stop.clone(),
        ));
    }
    let admin = Arc::new(Admin::new(
        assembled.agent.clone(),
        Arc::new(assembled.objects.clone()),
        assembled.backup.clone(),
        config.auth.clone(),
        reload_from(path),
    ));
    servers.spawn(keep_history(admin.clone(), stop.clone()));
    servers.spawn(listener::serve(admin_listener, admin::router(admin.clone()), options.clone(), stop.clone()));
    if let Some(listener) = health_listener {
        servers.spawn(listener::serve(listener, admin::health_router(admin.clone()), options, stop.clone()));
    }
    let (counted, clock) = (assembled.agent.clone(), assembled.agent.clock.clone());
    let source = push::Source {
        metrics: counted.metrics.clone(),
        resource: Resource { region: region.clone(), instance: region.clone(), started: clock.now() },
        refresh: Box::new(move || counted.refresh_gauges()),
        clock,
        entropy: assembled.entropy.clone(),
    };
    servers.spawn(push(config.otlp.clone(), source, stop.clone()));
    tracing::info!(
        region,
        api = api_address.map(|address| address.to_string()),
        admin = admin_address.to_string(),
        "serving"
    );
    tokio::pin!(gone);
    let failed = loop {
        tokio::select! {
            why = assembled.hub.failed() => break Some(why),
            why = assembled.objects.failed() => break Some(why),
            why = documents_failed(&assembled) => break Some(why),
            _ = terminate.recv() => break None,
            _ = tokio::signal::ctrl_c() => break None,
            () = &mut gone => break None,
            _ = reload_signal.recv() => match admin.reload().await {
                Ok(changed) => tracing::info!(?changed, "SIGHUP: configuration taken over"),
                Err(why) => tracing::error!(why, "SIGHUP: configuration refused, the old one stays"),
            },
        }
    };
    if let Some(why) = failed {
        // No draining: nothing may be acknowledged any more.
        return Err(Error::Disk(why));
    }
    assembled.agent.drain();
    let stopping = async {
        assembled.backup.stop().await;
        stop.cancel();
        servers.close();
        servers.wait().await;
        assembled.agent.stop().await;
        assembled.objects.close().await;
    };
    if tokio::time::timeout(STOP_WAIT, stopping).await.is_err() {
        tracing::warn!("stopped before everything had ended; nothing that was acknowledged is lost");
    }
    tracing::info!(region, "stopped");
    Ok(())
}

/// Completes when the documents failed; never where there are none.
async fn documents_failed(assembled: &Assembled) -> String {
    match &assembled.agent.documents {
        Some(documents) => documents.failed().await,
        None => std::future::pending().await,
    }
}

fn api_router(config: &Config, region: &str, assembled: &Assembled) -> axum::Router {
    let ingress = Ingress {
        key_pointers: config.idempotency.key.clone(),
        reference_pointers: config.claim_check.reference.clone(),
        max_entry_bytes: usize::try_from(config.limits.max_entry_bytes).unwrap_or(usize::MAX),
    };
    api::router(Arc::new(Api::new(api::Options {
        region: region.to_owned(),
        hub: assembled.agent.hub.clone(),
        inbox: assembled.inbox.clone(),
        objects: Arc::new(assembled.objects.clone()),
        store: Arc::new(assembled.objects.clone()),
        elsewhere: match config.claim_check.read_through {
            true => assembled.remote_objects.clone(),
            false => BTreeMap::new(),
        },
        documents: assembled.agent.documents.clone().map(|documents| Arc::new(documents) as Arc<dyn Documents>),
        regions: Some(assembled.agent.clone()),
        ingress,
        entropy: assembled.entropy.clone(),
        auth: config.auth.clone(),
        limits: config.limits.clone(),
        observer: Arc::new(Counted(assembled.agent.metrics.clone())),
    })))
}

fn reload_from(path: String) -> Reload {
    Arc::new(move || {
        let path = path.clone();
        async move {
            match path.as_str() {
                "-" => Err("the configuration came from standard input: restart to change it".to_owned()),
                path => topology::load(path).await.map_err(|error| error.to_string()),
            }
        }
        .boxed()
    })
}

/// What the api listener's requests count.
pub(super) struct Counted(pub Arc<Metrics>);

impl Observer for Counted {
    fn request(&self, route: &str, status: StatusCode) {
        self.0.requests.with_label_values(&[route, status.as_str()]).inc();
    }

    fn object_request(&self, operation: &str, status: StatusCode) {
        self.0.objects_requests.with_label_values(&[operation, status.as_str()]).inc();
    }

    fn object_read_through(&self, peer: &str) {
        self.0.objects_read_through.with_label_values(&[peer]).inc();
    }

    fn published(&self, published: &[Published]) {
        for published in published {
            match published {
                Published::Accepted(_) => self.0.accepted.inc(),
                Published::Duplicate(_) => self.0.deduplicated.with_label_values(&["repeat"]).inc(),
                Published::Conflict => self.0.deduplicated.with_label_values(&["conflict"]).inc(),
            }
        }
    }

    fn ordered(&self, published: &[ordered::Published]) {
        for published in published {
            match published {
                ordered::Published::Accepted(_) => self.0.accepted.inc(),
                ordered::Published::Duplicate(_) => self.0.deduplicated.with_label_values(&["repeat"]).inc(),
                ordered::Published::Conflict => self.0.deduplicated.with_label_values(&["conflict"]).inc(),
                ordered::Published::Refused { code, .. } => self.0.refused.with_label_values(&[code]).inc(),
                ordered::Published::Unavailable { .. } => {
                    self.0.refused.with_label_values(&["InternalFailure"]).inc();
                }
            }
        }
    }

    fn stamp_stripped(&self) {
        self.0.stamps_stripped.inc();
    }

    fn event_refused(&self, code: &str) {
        self.0.refused.with_label_values(&[code]).inc();
    }
}
