//! An event: as a draft before the hub took it, as a record in the log and on the wire, as an envelope for readers.
//!
//! A [`Record`] is one contiguous run of bytes. What a producer wrote (key, source, detail-type, resources, detail, trace) is
//! kept as its text in one piece, the *portable part*: a link passes it on without looking inside, and the receiving
//! hub copies it behind a header of its own. Only readers turn a record into JSON.
//!
//! ```text
//! header (160 bytes, little endian) | portable part: key source detail-type resources detail trace | provenance: origin id account
//! ```

use bytes::{BufMut, Bytes};

use super::{
    key::{KeyHash, PayloadHash},
    position::{EventId, Incarnation, Position},
    stamp::Stamp,
    time::Timestamp,
    trace::{self, TRACE_BYTES_MAX},
};

/// The account of an embedded region, which has none: EventBridge's envelope wants twelve digits.
pub const EMBEDDED_ACCOUNT: &str = "000000000000";

/// Events of this source are hubweave's own (heartbeats, deltas, digests): exempt from link patterns.
pub const RESERVED_SOURCE: &str = "hubweave";

/// A reserved event: what one request changed in a document, for the other regions.
pub const STATE_DELTA: &str = "State Delta";

/// A reserved event that every region makes for itself: it never crosses a link.
pub const STATE_CONFLICT: &str = "State Conflict";

/// What a service wants done to a document of its region; of any source but the reserved one. It crosses no link: the
/// document's delta does.
pub const STATE_OPERATION: &str = "State Operation";

/// A validated publish of a local service, before the hub gave it an offset and an id.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// The idempotency key found in the event; `None` means "origin region + id", which only the hub can fill in.
    pub key: Option<String>,
    pub source: String,
    pub detail_type: String,
    /// The text of a JSON object, as the producer wrote it but for a stripped stamp.
    pub detail: String,
    /// The producer's own time of the event; `None` means the time of acceptance.
    pub time: Option<Timestamp>,
    pub resources: Vec<String>,
    pub payload_hash: PayloadHash,
    /// A stamp was found in `detail` and taken out (inherited from a received event, or forged).
    pub stamp_stripped: bool,
    /// The detail refers to objects, which go ahead of the event.
    pub has_payload: bool,
    /// The header of the [trace](super::trace) that the event belongs to.
    pub trace: Option<String>,
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Position in the log of the hub that holds this record. Starts at 1, has no gaps.
    pub offset: u64,
    /// When that hub accepted it. Never decreases along a log.
    pub accepted: Timestamp,
    /// The producer's time.
    pub time: Timestamp,
    /// Hybrid logical time at the origin.
    pub hlc: Timestamp,
    /// Where the event stands in its origin's log; for a local record the incarnation and the own offset.
    pub origin: Position,
    pub key_hash: KeyHash,
    pub payload_hash: PayloadHash,
    /// How many services' events this hub had accepted up to and with this record, remote and reserved ones left out.
    /// Differences between two records of one log give a backlog without a scan.
    pub local_events: u64,
    /// The same, in bytes of records.
    pub local_bytes: u64,
    /// How many links the event has crossed.
    pub hops: u8,
    flags: u8,
}

const REMOTE: u8 = 1;
const RESERVED: u8 = 2;
const REPAIRED: u8 = 4;
const PAYLOAD: u8 = 8;
const PENDING: u8 = 16;

/// Flags that an event keeps wherever it goes.
const PORTABLE: u8 = RESERVED | PAYLOAD | PENDING;

/// Bytes of the fixed part with its nine lengths, and zeros for what may come.
pub const HEADER_BYTES: usize = 160;

/// Where in it the length of the detail stands: behind flags, hops, three short lengths and that of the resources.
const DETAIL_LENGTH_AT: usize = 12;

impl Header {
    /// The event came over a link: it carries a stamp and is not sent on.
    pub fn is_remote(&self) -> bool {
        self.flags & REMOTE != 0
    }

    /// The event's source is [`RESERVED_SOURCE`].
    pub fn is_reserved(&self) -> bool {
        self.flags & RESERVED != 0
    }

    /// The event came in a repair stream, from a region that is not its origin.
    pub fn is_repaired(&self) -> bool {
        self.flags & REPAIRED != 0
    }

    /// The event refers to objects, which go ahead of it.
    pub fn has_payload(&self) -> bool {
        self.flags & PAYLOAD != 0
    }

    /// The event was sent without its payload, which did not come up in time.
    pub fn is_pending(&self) -> bool {
        self.flags & PENDING != 0
    }

    /// A service of this region published the event.
    pub fn is_local_business(&self) -> bool {
        self.flags & (REMOTE | RESERVED) == 0
    }
}

/// A record that is malformed. Over a wire it is the peer's fault; in the log it is corruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed event record: {0}")]
pub struct Malformed(&'static str);

/// Flags, hops and the lengths come before the offset.
const OFFSET_AT: usize = 16;

/// One event as bytes, checked when it is built from them. Cloning is cheap.
#[derive(Clone, PartialEq)]
pub struct Record {
    pub header: Header,
    raw: Bytes,
    /// Ends of key, source, detail-type, resources, detail, trace, origin, origin id, account within `raw`.
    ends: [u32; 9],
}

impl Record {
    /// Reads a record. Nothing is copied.
    ///
    /// # Errors
    /// Lengths that do not add up, text that is not UTF-8. The detail's JSON is not parsed: its hub did that.
    pub fn parse(raw: Bytes) -> Result<Record, Malformed> {
        let mut fields = Fields(raw.get(..HEADER_BYTES).ok_or(Malformed("shorter than its header"))?);
        let flags = fields.u8();
        let hops = fields.u8();
        let key = u32::from(fields.u16());
        let source = u32::from(fields.u16());
        let detail_type = u32::from(fields.u16());
        let resources = fields.u32();
        let detail = fields.u32();
        let header = Header {
            flags,
            hops,
            offset: fields.u64(),
            accepted: Timestamp(fields.u64()),
            time: Timestamp(fields.u64()),
            hlc: Timestamp(fields.u64()),
            local_events: fields.u64(),
            local_bytes: fields.u64(),
            origin: Position { incarnation: Incarnation(fields.u64()), sequence: fields.u64() },
            key_hash: KeyHash(fields.array()),
            payload_hash: PayloadHash(fields.array()),
        };
        let origin = u32::from(fields.u16());
        let id = u32::from(fields.u16());
        let account = u32::from(fields.u16());
        let trace = u32::from(fields.u16());
        let mut ends = [0; 9];
        let mut end = HEADER_BYTES as u32;
        let lengths = [key, source, detail_type, resources, detail, trace, origin, id, account];
        for (slot, length) in ends.iter_mut().zip(lengths) {
            end = end.checked_add(length).ok_or(Malformed("lengths overflow"))?;
            *slot = end;
        }
        if end as usize != raw.len() {
            return Err(Malformed("lengths do not add up"));
        }
        let text = std::str::from_utf8(&raw[HEADER_BYTES..]).map_err(|_| Malformed("text is not UTF-8"))?;
        if ends.iter().any(|end| !text.is_char_boundary(*end as usize - HEADER_BYTES)) {
            return Err(Malformed("a length splits a character"));
        }
        Ok(Record { header, raw, ends })
    }

    /// Where the event of a record stands, for readers that pass over it; `None` where [`parse`](Self::parse) would fail.
    pub fn offset_of(raw: &[u8]) -> Option<u64> {
        let mut fields = Fields(raw.get(OFFSET_AT..HEADER_BYTES)?);
        Some(fields.u64())
    }

    /// The record's bytes, as in the log and on the wire.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    pub fn key(&self) -> &str {
        self.text(HEADER_BYTES, self.ends[0])
    }

    pub fn source(&self) -> &str {
        self.text(self.ends[0] as usize, self.ends[1])
    }

    pub fn detail_type(&self) -> &str {
        self.text(self.ends[1] as usize, self.ends[2])
    }

    /// A JSON array of strings.
    pub fn resources_json(&self) -> &str {
        self.text(self.ends[2] as usize, self.ends[3])
    }

    /// The detail without stamp, a JSON object.
    pub fn detail(&self) -> &str {
        self.text(self.ends[3] as usize, self.ends[4])
    }

    /// The header of the trace that the event belongs to, as its producer gave it.
    pub fn trace(&self) -> Option<&str> {
        Some(self.text(self.ends[4] as usize, self.ends[5])).filter(|trace| !trace.is_empty())
    }

    /// The id of that trace, for logs.
    pub fn trace_id(&self) -> Option<String> {
        self.trace().and_then(trace::id)
    }

    /// The same event with another detail, an object's text: references that lead to where the payload is at a peer. The
    /// payload hash leaves references out, so it stays.
    pub fn with_detail(&self, detail: &str) -> Record {
        let (from, to) = (self.ends[3] as usize, self.ends[4] as usize);
        let mut raw = Vec::with_capacity(self.raw.len() + detail.len() - (to - from));
        raw.put_slice(&self.raw[..from]);
        raw.put_slice(detail.as_bytes());
        raw.put_slice(&self.raw[to..]);
        raw[DETAIL_LENGTH_AT..DETAIL_LENGTH_AT + 4].copy_from_slice(&(detail.len() as u32).to_le_bytes());
        let mut ends = self.ends;
        for end in &mut ends[4..] {
            *end = *end - (to - from) as u32 + detail.len() as u32;
        }
        Record { header: self.header, raw: raw.into(), ends }
    }

    /// The same event, marked as sent without its payload.
    pub fn without_payload(&self) -> Record {
        let mut raw = self.raw.to_vec();
        let header = Header { flags: self.header.flags | PENDING, ..self.header };
        raw[0] = header.flags;
        Record { header, raw: raw.into(), ends: self.ends }
    }

    /// The origin region; `None` for a local event.
    pub fn origin_region(&self) -> Option<&str> {
        self.header.is_remote().then(|| self.text(self.ends[5] as usize, self.ends[6]))
    }

    /// Whether this is an event of `region` itself that its peers sent back after it was restored.
    pub fn came_back_to(&self, region: &str) -> bool {
        self.origin_region() == Some(region)
    }

    /// The id that the event has at its origin.
    pub fn origin_id(&self) -> String {
        match self.text(self.ends[6] as usize, self.ends[7]) {
            "" => EventId(self.header.origin).to_string(),
            id => id.to_owned(),
        }
    }

    /// The id that the event has in the hub that holds it; `incarnation` is the one that wrote this offset.
    pub fn id(&self, incarnation: Incarnation) -> EventId {
        let incarnation = if self.header.is_remote() { incarnation } else { self.header.origin.incarnation };
        EventId(Position { incarnation, sequence: self.header.offset })
    }

    fn text(&self, start: usize, end: u32) -> &str {
        // Checked in `parse`: boundaries and UTF-8. `unwrap_or_default` keeps a mistake here from being a panic.
        std::str::from_utf8(&self.raw[start..end as usize]).unwrap_or_default()
    }

    /// The event as a reader of `region`'s hub sees it: EventBridge's JSON, with the stamp if it came over a link.
    pub fn envelope_json(&self, region: &str, incarnation: Incarnation) -> String {
        let mut out = String::with_capacity(self.raw.len() + 512);
        out.push_str("{\"version\":\"0\",\"id\":\"");
        out.push_str(&self.id(incarnation).to_string());
        out.push_str("\",\"detail-type\":");
        push_json_string(&mut out, self.detail_type());
        out.push_str(",\"source\":");
        push_json_string(&mut out, self.source());
        out.push_str(",\"account\":\"");
        out.push_str(EMBEDDED_ACCOUNT);
        out.push_str("\",\"time\":\"");
        out.push_str(&self.header.time.to_rfc3339());
        out.push_str("\",\"region\":");
        push_json_string(&mut out, region);
        out.push_str(",\"resources\":");
        out.push_str(self.resources_json());
        out.push_str(",\"detail\":");
        self.push_detail(&mut out);
        out.push('}');
        out
    }

    /// The detail with the stamp if there is one.
    pub fn detail_json(&self) -> String {
        let mut out = String::with_capacity(self.detail().len() + 512);
        self.push_detail(&mut out);
        out
    }

    fn push_detail(&self, out: &mut String) {
        let detail = self.detail();
        if !self.header.is_remote() {
            out.push_str(detail);
            return;
        }
        let open = detail.trim_end().strip_suffix('}').unwrap_or(detail).trim_end();
        out.push_str(open);
        if !open.ends_with('{') {
            out.push(',');
        }
        out.push_str("\"hubweave\":");
        self.push_stamp(out);
        out.push('}');
    }

    fn push_stamp(&self, out: &mut String) {
        let stamp = Stamp {
            origin: self.origin_region().unwrap_or_default(),
            id: &self.origin_id(),
            account: self.text(self.ends[7] as usize, self.ends[8]),
            key: self.key(),
            hash: self.header.payload_hash,
            sequence: Some(self.header.origin.sequence).filter(|sequence| *sequence > 0),
            time: self.header.hlc,
            hops: self.header.hops,
            pending: self.header.is_pending(),
            offloaded: None,
        };
        stamp.push(out);
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("header", &self.header)
            .field("key", &self.key())
            .field("source", &self.source())
            .field("origin", &self.origin_region())
            .finish_non_exhaustive()
    }
}

/// What the receiving or publishing hub decides about a record when it appends it.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    pub offset: u64,
    pub accepted: Timestamp,
    pub hlc: Timestamp,
    pub local_events: u64,
    pub local_bytes: u64,
}

/// Appends the record of a local publish to `out`; answers its header.
pub fn encode_local(
    out: &mut Vec<u8>,
    draft: &Draft,
    key: &str,
    key_hash: KeyHash,
    incarnation: Incarnation,
    at: Placement,
) -> Header {
    let resources = if draft.resources.is_empty() {
        "[]".to_owned()
    } else {
        serde_json::to_string(&draft.resources).unwrap_or_else(|_| "[]".to_owned())
    };
    let header = Header {
        flags: if draft.source == RESERVED_SOURCE { RESERVED } else { 0 } | if draft.has_payload { PAYLOAD } else { 0 },
        hops: 0,
        offset: at.offset,
        accepted: at.accepted,
        time: draft.time.unwrap_or(at.accepted.whole_seconds()),
        hlc: at.hlc,
        local_events: at.local_events,
        local_bytes: at.local_bytes,
        origin: Position { incarnation, sequence: at.offset },
        key_hash,
        payload_hash: draft.payload_hash,
    };
    // One that is too long was refused or left out at the door; here it must not spoil the record.
    let trace = draft.trace.as_deref().filter(|trace| trace.len() <= TRACE_BYTES_MAX).unwrap_or_default();
    let texts = [key, &draft.source, &draft.detail_type, &resources, &draft.detail, trace];
    let lengths = texts.map(|text| text.len() as u32);
    put_header(out, &header, lengths, ["", "", ""]);
    texts.iter().for_each(|text| out.put_slice(text.as_bytes()));
    header
}

/// How many bytes [`encode_local`] will append, near enough to count a backlog in bytes.
pub fn local_size(draft: &Draft, key: &str) -> usize {
    let trace = draft.trace.as_deref().unwrap_or_default();
    HEADER_BYTES + key.len() + draft.source.len() + draft.detail_type.len() + draft.detail.len() + trace.len()
}

/// Appends the record of an event that arrived at `receiver` from `sender` to `out`: the portable part as it is, one hop
/// more.
///
/// A local record of the sender's gets the sender as its origin; a remote one (repair stream) keeps its own. One that
/// comes back to its origin begins anew with one hop, or an event that is restored often enough could go nowhere.
pub fn encode_arrival(out: &mut Vec<u8>, record: &Record, sender: &str, receiver: &str, at: Placement) -> Header {
    let from = &record.header;
    let repaired = from.is_remote();
    let mut flags = (from.flags & PORTABLE) | REMOTE;
    if repaired {
        flags |= REPAIRED;
    }
    let header = Header {
        flags,
        hops: if record.came_back_to(receiver) { 1 } else { from.hops.saturating_add(1) },
        offset: at.offset,
        accepted: at.accepted,
        local_events: at.local_events,
        local_bytes: at.local_bytes,
        ..*from
    };
    let mut lengths = [0; 6];
    let mut start = HEADER_BYTES as u32;
    for (length, end) in lengths.iter_mut().zip(record.ends) {
        *length = end - start;
        start = end;
    }
    let provenance = if repaired {
        [
            record.text(record.ends[5] as usize, record.ends[6]),
            record.text(record.ends[6] as usize, record.ends[7]),
            record.text(record.ends[7] as usize, record.ends[8]),
        ]
    } else {
        [sender, "", EMBEDDED_ACCOUNT]
    };
    put_header(out, &header, lengths, provenance);
    out.put_slice(&record.raw[HEADER_BYTES..record.ends[5] as usize]);
    provenance.iter().for_each(|text| out.put_slice(text.as_bytes()));
    header
}

fn put_header(out: &mut Vec<u8>, header: &Header, portable: [u32; 6], provenance: [&str; 3]) {
    let start = out.len();
    out.put_u8(header.flags);
    out.put_u8(header.hops);
    // Ingress bounds key, source, detail-type and trace to 1,024, 256, 128 and 500 bytes and region names to 63.
    let [key, source, detail_type, resources, detail, trace] = portable;
    for length in [key, source, detail_type] {
        out.put_u16_le(length as u16);
    }
    for length in [resources, detail] {
        out.put_u32_le(length);
    }
    for number in [
        header.offset,
        header.accepted.0,
        header.time.0,
        header.hlc.0,
        header.local_events,
        header.local_bytes,
        header.origin.incarnation.0,
        header.origin.sequence,
    ] {
        out.put_u64_le(number);
    }
    out.put_slice(&header.key_hash.0);
    out.put_slice(&header.payload_hash.0);
    provenance.iter().for_each(|text| out.put_u16_le(text.len() as u16));
    out.put_u16_le(trace as u16);
    out.resize(start + HEADER_BYTES, 0);
}

/// Reads a header that was checked to be long enough.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut value = [0; N];
        let (head, tail) = self.0.split_at(N);
        value.copy_from_slice(head);
        self.0 = tail;
        value
    }

    fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}

pub(super) fn push_json_string(out: &mut String, text: &str) {
    match serde_json::to_string(text) {
        Ok(json) => out.push_str(&json),
        Err(_) => out.push_str("\"\""),
    }
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
