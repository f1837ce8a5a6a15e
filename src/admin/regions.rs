//! Which regions serve users: what is known, and what operators ask for.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Bytes,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{Admin, control::parse, refused};
use crate::{
    agent::regions::{
        Regions,
        failover::{Commands, Error, Request},
    },
    api::{answer, listener::Connection},
    core::{
        region::{Mode, VERDICTS},
        time::Timestamp,
    },
};

/// An admin whose agent has a say in who serves users.
pub trait Voting: Send + Sync + 'static {
    fn commands(&self) -> Commands<'_>;

    /// Commands under way, which go on when nobody waits for them: [`COMMANDS_MAX`].
    fn under_way(&self) -> &Arc<Semaphore>;
}

impl Voting for Admin {
    fn commands(&self) -> Commands<'_> {
        self.agent.commands()
    }

    fn under_way(&self) -> &Arc<Semaphore> {
        &self.failovers
    }
}

/// What all regions' admins answer alike.
pub fn router<A: Voting>() -> Router<Arc<A>> {
    Router::new()
        .route("/v1/regions", get(regions::<A>))
        .route("/v1/failover", post(failover::<A>))
        .route("/v1/drills", post(drilled::<A>))
}

/// How long a command lets links catch up, where it does not say; and at most.
const WAIT: Duration = Duration::from_secs(300);
const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// Commands under way at an agent; more are refused.
pub const COMMANDS_MAX: usize = 16;

/// Longest names and reasons that go into the log of decisions, in bytes.
pub const WORDS_MAX: usize = 500;

/// `GET /v1/regions`.
async fn regions<A: Voting>(State(admin): State<Arc<A>>) -> Response {
    answer::json(StatusCode::OK, &known(admin.commands().regions))
}

/// What this region knows of who serves users.
pub fn known(regions: &Regions) -> Value {
    let view = regions.view();
    let log: Vec<_> = view
        .log
        .iter()
        .map(|decision| {
            json!({
                "epoch": decision.ballot.epoch,
                "region": decision.region,
                "from": decision.from,
                "to": decision.to,
                "mode": decision.mode,
                "forced": decision.forced,
                "at": decision.at.to_rfc3339(),
                "by": decision.by,
                "reason": decision.reason,
                "coordinator": decision.coordinator,
                "drill": decision.drill,
            })
        })
        .collect();
    let drills = view.drills.iter().flat_map(|(drill, verdicts)| {
        verdicts.iter().map(move |(verdict, at)| json!({ "drill": drill, "verdict": verdict, "at": at.to_rfc3339() }))
    });
    json!({
        "region": regions.home,
        "epoch": view.epoch(),
        "regions": regions.shown(),
        "suspects": regions.heard.suspects(),
        "log": log,
        "drills": drills.collect::<Vec<_>>(),
    })
}

/// What an operator wants to be done.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Plan,
    Execute,
    Abort,
    Failback,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    action: Action,
    region: String,
    mode: Option<Mode>,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    alone: bool,
    #[serde(default)]
    drill: bool,
    #[serde(default)]
    by: String,
    #[serde(default)]
    reason: String,
    wait_seconds: Option<f64>,
}

impl Asked {
    fn request(self) -> Result<Request, String> {
        if self.by.len() + self.reason.len() > WORDS_MAX {
            return Err(format!("by and reason: together at most {WORDS_MAX} bytes"));
        }
        if self.by.chars().chain(self.reason.chars()).any(char::is_control) {
            return Err("by and reason: no control characters".to_owned());
        }
        let wait = self.wait_seconds.map(Duration::try_from_secs_f64).transpose();
        let wait = wait.map_err(|error| format!("wait_seconds: {error}"))?.unwrap_or(WAIT);
        if wait > WAIT_MAX {
            return Err(format!("wait_seconds: at most {}", WAIT_MAX.as_secs()));
        }
        Ok(Request {
            region: self.region,
            mode: self.mode.unwrap_or(Mode::Graceful),
            force: self.force,
            alone: self.alone,
            by: if self.by.is_empty() { "an operator".to_owned() } else { self.by },
            reason: self.reason,
            drill: self.drill,
            wait,
        })
    }
}

/// `POST /v1/failover`: answers when it is done, or cannot be. It goes on when nobody waits for the answer any more.
async fn failover<A: Voting>(
    State(admin): State<Arc<A>>,
    Extension(connection): Extension<Arc<Connection>>,
    body: Bytes,
) -> Response {
    connection.lift_timeout();
    let asked: Asked = match parse(&body) {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    let action = asked.action;
    let request = match asked.request() {
        Ok(request) => request,
        Err(why) => return answer::error(StatusCode::BAD_REQUEST, &why),
    };
    let Ok(turn) = admin.under_way().clone().try_acquire_owned() else {
        return answer::unavailable("too many commands are under way", Duration::from_secs(1));
    };
    let performed = async move {
        let _turn = turn;
        perform(admin.commands(), action, &request).await
    };
    match tokio::spawn(performed).await {
        Ok(response) => response,
        Err(error) => answer::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn perform(commands: Commands<'_>, action: Action, request: &Request) -> Response {
    let done = match action {
        Action::Plan => {
            return match commands.plan(request).await {
                Ok(plan) => answer::json(StatusCode::OK, &plan),
                Err(error) => not_done(&error),
            };
        }
        Action::Execute => commands.evacuate(request).await,
        Action::Abort => commands.abort(request).await,
        Action::Failback => commands.fail_back(request).await,
    };
    match done {
        Ok(done) => answer::json(StatusCode::OK, &done),
        Err(error) => not_done(&error),
    }
}

fn not_done(error: &Error) -> Response {
    let status = match error {
        Error::Unknown(_) => StatusCode::BAD_REQUEST,
        // Another agent may get it decided.
        Error::Undecided(undecided) if undecided.may_pass() => {
            return answer::unavailable(&error.to_string(), Duration::from_secs(1));
        }
        Error::Refused(_) | Error::Undecided(_) | Error::NotYet { .. } => StatusCode::CONFLICT,
    };
    answer::error(status, &error.to_string())
}

#[derive(Deserialize)]
pub struct Whose {
    pub region: String,
}

/// `GET /v1/failover/inventory?region=R`.
pub async fn inventory(
    State(admin): State<Arc<Admin>>,
    Extension(connection): Extension<Arc<Connection>>,
    Query(whose): Query<Whose>,
) -> Response {
    // It may read a long piece of the log.
    connection.lift_timeout();
    let _turn = admin.long.acquire().await;
    match admin.agent.inventory(&whose.region).await {
        Ok(inventory) => answer::json(StatusCode::OK, &inventory),
        Err(error) => refused(&error),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drilled {
    drill: String,
    verdict: String,
    at: String,
}

/// `POST /v1/drills`: a drill ended.
async fn drilled<A: Voting>(State(admin): State<Arc<A>>, body: Bytes) -> Response {
    let drilled: Drilled = match parse(&body) {
        Ok(drilled) => drilled,
        Err(response) => return *response,
    };
    let Some(at) = Timestamp::parse_rfc3339(&drilled.at) else {
        return answer::error(StatusCode::BAD_REQUEST, &format!("at: {}: no time", drilled.at));
    };
    let named = (1..=100).contains(&drilled.drill.len())
        && drilled.drill.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if !named || !VERDICTS.contains(&drilled.verdict.as_str()) {
        let why = format!("drill: 1 to 100 letters, digits, `.`, `_`, `-`; verdict: {}", VERDICTS.join(" or "));
        return answer::error(StatusCode::BAD_REQUEST, &why);
    }
    match admin.commands().regions.drilled(&drilled.drill, &drilled.verdict, at).await {
        Ok(()) => answer::json(StatusCode::OK, &json!({ "drill": drilled.drill, "verdict": drilled.verdict })),
        Err(error) => answer::unavailable(&error.to_string(), Duration::from_secs(1)),
    }
}
