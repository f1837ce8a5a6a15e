//! Looking through the documents of a region that was evicted, or whose table is an old copy: what the others do not have is
//! kept where it is so recent that nobody can have forgotten it, and set aside otherwise.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    GROUPS, Inner,
    edit::Edit,
    standing::{Coming, Kept, Step},
    store::GROUP_BUCKETS,
};
use crate::{
    agent::documents::{compare::FETCHED, home::From},
    core::{
        link::Failure,
        state::{Key, digest::Range, document::Document},
    },
    marks::{self, Mark},
    ports::documents::{Answer, Question, RemoteDocuments},
};

/// An agent that has not gone on for so long with looking through the documents is followed by another one.
const TURN: Duration = Duration::from_secs(60);

/// A region to compare with.
type Source = (From, Arc<dyn RemoteDocuments>);

impl Inner {
    /// The regions to compare with: what they have forgotten this one cannot keep.
    async fn sources(&self, kept: &Kept) -> Vec<Source> {
        let mut sources = Vec::new();
        for (peer, remote) in self.peers.iter().filter(|(peer, _)| !kept.standing.is_out(peer)) {
            sources.extend(self.source(peer, &**remote).await.map(|from| (from, remote.clone())));
        }
        sources
    }

    /// Looks through the groups from this one on.
    pub(super) async fn clean(&self, kept: &Kept, term: u64, first: u16) -> Result<(), Failure> {
        let sources = self.sources(kept).await;
        if sources.is_empty() {
            return Err(Failure::Unanswered("no other region answers for its documents".to_owned()));
        }
        let mut turn: Option<Instant> = None;
        for group in first..GROUPS as u16 {
            if term > 0 {
                // What is written here from now on is of another replica; a write that was begun before fails.
                self.tell_group(usize::from(group), &[(self.region.clone(), term)]).await?;
            }
            let mut brought_back = 0;
            for bucket in 0..GROUP_BUCKETS as u16 {
                // One agent does it for all, and another one when it is gone.
                if turn.is_none_or(|turn| turn.elapsed() > TURN / 8) {
                    if !self.shared_turns.is_ours("documents/return", TURN).await {
                        return Ok(());
                    }
                    turn = Some(Instant::now());
                }
                brought_back += self.clean_bucket(group * GROUP_BUCKETS as u16 + bucket, &sources).await?;
            }
            let kept = self.step(term, Step::Cleans(group), Step::Cleans(group + 1)).await?;
            if kept.coming != Some(Coming { term, step: Step::Cleans(group + 1) }) {
                // Another agent is further, or the region was evicted again.
                return Ok(());
            }
            self.metrics.state.redone.with_label_values(&["again"]).inc_by(brought_back);
        }
        Ok(())
    }

    /// Answers how many documents have something that none of the others has.
    async fn clean_bucket(&self, bucket: u16, sources: &[Source]) -> Result<u64, Failure> {
        let range = Range::bucket(bucket);
        let sum = async |answer: Result<Option<Answer>, Failure>| match answer {
            Ok(Some(Answer::Sums(sums))) => sums.first().copied(),
            _ => None,
        };
        let ours = sum(self.store.answer(Question::Sums(vec![range])).await).await;
        for (_, remote) in sources {
            let theirs = sum(remote.ask(Question::Sums(vec![range])).await.map(Some)).await;
            if ours.is_some() && ours == theirs {
                return Ok(0);
            }
        }
        let mut brought_back = 0;
        for keys in self.store.keys(bucket).await?.chunks(FETCHED) {
            // By key, what each source has of it.
            let mut others: BTreeMap<&Key, Vec<Document>> = BTreeMap::new();
            for (_, remote) in sources {
                for (key, whole) in keys.iter().zip(wholes(&**remote, keys).await?) {
                    others.entry(key).or_default().extend(whole);
                }
            }
            let from: Vec<From> = sources.iter().map(|(from, _)| from.clone()).collect();
            for key in keys {
                let others = others.remove(key).unwrap_or_default();
                brought_back += u64::from(self.clean_one(key, &others, &from).await?);
            }
        }
        Ok(brought_back)
    }

    /// Answers whether it has something that none of the others has.
    async fn clean_one(&self, key: &Key, others: &[Document], from: &[From]) -> Result<bool, Failure> {
        let since = self.clock.now().minus(self.options.horizon).as_millis();
        let mut all = Document::default();
        others.iter().for_each(|one| drop(all.merge(one)));
        // Together they may have no room: then this region's part is set aside, and then one of the others' is enough, as they
        // have the same trouble.
        let together = [(&all, Some(since)), (&all, None)];
        let choices = together.into_iter().chain(others.iter().map(|one| (one, None)));
        let mut edited = Err(Failure::Unanswered(String::new()));
        for (others, since) in choices {
            edited = self.edit(key, Edit::Clean { others, from, since }).await;
            if !matches!(edited, Err(Failure::Refused(_))) {
                break;
            }
        }
        let edited = edited?;
        if edited.is_refused {
            return Err(Failure::Unanswered("a region that documents were compared with was evicted".to_owned()));
        }
        if edited.given_up.is_some() {
            marks::hit(Mark::DocumentSetAside);
            self.metrics.state.redone.with_label_values(&["lost"]).inc();
            self.metrics.state.discarded.inc();
            tracing::error!(
                document = %key,
                "this region has something of this document that the others have not, and may have deleted and forgotten while \
                 it was away: it is set aside; `hubweave state given-up` shows it"
            );
            return Ok(false);
        }
        if edited.is_unsent {
            marks::hit(Mark::DocumentKept);
            tracing::info!(document = %key, "what only this region had of a document is kept");
        }
        Ok(edited.is_unsent)
    }
}

/// Documents of a peer, one for each key.
async fn wholes(remote: &dyn RemoteDocuments, keys: &[Key]) -> Result<Vec<Option<Document>>, Failure> {
    let mut all = Vec::with_capacity(keys.len());
    while all.len() < keys.len() {
        let wanted = keys[all.len()..].to_vec();
        let Answer::Wholes(wholes) = remote.ask(Question::Wholes(wanted)).await? else {
            return Err(Failure::Refused("not what was asked for: documents".to_owned()));
        };
        if wholes.is_empty() {
            return Err(Failure::Refused("not what was asked for: no documents".to_owned()));
        }
        for whole in wholes {
            let decode = |bytes: Vec<u8>| Document::decode(&bytes);
            all.push(whole.map(decode).transpose().map_err(|error| Failure::Refused(error.to_string()))?);
        }
    }
    Ok(all)
}
