//! The report: a Chaos Toolkit journal, and under `hubweave` what was measured besides.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{extension::Limits, timeline::Timeline};

/// Of the hypothesis' looks while the method ran so many are kept, the last ones.
pub const DURING_MAX: usize = 1_000;

/// Of each member of such a look's outputs so many bytes.
pub const DURING_OUTPUT_MAX: usize = 4 << 10;

/// The journal of one run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Journal {
    /// The version whose journal this is like, and what wrote it.
    #[serde(rename = "chaoslib-version")]
    pub chaoslib_version: String,
    pub platform: String,
    pub node: String,
    pub experiment: Value,
    pub start: String,
    pub status: Status,
    pub deviated: bool,
    pub steady_states: SteadyStates,
    pub run: Vec<Run>,
    pub rollbacks: Vec<Run>,
    pub end: String,
    pub duration: f64,
    pub hubweave: Measured,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Completed,
    /// The hypothesis could not be looked at, or did not hold while the method ran.
    Failed,
    Aborted,
    Interrupted,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Aborted => "aborted",
            Status::Interrupted => "interrupted",
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct SteadyStates {
    pub before: Option<State>,
    pub after: Option<State>,
    pub during: Vec<State>,
}

/// One look at the hypothesis; it ends with the first probe that is not within its tolerance.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct State {
    pub steady_state_met: bool,
    pub probes: Vec<Run>,
}

impl State {
    /// A probe could not be carried out.
    pub fn has_failed(&self) -> bool {
        self.probes.iter().any(|probe| probe.status == Some(RunStatus::Failed))
    }
}

/// One activity, carried out.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Run {
    pub activity: Value,
    pub output: Value,
    pub start: String,
    /// None while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<RunStatus>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exception: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance_met: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// It was carried out; a process may have ended with any exit code.
    Succeeded,
    /// It could not be carried out, or not in time.
    Failed,
}

impl Run {
    pub fn name(&self) -> &str {
        self.activity["name"].as_str().unwrap_or("-")
    }

    /// Shortens each member of the output that is longer, as text.
    pub fn cut_output(&mut self, bytes_max: usize) {
        for value in self.output.as_object_mut().into_iter().flat_map(serde_json::Map::values_mut) {
            let text = match &*value {
                Value::String(text) => Cow::from(text),
                Value::Array(_) | Value::Object(_) => Cow::from(value.to_string()),
                _ => continue,
            };
            if text.len() > bytes_max {
                *value = Value::from(&text[..text.floor_char_boundary(bytes_max)]);
            }
        }
    }

    pub fn is_action(&self) -> bool {
        self.activity["type"] == "action"
    }

    /// Why an action counts as failed, which is stricter than its `status`: a process must end with 0, a server answer
    /// below 400.
    pub fn failure(&self) -> Option<String> {
        let code = self.output["status"].as_i64();
        match (self.status, code) {
            (None, _) => Some("was cut short".to_owned()),
            (Some(RunStatus::Failed), _) => {
                Some(self.exception.last().cloned().unwrap_or_else(|| "could not be carried out".to_owned()))
            }
            (_, Some(code)) if self.output.get("headers").is_some() => {
                (code >= 400).then(|| format!("was answered with status {code}"))
            }
            (_, Some(code)) => (code != 0).then(|| format!("ended with exit code {code}")),
            (_, None) => None,
        }
    }
}

/// What was measured; `null` where it was not.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Measured {
    pub verdict: Verdict,
    /// Why it is no.
    pub reasons: Vec<String>,
    pub detected_seconds: Option<f64>,
    pub rto_seconds: Option<f64>,
    pub rpo_seconds: Option<f64>,
    pub rpo_events: Option<u64>,
    /// How sure the evacuation was of its RPO: `proven`, `estimated`, `exposed`.
    pub rpo_kind: Option<String>,
    pub acknowledged: Option<u64>,
    pub lost: Option<u64>,
    pub duplicates: Option<u64>,
    pub delivered_twice: Option<u64>,
    pub conflicts: Option<u64>,
    pub backlog_peak: Option<u64>,
    pub catch_up_seconds: Option<f64>,
    pub drill: String,
    pub file: String,
    /// What `verify` said at the end: `equal`, `different`; `null` where it did not run.
    pub verify: Option<String>,
    pub limits: Value,
    /// Those that would have fired, had the trouble lasted.
    #[serde(default)]
    pub alerts: Vec<String>,
    pub notes: Vec<String>,
    pub steps: Vec<Step>,
    pub timeline: Timeline,
}

impl Measured {
    /// The limits that were set, as they stand in the report.
    pub fn limits_of(limits: &Limits) -> Value {
        serde_json::to_value(limits).unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Passed,
    #[default]
    Failed,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
        }
    }
}

/// Part of the run, in seconds since its beginning.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Step {
    pub name: String,
    pub kind: StepKind,
    pub from: f64,
    pub to: f64,
    pub ok: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    Hypothesis,
    Action,
    Probe,
    Rollback,
    Verify,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(status: Option<RunStatus>, output: Value) -> Run {
        Run {
            activity: json!({"name": "x", "type": "action"}),
            output,
            start: String::new(),
            status,
            exception: Vec::new(),
            end: None,
            duration: None,
            tolerance_met: None,
        }
    }

    #[test]
    fn an_action_fails_by_its_exit_code_or_its_answer() {
        let done = Some(RunStatus::Succeeded);
        assert_eq!(run(done, json!({"status": 0, "stdout": ""})).failure(), None);
        assert_eq!(run(done, json!({"status": 1, "stdout": ""})).failure().as_deref(), Some("ended with exit code 1"));
        assert_eq!(run(done, json!({"status": 204, "headers": {}})).failure(), None);
        let answered = run(done, json!({"status": 503, "headers": {}})).failure();
        assert_eq!(answered.as_deref(), Some("was answered with status 503"));
        assert!(run(Some(RunStatus::Failed), Value::Null).failure().is_some());
        assert!(run(None, Value::Null).failure().is_some());
    }

    #[test]
    fn a_long_output_is_cut_between_characters() {
        let mut run = run(None, json!({"status": 200, "stdout": "aéé", "body": {"a": [1, 2, 3]}, "stderr": "b"}));
        run.cut_output(4);
        assert_eq!(run.output, json!({"status": 200, "stdout": "aé", "body": "{\"a\"", "stderr": "b"}));
    }

    #[test]
    fn statuses_are_written_as_the_format_says() {
        let text = serde_json::to_string(&run(Some(RunStatus::Succeeded), Value::Null)).expect("JSON");
        assert_eq!(text, r#"{"activity":{"name":"x","type":"action"},"output":null,"start":"","status":"succeeded"}"#);
        assert_eq!(serde_json::to_value(Status::Interrupted).expect("JSON"), "interrupted");
        let none = serde_json::to_value(SteadyStates::default()).expect("JSON");
        assert_eq!(none, json!({"before": null, "after": null, "during": []}));
    }
}
