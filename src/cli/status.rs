//! `status`: regions and links as they are now.

use std::{io::IsTerminal, time::Duration};

use futures::future::join_all;
use serde_json::{Value, json};

use super::{
    Context, Error, args,
    http::{self, Call, Listener},
    out::{self, Align},
};
use crate::core::time::Timestamp;

/// A status is short and at hand: who takes longer is not well.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What one region says of itself, or why it says nothing.
pub struct Answer {
    pub region: String,
    pub status: Result<Value, http::Error>,
}

/// Asks these regions at once.
pub async fn fetch(context: &Context, listeners: &[Listener]) -> Vec<Answer> {
    let one = |listener: &Listener| {
        let (context, listener) = (context.clone(), listener.clone());
        async move {
            let status = context.http.json(&listener, Call::get("/v1/status").timeout(TIMEOUT)).await;
            Answer { region: listener.region, status }
        }
    };
    join_all(listeners.iter().map(one)).await
}

pub async fn status(context: &Context, args: args::Status) -> Result<(), Error> {
    if args.watch {
        let watch = async {
            if std::io::stdout().is_terminal() {
                out::raw("\x1b[2J")?;
            }
            loop {
                let answers = fetch(context, &context.admins()).await;
                let text = text(&answers);
                if std::io::stdout().is_terminal() {
                    out::raw(&out::screen(&text, out::terminal_size()))?;
                } else {
                    out::line(text + "\n")?;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        return tokio::select! {
            result = watch => result,
            () = super::stop_signal() => Ok(()),
        };
    }
    let answers = fetch(context, &context.admins()).await;
    context.print(&document(&answers), || text(&answers))?;
    if answers.iter().all(|answer| answer.status.is_ok()) {
        return Ok(());
    }
    for error in answers.iter().filter_map(|answer| answer.status.as_ref().err()) {
        out::note(format!("error: {error}"));
    }
    Err(Error::Said)
}

fn document(answers: &[Answer]) -> Value {
    let regions = answers.iter().map(|answer| match &answer.status {
        Ok(status) => status.clone(),
        Err(error) => json!({ "region": answer.region, "error": error.to_string() }),
    });
    json!({ "regions": regions.collect::<Vec<Value>>() })
}

/// Both tables, and who hears nothing of whom.
pub fn text(answers: &[Answer]) -> String {
    let mut text = format!("{}\n\n{}", regions_table(answers), links_table(answers));
    for answer in answers {
        let suspects = answer.status.as_ref().ok().and_then(|status| status["suspects"].as_array());
        for suspect in suspects.into_iter().flatten().filter_map(Value::as_str) {
            text.push_str(&format!("\n{} hears nothing of {suspect}", answer.region));
        }
    }
    text
}

fn regions_table(answers: &[Answer]) -> String {
    let rows: Vec<Vec<String>> = answers
        .iter()
        .map(|answer| match &answer.status {
            Ok(status) => {
                let state = status["state"].as_str().unwrap_or("-");
                let number = |key: &str| status[key].as_u64().map_or("-".to_owned(), out::count);
                let size = status["log_bytes"].as_u64().map_or("-".to_owned(), out::bytes);
                vec![answer.region.clone(), state.to_owned(), number("events"), number("head"), size]
            }
            Err(_) => vec![answer.region.clone(), "unreachable".to_owned(), "-".into(), "-".into(), "-".into()],
        })
        .collect();
    let columns = [
        ("REGION", Align::Left),
        ("STATE", Align::Left),
        ("EVENTS", Align::Right),
        ("HEAD", Align::Right),
        ("LOG", Align::Right),
    ];
    out::table(&columns, &rows)
}

fn links_table(answers: &[Answer]) -> String {
    let mut rows = Vec::new();
    for answer in answers {
        let Ok(status) = &answer.status else { continue };
        for link in links(status) {
            let lag = |quantile: Option<f64>| quantile.map_or("-".to_owned(), out::span);
            let mut state = link.state.to_owned();
            if let Some(reason) = link.reason {
                state.push_str(&format!(" ({})", reason.chars().take(40).collect::<String>()));
            }
            rows.push(vec![
                format!("{} to {}", answer.region, link.peer),
                out::count(link.backlog),
                lag(link.p50),
                lag(link.p99),
                lag(link.watermark_age),
                out::span(link.exposure),
                out::count(link.dead_letters),
                state,
            ]);
        }
    }
    let columns = [
        ("LINK", Align::Left),
        ("BACKLOG", Align::Right),
        ("LAG P50", Align::Right),
        ("P99", Align::Right),
        ("WATERMARK AGE", Align::Right),
        ("RPO EXPOSURE", Align::Right),
        ("DEAD", Align::Right),
        ("STATE", Align::Left),
    ];
    out::table(&columns, &rows)
}

/// What a status says of one link.
pub struct LinkStatus<'a> {
    pub peer: &'a str,
    pub state: &'a str,
    pub reason: Option<&'a str>,
    pub backlog: u64,
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    /// Seconds by the agent's own clock.
    pub watermark_age: Option<f64>,
    pub exposure: f64,
    pub dead_letters: u64,
}

/// The links of a `/v1/status` answer. What is missing in it counts as none: an older agent may answer.
pub fn links(status: &Value) -> impl Iterator<Item = LinkStatus<'_>> {
    let now = status["time"].as_str().and_then(Timestamp::parse_rfc3339).unwrap_or_else(super::now);
    let links = status["links"].as_array().map(Vec::as_slice).unwrap_or_default();
    links.iter().map(move |link| LinkStatus {
        peer: link["peer"].as_str().unwrap_or("-"),
        state: link["state"].as_str().unwrap_or("-"),
        reason: link["reason"].as_str().filter(|reason| !reason.is_empty()),
        backlog: link["backlog_events"].as_u64().unwrap_or_default(),
        p50: link["lag_seconds"]["p50"].as_f64(),
        p99: link["lag_seconds"]["p99"].as_f64(),
        watermark_age: link["watermark"]
            .as_str()
            .and_then(Timestamp::parse_rfc3339)
            .map(|watermark| now.since(watermark).as_secs_f64()),
        exposure: link["rpo_exposure_seconds"].as_f64().unwrap_or_default(),
        dead_letters: link["dead_letters"].as_u64().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Vec<Answer> {
        let status = json!({
            "region": "eu", "state": "active", "time": "2026-11-23T10:00:02Z", "events": 1200, "head": 1300,
            "log_bytes": 2048, "links": [{
                "peer": "us", "state": "retrying", "reason": "connection refused", "backlog_events": 1500,
                "lag_seconds": {"p50": 0.0021, "p99": null}, "watermark": "2026-11-23T10:00:00Z",
                "rpo_exposure_seconds": 2.04, "dead_letters": 1
            }]
        });
        vec![Answer { region: "eu".to_owned(), status: Ok(status) }]
    }

    #[test]
    fn tables_show_regions_and_links_with_units() {
        let expected = "\
REGION  STATE   EVENTS   HEAD      LOG
eu      active   1,200  1,300  2.0 KiB

LINK      BACKLOG  LAG P50  P99  WATERMARK AGE  RPO EXPOSURE  DEAD  STATE
eu to us    1,500   2.1 ms    -          2.0 s         2.0 s     1  retrying (connection refused)";
        assert_eq!(text(&answers()), expected);
    }

    #[tokio::test]
    async fn an_unreachable_region_is_in_the_document_with_its_error() {
        let config = crate::config::Config::parse(
            "[[region]]\nname = \"eu\"\nadmin = \"127.0.0.1:1\"\napi = \"127.0.0.1:2\"\n",
            "x",
            &|_| None,
        );
        let context = Context::of(config.expect("a valid file"), "x".to_owned(), true);
        let answers = fetch(&context, &context.admins()).await;
        let document = document(&answers);
        assert_eq!(document["regions"][0]["region"], "eu");
        assert!(document["regions"][0]["error"].as_str().is_some_and(|error| error.contains("unreachable")));
        assert!(text(&answers).contains("unreachable"));
    }
}
