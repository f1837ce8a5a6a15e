//! `replay`, `repair`, `pause`, `resume`: one directed link.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Context, Error, args,
    http::{self, Call},
    out,
};

/// A replay answers when it is done: as long as that takes, within reason.
pub const REPLAY_TIMEOUT: Duration = Duration::from_secs(3_600);

pub async fn pause(context: &Context, ends: args::Ends, pause: bool) -> Result<(), Error> {
    context.link(&ends.from, &ends.to)?;
    let verb = if pause { "pause" } else { "resume" };
    let path = format!("/v1/links/{}/{verb}", http::escape(&ends.to));
    let answer: Value = context.http.json(&context.admin(&ends.from)?, Call::post(path, &json!({}))).await?;
    let state = if answer["paused"].as_bool().unwrap_or(pause) { "is paused" } else { "runs" };
    context.print(&answer, || format!("the link from {} to {} {state}", ends.from, ends.to))
}

pub async fn replay(context: &Context, args: args::Replay) -> Result<(), Error> {
    context.link(&args.ends.from, &args.ends.to)?;
    let body = json!({
        "since": args.since.map(|time| time.to_rfc3339()),
        "until": args.until.map(|time| time.to_rfc3339()),
        "dry_run": args.dry_run,
    });
    send_again(context, &args.ends, "replay", body, args.dry_run).await
}

pub async fn repair(context: &Context, args: args::Repair) -> Result<(), Error> {
    context.link(&args.ends.from, &args.ends.to)?;
    context.region(&args.origin)?;
    let body = json!({ "origin": args.origin, "dry_run": args.dry_run });
    send_again(context, &args.ends, "repair", body, args.dry_run).await
}

async fn send_again(
    context: &Context,
    ends: &args::Ends,
    verb: &str,
    mut body: Value,
    dry_run: bool,
) -> Result<(), Error> {
    if let Some(members) = body.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    let path = format!("/v1/links/{}/{verb}", http::escape(&ends.to));
    let call = Call::post(path, &body).timeout(REPLAY_TIMEOUT);
    let answer: Value = context.http.json(&context.admin(&ends.from)?, call).await?;
    context.print(&answer, || {
        let events = answer["events"].as_u64().unwrap_or_default();
        match dry_run {
            true => format!("{} would go from {} to {}", out::counted(events, "event"), ends.from, ends.to),
            false => {
                let events = out::counted(events, "event");
                format!("{events} from {} to {}: {}", ends.from, ends.to, outcomes(&answer))
            }
        }
    })?;
    done(&answer)
}

/// `3 delivered, 2 duplicate`.
pub fn outcomes(answer: &Value) -> String {
    let number = |key: &str| answer[key].as_u64().filter(|number| *number > 0);
    let said = ["requeued", "delivered", "duplicate", "rejected", "skipped", "failed"]
        .into_iter()
        .filter_map(|key| number(key).map(|number| format!("{} {key}", out::count(number))));
    let said: Vec<String> = said.collect();
    if said.is_empty() { "nothing to do".to_owned() } else { said.join(", ") }
}

/// The answer is no if an event did not get there.
pub fn done(answer: &Value) -> Result<(), Error> {
    let lost = ["rejected", "failed"].iter().any(|key| answer[*key].as_u64().is_some_and(|number| number > 0));
    if lost {
        Err(Error::no("not every event got there; `hubweave dlq list` or the agent's log has the reasons"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_name_only_what_happened_and_failures_are_a_no() {
        let answer = json!({"events": 5, "delivered": 3, "duplicate": 2, "rejected": 0, "skipped": 0, "failed": 0});
        assert_eq!(outcomes(&answer), "3 delivered, 2 duplicate");
        assert!(done(&answer).is_ok());
        assert_eq!(outcomes(&json!({})), "nothing to do");
        assert_eq!(done(&json!({"failed": 1})).err().map(|error| error.exit_code()), Some(1));
    }
}
