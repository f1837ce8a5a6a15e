//! Peers ask for documents: the receiving half of `embedded::remote_documents`.

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
    peer::{cut_off, refused},
    state,
};
use crate::ports::documents::{self, CONTENT_TYPE};

/// Bytes of a question: as many clocks as may be asked about, of long lives.
const QUESTION_BYTES_MAX: u64 = 4 << 20;

#[derive(Deserialize)]
struct Asker {
    cluster: String,
    region: String,
}

/// `POST /peer/v1/documents?cluster&region`.
pub async fn ask(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let asker = match Query::<Asker>::try_from_uri(&head.uri) {
        Ok(Query(asker)) => asker,
        Err(error) => return answer::error(StatusCode::BAD_REQUEST, &format!("the query: {error}")),
    };
    let body = match read_body(&head.headers, body, QUESTION_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return error.answer(),
    };
    let admission = match api.options.inbox.admit(&asker.cluster, &asker.region).await {
        Ok(admission) => admission,
        Err(refusal) => return refused(&refusal),
    };
    let question = match documents::decode(&body) {
        Ok(question) => question,
        Err(why) => return answer::error(StatusCode::BAD_REQUEST, &format!("the question: {why}")),
    };
    let Some(documents) = &api.options.documents else { return state::none() };
    match documents.answer(question).await {
        _ if admission.answer_lost || admission.is_cut() => cut_off(),
        Ok(answered) => answer::with_type(StatusCode::OK, CONTENT_TYPE, documents::encode(&answered).into()),
        Err(error) => state::failed(&error),
    }
}
