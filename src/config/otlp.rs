//! `[otlp]`: metrics pushed to an OpenTelemetry collector, for places that nobody scrapes.

use std::{collections::BTreeMap, time::Duration};

use super::{
    options::{Secret, header_value},
    reader::Section,
};

/// `[otlp]`. Nothing is pushed without an `endpoint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    /// Base URL of a collector that takes OTLP over HTTP; `/v1/metrics` is added. `http` only: the collector beside the
    /// agent is what goes on from there, with TLS. Default: nobody.
    pub endpoint: Option<String>,
    /// Between two pushes. Default 15 s.
    pub interval: Duration,
    /// Headers of each push by name, for collectors that want a token.
    pub headers: BTreeMap<String, Secret>,
}

impl Default for Otlp {
    fn default() -> Self {
        Otlp { endpoint: None, interval: Duration::from_secs(15), headers: BTreeMap::new() }
    }
}

impl Otlp {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        let default = Otlp::default();
        let mut headers = BTreeMap::new();
        for (name, entry) in section.table("headers").others() {
            if !is_header_name(&name) {
                entry.refuse("a header's name has lower-case letters, digits and `-`");
            } else if let Some(value) = entry.parsed(header_value) {
                headers.insert(name, value);
            }
        }
        let otlp = Otlp {
            endpoint: section.parsed("endpoint", endpoint),
            interval: section.duration(
                "interval",
                default.interval,
                Duration::from_secs(1)..=Duration::from_secs(3_600),
            ),
            headers,
        };
        section.finish();
        otlp
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    let url: hyper::Uri = text.parse().map_err(|error| format!("no URL: {error}"))?;
    match (url.scheme_str(), url.host(), url.query()) {
        (Some("http"), Some(host), None) if !host.is_empty() => Ok(text.trim_end_matches('/').to_owned()),
        (Some("https"), ..) => {
            Err("expected `http://`: a collector beside the agent, which has TLS from there".to_owned())
        }
        _ => Err("expected a URL as `http://127.0.0.1:4318`".to_owned()),
    }
}

fn is_header_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.bytes().all(allowed)
}
