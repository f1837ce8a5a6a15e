//! `POST`, `DELETE /v1/drill`: one drill at a time. A drill's runner holds each region while it runs and says so again before
//! the time is over; the agent keeps that in memory, so a runner that died is forgotten and so is any after a restart.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
    routing::post,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use super::control::parse;
use crate::api::answer;

/// Nobody holds a region longer without saying so again.
const TTL_SECONDS_MAX: u64 = 300;
const NAME_BYTES_MAX: usize = 200;

type Lock = Arc<Mutex<Option<Held>>>;

/// Who runs a drill, and until when that holds.
struct Held {
    drill: String,
    id: String,
    until: Instant,
}

/// The route, with the agent's own lock behind it.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let lock: Lock = Arc::new(Mutex::new(None));
    Router::new().route("/v1/drill", post(hold).delete(release)).with_state(lock)
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    drill: String,
    /// Of the one run.
    id: String,
    ttl_seconds: u64,
}

impl Asked {
    fn problem(&self) -> Option<&'static str> {
        let is_name = |text: &str| !text.is_empty() && text.len() <= NAME_BYTES_MAX;
        if !is_name(&self.drill) || !is_name(&self.id) {
            return Some("drill, id: expected 1 to 200 bytes each");
        }
        let in_bounds = (1..=TTL_SECONDS_MAX).contains(&self.ttl_seconds);
        (!in_bounds).then_some("ttl_seconds: expected 1 to 300")
    }
}

async fn hold(State(lock): State<Lock>, body: Bytes) -> Response {
    let asked: Asked = match parse(&body) {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    if let Some(why) = asked.problem() {
        return answer::error(StatusCode::BAD_REQUEST, why);
    }
    let now = Instant::now();
    let mut held = lock.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(other) = held.as_ref().filter(|other| other.id != asked.id && other.until > now) {
        let seconds = other.until.duration_since(now).as_secs() + 1;
        let error =
            format!("drill {} is running (id {}); without a word from it, free in {seconds} s", other.drill, other.id);
        return answer::json(StatusCode::CONFLICT, &json!({ "error": error, "drill": other.drill, "id": other.id }));
    }
    let until = now + Duration::from_secs(asked.ttl_seconds);
    if held.is_none() {
        tracing::info!(drill = asked.drill, id = asked.id, "a drill begins");
    }
    *held = Some(Held { drill: asked.drill.clone(), id: asked.id.clone(), until });
    answer::json(StatusCode::OK, &asked)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    id: String,
}

async fn release(State(lock): State<Lock>, Query(asked): Query<Release>) -> Response {
    let mut held = lock.lock().unwrap_or_else(PoisonError::into_inner);
    let released = held.take_if(|held| held.id == asked.id);
    if let Some(Held { drill, id, .. }) = &released {
        tracing::info!(drill, id, "a drill has ended");
    }
    answer::json(StatusCode::OK, &json!({ "released": released.is_some() }))
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;

    async fn call(router: &Router, method: &str, query: &str, body: Value) -> (u16, Value) {
        let request = Request::builder().method(method).uri(format!("/v1/drill{query}"));
        let request = request.body(Body::from(body.to_string())).expect("a request");
        let response = router.clone().oneshot(request).await.expect("an answer");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    fn asked(id: &str) -> Value {
        json!({ "drill": "split-brain", "id": id, "ttl_seconds": 15 })
    }

    #[tokio::test(start_paused = true)]
    async fn one_drill_at_a_time_until_it_ends_or_falls_silent() {
        let router: Router = router();
        assert_eq!(call(&router, "POST", "", asked("a")).await.0, 200);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(call(&router, "POST", "", asked("a")).await.0, 200, "said again");
        tokio::time::advance(Duration::from_secs(10)).await;
        let (status, body) = call(&router, "POST", "", asked("b")).await;
        assert_eq!((status, &body["drill"], &body["id"]), (409, &json!("split-brain"), &json!("a")));
        assert_eq!(call(&router, "DELETE", "?id=b", Value::Null).await.1, json!({ "released": false }));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(call(&router, "POST", "", asked("b")).await.0, 200, "the first fell silent");
        assert_eq!(call(&router, "DELETE", "?id=b", Value::Null).await.1, json!({ "released": true }));
        assert_eq!(call(&router, "POST", "", asked("c")).await.0, 200);
    }

    #[tokio::test]
    async fn what_is_out_of_bounds_is_refused() {
        let router: Router = router();
        for body in [
            json!({ "drill": "", "id": "a", "ttl_seconds": 15 }),
            json!({ "drill": "x", "id": "a", "ttl_seconds": 0 }),
            json!({ "drill": "x", "id": "a", "ttl_seconds": 301 }),
            json!({ "drill": "x", "id": "a" }),
        ] {
            assert_eq!(call(&router, "POST", "", body).await.0, 400);
        }
    }
}
