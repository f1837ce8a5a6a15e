//! `tail`: a region's events as they come.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    Context, Error, args,
    http::{self, Call, Listener},
    out,
};
use crate::{
    agent::heartbeat::DETAIL_TYPE,
    config::Backend,
    core::{backoff::Backoff, event::RESERVED_SOURCE},
};

const WAIT_SECONDS: u64 = 20;
const PAGE: u64 = 1_000;

#[derive(Deserialize)]
struct Page {
    events: Vec<Event>,
    next: u64,
}

#[derive(Deserialize)]
struct Event {
    /// As the agent wrote it: nothing of a number or of the members' order changes.
    envelope: Box<RawValue>,
}

pub async fn tail(context: &Context, args: args::Tail) -> Result<(), Error> {
    if context.region(&args.region)?.backend == Backend::Aws {
        let why = "is on AWS: a bus keeps nothing to read; a rule with a queue of its own shows what comes by";
        return Err(Error::usage(format!("{} {why}", args.region)));
    }
    let api = context.api(&args.region)?;
    tokio::select! {
        result = follow(context, &api, &args) => result,
        () = super::stop_signal() => Ok(()),
    }
}

async fn follow(context: &Context, api: &Listener, args: &args::Tail) -> Result<(), Error> {
    let backoff = Backoff { min: Duration::from_millis(200), max: Duration::from_secs(10) };
    let mut from = args.from.clone();
    let mut left = args.limit.unwrap_or(u64::MAX);
    let pattern = args.pattern.clone().unwrap_or_else(without_heartbeats).to_string();
    let mut failures = 0;
    // Whoever was never there may be misspelt; whoever went away may come back.
    let mut answered = false;
    while left > 0 {
        let path = http::query(&[
            ("from", Some(from.clone())),
            ("limit", Some(left.min(PAGE).to_string())),
            ("wait", Some(WAIT_SECONDS.to_string())),
            ("pattern", Some(pattern.clone())),
        ]);
        match context.http.json::<Page>(api, Call::get(format!("/v1/events{path}"))).await {
            Ok(page) => {
                if failures > 0 {
                    out::note(format!("{} is back", api.region));
                }
                (failures, answered) = (0, true);
                for event in page.events.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                    left -= 1;
                    // Line breaks in it are the producer's white space.
                    out::line(event.envelope.get().replace(['\n', '\r'], " "))?;
                }
                from = page.next.to_string();
            }
            Err(error) if error.status() == Some(410) => {
                let first = error.answer().and_then(|answer| answer["first"].as_u64());
                let Some(first) = first else { return Err(error.into()) };
                out::note(format!("{error}; going on from offset {first}"));
                from = first.to_string();
            }
            Err(error) if answered && error.is_passing() => {
                failures += 1;
                if failures == 1 {
                    out::note(format!("{error}; trying again"));
                }
                tokio::time::sleep(backoff.pause(failures, super::chance())).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// One a second and region: without a pattern nobody wants them between the events.
fn without_heartbeats() -> Value {
    json!({ "$or": [
        { "source": [{ "anything-but": RESERVED_SOURCE }] },
        { "detail-type": [{ "anything-but": DETAIL_TYPE }] },
    ] })
}
