//! Another region's say over HTTP: the sending half of what `api::peer_regions` answers.

use futures::{FutureExt, future::BoxFuture};
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::peer::{HttpPeer, Options};
use crate::{
    core::link::Failure,
    ports::regions::{Answer, BYTES_MAX, CONTENT_TYPE, Question, RemoteRegion},
};

/// A region behind an address.
pub struct HttpRegion {
    peer: HttpPeer,
    path: String,
}

impl HttpRegion {
    /// Connects when it is first asked.
    pub fn new(cluster: &str, options: Options) -> Self {
        let escape = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let path = format!("/peer/v1/regions?cluster={}&region={}", escape(cluster), escape(&options.region));
        HttpRegion { peer: HttpPeer::new(options), path }
    }
}

impl RemoteRegion for HttpRegion {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, Failure>> {
        async move {
            let body = serde_json::to_vec(&question).map_err(|error| Failure::Refused(error.to_string()))?;
            let answer = self.peer.call(Method::POST, &self.path, CONTENT_TYPE, body, BYTES_MAX).await?;
            serde_json::from_slice(&answer).map_err(|error| self.peer.unanswered(&format!("regions: {error}")))
        }
        .boxed()
    }
}
