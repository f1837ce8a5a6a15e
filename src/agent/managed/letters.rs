//! Dead letters in a queue: list, show, redrive, discard.
//!
//! A queue cannot be read without hiding what was read, so each of these walks through the link's dead-letter queue once,
//! hides what it sees, and makes what it keeps visible again at its end. If it does not come to its end, the letters come
//! back by themselves after [`LOOK`]. One walk at a time in an agent; two agents of a region may hide letters from each
//! other, which [`Walked::in_queue`] shows.
//!
//! Redriving moves a letter back into the link's feed, under its first time of acceptance: the link does the rest, and what
//! cannot be delivered comes back as a dead letter. The peer's ledger makes a repeat harmless.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{CALL_TIMEOUT, Error, Link, Managed};
use crate::{
    agent::{
        queue_link::letter::{ACCEPTED, AGED, KEY, REASON, WHY, accepted},
        rounds::within,
    },
    core::{batch::Reason, envelope::Event, link::Failure, time::Timestamp},
    ports::queue::{self, Message, Outgoing, Queue},
};

/// How long a letter is hidden at most by somebody who looks at it.
const LOOK: Duration = Duration::from_secs(60);

/// How long one walk takes at most; well within [`LOOK`], or it would meet the first ones again.
const WALK_MAX: Duration = Duration::from_secs(40);

/// Letters of one walk; a queue of SQS hides 120,000 messages at most, and memory holds what is kept.
const WALK_LETTERS_MAX: usize = 10_000;

/// A poll that waits asks all of a queue's servers, so an empty answer means an empty queue.
const WALK_POLL: Duration = Duration::from_secs(1);

/// Letters listed or shown unless more are asked for.
const LIST_DEFAULT: usize = 100;

/// EventBridge's attributes on what a rule could not put into its target.
const RULE_ERROR: &str = "ERROR_CODE";
const RULE_MESSAGE: &str = "ERROR_MESSAGE";

/// Reasons that no link gives.
const NOT_ENQUEUED: &str = "not_enqueued";
const RECEIVED_TOO_OFTEN: &str = "received_too_often";

/// Which letters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// The message's id.
    pub id: Option<String>,
    pub peer: Option<String>,
    pub key: Option<String>,
    /// RFC 3339: dead since.
    pub since: Option<String>,
    pub limit: Option<usize>,
    /// Redrive also what the peer's ledger may have forgotten: it may take a second effect.
    pub expired: bool,
    pub dry_run: bool,
}

/// A letter as people see it; the fields of an embedded region's, with `null` where a queue has none.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    pub id: String,
    pub peer: String,
    pub sequence: Option<u64>,
    pub key: String,
    pub source: String,
    pub detail_type: String,
    pub reason: String,
    pub why: Option<String>,
    pub accepted: String,
    /// When it came into its first queue where SQS moved it.
    pub dead: String,
    pub attempts: Option<u32>,
    /// The id of the trace that the event belongs to.
    pub trace: Option<String>,
    #[serde(skip)]
    pub(super) dead_at: Timestamp,
}

/// How far a walk came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Walked {
    pub looked: usize,
    /// As the queue counts, late by up to a minute. More than were looked at: somebody else hides some, for a minute at
    /// most, or the walk was not complete.
    pub in_queue: u64,
    /// The walk came to the end of the queue.
    pub complete: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct List {
    pub letters: Vec<Shown>,
    /// How many match; more than listed if the limit cut.
    pub total: usize,
    #[serde(flatten)]
    pub walked: Walked,
}

#[derive(Clone, Debug, Serialize)]
pub struct Whole {
    #[serde(flatten)]
    pub letter: Shown,
    /// The event as it lies in the queue, also if it is no JSON.
    #[serde(skip)]
    pub body: String,
}

impl Whole {
    /// The letter with its envelope, which stays as it was written; a text where it is no JSON.
    pub fn json(&self) -> String {
        let fields = serde_json::to_string(self).unwrap_or_default();
        let text = || serde_json::to_string(&self.body).unwrap_or_default();
        let envelope = match serde_json::from_str::<&RawValue>(&self.body) {
            Ok(raw) => raw.get().to_owned(),
            Err(_) => text(),
        };
        format!("{},\"envelope\":{envelope}}}", fields.trim_end_matches('}'))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Redriven {
    pub matched: u64,
    /// Meant to go.
    pub events: u64,
    /// Back in the link's feed. What becomes of them, the link's metrics and the dead letters say.
    pub requeued: u64,
    /// Too old for the peer's ledger.
    pub skipped: u64,
    /// Not answered; they stay where they were.
    pub failed: u64,
    /// Of a redrive that waits for its answers; here always 0.
    pub delivered: u64,
    pub duplicate: u64,
    pub rejected: u64,
    #[serde(flatten)]
    pub walked: Walked,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Discarded {
    pub matched: u64,
    pub discarded: u64,
    #[serde(flatten)]
    pub walked: Walked,
}

/// One look at a dead-letter queue from its beginning to its end.
struct Walk<'a> {
    queue: &'a dyn Queue,
    began: Instant,
    /// By message; the youngest receipt counts.
    kept: BTreeMap<String, String>,
    seen: BTreeSet<String>,
    walked: Walked,
}

impl<'a> Walk<'a> {
    fn new(queue: &'a dyn Queue) -> Walk<'a> {
        Walk {
            queue,
            began: Instant::now(),
            kept: BTreeMap::new(),
            seen: BTreeSet::new(),
            walked: Walked { complete: true, ..Walked::default() },
        }
    }

    /// Some letters that were not seen before; `None` at the end of the queue or of the time.
    async fn next(&mut self) -> Result<Option<Vec<Message>>, Failure> {
        loop {
            if self.began.elapsed() >= WALK_MAX || self.walked.looked >= WALK_LETTERS_MAX {
                self.walked.complete = false;
                return Ok(None);
            }
            let receive = self.queue.receive(queue::CALL_MESSAGES_MAX, WALK_POLL, LOOK);
            let mut messages = within(WALK_POLL + CALL_TIMEOUT, receive).await?;
            if messages.is_empty() {
                return Ok(None);
            }
            messages.retain(|message| {
                if let Some(receipt) = self.kept.get_mut(&message.id) {
                    receipt.clone_from(&message.receipt);
                }
                self.seen.insert(message.id.clone())
            });
            self.walked.looked += messages.len();
            if !messages.is_empty() {
                return Ok(Some(messages));
            }
        }
    }

    /// The letter stays where it is.
    fn keep(&mut self, message: &Message) {
        self.kept.insert(message.id.clone(), message.receipt.clone());
    }

    /// Makes visible what stays, which becomes so by itself where that fails, and counts what there is.
    async fn end(self, link: &Link) -> Walked {
        let Walk { queue, kept, mut walked, .. } = self;
        let receipts: Vec<String> = kept.into_values().collect();
        for receipts in receipts.chunks(queue::CALL_MESSAGES_MAX) {
            if let Err(failure) = within(CALL_TIMEOUT, queue.extend(receipts.to_vec(), Duration::ZERO)).await {
                tracing::info!(%failure, "dead letters stay hidden for a minute");
                break;
            }
        }
        walked.in_queue = match within(CALL_TIMEOUT, queue.depth()).await {
            Ok(depth) => {
                link.metrics.dead_letters.set(depth.total() as f64);
                depth.total()
            }
            Err(_) => walked.looked as u64,
        };
        walked
    }
}

impl Walked {
    fn add(&mut self, other: Walked) {
        self.looked += other.looked;
        self.in_queue += other.in_queue;
        self.complete &= other.complete;
    }

    fn begin() -> Walked {
        Walked { complete: true, ..Walked::default() }
    }
}

/// A selection whose time was read.
struct Wanted<'a> {
    selection: &'a Selection,
    since: Option<Timestamp>,
}

impl Wanted<'_> {
    fn matches(&self, letter: &Shown) -> bool {
        let Selection { id, key, .. } = self.selection;
        id.as_ref().is_none_or(|id| letter.id == *id)
            && key.as_ref().is_none_or(|key| letter.key == *key)
            && self.since.is_none_or(|since| letter.dead_at >= since)
    }
}

impl Managed {
    fn wanted<'a>(&self, selection: &'a Selection) -> Result<Wanted<'a>, Error> {
        let since =
            match &selection.since {
                None => None,
                Some(text) => Some(Timestamp::parse_rfc3339(text).ok_or_else(|| {
                    Error::Invalid(format!("since: {text}: no time; write it as 2026-11-23T10:00:00Z"))
                })?),
            };
        Ok(Wanted { selection, since })
    }

    /// The links whose letters are meant.
    fn addressed(&self, peer: Option<&str>) -> Result<Vec<(&String, &Link)>, Error> {
        match peer {
            None => Ok(self.links.iter().collect()),
            Some(peer) => {
                let found = self.links.get_key_value(peer);
                Ok(vec![found.ok_or_else(|| Error::NoLink(self.region.clone(), peer.to_owned()))?])
            }
        }
    }

    fn shown(&self, peer: &str, message: &Message) -> Shown {
        let event = Event::read(&message.body, &self.region, &self.ingress).ok();
        let attribute = |name: &str| message.attributes.get(name).cloned();
        let (reason, why) = match (attribute(REASON), attribute(RULE_ERROR)) {
            (Some(reason), _) => (reason, attribute(WHY)),
            (None, Some(code)) => {
                let more = attribute(RULE_MESSAGE).map(|more| format!(": {more}")).unwrap_or_default();
                (NOT_ENQUEUED.to_owned(), Some(format!("{code}{more}")))
            }
            (None, None) => (RECEIVED_TOO_OFTEN.to_owned(), None),
        };
        let of = |field: fn(&Event) -> &String| event.as_ref().map(field).cloned();
        Shown {
            id: message.id.clone(),
            peer: peer.to_owned(),
            sequence: None,
            key: of(|event| &event.key).or(attribute(KEY)).unwrap_or_default(),
            source: of(|event| &event.source).unwrap_or_default(),
            detail_type: of(|event| &event.detail_type).unwrap_or_default(),
            reason,
            why,
            accepted: accepted(message).to_rfc3339(),
            dead: message.sent.to_rfc3339(),
            attempts: None,
            trace: message.trace_id(),
            dead_at: message.sent,
        }
    }

    /// The letters that match, oldest first.
    ///
    /// # Errors
    /// A time that is none, no such link, or the queue does not answer.
    pub async fn letters(&self, selection: &Selection) -> Result<List, Error> {
        let found = self.find(selection, |_| ()).await?;
        let (mut letters, walked): (Vec<Shown>, Walked) =
            (found.0.into_iter().map(|(shown, ())| shown).collect(), found.1);
        letters.sort_by_key(|letter| letter.dead_at);
        let total = letters.len();
        letters.truncate(selection.limit.unwrap_or(LIST_DEFAULT));
        Ok(List { letters, total, walked })
    }

    /// One letter and its event.
    ///
    /// # Errors
    /// A queue does not answer.
    pub async fn letter(&self, id: &str) -> Result<Option<Whole>, Error> {
        let selection = Selection { id: Some(id.to_owned()), ..Selection::default() };
        let (found, _) = self.find(&selection, |message| message.body.clone()).await?;
        Ok(found.into_iter().next().map(|(letter, body)| Whole { letter, body }))
    }

    /// Looks at all letters and changes none.
    pub(super) async fn find<T>(
        &self,
        selection: &Selection,
        of: impl Fn(&Message) -> T,
    ) -> Result<(Vec<(Shown, T)>, Walked), Error> {
        let wanted = self.wanted(selection)?;
        let links = self.addressed(selection.peer.as_deref())?;
        let _turn = self.walks.lock().await;
        let (mut found, mut all) = (Vec::new(), Walked::begin());
        for (peer, link) in links {
            let mut walk = Walk::new(&*link.ports.dead);
            let mut looking = async || -> Result<(), Failure> {
                while let Some(messages) = walk.next().await? {
                    for message in messages {
                        walk.keep(&message);
                        let shown = self.shown(peer, &message);
                        if wanted.matches(&shown) {
                            found.push((shown, of(&message)));
                        }
                    }
                }
                Ok(())
            };
            let looked = looking().await;
            all.add(walk.end(link).await);
            looked.map_err(|failure| Error::Letters(peer.clone(), failure))?;
        }
        Ok((found, all))
    }

    /// Moves letters back into their links' feeds.
    ///
    /// # Errors
    /// The selection is wrong, a link only compares, or a queue does not answer: what was done before counts.
    pub async fn redrive(&self, selection: &Selection) -> Result<Redriven, Error> {
        let wanted = self.wanted(selection)?;
        let links = self.addressed(selection.peer.as_deref())?;
        let delivering = links.iter().any(|(_, link)| !link.shadow);
        if let Some((peer, _)) = links.iter().find(|_| !delivering) {
            let why = format!("the link to {peer} is in shadow mode: it would look at the events and drop them");
            return Err(Error::Invalid(why));
        }
        let _turn = self.walks.lock().await;
        let mut done = Redriven { walked: Walked::begin(), ..Redriven::default() };
        for (peer, link) in links.into_iter().filter(|(_, link)| !link.shadow) {
            let mut walk = Walk::new(&*link.ports.dead);
            let result = self.redrive_of(peer, link, &mut walk, &wanted, &mut done).await;
            done.walked.add(walk.end(link).await);
            result.map_err(|failure| Error::Letters(peer.clone(), failure))?;
        }
        Ok(done)
    }

    async fn redrive_of(
        &self,
        peer: &str,
        link: &Link,
        walk: &mut Walk<'_>,
        wanted: &Wanted<'_>,
        done: &mut Redriven,
    ) -> Result<(), Failure> {
        let selection = wanted.selection;
        let limit = selection.limit.map_or(u64::MAX, |limit| limit as u64);
        // What is refused again at once is not to go round in circles.
        let mut sent_before = BTreeSet::new();
        while let Some(messages) = walk.next().await? {
            let mut chosen: Vec<(Message, Outgoing, Shown)> = Vec::new();
            for message in messages {
                let shown = self.shown(peer, &message);
                let fresh = !sent_before.contains(&fingerprint(&message.body));
                if !fresh || !wanted.matches(&shown) || done.matched >= limit {
                    walk.keep(&message);
                    continue;
                }
                done.matched += 1;
                let since = self.clock.now().minus(link.expire_after);
                let expired = accepted(&message) <= since || shown.reason == Reason::Expired.as_str();
                if expired && !selection.expired {
                    done.skipped += 1;
                    walk.keep(&message);
                    continue;
                }
                done.events += 1;
                if selection.dry_run {
                    walk.keep(&message);
                    continue;
                }
                let outgoing = again(&message, expired);
                chosen.push((message, outgoing, shown));
            }
            if chosen.is_empty() {
                continue;
            }
            let outgoing = chosen.iter().map(|(_, outgoing, _)| outgoing.clone()).collect();
            let results = match within(CALL_TIMEOUT, link.ports.feed.send(outgoing)).await {
                Ok(results) => results,
                Err(failure) => {
                    done.failed += chosen.len() as u64;
                    chosen.iter().for_each(|(message, ..)| walk.keep(message));
                    return Err(failure);
                }
            };
            let mut receipts = Vec::new();
            for ((message, _, shown), result) in chosen.into_iter().zip(results) {
                match result {
                    Ok(()) => {
                        done.requeued += 1;
                        sent_before.insert(fingerprint(&message.body));
                        tracing::info!(id = shown.id, peer, key = shown.key, "dead letter put back into its feed");
                        receipts.push(message.receipt);
                    }
                    Err(failure) => {
                        done.failed += 1;
                        tracing::warn!(id = shown.id, peer, %failure, "dead letter not put back into its feed");
                        walk.keep(&message);
                    }
                }
            }
            let taken = receipts.len();
            if delete(&*link.ports.dead, receipts).await < taken {
                tracing::warn!(
                    peer,
                    "dead letters went into their feed and stay listed; to redrive them again is harmless"
                );
            }
        }
        Ok(())
    }

    /// Gives letters up for good.
    ///
    /// # Errors
    /// The selection is wrong, or a queue does not answer: what was done before counts.
    pub async fn discard(&self, selection: &Selection) -> Result<Discarded, Error> {
        let wanted = self.wanted(selection)?;
        let links = self.addressed(selection.peer.as_deref())?;
        let limit = selection.limit.map_or(u64::MAX, |limit| limit as u64);
        let _turn = self.walks.lock().await;
        let mut done = Discarded { walked: Walked::begin(), ..Discarded::default() };
        for (peer, link) in links {
            let mut walk = Walk::new(&*link.ports.dead);
            let mut discarding = async || -> Result<(), Failure> {
                while let Some(messages) = walk.next().await? {
                    let mut receipts = Vec::new();
                    for message in messages {
                        let shown = self.shown(peer, &message);
                        if !wanted.matches(&shown) || done.matched >= limit {
                            walk.keep(&message);
                            continue;
                        }
                        done.matched += 1;
                        if selection.dry_run {
                            walk.keep(&message);
                            continue;
                        }
                        tracing::warn!(id = shown.id, peer, key = shown.key, "dead letter discarded by an operator");
                        receipts.push(message.receipt);
                    }
                    done.discarded += delete(&*link.ports.dead, receipts).await as u64;
                }
                Ok(())
            };
            let result = discarding().await;
            done.walked.add(walk.end(link).await);
            result.map_err(|failure| Error::Letters(peer.clone(), failure))?;
        }
        Ok(done)
    }
}

/// Deletes; answers how many are gone for sure.
async fn delete(queue: &dyn Queue, receipts: Vec<String>) -> usize {
    if receipts.is_empty() {
        return 0;
    }
    match within(CALL_TIMEOUT, queue.delete(receipts)).await {
        Ok(results) => results.into_iter().filter(Result::is_ok).count(),
        Err(_) => 0,
    }
}

/// A letter for the feed: as old as it is, without what made it a letter.
fn again(message: &Message, aged: bool) -> Outgoing {
    let mut attributes = BTreeMap::from([(ACCEPTED.to_owned(), accepted(message).as_millis().to_string())]);
    if aged {
        attributes.insert(AGED.to_owned(), "yes".to_owned());
    }
    Outgoing { body: message.body.clone(), delay: Duration::ZERO, attributes, trace: message.trace.clone() }
}

fn fingerprint(body: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}
