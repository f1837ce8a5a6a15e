//! When the regions that are left serve again: the end of an RTO.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use super::watch::Watch;
use crate::cli::{Context, http::Call};

/// After this nobody says when they served again.
const WAIT: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);

/// Waits until every region but the failing one is healthy and has taken a write, counted from now on; answers when that
/// was, in seconds of the drill. `None` if it did not come to that, or a region takes no writes over HTTP.
pub async fn serving(context: &Context, watch: &Watch, failing: Option<&str>, run: &str) -> Option<f64> {
    let others = context.config.regions.iter().filter(|region| Some(region.name.as_str()) != failing);
    let each = others.map(|region| async {
        let admin = context.admin_of(region);
        let api = context.api(&region.name).ok()?;
        let healthy = async {
            while !context.http.is_ok(&admin, Call::get("/region/health").timeout(TIMEOUT)).await {
                tokio::time::sleep(POLL).await;
            }
        };
        let write = json!({
            "specversion": "1.0", "id": format!("drill-{run}-{}", region.name), "source": "drill", "type": "Write",
            "datacontenttype": "application/json", "data": { "drill": run },
        });
        let written = async {
            loop {
                let call =
                    Call::post("/v1/events", &write).headers(&[("content-type", "application/cloudevents+json")]);
                let answer: Result<Value, _> = context.http.json(&api, call.timeout(TIMEOUT)).await;
                let outcome =
                    answer.ok().and_then(|answer| answer["results"][0]["outcome"].as_str().map(str::to_owned));
                // A repeat of a write whose answer was lost was taken as well.
                if outcome.is_some_and(|outcome| outcome == "accepted" || outcome == "duplicate") {
                    return;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        healthy.await;
        written.await;
        Some(watch.now())
    });
    let all = tokio::time::timeout(WAIT, join_all(each)).await.ok()?;
    let times: Option<Vec<f64>> = all.into_iter().collect();
    times?.into_iter().reduce(f64::max)
}
