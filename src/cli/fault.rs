//! `fault`: faults on purpose, in one agent.

use serde_json::{Value, json};

use super::{
    Context, Error,
    args::{Fault, FaultKind, FaultScope, Inject},
    http::{self, Call},
    out::{self, Align},
};
use crate::config::{Backend, format_duration};

pub async fn fault(context: &Context, command: Fault) -> Result<(), Error> {
    match command {
        Fault::Inject(args) => {
            check(context, &args.scope)?;
            if args.kind == FaultKind::Delay && args.delay.is_none() {
                return Err(Error::usage("--kind delay needs --delay, such as `--delay 500ms`"));
            }
            let answer = inject(context, &args).await?;
            context.print(&answer, || {
                let lasts = args
                    .lasts
                    .map_or("until it is cleared".to_owned(), |lasts| format!("for {}", format_duration(lasts)));
                format!("{} {lasts}", describe(&args.scope, &answer))
            })
        }
        Fault::List(scope) => {
            check(context, &scope)?;
            let mut answer: Value = context.http.json(&context.admin(&scope.region)?, Call::get("/v1/faults")).await?;
            if let (Some(faults), Some(peer)) = (answer["faults"].as_array_mut(), &scope.peer) {
                faults.retain(|fault| fault["peer"].is_null() || fault["peer"] == peer.as_str());
            }
            context.print(&answer, || list(&scope.region, &answer))
        }
        Fault::Clear { scope, kind } => {
            check(context, &scope)?;
            let answer = clear(context, &scope, kind).await?;
            context.print(&answer, || {
                format!("{} cleared", out::counted(answer["cleared"].as_u64().unwrap_or_default(), "fault"))
            })
        }
    }
}

/// Starts a fault.
pub async fn inject(context: &Context, args: &Inject) -> Result<Value, Error> {
    let milliseconds = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut body = json!({
        "kind": args.kind,
        "peer": args.scope.peer,
        "direction": args.direction,
        "delay_ms": args.delay.map(milliseconds),
        "probability": args.probability,
        "for_ms": args.lasts.map(milliseconds),
    });
    if let Some(members) = body.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    Ok(context.http.json(&context.admin(&args.scope.region)?, Call::post("/v1/faults", &body)).await?)
}

/// Ends faults.
pub async fn clear(context: &Context, scope: &FaultScope, kind: Option<FaultKind>) -> Result<Value, Error> {
    let kind = kind.and_then(|kind| serde_json::to_value(kind).ok()?.as_str().map(str::to_owned));
    let query = http::query(&[("kind", kind), ("peer", scope.peer.clone())]);
    Ok(context.http.json(&context.admin(&scope.region)?, Call::delete(format!("/v1/faults{query}"))).await?)
}

fn check(context: &Context, scope: &FaultScope) -> Result<(), Error> {
    context.region(&scope.region)?;
    match &scope.peer {
        Some(peer) if *peer == scope.region && context.region(peer)?.backend == Backend::Embedded => {
            Err(Error::usage("--region and --peer are the same region"))
        }
        Some(peer) => context.region(peer).map(|_| ()),
        None => Ok(()),
    }
}

fn describe(scope: &FaultScope, fault: &Value) -> String {
    let peer = scope.peer.as_ref().map_or("all peers".to_owned(), Clone::clone);
    let kind = fault["kind"].as_str().unwrap_or("fault");
    let direction = fault["direction"].as_str().unwrap_or("both");
    let direction = if direction == "both" { "both directions".to_owned() } else { format!("direction {direction}") };
    format!("{kind} between {} and {peer}, {direction},", scope.region)
}

fn list(region: &str, answer: &Value) -> String {
    let faults = answer["faults"].as_array().map(Vec::as_slice).unwrap_or_default();
    if faults.is_empty() {
        return format!("{region} has no faults");
    }
    let cell = |fault: &Value, key: &str| match &fault[key] {
        Value::String(text) => text.clone(),
        Value::Null if key == "peer" => "(all)".to_owned(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let keys = ["id", "kind", "peer", "direction", "delay_ms", "probability", "until"];
    let rows: Vec<Vec<String>> = faults.iter().map(|fault| keys.iter().map(|key| cell(fault, key)).collect()).collect();
    let columns = [
        ("ID", Align::Right),
        ("KIND", Align::Left),
        ("PEER", Align::Left),
        ("DIRECTION", Align::Left),
        ("DELAY MS", Align::Right),
        ("PROBABILITY", Align::Right),
        ("UNTIL", Align::Left),
    ];
    out::table(&columns, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_without_peer_is_with_all_peers() {
        let scope = FaultScope { region: "eu".to_owned(), peer: None };
        let fault = json!({"id": 1, "kind": "drop", "direction": "out"});
        assert_eq!(describe(&scope, &fault), "drop between eu and all peers, direction out,");
        let text = list("eu", &json!({"faults": [fault]}));
        assert!(text.lines().any(|line| line.contains("drop  (all)")), "{text}");
    }
}
