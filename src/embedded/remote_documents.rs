//! Another region's documents over HTTP: the sending half of what `api::peer_documents` answers.

use futures::{FutureExt, future::BoxFuture};
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::peer::{HttpPeer, Options};
use crate::{
    core::link::Failure,
    ports::documents::{self, Answer, CONTENT_TYPE, Question, RemoteDocuments},
};

/// Bytes of an answer: what a peer sends at once, and one document that goes beyond it.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The documents of a region behind an address.
pub struct HttpDocuments {
    peer: HttpPeer,
    path: String,
}

impl HttpDocuments {
    /// Connects when it is first asked.
    pub fn new(cluster: &str, options: Options) -> Self {
        let escape = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let path = format!("/peer/v1/documents?cluster={}&region={}", escape(cluster), escape(&options.region));
        HttpDocuments { peer: HttpPeer::new(options), path }
    }
}

impl RemoteDocuments for HttpDocuments {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, Failure>> {
        async move {
            let body = documents::encode(&question);
            let answer = self.peer.call(Method::POST, &self.path, CONTENT_TYPE, body, ANSWER_BYTES_MAX).await?;
            documents::decode(&answer).map_err(|why| self.peer.unanswered(&format!("documents: {why}")))
        }
        .boxed()
    }
}

#[cfg(test)]
#[path = "remote_documents_tests.rs"]
mod tests;
