//! The metrics as an OpenTelemetry collector takes them: one `ExportMetricsServiceRequest` in OTLP's JSON.
//!
//! Names and labels are those that Prometheus sees, so that a dashboard fits both ways. Counters are cumulative since
//! the process started: a push that is lost costs a point of the curve and nothing else.
//!
//! Source: <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding> and `opentelemetry/proto/metrics/v1` (64-bit
//! integers are strings, a trace's id is hexadecimal).

use prometheus::proto::{Metric, MetricFamily, MetricType};
use serde_json::{Value, json};

use super::exemplars::Exemplars;
use crate::core::time::Timestamp;

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`.
const CUMULATIVE: u8 = 2;

/// What the points are about.
#[derive(Clone, Debug)]
pub struct Resource {
    pub region: String,
    /// Tells agents of one region apart.
    pub instance: String,
    /// When this process began to count.
    pub started: Timestamp,
}

pub(super) fn request(families: &[MetricFamily], exemplars: &Exemplars, resource: &Resource, now: Timestamp) -> Value {
    let points = Points { exemplars, started: resource.started.0.to_string(), now: now.0.to_string() };
    let metrics: Vec<Value> = families.iter().filter_map(|family| points.family(family)).collect();
    let attributes = [
        ("service.name", "hubweave"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", &resource.instance),
        ("cloud.region", &resource.region),
    ];
    json!({ "resourceMetrics": [{
        "resource": { "attributes": attributes.map(|(key, value)| attribute(key, value)) },
        "scopeMetrics": [{
            "scope": { "name": "hubweave", "version": env!("CARGO_PKG_VERSION") },
            "metrics": metrics,
        }],
    }] })
}

fn attribute(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

struct Points<'a> {
    exemplars: &'a Exemplars,
    started: String,
    now: String,
}

impl Points<'_> {
    /// `None` for a family without a point.
    fn family(&self, family: &MetricFamily) -> Option<Value> {
        let of = |point: &dyn Fn(&Metric) -> Option<Value>| -> Vec<Value> {
            family.get_metric().iter().filter_map(point).collect()
        };
        let (kind, data) = match family.get_field_type() {
            MetricType::COUNTER => {
                let points = of(&|metric| self.number(metric, metric.get_counter().get_value()));
                ("sum", json!({ "dataPoints": points, "aggregationTemporality": CUMULATIVE, "isMonotonic": true }))
            }
            MetricType::GAUGE => {
                ("gauge", json!({ "dataPoints": of(&|metric| self.number(metric, metric.get_gauge().get_value())) }))
            }
            MetricType::HISTOGRAM => {
                let points = of(&|metric| Some(self.histogram(family.name(), metric)));
                ("histogram", json!({ "dataPoints": points, "aggregationTemporality": CUMULATIVE }))
            }
            MetricType::SUMMARY | MetricType::UNTYPED => return None,
        };
        let has_points = data["dataPoints"].as_array().is_some_and(|points| !points.is_empty());
        has_points.then(|| json!({ "name": family.name(), "description": family.help(), kind: data }))
    }

    fn number(&self, metric: &Metric, value: f64) -> Option<Value> {
        // JSON has no other numbers; what is not known has no point.
        value.is_finite().then(|| {
            json!({
                "attributes": labels(metric),
                "startTimeUnixNano": self.started,
                "timeUnixNano": self.now,
                "asDouble": value,
            })
        })
    }

    fn histogram(&self, name: &str, metric: &Metric) -> Value {
        let histogram = metric.get_histogram();
        let finite = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
        let (bounds, cumulative): (Vec<f64>, Vec<u64>) =
            finite.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).unzip();
        // Each bucket's own count, the unbounded one's at the end.
        let mut before = 0;
        let counts: Vec<String> = cumulative
            .into_iter()
            .chain([histogram.get_sample_count()])
            .map(|count| {
                let own = count.saturating_sub(before);
                before = count;
                own.to_string()
            })
            .collect();
        json!({
            "attributes": labels(metric),
            "startTimeUnixNano": self.started,
            "timeUnixNano": self.now,
            "count": histogram.get_sample_count().to_string(),
            "sum": histogram.get_sample_sum(),
            "explicitBounds": bounds,
            "bucketCounts": counts,
            "exemplars": self.exemplars(name, metric),
        })
    }

    fn exemplars(&self, name: &str, metric: &Metric) -> Vec<Value> {
        let traced = self.exemplars.of(name, metric);
        let written = traced.iter().flatten().map(|exemplar| {
            json!({
                "traceId": exemplar.trace,
                "timeUnixNano": exemplar.at.0.to_string(),
                "asDouble": exemplar.value,
            })
        });
        written.collect()
    }
}

fn labels(metric: &Metric) -> Vec<Value> {
    metric.get_label().iter().map(|label| attribute(label.name(), label.value())).collect()
}
