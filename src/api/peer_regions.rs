//! What peers ask about who serves users: the receiving half of `embedded::remote_regions`.

use std::sync::Arc;

use axum::{
    extract::{Query, Request, State},
    http::StatusCode,
    response::Response,
};
use serde::Deserialize;

use super::{
    Api,
    answer::{self, read_body},
    no_such_path,
    peer::{cut_off, refused},
};
use crate::ports::regions::{BYTES_MAX, CONTENT_TYPE, Error, Question};

/// How long a peer waits that asked a region which cannot answer now.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Deserialize)]
struct Asker {
    cluster: String,
    region: String,
}

/// `POST /peer/v1/regions?cluster&region`.
pub async fn ask(State(api): State<Arc<Api>>, request: Request) -> Response {
    let Some(regions) = &api.options.regions else { return no_such_path() };
    let (head, body) = request.into_parts();
    let asker = match Query::<Asker>::try_from_uri(&head.uri) {
        Ok(Query(asker)) => asker,
        Err(error) => return answer::error(StatusCode::BAD_REQUEST, &format!("the query: {error}")),
    };
    let body = match read_body(&head.headers, body, BYTES_MAX as u64).await {
        Ok(body) => body,
        Err(error) => return error.answer(),
    };
    let admission = match api.options.inbox.admit(&asker.cluster, &asker.region).await {
        Ok(admission) => admission,
        Err(refusal) => return refused(&refusal),
    };
    let question: Question = match serde_json::from_slice(&body) {
        Ok(question) => question,
        Err(error) => return answer::error(StatusCode::BAD_REQUEST, &format!("the question: {error}")),
    };
    match regions.answer(question).await {
        _ if admission.answer_lost || admission.is_cut() => cut_off(),
        Ok(answered) => match serde_json::to_vec(&answered) {
            Ok(text) => answer::with_type(StatusCode::OK, CONTENT_TYPE, text.into()),
            Err(error) => answer::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        },
        Err(Error::Refused(why)) => answer::error(StatusCode::BAD_REQUEST, &why),
        Err(Error::Unavailable(why)) => answer::unavailable(&why, PAUSE),
    }
}
