//! The messages under way and what is to be done with them: which call comes next, within all bounds.
//!
//! Nothing here waits. The loop asks for calls, performs them and hands the answers in (`answers.rs`).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    Options, Ports,
    circuit::Circuit,
    item::{Fate, Feed, Item, Load, Stage},
    letter, payload,
};
use crate::{
    core::{
        batch::Reason,
        claim::Token,
        envelope::{Event, Verdict},
        key::KeyHash,
        link::Status,
        time::Timestamp,
    },
    marks::{self, Mark},
    ports::queue::Message,
};

/// Calls of one kind under way at once. What waits meanwhile makes the next call fuller.
pub(super) const CALLS_MAX: usize = 4;

/// How long a message waits, while a call of its kind is under way, for others to go with it. A quiet link has no such call,
/// and nothing waits.
pub(super) const FILL: Duration = Duration::from_millis(100);

pub struct Work {
    pub(super) options: Options,
    pub(super) ports: Arc<Ports>,
    pub(super) items: BTreeMap<u64, Item>,
    next: u64,
    /// What may be done, by stage, in the order in which it is due.
    pub(super) ready: [BTreeSet<(Timestamp, u64)>; Stage::COUNT],
    /// Calls under way, by stage.
    pub(super) calls: [usize; Stage::COUNT],
    pub(super) receives: [usize; Feed::ALL.len()],
    /// Receives of the main queue that are worth making at once: one where it was empty, more where calls came back full.
    pub(super) wanted: usize,
    pub(super) extending: bool,
    /// No message needs more visibility before this.
    pub(super) extend_at: Timestamp,
    pub(super) asking_depth: bool,
    pub(super) depth_at: Timestamp,
    by_message: BTreeMap<(Feed, String), u64>,
    /// The messages of one key: the first is being worked on, the others wait for it.
    by_key: BTreeMap<KeyHash, VecDeque<u64>>,
    pub(super) bytes: usize,
    /// How many messages have each [`Load`].
    pub(super) loads: [usize; 3],
    /// The peer's ledger, the peer's bus.
    pub(super) ledger: Circuit,
    pub(super) bus: Circuit,
    /// This region's own queues.
    pub(super) queues: Circuit,
    pub(super) paused: bool,
    pub(super) draining: bool,
}

impl Work {
    pub fn new(options: Options, ports: Arc<Ports>) -> Self {
        let circuit = || Circuit::new(options.backoff);
        Work {
            items: BTreeMap::new(),
            next: 0,
            ready: Default::default(),
            calls: [0; Stage::COUNT],
            receives: [0; 2],
            wanted: 1,
            extending: false,
            extend_at: Timestamp::ZERO,
            asking_depth: false,
            depth_at: Timestamp::ZERO,
            by_message: BTreeMap::new(),
            by_key: BTreeMap::new(),
            bytes: 0,
            loads: [0; 3],
            ledger: circuit(),
            bus: circuit(),
            queues: circuit(),
            paused: false,
            draining: false,
            options,
            ports,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn status(&self) -> Status {
        if self.paused {
            return Status::Paused;
        }
        let all = [&self.ledger, &self.bus, &self.queues].map(Circuit::status);
        let refused = all.iter().find(|status| matches!(status, Status::Refused(_)));
        let worst = refused.or_else(|| all.iter().find(|status| **status != Status::Active));
        worst.cloned().unwrap_or(Status::Active)
    }

    /// When the oldest of what is under way had been accepted.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.items.values().map(|item| item.accepted).min()
    }

    /// Messages that wait for something of their own.
    pub fn waiting(&self) -> usize {
        self.items.values().filter(|item| item.seen.is_some() || item.attempts > 0).count()
    }

    pub(super) fn pause(&self, attempts: u32) -> Duration {
        self.options.backoff.pause(attempts.max(1), self.ports.entropy.next_f64())
    }

    pub(super) fn token(&self) -> Token {
        Token(self.ports.entropy.next_u64())
    }

    pub(super) fn set_load(&mut self, seq: u64, load: Load) {
        if let Some(item) = self.items.get_mut(&seq) {
            self.loads[item.load as usize] -= 1;
            self.loads[load as usize] += 1;
            item.load = load;
        }
    }

    /// What comes next for a message, not before `due`.
    pub(super) fn schedule(&mut self, seq: u64, stage: Stage, due: Timestamp) {
        self.unschedule(seq);
        if let Some(item) = self.items.get_mut(&seq) {
            item.out = false;
            item.stage = stage;
            item.due = Some(due);
            self.ready[stage.index()].insert((due, seq));
        }
    }

    fn unschedule(&mut self, seq: u64) {
        if let Some(item) = self.items.get_mut(&seq)
            && let Some(due) = item.due.take()
        {
            self.ready[item.stage.index()].remove(&(due, seq));
        }
    }

    /// Takes a message in and decides about it.
    pub(super) fn admit(&mut self, feed: Feed, message: Message, now: Timestamp) {
        let visible_until = now.plus(self.options.visibility);
        let name = (feed, message.id.clone());
        if let Some(item) = self.by_message.get(&name).and_then(|seq| self.items.get_mut(seq)) {
            // It came again while it is under way: only the youngest receipt is sure to count.
            item.message.receipt = message.receipt;
            item.visible_until = visible_until;
            return;
        }
        let seq = self.next;
        self.next += 1;
        let accepted = letter::accepted(&message);
        let event = Event::read(&message.body, &self.options.home, &self.options.ingress);
        let wall = self.ports.clock.now();
        let aged = message.attributes.contains_key(letter::AGED);
        let mut fate = Fate::Return;
        let (stage, key) = match &event {
            Err(error) => {
                fate = Fate::Letter { reason: Reason::Malformed, why: error.to_string() };
                (Stage::Send, None)
            }
            Ok(event) => match self.options.rules.decide(event, accepted, wall, aged) {
                Verdict::Skip(why) => {
                    if !event.is_reserved() {
                        self.ports.skipped.with_label_values(&[why.as_str()]).inc();
                    }
                    (Stage::Delete, None)
                }
                // A heartbeat that nobody can take any more is no loss.
                Verdict::Expired if event.is_reserved() => (Stage::Delete, None),
                Verdict::Expired => {
                    fate = Fate::Letter { reason: Reason::Expired, why: "older than the ledgers' memory".to_owned() };
                    (Stage::Send, None)
                }
                Verdict::Deliver => {
                    let bytes = event.entry(&self.options.home, accepted, None).bytes();
                    if payload::has_objects(event, bytes, &self.options, &self.ports) {
                        marks::hit(Mark::MessagePayload);
                        (Stage::Bring, Some(event.key_hash))
                    } else if bytes > self.options.entry_bytes_max && !payload::may_offload(&self.ports) {
                        let why =
                            format!("{bytes} bytes with its stamp; the limit is {}", self.options.entry_bytes_max);
                        fate = Fate::Letter { reason: Reason::TooLarge, why };
                        (Stage::Send, None)
                    } else {
                        (Stage::Claim, Some(event.key_hash))
                    }
                }
            },
        };
        self.extend_at = self.extend_at.min(visible_until.minus(self.options.visibility / 2));
        self.by_message.insert(name, seq);
        self.bytes += message.body.len();
        self.loads[Load::None as usize] += 1;
        let item = Item {
            feed,
            message,
            event: event.ok(),
            accepted,
            began: now,
            visible_until,
            stage,
            due: None,
            out: false,
            fate,
            load: Load::None,
            tokens: vec![self.token()],
            since: None,
            took_over: false,
            seen: None,
            ambiguous: false,
            placed: None,
            attempts: 0,
            deletions: 0,
        };
        self.items.insert(seq, item);
        if let Some(key) = key {
            let line = self.by_key.entry(key).or_default();
            line.push_back(seq);
            if line.len() > 1 {
                return;
            }
        }
        self.schedule(seq, stage, now);
    }

    /// The message is gone from here; the next one of its key may begin.
    pub(super) fn forget(&mut self, seq: u64, now: Timestamp) {
        self.unschedule(seq);
        self.set_load(seq, Load::None);
        let Some(item) = self.items.remove(&seq) else { return };
        self.loads[Load::None as usize] -= 1;
        self.bytes -= item.message.body.len();
        self.by_message.remove(&(item.feed, item.message.id));
        let Some(key) = item.event.map(|event| event.key_hash) else { return };
        let Some(line) = self.by_key.get_mut(&key) else { return };
        let was_first = line.front() == Some(&seq);
        line.retain(|other| *other != seq);
        let Some(first) = line.front().copied() else {
            self.by_key.remove(&key);
            return;
        };
        let waits = |item: &&Item| matches!(item.stage, Stage::Bring | Stage::Claim) && item.due.is_none() && !item.out;
        if was_first && let Some(stage) = self.items.get(&first).filter(waits).map(|item| item.stage) {
            self.schedule(first, stage, now);
        }
    }

    /// Gives back what was not begun, and gives up claims whose event is certainly not on the bus: others need not wait.
    pub(super) fn give_back(&mut self, now: Timestamp) {
        let idle: Vec<u64> = self.items.iter().filter(|(_, item)| !item.out).map(|(seq, _)| *seq).collect();
        for seq in idle {
            let Some(item) = self.items.get_mut(&seq) else { continue };
            let not_put = matches!(item.stage, Stage::Bring | Stage::Claim | Stage::TakeOver(_) | Stage::Put)
                && item.placed.is_none();
            let release = item.load == Load::Claimed && !item.ambiguous;
            // What may be on the bus is put again under its claim, and a claim that cannot be released now would keep others
            // waiting for nothing: such messages stay, unless the agent ends.
            let stays = item.ambiguous || release && self.ledger.is_open();
            if !not_put || stays && !self.draining {
                continue;
            }
            item.fate = Fate::Return;
            let release = release && !self.ledger.is_open();
            self.schedule(seq, if release { Stage::Release } else { Stage::Return }, now);
        }
    }

    /// What is due in a stage, in order.
    pub(super) fn due(&self, index: usize, now: Timestamp) -> impl Iterator<Item = (u64, &Item)> {
        let due = self.ready[index].range(..=(now, u64::MAX));
        due.filter_map(|(_, seq)| Some((*seq, self.items.get(seq)?)))
    }

    /// Whether the next call of a stage would be fuller a little later, where there is `room` for so many that need it.
    ///
    /// With no such call under way nothing waits; with one, its answer ends the wait, or makes room.
    pub(super) fn fills(
        &self,
        index: usize,
        now: Timestamp,
        max: usize,
        room: usize,
        needs_room: fn(&Item) -> bool,
    ) -> bool {
        if self.calls[index] == 0 {
            return false;
        }
        let due = self.due(index, now).take(max).count();
        let needing = self.due(index, now).take(max).filter(|(_, item)| needs_room(item)).count();
        let oldest = self.ready[index].first().map_or(now, |(at, _)| *at);
        needing > room || due < max && now.since(oldest) < FILL
    }

    /// Takes what is due in a stage and fits, in order.
    pub(super) fn take(
        &mut self,
        index: usize,
        now: Timestamp,
        max: usize,
        mut fits: impl FnMut(&Item) -> bool,
    ) -> Vec<u64> {
        if self.calls[index] >= CALLS_MAX {
            return Vec::new();
        }
        self.take_out(index, now, max, &mut fits)
    }

    /// As [`take`](Self::take), one, where more calls may be under way.
    pub(super) fn take_one(&mut self, index: usize, now: Timestamp) -> Option<u64> {
        self.take_out(index, now, 1, &mut |_| true).pop()
    }

    fn take_out(&mut self, index: usize, now: Timestamp, max: usize, fits: &mut dyn FnMut(&Item) -> bool) -> Vec<u64> {
        // One that does not fit must not stand before others: what makes room for it may be behind it.
        let taken: Vec<u64> =
            self.due(index, now).filter(|(_, item)| fits(item)).map(|(seq, _)| seq).take(max).collect();
        if !taken.is_empty() {
            self.calls[index] += 1;
        }
        for seq in &taken {
            self.unschedule(*seq);
            if let Some(item) = self.items.get_mut(seq) {
                item.out = true;
            }
        }
        taken
    }
}
