//! The metrics in OpenMetrics 1.0, which has what Prometheus's own text format lacks: exemplars.
//!
//! Source: <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>. Bounds are spelled as in the
//! other format (`5`, not `5.0`), so that a series keeps its labels whichever format a scrape asks for.

use std::fmt::Write;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::exemplars::Exemplars;

/// Media type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a request that accepts this wants this format.
pub fn is_wanted(accept: &str) -> bool {
    accept.split(',').any(|kind| {
        let mut parts = kind.split(';').map(str::trim);
        // Who writes a weight of 0 does not want it.
        parts.next() == Some("application/openmetrics-text") && !parts.any(|part| matches!(part, "q=0" | "q=0.0"))
    })
}

pub(super) fn text(families: &[MetricFamily], exemplars: &Exemplars) -> String {
    let mut out = String::new();
    for family in families {
        push_family(&mut out, family, exemplars);
    }
    out.push_str("# EOF\n");
    out
}

fn push_family(out: &mut String, family: &MetricFamily, exemplars: &Exemplars) {
    let name = family.name();
    let (kind, base) = match family.get_field_type() {
        // A counter's family is called without the suffix of its sample.
        MetricType::COUNTER => match name.strip_suffix("_total") {
            Some(base) => ("counter", base),
            None => ("unknown", name),
        },
        MetricType::GAUGE => ("gauge", name),
        MetricType::HISTOGRAM => ("histogram", name),
        MetricType::SUMMARY | MetricType::UNTYPED => ("unknown", name),
    };
    let _ = writeln!(out, "# TYPE {base} {kind}");
    let _ = writeln!(out, "# HELP {base} {}", escaped(family.help()));
    for metric in family.get_metric() {
        match family.get_field_type() {
            MetricType::COUNTER => push(out, name, metric, None, metric.get_counter().get_value()),
            MetricType::GAUGE => push(out, name, metric, None, metric.get_gauge().get_value()),
            MetricType::HISTOGRAM => push_histogram(out, name, metric, exemplars),
            MetricType::SUMMARY | MetricType::UNTYPED => {}
        }
    }
}

fn push_histogram(out: &mut String, name: &str, metric: &Metric, exemplars: &Exemplars) {
    let histogram = metric.get_histogram();
    let traced = exemplars.of(name, metric);
    let bucket = format!("{name}_bucket");
    let finite = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    let counts = finite.map(|bucket| (bucket.upper_bound().to_string(), bucket.cumulative_count()));
    let all = counts.chain([("+Inf".to_owned(), histogram.get_sample_count())]);
    for (index, (bound, count)) in all.enumerate() {
        push_sample(out, &bucket, metric, Some(&bound), count as f64);
        if let Some(exemplar) = traced.get(index).and_then(Option::as_ref) {
            let seconds = exemplar.at.as_millis() as f64 / 1e3;
            let _ = write!(out, " # {{trace_id=\"{}\"}} {} {seconds}", exemplar.trace, exemplar.value);
        }
        out.push('\n');
    }
    push(out, &format!("{name}_sum"), metric, None, histogram.get_sample_sum());
    push(out, &format!("{name}_count"), metric, None, histogram.get_sample_count() as f64);
}

fn push(out: &mut String, name: &str, metric: &Metric, bound: Option<&str>, value: f64) {
    push_sample(out, name, metric, bound, value);
    out.push('\n');
}

/// A sample without the end of its line.
fn push_sample(out: &mut String, name: &str, metric: &Metric, bound: Option<&str>, value: f64) {
    out.push_str(name);
    let written = |label: &LabelPair| format!("{}=\"{}\"", label.name(), escaped(label.value()));
    let bound = bound.map(|bound| format!("le=\"{bound}\""));
    let labels: Vec<String> = metric.get_label().iter().map(written).chain(bound).collect();
    if !labels.is_empty() {
        let _ = write!(out, "{{{}}}", labels.join(","));
    }
    let value = match value {
        value if value.is_nan() => "NaN".to_owned(),
        value if value.is_infinite() => if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
        value => value.to_string(),
    };
    let _ = write!(out, " {value}");
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}
