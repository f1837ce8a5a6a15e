//! An event as a managed queue holds it: EventBridge's envelope. What it is, whether it goes over, and what it becomes.

use std::{borrow::Cow, time::Duration};

use serde::Deserialize;
use serde_json::value::RawValue;

pub use super::stamp::Offloaded;
use super::{
    event::{RESERVED_SOURCE, STATE_CONFLICT, STATE_OPERATION},
    ingress::{Ingress, KEY_BYTES_MAX, STAMP, entry_bytes},
    json::{self, Json},
    key::{KeyHash, PayloadHash},
    link::Skip,
    pattern::{EventView, Pattern},
    reference,
    stamp::{Found, Stamp},
    time::Timestamp,
};

/// An event to publish on a bus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub source: String,
    pub detail_type: String,
    /// A JSON object.
    pub detail: String,
    pub time: Option<Timestamp>,
    pub resources: Vec<String>,
    /// X-Ray trace header.
    pub trace: Option<String>,
}

impl Entry {
    /// The size as EventBridge counts it.
    pub fn bytes(&self) -> usize {
        entry_bytes(&self.source, &self.detail_type, &self.detail, self.time.is_some(), &self.resources)
    }
}

/// What a queue holds is no event of EventBridge's, or none that can be named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

/// Where an event was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// In this region.
    Local,
    /// In this region; a stamp that it had inherited was taken out.
    Stripped,
    /// It came over a link.
    Stamped { origin: String, hops: u8 },
}

/// An event read from its envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub account: String,
    pub region: String,
    pub source: String,
    pub detail_type: String,
    /// The producer's time.
    pub time: Option<Timestamp>,
    pub resources: Vec<String>,
    /// Without a stamp.
    pub detail: String,
    /// It comes out of an archive.
    pub replayed: bool,
    pub provenance: Provenance,
    pub key: String,
    pub key_hash: KeyHash,
    pub payload_hash: PayloadHash,
    /// It refers to objects, which go ahead of it.
    pub has_payload: bool,
    /// It goes without them: they did not come up in time.
    pub pending: bool,
    /// Its whole detail stands in an object at the peer; `detail` is what is left of it.
    pub offloaded: Option<Offloaded>,
}

/// Members of a detail that stay in the event when the whole of it is too large and goes into an object: those of at most
/// this many bytes each, and in all. Rules match these still.
const KEPT_MEMBER_BYTES: usize = 1_024;
const KEPT_BYTES: usize = 16 << 10;

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, rename = "detail-type")]
    detail_type: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow, default)]
    account: Cow<'a, str>,
    #[serde(borrow, default)]
    time: Cow<'a, str>,
    #[serde(borrow, default)]
    region: Cow<'a, str>,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(borrow)]
    detail: &'a RawValue,
    #[serde(borrow, default, rename = "replay-name")]
    replay_name: Option<&'a RawValue>,
}

impl Event {
    /// Reads an envelope that a rule of `home`'s hub put into a queue.
    ///
    /// # Errors
    /// The text is no envelope, its detail no object that [`json::parse`] takes, or its key too long.
    pub fn read(body: &str, home: &str, ingress: &Ingress) -> Result<Event, Malformed> {
        let wire: Wire<'_> =
            serde_json::from_str(body).map_err(|error| Malformed(format!("no envelope of an event: {error}")))?;
        let written = wire.detail.get();
        let stamped = json::parse(written).map_err(|error| Malformed(format!("its detail cannot be read: {error}")))?;
        if !matches!(stamped, Json::Object(_)) {
            return Err(Malformed("its detail is no object".to_owned()));
        }
        // The stamp and the references are no part of it, so it is the same before and after the stripping.
        let payload_hash = json::hash_parsed(&wire.source, &wire.detail_type, &stamped, &ingress.reference_pointers);
        let found = Found::of(&stamped, payload_hash);
        let detail = json::strip_top_level(written, STAMP).unwrap_or_else(|| written.to_owned());
        let (provenance, key) = match found {
            Found::Genuine { origin, key, hops } => (Provenance::Stamped { origin, hops }, key),
            found => {
                let provenance = if found == Found::Absent { Provenance::Local } else { Provenance::Stripped };
                let bare = json::parse(&detail).map_err(|error| Malformed(format!("its detail: {error}")))?;
                let key = ingress.find_key(&wire.source, &wire.detail_type, &bare, &wire.resources);
                (provenance, key.unwrap_or_else(|| format!("{home}/{}", wire.id)))
            }
        };
        if key.len() > KEY_BYTES_MAX {
            return Err(Malformed(format!("its key has {} bytes; the limit is {KEY_BYTES_MAX}", key.len())));
        }
        Ok(Event {
            key_hash: KeyHash::of(&wire.source, &wire.detail_type, &key),
            time: Timestamp::parse_rfc3339(&wire.time),
            id: wire.id.into_owned(),
            account: wire.account.into_owned(),
            region: wire.region.into_owned(),
            source: wire.source.into_owned(),
            detail_type: wire.detail_type.into_owned(),
            resources: wire.resources,
            detail,
            replayed: wire.replay_name.is_some_and(|name| name.get() != "null"),
            provenance,
            key,
            payload_hash,
            has_payload: reference::refers(&stamped, &ingress.reference_pointers),
            pending: false,
            offloaded: None,
        })
    }

    /// The whole detail stands in an object: only its small members stay.
    pub fn offload(&mut self, mut offloaded: Offloaded) {
        let mut kept = Vec::new();
        let mut bytes = 0;
        for member in json::members(&self.detail).unwrap_or_default() {
            if member.text.len() <= KEPT_MEMBER_BYTES && bytes + member.text.len() <= KEPT_BYTES {
                bytes += member.text.len() + 1;
                kept.push(member.text);
            }
        }
        let kept = format!("{{{}}}", kept.join(","));
        offloaded.rest = json::canonical_hash(&self.source, &self.detail_type, &kept, &offloaded.pointers);
        self.detail = kept;
        self.offloaded = Some(offloaded);
    }

    /// Heartbeats and the like, hubweave's own.
    pub fn is_reserved(&self) -> bool {
        self.source == RESERVED_SOURCE
    }

    /// About a document, and of no use elsewhere: what it did or found crosses by itself.
    pub fn stays_here(&self) -> bool {
        self.detail_type == if self.is_reserved() { STATE_CONFLICT } else { STATE_OPERATION }
    }

    /// One of AWS's own services published it; no link sends it on.
    pub fn is_of_aws(&self) -> bool {
        self.source.starts_with("aws.")
    }

    /// What is put on a peer's bus: the event with its stamp, published once more.
    pub fn entry(&self, home: &str, accepted: Timestamp, trace: Option<String>) -> Entry {
        let hops = match &self.provenance {
            Provenance::Stamped { hops, .. } => hops.saturating_add(1),
            Provenance::Local | Provenance::Stripped => 1,
        };
        let origin = match &self.provenance {
            Provenance::Stamped { origin, .. } => origin,
            Provenance::Local | Provenance::Stripped => home,
        };
        let stamp = Stamp {
            origin,
            id: &self.id,
            account: &self.account,
            key: &self.key,
            hash: self.payload_hash,
            sequence: None,
            time: accepted,
            hops,
            pending: self.pending,
            offloaded: self.offloaded.as_ref(),
        };
        Entry {
            source: self.source.clone(),
            detail_type: self.detail_type.clone(),
            detail: json::with_top_level(&self.detail, STAMP, &stamp.to_json()),
            time: self.time,
            resources: self.resources.clone(),
            trace,
        }
    }
}

/// What a link carries.
#[derive(Clone, Debug)]
pub struct Rules {
    pub pattern: Pattern,
    pub hops_max: u8,
    /// Replays of the hub's archive go over too.
    pub replays: bool,
    /// An event accepted longer ago than this is not sent: the peer's ledger may have forgotten its key. What the bus may
    /// have held it back before the queue took it in (24 h) is to be taken off.
    pub expire_after: Duration,
}

/// Whether an event goes over a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Deliver,
    Skip(Skip),
    /// To the dead letters: a second effect could not be ruled out.
    Expired,
}

impl Rules {
    /// Decides about an event that was `accepted` by the home region at that time. `aged`: somebody asked for it to be
    /// sent however old it is.
    pub fn decide(&self, event: &Event, accepted: Timestamp, now: Timestamp, aged: bool) -> Verdict {
        let skip = if event.replayed && !self.replays {
            Some(Skip::Replay)
        } else if let Provenance::Stamped { hops, .. } = event.provenance {
            Some(if hops >= self.hops_max { Skip::HopLimit } else { Skip::Foreign })
        } else if event.is_of_aws() {
            Some(Skip::AwsSource)
        } else if event.stays_here() || !event.is_reserved() && !self.selects(event) {
            Some(Skip::Filtered)
        } else {
            None
        };
        match skip {
            Some(skip) => Verdict::Skip(skip),
            None if !aged && now.since(accepted) >= self.expire_after => Verdict::Expired,
            None => Verdict::Deliver,
        }
    }

    fn selects(&self, event: &Event) -> bool {
        self.pattern.matches_view(&EventView {
            source: &event.source,
            detail_type: &event.detail_type,
            account: &event.account,
            region: &event.region,
            time: event.time.unwrap_or_default(),
            id: &event.id,
            resources: &event.resources,
            detail: &event.detail,
        })
    }
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
