//! One small event a second through the whole path: what it measures is what services get.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    core::{
        event::{Draft, RESERVED_SOURCE},
        json,
    },
    ports::hub::Hub,
};

pub const DETAIL_TYPE: &str = "Heartbeat";

/// Publishes heartbeats until `stop`. A hub that is busy misses one; the next one tells more. `told` hears that one is
/// offered (`None`), and whether the hub took it.
pub async fn run(
    hub: Arc<dyn Hub>,
    region: String,
    interval: Duration,
    stop: CancellationToken,
    told: impl Fn(Option<bool>) + Send,
) {
    let mut number = 0u64;
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        number += 1;
        let head = hub.end().offset;
        let detail = format!("{{\"region\":{},\"number\":{number},\"head\":{head}}}", json::quote(&region));
        let draft = Draft {
            key: None,
            source: RESERVED_SOURCE.to_owned(),
            detail_type: DETAIL_TYPE.to_owned(),
            payload_hash: json::canonical_hash(RESERVED_SOURCE, DETAIL_TYPE, &detail, &[]),
            detail,
            time: None,
            resources: Vec::new(),
            stamp_stripped: false,
            has_payload: false,
            trace: None,
        };
        told(None);
        let published = hub.publish(vec![draft]).await;
        told(Some(published.is_ok()));
        if let Err(error) = published {
            tracing::warn!(%error, number, "no heartbeat this time");
        }
    }
}
