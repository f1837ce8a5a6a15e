//! Whether a drill passed.

use super::{
    extension::Limits,
    journal::{Run, State, Status, SteadyStates, Verdict},
};

/// What is judged.
pub struct Facts<'a> {
    pub status: Status,
    pub steady_states: &'a SteadyStates,
    pub run: &'a [Run],
    pub rollbacks: &'a [Run],
    /// What else speaks against it.
    pub problems: Vec<String>,
    /// What `verify` said; `None` where it could not be asked.
    pub equal: Option<bool>,
    pub lost: Option<u64>,
    pub delivered_twice: Option<u64>,
    pub limits: Limits,
    pub detected_seconds: Option<f64>,
    pub rto_seconds: Option<f64>,
    pub rpo_seconds: Option<f64>,
    pub rpo_events: Option<u64>,
    pub catch_up_seconds: Option<f64>,
}

/// The verdict, and each reason for a no.
pub fn judge(facts: &Facts<'_>) -> (Verdict, Vec<String>) {
    let mut reasons = Vec::new();
    match facts.status {
        Status::Completed => {}
        status => reasons.push(format!("the experiment was not completed: {}", status.as_str())),
    }
    let states = [("before", &facts.steady_states.before), ("after", &facts.steady_states.after)];
    reasons.extend(states.into_iter().filter_map(|(when, state)| hypothesis(when, state.as_ref()?)));
    let mut during = facts.steady_states.during.iter();
    reasons.extend(during.find_map(|state| hypothesis("during", state)));
    for (what, runs) in [("action", facts.run), ("rollback", facts.rollbacks)] {
        let actions = runs.iter().filter(|run| run.is_action());
        reasons.extend(actions.filter_map(|run| Some(format!("{what} `{}` {}", run.name(), run.failure()?))));
    }
    reasons.extend(facts.problems.iter().cloned());
    match facts.equal {
        Some(true) => {}
        Some(false) => reasons.push("verify found differences between the regions".to_owned()),
        None => reasons.push("verify could not compare the regions".to_owned()),
    }
    for (count, what) in [(facts.lost, "acknowledged and lost"), (facts.delivered_twice, "delivered twice")] {
        reasons.extend(count.filter(|count| *count > 0).map(|count| format!("{count} {what}")));
    }
    let limits = &facts.limits;
    for (name, limit, measured) in [
        ("detected_seconds", limits.detected_seconds, facts.detected_seconds),
        ("rto_seconds", limits.rto_seconds, facts.rto_seconds),
        ("rpo_seconds", limits.rpo_seconds, facts.rpo_seconds),
        ("rpo_events", limits.rpo_events, facts.rpo_events.map(|events| events as f64)),
        ("catch_up_seconds", limits.catch_up_seconds, facts.catch_up_seconds),
    ] {
        match (limit, measured) {
            (Some(limit), Some(measured)) if measured > limit => {
                reasons.push(format!("{name} is {measured:.2}, the limit is {limit}"));
            }
            (Some(limit), None) => reasons.push(format!("{name} has the limit {limit} and was not measured")),
            _ => {}
        }
    }
    (if reasons.is_empty() { Verdict::Passed } else { Verdict::Failed }, reasons)
}

fn hypothesis(when: &str, state: &State) -> Option<String> {
    if state.steady_state_met {
        return None;
    }
    let probe = state.probes.last().map_or("-", Run::name);
    Some(format!("the hypothesis did not hold {when} the method: probe `{probe}`"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::drill::journal::RunStatus;

    fn run(name: &str, output: Value) -> Run {
        Run {
            activity: json!({"name": name, "type": "action"}),
            output,
            start: String::new(),
            status: Some(RunStatus::Succeeded),
            exception: Vec::new(),
            end: None,
            duration: None,
            tolerance_met: None,
        }
    }

    fn facts<'a>(steady_states: &'a SteadyStates, run: &'a [Run]) -> Facts<'a> {
        Facts {
            status: Status::Completed,
            steady_states,
            run,
            rollbacks: &[],
            problems: Vec::new(),
            equal: Some(true),
            lost: Some(0),
            delivered_twice: Some(0),
            limits: Limits::default(),
            detected_seconds: None,
            rto_seconds: None,
            rpo_seconds: None,
            rpo_events: None,
            catch_up_seconds: None,
        }
    }

    #[test]
    fn a_drill_passes_when_nothing_speaks_against_it() {
        let states = SteadyStates::default();
        let runs = [run("cut", json!({"status": 0}))];
        assert_eq!(judge(&facts(&states, &runs)), (Verdict::Passed, Vec::new()));
        // A journal need not have been kept.
        assert_eq!(judge(&Facts { lost: None, ..facts(&states, &runs) }).0, Verdict::Passed);
    }

    #[test]
    fn each_reason_for_a_no_is_told() {
        let states = SteadyStates {
            after: Some(State { steady_state_met: false, probes: vec![run("even", json!({}))] }),
            ..SteadyStates::default()
        };
        let runs = [run("cut", json!({"status": 1}))];
        let limits = Limits { rto_seconds: Some(5.0), rpo_events: Some(0.0), ..Limits::default() };
        let facts = Facts {
            status: Status::Interrupted,
            equal: None,
            lost: Some(2),
            delivered_twice: Some(1),
            limits,
            rto_seconds: Some(7.0),
            ..facts(&states, &runs)
        };
        let (verdict, reasons) = judge(&facts);
        assert_eq!(verdict, Verdict::Failed);
        assert_eq!(
            reasons,
            [
                "the experiment was not completed: interrupted",
                "the hypothesis did not hold after the method: probe `even`",
                "action `cut` ended with exit code 1",
                "verify could not compare the regions",
                "2 acknowledged and lost",
                "1 delivered twice",
                "rto_seconds is 7.00, the limit is 5",
                "rpo_events has the limit 0 and was not measured",
            ]
        );
    }
}
