//! Regions ask each other who serves users.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};

use super::net::{SimPeer, Site};
use crate::{
    core::link::Failure,
    ports::{
        inbox::Refusal,
        regions::{Answer, Error, Question, RemoteRegion},
    },
};

impl RemoteRegion for SimPeer {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, Failure>> {
        // Over the wire format, as in production.
        let text = serde_json::to_vec(&question).unwrap_or_default();
        let asker = self.home.clone();
        let work = move |site: Site| {
            let (text, asker) = (text.clone(), asker.clone());
            async move {
                let malformed = |error: serde_json::Error| Refusal::Malformed(error.to_string());
                let question = serde_json::from_slice(&text).map_err(malformed)?;
                let admission = site.inbox.admit(super::documents::CLUSTER, &asker).await?;
                if admission.answer_lost {
                    return Err(Refusal::CutOff);
                }
                match site.regions.answer(question).await {
                    Ok(answer) => serde_json::to_vec(&answer).map_err(malformed),
                    Err(Error::Refused(why)) => Err(Refusal::Malformed(why)),
                    Err(Error::Unavailable(why)) => {
                        Err(Refusal::Unavailable { why, retry_after: std::time::Duration::from_secs(1) })
                    }
                }
            }
            .boxed()
        };
        async move {
            let text = self.bounded(Arc::new(work)).await?;
            serde_json::from_slice(&text).map_err(|error| Failure::Unanswered(error.to_string()))
        }
        .boxed()
    }
}
