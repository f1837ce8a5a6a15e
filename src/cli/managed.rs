//! One agent of a region on AWS: its listeners, and how it ends.

use std::{future::Future, sync::Arc};

use tokio::signal::unix::Signal;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::process::{Error, STOP_WAIT};
use crate::{
    admin::managed::{ManagedAdmin, health_router, router},
    agent::assemble::aws::assemble_aws,
    api::listener,
    config::{Address, Config, Listener},
};

/// Where it listens. An AWS region's services publish on its bus.
pub struct Addresses {
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
    mut terminate: Signal,
    gone: impl Future<Output = ()>,
) -> Result<(), Error> {
    let auth = config.auth.clone();
    let permitted = auth.permits(Listener::Admin, &addresses.admin);
    permitted.map_err(|why| Error::Forbidden(format!("{}: {why}", addresses.admin)))?;
    // Ports first: an agent that cannot be reached must not begin to replicate.
    let admin_listener = listener::bind("admin", &addresses.admin).await?;
    let health_listener = match &addresses.health {
        Some(address) => Some(listener::bind("health", address).await?),
        None => None,
    };
    let options = listener::Options::from(&config.limits);
    let agent = assemble_aws(config, &region).await?;
    let admin = Arc::new(ManagedAdmin { agent: agent.clone(), auth });
    let (stop, servers) = (CancellationToken::new(), TaskTracker::new());
    servers.spawn(listener::serve(admin_listener, router(admin.clone()), options.clone(), stop.clone()));
    if let Some(listener) = health_listener {
        servers.spawn(listener::serve(listener, health_router(admin), options, stop.clone()));
    }
    tracing::info!(region, admin = addresses.admin.to_string(), "serving");
    tokio::pin!(gone);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
        () = &mut gone => {}
    }
    agent.drain();
    let stopping = async {
        // Links first: probes and metrics are wanted while they give back what they hold.
        agent.stop().await;
        stop.cancel();
        servers.close();
        servers.wait().await;
    };
    if tokio::time::timeout(STOP_WAIT, stopping).await.is_err() {
        tracing::warn!("stopped before everything had ended; what was under way comes again");
    }
    tracing::info!(region, "stopped");
    Ok(())
}
