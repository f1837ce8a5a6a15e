//! `explain`: what every region knows of one key, in order of time.

use futures::future::join_all;
use serde_json::{Value, json};

use super::{
    Context, Error, args,
    http::{self, Call, Listener},
    out::{self, Align},
};
use crate::config::Backend;

pub async fn explain(context: &Context, args: args::Explain) -> Result<(), Error> {
    let listeners = context.admins();
    let answers = join_all(listeners.iter().map(|listener| asked(context, listener, &args))).await;
    let (mut regions, mut rows, mut unreachable) = (Vec::new(), Vec::new(), false);
    let mut by_kind = false;
    for (listener, answer) in listeners.iter().zip(answers) {
        match answer {
            Ok((entries, few)) => {
                by_kind |= few;
                rows.extend(entries.iter().map(|entry| row(&listener.region, entry)));
                regions.push(json!({ "region": listener.region, "entries": entries }));
            }
            Err(error) => {
                unreachable = true;
                out::note(format!("error: {error}"));
                regions.push(json!({ "region": listener.region, "error": error.to_string() }));
            }
        }
    }
    rows.sort();
    let known = !rows.is_empty();
    context.print(&json!({ "key": args.key, "regions": regions }), || match known {
        true => timeline(&rows),
        false if by_kind => format!(
            "no region that answered knows the key `{}` under the kinds of events that its agent has seen; with --source \
             and --detail-type it looks under that one",
            args.key
        ),
        false => format!("no region that answered knows the key `{}`", args.key),
    })?;
    if known && !unreachable { Ok(()) } else { Err(Error::Said) }
}

/// What one region knows of a key.
pub async fn entries(context: &Context, listener: &Listener, key: &str) -> Result<Vec<Value>, http::Error> {
    let args = args::Explain { key: key.to_owned(), source: None, detail_type: None };
    Ok(asked(context, listener, &args).await?.0)
}

/// The same, and whether it looked under some kinds of events only.
async fn asked(
    context: &Context,
    listener: &Listener,
    args: &args::Explain,
) -> Result<(Vec<Value>, bool), http::Error> {
    let aws = context.config.region(&listener.region).is_some_and(|region| region.backend == Backend::Aws);
    let whole = args.source.is_some() && args.detail_type.is_some();
    let query = http::query(&[
        ("key", Some(args.key.clone())),
        ("source", args.source.clone().filter(|_| aws)),
        ("detail_type", args.detail_type.clone().filter(|_| aws)),
    ]);
    let answer: Value = context.http.json(listener, Call::get(format!("/v1/explain{query}"))).await?;
    Ok((answer["entries"].as_array().cloned().unwrap_or_default(), aws && !whole))
}

/// Starts with the time, so that rows sort by it.
fn row(region: &str, entry: &Value) -> Vec<String> {
    let text = |key: &str| match &entry[key] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let event = [text("source"), text("detail_type")].join(" / ");
    let event = if event == " / " { String::new() } else { event };
    let origin = text("origin");
    let origin = if origin.is_empty() { origin } else { format!("from {origin}") };
    let link = text("link");
    let link = if link.is_empty() { link } else { format!("link {link}") };
    let trace = text("trace");
    let trace = if trace.is_empty() { trace } else { format!("trace {trace}") };
    let more: Vec<String> = [origin, link, text("reason"), trace].into_iter().filter(|part| !part.is_empty()).collect();
    vec![text("at"), region.to_owned(), text("what"), text("offset"), text("id"), event, more.join(", ")]
}

fn timeline(rows: &[Vec<String>]) -> String {
    let columns = [
        ("TIME", Align::Left),
        ("REGION", Align::Left),
        ("WHAT", Align::Left),
        ("OFFSET", Align::Right),
        ("ID", Align::Left),
        ("EVENT", Align::Left),
        ("", Align::Left),
    ];
    out::table(&columns, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_is_in_order_of_time_whichever_region_speaks() {
        let late = json!({"what": "applied", "at": "2026-11-23T10:00:01Z", "offset": 7, "origin": "eu", "trace": "5f"});
        let early = json!({"what": "accepted", "at": "2026-11-23T10:00:00Z", "source": "s", "detail_type": "t"});
        let mut rows = vec![row("us", &late), row("eu", &early)];
        rows.sort();
        let text = timeline(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("accepted") && lines[1].ends_with("s / t"), "{text}");
        assert!(lines[2].contains("applied") && lines[2].ends_with("from eu, trace 5f"), "{text}");
    }
}
