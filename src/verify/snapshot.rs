//! One region's answer to `GET /v1/keys`, line by line.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
};

use serde::Deserialize;
use serde_json::Value;

use super::{Short, unhex};
use crate::core::{object::Location, pattern::Pattern, time::Timestamp};

/// One event of a region's hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Short,
    pub payload: Short,
    /// Where the event stands at its origin.
    pub sequence: u64,
    /// Where it stands in this hub.
    pub offset: u64,
    pub accepted_millis: u64,
    /// 0: published here; else one more than the index into [`Snapshot::origins`].
    origin: u16,
    /// Delivered without waiting for its payload.
    pending: bool,
}

impl Entry {
    /// It was delivered without waiting for its payload.
    pub fn is_pending(&self) -> bool {
        self.pending
    }

    /// A service of this region published it.
    pub fn is_local(&self) -> bool {
        self.origin == 0
    }
}

/// What a region says of one of its links.
#[derive(Clone, Debug, Default)]
pub struct LinkView {
    pub held: HashSet<u64>,
    pub dead: HashSet<u64>,
    /// Offsets after the first up to and with the second.
    pub losses: Vec<(u64, u64)>,
    /// Each pattern judges what was accepted after its offset, until the next one.
    filters: Vec<(u64, Pattern)>,
    /// Offsets that the pattern of their time left out, in order.
    filtered: Vec<u64>,
}

impl LinkView {
    /// The link's filter left this offset out.
    pub fn is_filtered(&self, offset: u64) -> bool {
        self.filtered.binary_search(&offset).is_ok()
    }

    fn pattern_at(&self, offset: u64) -> Option<&Pattern> {
        // What the link was made with also holds for what the hub had before.
        let later = self.filters.iter().rev().find(|(after, _)| *after < offset);
        later.or(self.filters.first()).map(|(_, pattern)| pattern)
    }
}

/// A region as far as `verify` looks at it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub region: String,
    /// The log begins after this offset.
    pub base: u64,
    pub head: u64,
    /// Ledger entries of events accepted before this are forgotten.
    pub expires_before_millis: u64,
    pub links: BTreeMap<String, LinkView>,
    /// Peer and key of dead letters that an operator gave up.
    pub discarded: HashSet<(String, Short)>,
    origins: Vec<String>,
    /// By key, then offset, once [`Snapshot::sort`] was called.
    entries: Vec<Entry>,
    /// The objects that an event refers to, by the event's key and offset.
    references: BTreeMap<(Short, u64), Vec<Location>>,
    /// What stands up to here was taken in by an earlier stream.
    covered: u64,
    /// Of the first event that the log still has.
    first_accepted_millis: Option<u64>,
}

/// What a line was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Event,
    /// The last one.
    End,
}

#[derive(Deserialize)]
struct Header {
    region: String,
    base: u64,
    head: u64,
    #[serde(default)]
    expires_before: Value,
    links: Vec<LinkHeader>,
    #[serde(default)]
    discarded: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct LinkHeader {
    peer: String,
    #[serde(default)]
    held: Vec<u64>,
    #[serde(default)]
    filters: Vec<(u64, Value)>,
    #[serde(default)]
    dead: Vec<u64>,
    #[serde(default)]
    losses: Vec<(u64, u64)>,
}

#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    k: Option<Cow<'a, str>>,
    #[serde(borrow)]
    p: Option<Cow<'a, str>>,
    #[serde(borrow)]
    o: Option<Cow<'a, str>>,
    s: Option<u64>,
    n: Option<u64>,
    t: Option<u64>,
    r: Option<Vec<(String, String)>>,
    #[serde(default)]
    w: bool,
    e: Option<Value>,
    end: Option<u64>,
}

impl Snapshot {
    /// Begins with the stream's first line.
    pub fn begin(header: &[u8]) -> Result<Snapshot, String> {
        let mut snapshot = Snapshot::default();
        snapshot.renew(header)?;
        Ok(snapshot)
    }

    /// Takes over the first line of a later stream, whose events go on after this head. `false` if they cannot, because
    /// the region's log is not the one it was: then begin anew.
    pub fn renew(&mut self, header: &[u8]) -> Result<bool, String> {
        let header: Header = serde_json::from_slice(header).map_err(|error| error.to_string())?;
        if header.head < self.head || (!self.region.is_empty() && header.region != self.region) {
            return Ok(false);
        }
        let mut links = BTreeMap::new();
        for link in header.links {
            let filters = link.filters.into_iter().map(|(after, pattern)| {
                // The journal keeps patterns as text.
                let pattern = match pattern {
                    Value::String(text) => serde_json::from_str(&text).map_err(|error| error.to_string())?,
                    pattern => pattern,
                };
                Pattern::parse(&pattern).map(|pattern| (after, pattern)).map_err(|error| error.to_string())
            });
            let filters = filters.collect::<Result<Vec<_>, String>>()?;
            let filtered = self.links.get_mut(&link.peer).map(|link| std::mem::take(&mut link.filtered));
            let view = LinkView {
                held: link.held.into_iter().collect(),
                dead: link.dead.into_iter().collect(),
                losses: link.losses,
                filters,
                filtered: filtered.unwrap_or_default(),
            };
            links.insert(link.peer, view);
        }
        let discarded = header.discarded.into_iter();
        let discarded = discarded.map(|(peer, key)| Some((peer, unhex(&key)?))).collect::<Option<_>>();
        self.discarded = discarded.ok_or("a key hash is no hash")?;
        self.links = links;
        self.covered = self.head;
        (self.region, self.base, self.head) = (header.region, header.base, header.head);
        self.expires_before_millis = match &header.expires_before {
            Value::String(text) => Timestamp::parse_rfc3339(text).map_or(0, Timestamp::as_millis),
            number => number.as_u64().unwrap_or_default(),
        };
        Ok(true)
    }

    /// Whether a filter has to see envelopes to say what passed.
    pub fn wants_envelopes(&self) -> bool {
        self.links.values().flat_map(|link| &link.filters).any(|(_, pattern)| !pattern.is_everything())
    }

    /// Takes in one more line.
    pub fn add(&mut self, line: &[u8]) -> Result<Line, String> {
        let row: Row<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        if row.end.is_some() {
            return Ok(Line::End);
        }
        let hash = |text: &Option<Cow<'_, str>>| text.as_deref().and_then(unhex);
        let (Some(key), Some(payload), Some(offset)) = (hash(&row.k), hash(&row.p), row.n) else {
            return Err("a line has no key, payload hash or offset".to_owned());
        };
        // The next stream begins after this one's head: an event that came in meanwhile must not be taken in twice.
        if offset <= self.covered || offset > self.head {
            return Ok(Line::Event);
        }
        let origin = match row.o {
            None => 0,
            Some(origin) => self.origin_index(&origin)?,
        };
        let accepted_millis = row.t.unwrap_or_default();
        let entry =
            Entry { key, payload, sequence: row.s.unwrap_or(offset), offset, accepted_millis, origin, pending: row.w };
        if let (Some(envelope), true) = (&row.e, entry.is_local()) {
            for link in self.links.values_mut() {
                if link.pattern_at(offset).is_some_and(|pattern| !pattern.matches(envelope)) {
                    link.filtered.push(offset);
                }
            }
        }
        if let Some(references) = row.r {
            let references = references.into_iter().map(|(bucket, key)| Location { bucket, key });
            self.references.insert((key, offset), references.collect());
        }
        self.first_accepted_millis = Some(self.first_accepted_millis.unwrap_or(u64::MAX).min(accepted_millis));
        self.entries.push(entry);
        Ok(Line::Event)
    }

    fn origin_index(&mut self, origin: &str) -> Result<u16, String> {
        let known = self.origins.iter().position(|known| known == origin);
        let index = known.unwrap_or_else(|| {
            self.origins.push(origin.to_owned());
            self.origins.len() - 1
        });
        u16::try_from(index + 1).map_err(|_| "more origins than a topology has regions".to_owned())
    }

    /// Puts the entries in order; after the last line of a stream.
    pub fn sort(&mut self) {
        self.entries.sort_unstable_by_key(|entry| (entry.key, entry.offset));
    }

    /// By key, then offset.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The origin of an entry; `None` if it is local.
    pub fn origin(&self, entry: &Entry) -> Option<&str> {
        let index = usize::from(entry.origin).checked_sub(1)?;
        self.origins.get(index).map(String::as_str)
    }

    /// The entries with this key, oldest first.
    pub fn find(&self, key: &Short) -> &[Entry] {
        let start = self.entries.partition_point(|entry| entry.key < *key);
        let length = self.entries[start..].partition_point(|entry| entry.key == *key);
        &self.entries[start..start + length]
    }

    /// The objects that this event refers to.
    pub fn references(&self, entry: &Entry) -> &[Location] {
        self.references.get(&(entry.key, entry.offset)).map_or(&[], Vec::as_slice)
    }

    /// The same of all events.
    pub fn all_references(&self) -> impl Iterator<Item = &Location> {
        self.references.values().flatten()
    }

    /// What was accepted anywhere at this time may have been here and may have been dropped with the old part of the
    /// log. Copies come later than originals, so this errs on the side of saying nothing.
    pub fn may_have_dropped(&self, accepted_millis: u64) -> bool {
        self.base > 0 && self.first_accepted_millis.is_none_or(|first| accepted_millis <= first)
    }
}
