//! Pushes an agent's metrics to an OpenTelemetry collector, where the file names one.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Uri, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Otlp,
    metrics::{Metrics, otlp::Resource},
    ports::clock::{Clock, Entropy},
};

/// For one push. What a collector does not take in this time comes with the next one.
const PUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// For the last one, when the agent stops.
const LAST_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What a push needs of the agent.
pub struct Source {
    pub metrics: Arc<Metrics>,
    /// Brings gauges up to date that are looked up when somebody asks.
    pub refresh: Box<dyn Fn() + Send + Sync>,
    pub resource: Resource,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

struct Collector {
    client: Client<HttpConnector, Full<Bytes>>,
    url: Uri,
    otlp: Otlp,
}

/// Pushes until `stop`, and once more then. Ends at once where the file names no collector.
///
/// A push that fails is not tried again on its own: the next one has all that it had, as counters are cumulative.
pub async fn push(otlp: Otlp, source: Source, stop: CancellationToken) {
    let Some(url) = otlp.endpoint.as_ref().and_then(|base| format!("{base}/v1/metrics").parse().ok()) else { return };
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(PUSH_TIMEOUT));
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new()).pool_idle_timeout(Duration::from_secs(90));
    let collector = Collector { client: builder.build(connector), url, otlp };
    tracing::info!(collector = %collector.url, interval = ?collector.otlp.interval, "metrics are pushed");
    let mut well = true;
    loop {
        // Agents that started together do not push together.
        let pause = collector.otlp.interval.mul_f64(0.9 + 0.2 * source.entropy.next_f64());
        let on_time = async {
            tokio::time::sleep(pause).await;
            collector.push(&source, PUSH_TIMEOUT).await
        };
        // A stop waits for no collector that does not answer: the last push has all that the one given up had.
        let (pushed, last) = tokio::select! {
            pushed = on_time => (pushed, false),
            () = stop.cancelled() => (collector.push(&source, LAST_TIMEOUT).await, true),
        };
        let outcome = match &pushed {
            Ok(None) => "taken",
            Ok(Some(_)) => "partial",
            Err(_) => "failed",
        };
        source.metrics.otlp_pushes.with_label_values(&[outcome]).inc();
        // Once when it begins and once when it ends: the counter tells how long it goes on.
        match pushed {
            Ok(None) if !well => tracing::info!(collector = %collector.url, "metrics are pushed again"),
            Ok(Some(why)) if well => {
                tracing::warn!(collector = %collector.url, why, "the collector leaves out some metrics");
            }
            Err(why) if well => tracing::warn!(collector = %collector.url, why, "metrics cannot be pushed"),
            _ => {}
        }
        well = outcome == "taken";
        if last {
            return;
        }
    }
}

impl Collector {
    /// What the collector said of points that it left out, if it did.
    async fn push(&self, source: &Source, timeout: Duration) -> Result<Option<String>, String> {
        (source.refresh)();
        let body = source.metrics.otlp(&source.resource, source.clock.now());
        let mut request = Request::builder().method(Method::POST).uri(&self.url);
        request = request.header(header::CONTENT_TYPE, "application/json");
        for (name, value) in &self.otlp.headers {
            request = request.header(name, value.expose());
        }
        let request = request.body(Full::from(body)).map_err(|error| error.to_string())?;
        let whole = async {
            let response = self.client.request(request).await.map_err(|error| chain(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            match status.is_success() {
                true => Ok(left_out(&body)),
                false => Err(format!("it answers {status}: {text}")),
            }
        };
        let timed_out = |_| Err(format!("no answer within {timeout:?}"));
        tokio::time::timeout(timeout, whole).await.unwrap_or_else(timed_out)
    }
}

/// `partialSuccess` of an answer that names points or has a message.
fn left_out(body: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let partial = &answer["partialSuccess"];
    let points = match &partial["rejectedDataPoints"] {
        Value::String(points) => points.parse().unwrap_or_default(),
        points => points.as_u64().unwrap_or_default(),
    };
    let message = partial["errorMessage"].as_str().unwrap_or_default();
    (points > 0).then(|| format!("{points} points: {message}"))
}

/// An error with what caused it: the client's own text says only that it could not connect.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_was_left_out() {
        assert_eq!(left_out(b""), None);
        assert_eq!(left_out(b"{}"), None);
        assert_eq!(left_out(br#"{"partialSuccess":{"errorMessage":"deprecated"}}"#), None);
        let some = br#"{"partialSuccess":{"rejectedDataPoints":"3","errorMessage":"too old"}}"#;
        assert_eq!(left_out(some).as_deref(), Some("3 points: too old"));
    }
}
