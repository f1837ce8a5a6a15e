//! `failover`: moving users out of a region and back, by whichever region's agent answers.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use super::{
    Context, Error, args,
    http::{self, Call, Listener},
    out::{self, Align},
};

/// Who does not say by then who serves users does not coordinate either.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// It reads a long piece of a log, or a whole ledger.
const INVENTORY_TIMEOUT: Duration = Duration::from_secs(900);

/// What a command takes besides its waiting.
const MARGIN: Duration = Duration::from_secs(60);

pub async fn failover(context: &Context, command: args::Failover) -> Result<(), Error> {
    match command {
        args::Failover::Plan(order) => plan(context, &order).await,
        args::Failover::Execute(order) => perform(context, "execute", &order).await,
        args::Failover::Failback(order) => perform(context, "failback", &order).await,
        args::Failover::Abort(order) => perform(context, "abort", &order).await,
        args::Failover::Status { region } => status(context, region.as_deref()).await,
        args::Failover::Inventory { region } => inventory(context, &region).await,
    }
}

/// The regions' admin listeners that answer, and what they say; those but `region` first: it may be what fails.
async fn answering(context: &Context, region: Option<&str>) -> Vec<(Listener, Result<Value, http::Error>)> {
    let mut listeners = context.admins();
    listeners.sort_by_key(|listener| Some(listener.region.as_str()) == region);
    let asked = listeners.into_iter().map(|listener| async move {
        let view = context.http.json(&listener, Call::get("/v1/regions").timeout(LOOK_TIMEOUT)).await;
        (listener, view)
    });
    join_all(asked).await
}

/// The agents that may coordinate; why nobody can, where there is none.
async fn coordinators(context: &Context, region: &str) -> Result<Vec<Listener>, Error> {
    let (mut can, mut cannot) = (Vec::new(), Vec::new());
    for (listener, view) in answering(context, Some(region)).await {
        match view {
            Ok(_) => can.push(listener),
            Err(error) => cannot.push(error.to_string()),
        }
    }
    match can.is_empty() {
        true => Err(Error::no(format!("no region's agent can coordinate it\n{}", cannot.join("\n")))),
        false => Ok(can),
    }
}

fn body(action: &str, order: &args::Order, alone: bool) -> Value {
    json!({
        "action": action,
        "region": order.region,
        "mode": order.mode.map(|mode| mode.as_str()),
        "force": order.force,
        "alone": alone,
        "drill": order.drill,
        "by": order.by.clone().unwrap_or_else(operator),
        "reason": order.reason.clone().unwrap_or_default(),
        "wait_seconds": order.wait.as_secs_f64(),
    })
}

/// Who types this, for the log of decisions.
pub fn operator() -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = variable("SUDO_USER").or_else(|| variable("USER")).or_else(|| variable("LOGNAME"));
    user.unwrap_or_else(|| "an operator".to_owned())
}

/// Has it done by the first agent that gets it decided: one may be cut off from the others, or go away meanwhile, and each
/// step is decided once. Where none gets a majority, and it is forced, the first decides alone.
async fn ask(context: &Context, action: &str, order: &args::Order) -> Result<Value, Error> {
    context.region(&order.region)?;
    let coordinators = coordinators(context, &order.region).await?;
    let mut last = None;
    for alone in [false, true] {
        for listener in &coordinators {
            let call = Call::post("/v1/failover", &body(action, order, alone)).timeout(order.wait + MARGIN);
            match context.http.json(listener, call).await {
                Ok(done) => return Ok(done),
                // It could have been decided, and was not: no other agent would say anything else.
                Err(error) if error.status().is_some_and(|status| status != 503) => return Err(error.into()),
                Err(error) => last = Some(error),
            }
        }
        if !order.force {
            break;
        }
    }
    Err(last.map_or_else(|| Error::no("nobody coordinates it"), Error::from))
}

async fn perform(context: &Context, action: &str, order: &args::Order) -> Result<(), Error> {
    let done = ask(context, action, order).await?;
    context.print(&done, || told(&done))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("-")
}

fn told(done: &Value) -> String {
    let (region, to) = (text(done, "region"), text(done, "to"));
    if done["already"].as_bool() == Some(true) {
        return format!("{region} is {to}: nothing to do");
    }
    let seconds = out::span(done["seconds"].as_f64().unwrap_or_default());
    let mut lines = vec![format!("{region}: {} -> {to} in {seconds}, epoch {}", text(done, "from"), done["epoch"])];
    let votes: Vec<&str> = done["votes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    lines.push(match done["forced"].as_bool() {
        Some(true) => format!("by force: only {} voted", votes.join(", ")),
        _ => format!("voted: {}", votes.join(", ")),
    });
    let phases = done["phases"].as_array().into_iter().flatten();
    let phases = phases
        .map(|phase| format!("{} {}", text(phase, "phase"), out::span(phase["seconds"].as_f64().unwrap_or_default())));
    lines.push(format!("took: {}", phases.collect::<Vec<_>>().join(", ")));
    lines.extend(rpo(&done["rpo"]));
    for open in done["open"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        lines.push(format!("done without: {open}"));
    }
    if to == "evacuated" && done["rpo"]["kind"] == "exposed" {
        lines.push(format!("what comes of it later: hubweave failover inventory --region {region}"));
    }
    lines.join("\n")
}

fn rpo(rpo: &Value) -> Option<String> {
    Some(match rpo["kind"].as_str()? {
        "proven" => "RPO 0, proven: its events and documents are in every region that serves".to_owned(),
        "estimated" => "RPO 0, estimated: its queues and agents have nothing left of before".to_owned(),
        kind => {
            let events = rpo["events"].as_u64().map_or("an unknown number of".to_owned(), out::count);
            let since = rpo["since"].as_str().unwrap_or("it was heard first");
            format!("RPO {kind}: {events} entries known to be missing, and what it took in after {since}")
        }
    })
}

async fn plan(context: &Context, order: &args::Order) -> Result<(), Error> {
    let plan = ask(context, "plan", order).await?;
    context.print(&plan, || {
        let checks = plan["checks"].as_array().into_iter().flatten();
        let rows = checks.map(|check| {
            let ok = if check["ok"].as_bool() == Some(true) { "yes" } else { "NO" };
            vec![text(check, "check").to_owned(), ok.to_owned(), text(check, "detail").to_owned()]
        });
        let columns = [("CHECK", Align::Left), ("OK", Align::Left), ("", Align::Left)];
        let mut lines = vec![out::table(&columns, &rows.collect::<Vec<_>>()), String::new()];
        lines.extend(rpo(&plan["rpo"]).map(|rpo| format!("would be: {rpo}")));
        if let Some(backlog) = plan["backlog_events"].as_u64() {
            let seconds = plan["catch_up_seconds"].as_f64();
            let time = seconds
                .map_or("the links stood still, or do not tell how fast they are".to_owned(), |seconds| {
                    format!("about {}", out::span(seconds))
                });
            lines.push(format!("to bring over first: {}, {time}", out::counted(backlog, "event")));
        }
        lines.push("nothing was decided".to_owned());
        lines.join("\n")
    })?;
    match plan["possible"].as_bool() {
        Some(true) => Ok(()),
        _ => Err(Error::Said),
    }
}

async fn status(context: &Context, region: Option<&str>) -> Result<(), Error> {
    if let Some(region) = region {
        context.region(region)?;
    }
    let answers = answering(context, None).await;
    let known = answers.iter().filter_map(|(_, view)| view.as_ref().ok());
    let Some(newest) = known.max_by_key(|view| view["epoch"].as_u64()) else {
        let errors: Vec<String> =
            answers.iter().filter_map(|(_, view)| Some(view.as_ref().err()?.to_string())).collect();
        return Err(Error::no(errors.join("\n")));
    };
    let views = answers.iter().map(|(listener, view)| match view {
        Ok(view) => json!({ "region": listener.region, "epoch": view["epoch"], "suspects": view["suspects"] }),
        Err(error) => json!({ "region": listener.region, "error": error.to_string() }),
    });
    let mut document = newest.clone();
    document["views"] = views.collect();
    if let (Some(region), Some(regions)) = (region, document["regions"].as_array_mut()) {
        regions.retain(|shown| shown["region"] == region);
    }
    context.print(&document, || shown(&document, region))
}

fn shown(document: &Value, region: Option<&str>) -> String {
    let rows = document["regions"].as_array().into_iter().flatten().map(|shown| {
        let name = text(shown, "region");
        let view = document["views"].as_array().into_iter().flatten().find(|view| view["region"] == name);
        let knows = match view.and_then(|view| view["epoch"].as_u64()) {
            Some(epoch) if Some(epoch) == document["epoch"].as_u64() => "yes".to_owned(),
            Some(epoch) => format!("up to epoch {epoch}"),
            None => "does not answer".to_owned(),
        };
        let mut state = text(shown, "state").to_owned();
        if shown["state"] != shown["decided"] {
            state.push_str(&format!(" (decided: {})", text(shown, "decided")));
        }
        vec![
            name.to_owned(),
            state,
            shown["epoch"].to_string(),
            text(shown, "since").to_owned(),
            text(shown, "by").to_owned(),
            knows,
        ]
    });
    let columns = [
        ("REGION", Align::Left),
        ("STATE", Align::Left),
        ("EPOCH", Align::Right),
        ("SINCE", Align::Left),
        ("BY", Align::Left),
        ("KNOWS ALL", Align::Left),
    ];
    let mut lines = vec![out::table(&columns, &rows.collect::<Vec<_>>())];
    for view in document["views"].as_array().into_iter().flatten() {
        for suspect in view["suspects"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            lines.push(format!("{} hears nothing of {suspect}", text(view, "region")));
        }
    }
    let log = document["log"].as_array().into_iter().flatten();
    let log: Vec<&Value> = log.filter(|entry| region.is_none_or(|region| entry["region"] == region)).collect();
    if !log.is_empty() {
        lines.push(String::new());
        let rows = log[log.len().saturating_sub(10)..].iter().map(|entry| {
            let forced = if entry["forced"].as_bool() == Some(true) { "forced" } else { "" };
            vec![
                entry["epoch"].to_string(),
                text(entry, "at").to_owned(),
                format!("{}: {} -> {}", text(entry, "region"), text(entry, "from"), text(entry, "to")),
                text(entry, "by").to_owned(),
                forced.to_owned(),
                entry["reason"].as_str().unwrap_or_default().to_owned(),
            ]
        });
        let columns = [
            ("EPOCH", Align::Right),
            ("AT", Align::Left),
            ("DECISION", Align::Left),
            ("BY", Align::Left),
            ("", Align::Left),
            ("REASON", Align::Left),
        ];
        lines.push(out::table(&columns, &rows.collect::<Vec<_>>()));
    }
    lines.join("\n")
}

async fn inventory(context: &Context, region: &str) -> Result<(), Error> {
    context.region(region)?;
    let others = context.admins().into_iter().filter(|listener| listener.region != region);
    let asked = others.map(|listener| async move {
        let path = format!("/v1/failover/inventory?region={}", http::escape(region));
        let call = Call::get(path).timeout(INVENTORY_TIMEOUT);
        let answer: Result<Value, http::Error> = context.http.json(&listener, call).await;
        match answer {
            Ok(inventory) => inventory,
            Err(error) => json!({ "region": listener.region, "error": error.to_string() }),
        }
    });
    let document = json!({ "origin": region, "regions": join_all(asked).await });
    context.print(&document, || {
        let regions = document["regions"].as_array().into_iter().flatten();
        let told = regions.flat_map(|one| {
            let name = text(one, "region");
            if let Some(error) = one["error"].as_str() {
                return vec![format!("{name}: {error}")];
            }
            if one["epoch"].is_null() {
                return vec![format!("{name}: {region} was never left as it was")];
            }
            let more = if one["complete"].as_bool() == Some(true) { "" } else { " so far" };
            let events = out::counted(one["events"].as_u64().unwrap_or_default(), "event");
            let mut lines = vec![format!("{name}: {events} of {region} came after epoch {}{more}", one["epoch"])];
            if one["dropped"].as_bool() == Some(true) {
                lines.push("  (the log of that time is partly gone: there may have been more)".to_owned());
            }
            for late in one["named"].as_array().into_iter().flatten() {
                if let Some(hash) = late["key_hash"].as_str() {
                    lines.push(format!(
                        "  key hash {hash} event {} arrived {}",
                        text(late, "event_id"),
                        text(late, "arrived")
                    ));
                    continue;
                }
                lines.push(format!(
                    "  {} {} {} published {} arrived {} offset {}",
                    text(late, "key"),
                    text(late, "source"),
                    text(late, "detail_type"),
                    text(late, "published"),
                    text(late, "arrived"),
                    late["offset"]
                ));
            }
            lines
        });
        told.collect::<Vec<_>>().join("\n")
    })
}
