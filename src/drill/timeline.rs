//! What the regions said of themselves while a drill ran, thinned out so that a long one takes no more room than a short.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::time::Timestamp;

/// Of each region so many samples are kept at most; then every other goes, and only every other new one is taken.
pub const SAMPLES_MAX: usize = 1_200;

/// One region at one time.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Sample {
    /// Seconds since the drill began.
    pub at: f64,
    /// `null` where the region did not answer.
    pub state: Option<String>,
    /// Regions that it takes for failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspects: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
}

/// One of its links.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Link {
    pub peer: String,
    pub state: String,
    /// By how much the peer is behind: the age of the link's watermark by the region's own clock.
    pub lag_seconds: Option<f64>,
    pub backlog_events: u64,
    pub rpo_exposure_seconds: f64,
}

impl Sample {
    /// What a `/v1/status` answer says. What is missing in it counts as none: an older agent may answer.
    pub fn of(status: &Value, at: f64) -> Sample {
        let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let now = status["time"].as_str().and_then(Timestamp::parse_rfc3339);
        let link = |link: &Value| {
            let watermark = link["watermark"].as_str().and_then(Timestamp::parse_rfc3339);
            Link {
                peer: text(&link["peer"]),
                state: text(&link["state"]),
                lag_seconds: now.zip(watermark).map(|(now, watermark)| millis(now.since(watermark).as_secs_f64())),
                backlog_events: link["backlog_events"].as_u64().unwrap_or_default(),
                rpo_exposure_seconds: millis(link["rpo_exposure_seconds"].as_f64().unwrap_or_default()),
            }
        };
        Sample {
            at: millis(at),
            state: Some(text(&status["state"])),
            suspects: array(&status["suspects"]).iter().filter_map(|name| name.as_str().map(str::to_owned)).collect(),
            links: array(&status["links"]).iter().map(link).collect(),
        }
    }

    /// The region did not answer.
    pub fn silent(at: f64) -> Sample {
        Sample { at: millis(at), ..Sample::default() }
    }
}

/// Seconds to the millisecond: what stands beyond is noise.
pub fn millis(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

/// Samples by region.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Timeline {
    pub regions: BTreeMap<String, Vec<Sample>>,
    #[serde(skip)]
    taken: BTreeMap<String, Pace>,
}

#[derive(Clone, Debug, PartialEq)]
struct Pace {
    every: usize,
    left_out: usize,
}

impl Timeline {
    pub fn push(&mut self, region: &str, sample: Sample) {
        let pace = self.taken.entry(region.to_owned()).or_insert(Pace { every: 1, left_out: 0 });
        pace.left_out += 1;
        if pace.left_out < pace.every {
            return;
        }
        pace.left_out = 0;
        let samples = self.regions.entry(region.to_owned()).or_default();
        if samples.len() >= SAMPLES_MAX {
            let mut keep = false;
            samples.retain(|_| {
                keep = !keep;
                keep
            });
            pace.every *= 2;
        }
        samples.push(sample);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sample_is_what_a_status_says() {
        let status = json!({
            "region": "eu", "state": "active", "time": "2026-11-23T10:00:02Z", "suspects": ["ap"],
            "links": [{"peer": "us", "state": "retrying", "backlog_events": 7, "watermark": "2026-11-23T10:00:00Z",
                       "rpo_exposure_seconds": 1.5}]
        });
        let sample = Sample::of(&status, 3.0);
        assert_eq!((sample.state.as_deref(), sample.suspects), (Some("active"), vec!["ap".to_owned()]));
        let link = &sample.links[0];
        assert_eq!((link.lag_seconds, link.backlog_events, link.rpo_exposure_seconds), (Some(2.0), 7, 1.5));
        assert!(Sample::of(&json!({}), 0.0).suspects.is_empty());
    }

    #[test]
    fn a_long_drill_takes_no_more_room_than_a_short_one() {
        let mut timeline = Timeline::default();
        for at in 0..10 * SAMPLES_MAX {
            timeline.push("eu", Sample::silent(at as f64));
        }
        let samples = &timeline.regions["eu"];
        assert!(samples.len() <= SAMPLES_MAX && samples.len() > SAMPLES_MAX / 4, "{}", samples.len());
        assert!(samples.is_sorted_by(|a, b| a.at < b.at));
        assert!(samples.last().is_some_and(|last| last.at > 9.0 * SAMPLES_MAX as f64));
    }
}
