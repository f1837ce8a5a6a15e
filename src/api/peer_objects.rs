//! Peers bring objects and look for them: the receiving half of `embedded::remote_objects`. Nothing is ever replaced.
//!
//! Who asks stands in the query (`cluster`, `region`). An error that is more than one has a `code`.

use std::{ops::Range, sync::Arc};

use axum::{
    body,
    extract::{Extension, Query, Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::Response,
};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Api,
    answer::{self, content_length, read_body},
    bodies::{self, Caller, Incoming},
    listener::{Connection, CutOff},
    peer::{cut_off, refused},
};
use crate::{
    core::{link::Failure, object::Location},
    ports::{
        inbox::Admission,
        objects::{Announced, Body, Error, Upload, wire},
    },
};

#[derive(Deserialize)]
struct Asker {
    cluster: String,
    region: String,
}

#[derive(Deserialize)]
struct Part {
    upload: String,
    number: u32,
}

#[derive(Deserialize)]
struct Read {
    version: String,
    from: u64,
    to: u64,
}

fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Response> {
    let asked = Query::try_from_uri(uri).map(|Query(asked)| asked);
    asked.map_err(|error| answer::error(StatusCode::BAD_REQUEST, &format!("the query: {error}")))
}

/// Lets a call in, or says why not.
async fn admit(api: &Api, uri: &Uri) -> Result<Admission, Response> {
    let asker: Asker = query(uri)?;
    api.options.inbox.admit(&asker.cluster, &asker.region).await.map_err(|refusal| refused(&refusal))
}

/// The last word of a call, unless a fault swallows it.
fn answered<T: serde::Serialize>(admission: &Admission, result: Result<T, Error>) -> Response {
    match result {
        _ if admission.answer_lost || admission.is_cut() => cut_off(),
        Ok(value) => answer::json(StatusCode::OK, &value),
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> Response {
    let coded = |status, code: wire::Code| {
        answer::json(status, &serde_json::json!({ "error": error.to_string(), "code": code }))
    };
    match error {
        Error::Gone => coded(StatusCode::GONE, wire::Code::Gone),
        Error::Exists => coded(StatusCode::CONFLICT, wire::Code::Exists),
        Error::Damaged(_) => coded(StatusCode::UNPROCESSABLE_ENTITY, wire::Code::Damaged),
        Error::Failure(Failure::Throttled { after }) => answer::unavailable(&error.to_string(), *after),
        Error::Failure(Failure::Refused(why)) => answer::error(StatusCode::BAD_REQUEST, why),
        Error::Failure(Failure::Unanswered(why)) => answer::error(StatusCode::INTERNAL_SERVER_ERROR, why),
    }
}

/// Bodies take as long as they move; their number is bounded instead.
fn no_room() -> Response {
    answer::unavailable("too many bodies of objects are on their way", bodies::PAUSE)
}

/// `GET /peer/v1/objects/stat?bucket&key`: the object or `null`.
pub async fn stat(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Response> {
    let at: Location = query(&uri)?;
    let admission = admit(&api, &uri).await?;
    Ok(answered(&admission, api.options.objects.stat(&at).await))
}

/// `GET /peer/v1/objects/body?bucket&key&version&from&to`: bytes `from..to` of that version.
pub async fn read(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Response> {
    let (at, Read { version, from, to }): (Location, _) = (query(&uri)?, query(&uri)?);
    let range: Range<u64> = from..to;
    let room = api.bodies.enter(Caller::Peer).await.ok_or_else(no_room)?;
    let admission = admit(&api, &uri).await?;
    match api.options.objects.read(&at, &version, range.clone()).await {
        Ok(body) if !admission.answer_lost => {
            let body = bodies::outgoing(body, room, admission);
            let mut response = answer::with_type(StatusCode::OK, "application/octet-stream", body);
            response.headers_mut().insert(header::CONTENT_LENGTH, (range.end - range.start).into());
            Ok(response)
        }
        result => Ok(answered(&admission, result.map(drop))),
    }
}

/// `PUT /peer/v1/objects/body?bucket&key`. The body: a length in four bytes, so much JSON that announces the object, and
/// the object.
pub async fn put(
    State(api): State<Arc<Api>>,
    Extension(connection): Extension<Arc<Connection>>,
    request: Request,
) -> Result<Response, Response> {
    let (head, body) = request.into_parts();
    let at: Location = query(&head.uri)?;
    let call = Call::begin(&api, &head.uri, &head.headers, body, &connection).await?;
    let result = async {
        let (announced, rest) = announced(call.body()).await?;
        api.options.objects.put(&at, announced, rest).await
    };
    let result = result.await;
    Ok(call.end(result).await)
}

/// `PUT /peer/v1/objects/part?bucket&key&upload&number`.
pub async fn put_part(
    State(api): State<Arc<Api>>,
    Extension(connection): Extension<Arc<Connection>>,
    request: Request,
) -> Result<Response, Response> {
    let (head, body) = request.into_parts();
    let (at, Part { upload, number }): (Location, _) = (query(&head.uri)?, query(&head.uri)?);
    let size = content_length(&head.headers)
        .ok_or_else(|| answer::error(StatusCode::LENGTH_REQUIRED, "a part needs a content-length"))?;
    let call = Call::begin(&api, &head.uri, &head.headers, body, &connection).await?;
    let upload = Upload { id: upload, parts: Default::default() };
    let result = api.options.objects.put_part(&at, &upload, number, size, call.body()).await;
    Ok(call.end(result).await)
}

/// `POST /peer/v1/objects/begin`.
pub async fn begin(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Response> {
    let (admission, wire::Begin { at, announced, tag }) = said(&api, request).await?;
    Ok(answered(&admission, api.options.objects.begin(&at, &announced, &tag).await))
}

/// `POST /peer/v1/objects/finish`: takes as long as it takes to read the parts.
pub async fn finish(
    State(api): State<Arc<Api>>,
    Extension(connection): Extension<Arc<Connection>>,
    request: Request,
) -> Result<Response, Response> {
    let _room = api.bodies.enter(Caller::Peer).await.ok_or_else(no_room)?;
    let (admission, wire::Finish { at, upload, parts, announced }) = said(&api, request).await?;
    connection.lift_timeout();
    let upload = Upload { id: upload, parts: Default::default() };
    Ok(answered(&admission, api.options.objects.finish(&at, &upload, parts, announced).await))
}

/// `POST /peer/v1/objects/abort`.
pub async fn abort(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Response> {
    let (admission, wire::Abort { at, upload }) = said(&api, request).await?;
    let upload = Upload { id: upload, parts: Default::default() };
    Ok(answered(&admission, api.options.objects.abort(&at, &upload).await))
}

async fn said<T: DeserializeOwned>(api: &Api, request: Request) -> Result<(Admission, T), Response> {
    let (head, body) = request.into_parts();
    let body = read_body(&head.headers, body, wire::BYTES_MAX).await.map_err(|error| error.answer())?;
    let admission = admit(api, &head.uri).await?;
    let said = serde_json::from_slice(&body);
    Ok((admission, said.map_err(|error| answer::error(StatusCode::BAD_REQUEST, &error.to_string()))?))
}

/// A call with a body.
struct Call {
    admission: Admission,
    incoming: Incoming,
    _room: tokio::sync::OwnedSemaphorePermit,
}

impl Call {
    async fn begin(
        api: &Api,
        uri: &Uri,
        headers: &HeaderMap,
        body: body::Body,
        connection: &Connection,
    ) -> Result<Call, Response> {
        let incoming = api.bodies.incoming(Caller::Peer, headers, body);
        let entered = async {
            let room = api.bodies.enter(Caller::Peer).await.ok_or_else(no_room)?;
            Ok::<_, Response>((admit(api, uri).await?, room))
        };
        match entered.await {
            Ok((admission, room)) => {
                connection.lift_timeout();
                Ok(Call { admission, incoming, _room: room })
            }
            Err(mut response) => {
                if response.extensions().get::<CutOff>().is_none() {
                    incoming.forget(&mut response).await;
                }
                Err(response)
            }
        }
    }

    fn body(&self) -> Body {
        self.incoming.stream(self.admission.clone())
    }

    async fn end<T: serde::Serialize>(self, result: Result<T, Error>) -> Response {
        let mut response = answered(&self.admission, result);
        if response.status() != StatusCode::OK && !self.admission.is_cut() {
            self.incoming.forget(&mut response).await;
        }
        response
    }
}

/// Takes what is announced off the body.
async fn announced(mut body: Body) -> Result<(Announced, Body), Error> {
    let refused = |why: &str| Failure::Refused(format!("what is announced of the object: {why}"));
    let mut read = BytesMut::new();
    loop {
        if let Some((length, rest)) = read.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length);
            if u64::from(length) > wire::BYTES_MAX {
                return Err(refused("is too long").into());
            }
            if let Some(text) = rest.get(..length as usize) {
                let announced = serde_json::from_slice(text).map_err(|error| refused(&error.to_string()))?;
                let rest: Bytes = read.split_off(4 + length as usize).freeze();
                let rest = stream::iter((!rest.is_empty()).then_some(Ok(rest)));
                return Ok((announced, rest.chain(body).boxed()));
            }
        }
        let bytes = body.next().await.ok_or_else(|| refused("is not there"))??;
        read.extend_from_slice(&bytes);
    }
}
