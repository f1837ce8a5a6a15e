//! The one writer: judges, appends, syncs, answers.

mod retention;

use std::{
    io,
    sync::{
        Arc, Mutex, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::BufMut;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{
    Followers, OpenError, Options, Pinned, Request,
    recover::{advance, ledger_entry},
};
use crate::{
    core::{
        batch::{self, Answer, Batch, Outcome, Reason, Reply},
        event::{Draft, Header, Placement, RESERVED_SOURCE, Record, encode_arrival, encode_local, local_size},
        frame::{self, Kind},
        hlc::HybridClock,
        invariant::{Invariant, Violation},
        journal::{Change, Head, Place, State},
        key::KeyHash,
        position::{EventId, Incarnation, Position},
        time::Timestamp,
    },
    embedded::{
        ledger::{self, Ledger, Merged},
        log::{self, Log, LogReader, Segment, Tail},
    },
    marks::{self, Mark},
    planted::{self, Bug},
    ports::{
        clock::{Clock, Entropy},
        disk::Disk,
        hub::{Error, Note, Published, ReadError, Reader},
    },
};

/// A group is written once it has this many bytes; larger groups sync less often but answer later.
const GROUP_BYTES: usize = 4 << 20;

/// When an event whose payload went to an earlier life of this region should come again.
const PAYLOAD_RETRY_MILLIS: u32 = 50;

/// Zeros written behind a small group. Its file has this room set aside, but making such blocks part of the file takes a
/// commit of the file system's journal besides, in the same sync: that doubles a sync's worst cases. So it is done
/// for many groups at a time.
const ROOM_BYTES: usize = 1 << 20;

/// Larger groups write no room: they are a backlog, which has more use for the disk than for a shorter sync.
const ROOM_GROUP_BYTES: usize = 32 << 10;

/// What the writer is made of.
pub(super) struct Parts {
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub options: Options,
    pub log: Arc<Log>,
    pub ledger: Ledger,
    pub state: Arc<RwLock<State>>,
    pub requests: mpsc::Receiver<Request>,
    pub head: watch::Sender<Head>,
    pub followers: Followers,
    /// Set: services' events are refused.
    pub draining: Arc<AtomicBool>,
    pub violations: Arc<Mutex<Vec<Violation>>>,
    pub failed: watch::Sender<Option<String>>,
}

/// Runs until every handle is dropped or a write fails.
pub struct Writer {
    parts: Parts,
    group: Group,
    /// The head with what is in the group.
    head: Head,
    /// The segment that is written to, and up to where it was written.
    room: (u64, u64),
    hlc: HybridClock,
    /// What this process writes as, from its first write on. Never the life of an earlier process, whatever the peers say of
    /// it: a copy of this region's disk may be at work, or a batch of that process on its way.
    life: Option<Incarnation>,
    /// Runs of the ledger that are being merged beside the writer.
    merge: Option<JoinHandle<Result<Merged, ledger::Error>>>,
}

/// What goes to disk with one sync, and whom to tell afterwards.
#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    answers: Vec<Ready>,
    /// Places in the queue that become free with the answers.
    permits: Vec<OwnedSemaphorePermit>,
}

/// An answer that may go out once the group is durable.
enum Ready {
    Published(oneshot::Sender<Result<Vec<Published>, Error>>, Vec<Published>),
    Applied(oneshot::Sender<Result<Reply, Error>>, Reply),
    Noted(oneshot::Sender<Result<(), Error>>),
}

impl Writer {
    pub(super) fn new(parts: Parts) -> Self {
        let head = *parts.head.borrow();
        Self {
            hlc: HybridClock::restored(head.hlc),
            parts,
            group: Group::default(),
            head,
            room: (0, 0),
            life: None,
            merge: None,
        }
    }

    /// # Errors
    /// A write or sync failed, or the log or ledger cannot be read. What was waiting is not answered: whether it is
    /// durable is unknown. The process must end; retrying a failed sync could acknowledge what is lost.
    pub async fn run(mut self) -> Result<(), OpenError> {
        let result = self.serve().await;
        if let Err(error) = &result {
            tracing::error!(%error, "the hub failed; the agent must restart");
            self.parts.failed.send_replace(Some(error.to_string()));
        }
        result
    }

    async fn serve(&mut self) -> Result<(), OpenError> {
        while let Some(request) = self.next_request().await? {
            match self.roll_if_full().await {
                Err(OpenError::Log(log::Error::Disk(error))) if error.kind() == io::ErrorKind::StorageFull => {
                    // Room for a segment is set aside before it is used, so nothing is half written.
                    tracing::error!(%error, "the disk is full: nothing is taken in until there is room for a segment");
                    request.refuse();
                    continue;
                }
                rolled => rolled?,
            }
            self.take(request).await?;
            while self.group.bytes.len() < GROUP_BYTES
                && let Ok(request) = self.parts.requests.try_recv()
            {
                self.take(request).await?;
            }
            self.commit().await?;
            if self.parts.ledger.is_full() {
                self.parts.ledger.flush(self.head.offset).await?;
            }
        }
        Ok(())
    }

    /// Waits for a request; the ledger's runs are merged, and its old files removed, beside the writer.
    async fn next_request(&mut self) -> Result<Option<Request>, OpenError> {
        loop {
            if self.merge.is_none()
                && let Some(merge) = self.parts.ledger.merge_candidate()
            {
                let now = self.parts.clock.now();
                self.merge = Some(tokio::spawn(merge.run(now)));
            }
            if let Some(leftovers) = self.parts.ledger.take_leftovers() {
                tokio::spawn(async move {
                    if let Err(error) = leftovers.remove().await {
                        tracing::warn!(%error, "old ledger files stay until the next start");
                    }
                });
            }
            let Some(merge) = &mut self.merge else {
                return Ok(self.parts.requests.recv().await);
            };
            tokio::select! {
                biased;
                request = self.parts.requests.recv() => return Ok(request),
                merged = merge => {
                    self.merge = None;
                    match merged {
                        Ok(merged) => self.parts.ledger.install(merged?).await?,
                        Err(error) => tracing::error!(%error, "merging runs of the ledger failed; it is tried again"),
                    }
                }
            }
        }
    }

    async fn take(&mut self, request: Request) -> Result<(), OpenError> {
        match request {
            // Here and not before the queue: what comes after a note that follows `set_draining` is refused.
            Request::Publish { drafts, reply, .. }
                if self.parts.draining.load(Ordering::SeqCst)
                    && drafts.iter().any(|draft| draft.source != RESERVED_SOURCE) =>
            {
                let _ = reply.send(Err(Error::Draining));
            }
            Request::Publish { drafts, reply, permit } => {
                let mut published = Vec::with_capacity(drafts.len());
                for draft in &drafts {
                    published.push(self.publish(draft).await?);
                }
                self.group.answers.push(Ready::Published(reply, published));
                self.group.permits.push(permit);
            }
            Request::Apply { batch, reply, permit } => {
                let answer = self.apply(&batch).await?;
                let ((high_waters, strays), holes, lives) = {
                    let state = self.state();
                    let sender = &batch.opening.sender;
                    let holes = state.holes.get(sender).cloned().unwrap_or_default();
                    (state.held_of(sender), holes, state.lives.told())
                };
                let answer = Reply {
                    region: self.parts.options.region.clone(),
                    answer,
                    high_waters,
                    received: Timestamp::ZERO,
                    replied: Timestamp::ZERO,
                    strays,
                    lives,
                    head: self.head.offset,
                    holes,
                };
                self.group.answers.push(Ready::Applied(reply, answer));
                self.group.permits.push(permit);
            }
            Request::Note { notes, reply } => {
                for note in notes {
                    self.note(note);
                }
                self.group.answers.extend(reply.map(Ready::Noted));
            }
            Request::Retain { needed_after } => self.retain(needed_after).await?,
            Request::Pin { reply } => {
                let head = *self.parts.head.borrow();
                let pinned = Pinned::take(head, &self.state(), &self.parts.log, &self.parts.ledger);
                let _ = reply.send(Ok(pinned));
            }
        }
        Ok(())
    }

    async fn publish(&mut self, draft: &Draft) -> Result<Published, OpenError> {
        let life = self.life();
        let id = EventId(Position { incarnation: life, sequence: self.head.offset + 1 });
        let own_key;
        let key = match &draft.key {
            Some(key) => key,
            None => {
                own_key = format!("{}/{id}", self.parts.options.region);
                &own_key
            }
        };
        let key_hash = KeyHash::of(&draft.source, &draft.detail_type, key);
        let now = self.parts.clock.now();
        match self.known(&key_hash, &draft.payload_hash.0, now).await? {
            Known::Same(offset) => {
                marks::hit(Mark::PublishRepeated);
                let incarnation = self.state().lives.at(offset).unwrap_or(life);
                return Ok(Published::Duplicate(EventId(Position { incarnation, sequence: offset })));
            }
            Known::Other => {
                marks::hit(Mark::PublishConflict);
                return Ok(Published::Conflict);
            }
            Known::New => {}
        }
        let hlc = self.hlc.tick(now);
        let business = draft.source != crate::core::event::RESERVED_SOURCE;
        let at = Placement {
            offset: self.head.offset + 1,
            accepted: self.accept_at(now),
            hlc,
            local_events: self.head.local_events + u64::from(business),
            local_bytes: self.head.local_bytes + if business { local_size(draft, key) as u64 } else { 0 },
        };
        self.append(key_hash, |out| encode_local(out, draft, key, key_hash, life, at));
        Ok(Published::Accepted(id))
    }

    async fn apply(&mut self, batch: &Batch) -> Result<Answer, OpenError> {
        let opening = &batch.opening;
        if let batch::Kind::Stream { from, .. } = &opening.kind {
            let (high_waters, _) = self.state().held_of(&opening.sender);
            let covered = opening.lives.covered(&high_waters, opening.head);
            if *from > covered.max(opening.base) && !planted::is(Bug::GapAccepted) {
                marks::hit(Mark::ArrivalGap);
                return Ok(Answer::Gap);
            }
            if *from > covered {
                marks::hit(Mark::ArrivalBeyondBase);
            } else if *from < covered {
                marks::hit(Mark::ArrivalOverlap);
            }
        }
        let mut outcomes = Vec::with_capacity(batch.records.len());
        for record in &batch.records {
            outcomes.push(self.arrive(record, opening).await?);
        }
        // Before the high-water that passes them: a torn write may end between the two.
        self.note_holes(batch, &outcomes);
        if let batch::Kind::Stream { from, to } = &opening.kind {
            for (incarnation, after) in &opening.lives.0 {
                let end = opening.lives.end(*incarnation, opening.head).unwrap_or(0).min(*to);
                if end > *from && after < to {
                    let origin = opening.sender.clone();
                    self.change(&Change::HighWater { origin, incarnation: *incarnation, sequence: end }, None);
                }
            }
        }
        Ok(Answer::Applied(outcomes))
    }

    /// The high-water passes what the sender holds back: it is written down by itself.
    fn note_holes(&mut self, batch: &Batch, outcomes: &[Outcome]) {
        let opening = &batch.opening;
        let counts = matches!(opening.kind, batch::Kind::Stream { .. } | batch::Kind::Redrive);
        let origin = opening.sender.clone();
        if !counts {
            return;
        }
        let had = self.state().holes.get(&origin).cloned().unwrap_or_default();
        if opening.held.is_empty() && had.is_empty() {
            return;
        }
        let position = |sequence| Some(Position { incarnation: opening.lives.at(sequence)?, sequence });
        let held: Vec<Position> = opening.held.iter().filter_map(|sequence| position(*sequence)).collect();
        let answered = batch.records.iter().zip(outcomes);
        let came = answered.filter(|(_, outcome)| !outcome.is_put_off());
        let came: Vec<Position> = came.filter_map(|(record, _)| position(record.header.offset)).collect();
        let holes = State::holes_after(&had, &held, &came);
        if had != holes {
            self.change(&Change::Holes { origin, holes }, None);
        }
    }

    /// What came back to its region, where the key is known already: by a copy that another region published?
    async fn adopt(&mut self, offset: u64) -> Result<(), OpenError> {
        let at_hand = {
            let state = self.state();
            offset <= state.head.offset && !state.adopted.contains(&offset)
        };
        let Some(before) = offset.checked_sub(1).filter(|_| at_hand) else { return Ok(()) };
        let copy = match LogReader::new(self.parts.log.clone(), before).next(1, 1).await {
            Ok(records) => records.into_iter().next(),
            // Too old for the log.
            Err(ReadError::Dropped { .. }) => None,
            Err(ReadError::Failed(why)) => return Err(log::Error::Disk(io::Error::other(why)).into()),
        };
        let foreign = |copy: &Record| copy.header.is_remote() && !copy.came_back_to(&self.parts.options.region);
        if copy.as_ref().is_some_and(foreign) {
            marks::hit(Mark::CopyAdopted);
            self.change(&Change::Adopted { offset }, None);
        }
        Ok(())
    }

    async fn arrive(&mut self, record: &Record, opening: &batch::Opening) -> Result<Outcome, OpenError> {
        let now = self.parts.clock.now();
        let header = &record.header;
        let shadow = opening.kind == batch::Kind::Shadow;
        // Arrivals take offsets too. Without a life of their own they would cover up what this hub lost if it was
        // restored, and give ids a second time.
        let life = (!shadow).then(|| self.life());
        let same_payload = match self.known(&header.key_hash, &header.payload_hash.0, now).await? {
            Known::New if self.lacks_payload(header, opening, life) => {
                marks::hit(Mark::ArrivalPayloadElsewhere);
                return Ok(Outcome::Retry { after_millis: PAYLOAD_RETRY_MILLIS });
            }
            Known::New => {
                if let Some(incarnation) = life {
                    self.hlc.observe(header.hlc, now);
                    let at = Placement {
                        offset: self.head.offset + 1,
                        accepted: self.accept_at(now),
                        hlc: header.hlc,
                        local_events: self.head.local_events,
                        local_bytes: self.head.local_bytes,
                    };
                    let (sender, region) = (&opening.sender, self.parts.options.region.clone());
                    if record.came_back_to(&region) {
                        marks::hit(Mark::OwnCameBack);
                    }
                    self.append(header.key_hash, |out| encode_arrival(out, record, sender, &region, at));
                    let origin = record.origin_region().unwrap_or(sender);
                    let in_order = matches!(opening.kind, batch::Kind::Stream { .. });
                    if !in_order && origin != region && !header.is_reserved() {
                        let place = Position { incarnation, sequence: at.offset };
                        self.state().stray(origin, header.origin, place);
                    }
                }
                return Ok(Outcome::Delivered);
            }
            Known::Same(offset) => {
                if opening.kind == batch::Kind::Repair && record.came_back_to(&self.parts.options.region) {
                    self.adopt(offset).await?;
                }
                true
            }
            Known::Other => false,
        };
        if !shadow {
            let suppressed = Change::Suppressed {
                sender: opening.sender.clone(),
                key: header.key_hash,
                origin: header.origin,
                at: now,
                same_payload,
            };
            self.change(&suppressed, None);
        }
        marks::hit(if same_payload { Mark::ArrivalDuplicate } else { Mark::ArrivalConflict });
        Ok(if same_payload { Outcome::Duplicate } else { Outcome::Rejected(Reason::Conflict) })
    }

    /// Whether the event's payload was brought to another life of this region: to a disk that was restored since.
    fn lacks_payload(&self, header: &Header, opening: &batch::Opening, life: Option<Incarnation>) -> bool {
        let waits = header.has_payload() && !header.is_pending();
        waits && life.is_some() && opening.payloads_in.is_some_and(|brought| life != Some(brought))
    }

    /// When the next event is accepted. No two of a log at the same time, also while the clock stands behind it: a
    /// watermark could not tell them apart.
    fn accept_at(&self, now: Timestamp) -> Timestamp {
        now.max(Timestamp(self.head.accepted.0.saturating_add(1)))
    }

    async fn known(&mut self, key: &KeyHash, payload: &[u8; 32], now: Timestamp) -> Result<Known, OpenError> {
        let entry = self.parts.ledger.get(key, now).await?;
        if let Some(entry) = entry.as_ref().filter(|entry| entry.offset > self.head.offset) {
            let what = format!("the ledger has {key:?} at {}, the log ends at {}", entry.offset, self.head.offset);
            let violation = Violation::new(Invariant::DuplicateDurable, what);
            self.parts.violations.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(violation);
        }
        Ok(match entry {
            None => Known::New,
            Some(entry) if entry.payload[..] == payload[..16] => Known::Same(entry.offset),
            Some(_) => Known::Other,
        })
    }

    /// Puts an event's frame into the group; `encode` writes the record.
    fn append(&mut self, key_hash: KeyHash, encode: impl FnOnce(&mut Vec<u8>) -> Header) {
        self.begin_group();
        let header = frame::put(&mut self.group.bytes, Kind::Event, encode);
        advance(&mut self.head, &header);
        self.parts.ledger.insert(key_hash, ledger_entry(&header));
    }

    fn note(&mut self, note: Note) {
        let mut change = note.change;
        if let Change::DeadLettered { letter } = &mut change {
            // An event that is dead already stays the same letter: a rewind may bring it up again.
            let state = self.state();
            letter.id = state.letter_of(&letter.peer, letter.sequence).unwrap_or(state.letters_given + 1);
        }
        self.change(&change, note.event.as_ref());
    }

    /// Puts a change into the group and into the state.
    fn change(&mut self, change: &Change, event: Option<&Record>) {
        self.begin_group();
        let start = self.group.bytes.len();
        frame::put(&mut self.group.bytes, Kind::Change, |out| {
            // Plain data: encoding it cannot fail.
            out.extend(postcard::to_allocvec(change).unwrap_or_default());
            if let Some(event) = event {
                out.put_slice(event.raw());
            }
        });
        let segment = self.segment();
        let place = Place {
            segment: segment.as_ref().map_or(0, |segment| segment.first()),
            position: segment.map_or(0, |segment| segment.tail().bytes) + start as u64,
            size: (self.group.bytes.len() - start) as u32,
        };
        self.state().fold(change, place);
    }

    /// Says, ahead of the group's first frame, that everything before it was synced.
    fn begin_group(&mut self) {
        if self.group.bytes.is_empty()
            && let Some(segment) = self.segment()
        {
            let position = segment.tail().bytes;
            frame::put(&mut self.group.bytes, Kind::Sync, |out| out.put_u64_le(position));
        }
    }

    /// The life to write as; begins one if this process has not written yet.
    fn life(&mut self) -> Incarnation {
        if let Some(life) = self.life {
            return life;
        }
        let last = self.state().lives.current();
        if let Some(life) = last.filter(|_| planted::is(Bug::SequenceReusedAfterRestore)) {
            self.life = Some(life);
            return life;
        }
        marks::hit(Mark::LifeBegun);
        let life = Incarnation::from_random(self.parts.entropy.next_u64());
        tracing::info!(%life, after = self.head.offset, "beginning a new life of this hub");
        self.life = Some(life);
        self.change(&Change::Began { incarnation: life, after: self.head.offset }, None);
        life
    }

    async fn commit(&mut self) -> Result<(), OpenError> {
        if !self.group.bytes.is_empty()
            && let Some(segment) = self.segment()
        {
            let position = segment.tail().bytes;
            let bytes = position + self.group.bytes.len() as u64;
            self.add_room(segment.first(), bytes);
            if planted::is(Bug::AcknowledgeBeforeFsync) {
                self.answer();
            }
            segment.file().write_at(position, &self.group.bytes).await.map_err(log::Error::from)?;
            let mut synced = segment.file().sync().await;
            if planted::is(Bug::RetriedFsync) && synced.is_err() {
                synced = segment.file().sync().await;
            }
            synced.map_err(log::Error::from)?;
            segment.set_tail(Tail { bytes, head: self.head, closed: false });
            self.state().head = self.head;
            self.parts.head.send_replace(self.head);
            let mut followers = self.parts.followers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            followers.retain(|follower| follower.send(self.head).is_ok());
            drop(followers);
            self.group.bytes.clear();
            // One huge request must not leave its buffer behind.
            self.group.bytes.shrink_to(2 * GROUP_BYTES);
        }
        self.answer();
        Ok(())
    }

    /// Tells everybody who waits for the group.
    fn answer(&mut self) {
        self.group.permits.clear();
        for answer in self.group.answers.drain(..) {
            // Whoever gave up waiting misses the answer; what was done stays done, and a retry is a duplicate.
            match answer {
                Ready::Published(reply, published) => drop(reply.send(Ok(published))),
                Ready::Applied(reply, applied) => drop(reply.send(Ok(applied))),
                Ready::Noted(reply) => drop(reply.send(Ok(()))),
            }
        }
    }

    /// Appends zeros to a small group that ends at `end` of a segment, beyond what was written there.
    fn add_room(&mut self, segment: u64, end: u64) {
        let is_written = self.room.0 == segment && end <= self.room.1;
        let room = end + ROOM_BYTES as u64;
        if !is_written && self.group.bytes.len() <= ROOM_GROUP_BYTES && room <= self.parts.options.segment_bytes {
            self.group.bytes.resize(self.group.bytes.len() + ROOM_BYTES, 0);
            self.room = (segment, room);
        }
    }

    fn segment(&self) -> Option<Arc<Segment>> {
        self.parts.log.last()
    }

    fn state(&self) -> RwLockWriteGuard<'_, State> {
        self.parts.state.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What the ledger says of a key.
enum Known {
    New,
    /// With this payload, at this offset.
    Same(u64),
    Other,
}
