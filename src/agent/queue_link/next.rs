//! Which call comes next. What ends work goes before what begins it, so that little is under way.

use super::{
    calls::{Call, Target},
    item::{Fate, Feed, Item, Load, Stage},
    letter,
    work::{CALLS_MAX, FILL, Work},
};
use crate::{
    agent::payloads::LOOK_MAX,
    core::{
        batch::Reason,
        claim::{self, Claim, Row, State},
        time::Timestamp,
    },
    ports::{bus, claims, queue},
};

/// Room for a receive of each queue; with less one of them would wait for the other's poll.
const IN_FLIGHT_MIN: usize = 2 * queue::CALL_MESSAGES_MAX;

/// What may wait for its claim beside what is being received: the next call of each claim under way.
const UNCLAIMED_MAX: usize = CALLS_MAX * claims::CALL_CLAIMS_MAX;

impl Work {
    /// The next call to make now.
    pub fn next_call(&mut self, now: Timestamp) -> Option<Call> {
        self.mark(now)
            .or_else(|| self.delete(now))
            .or_else(|| self.send(now))
            .or_else(|| self.give(now))
            .or_else(|| self.release(now))
            .or_else(|| self.put(now))
            .or_else(|| self.take_over(now))
            .or_else(|| self.claim(now))
            .or_else(|| self.bring(now))
            .or_else(|| self.extend(now))
            .or_else(|| self.receive(now))
            .or_else(|| self.depth(now))
    }

    /// When there may be a call to make that no answer tells us about.
    pub fn wake_at(&self, now: Timestamp) -> Timestamp {
        let after = (Timestamp(now.0.saturating_add(1)), 0);
        let dues = self.ready.iter().filter_map(|due| due.range(after..).next()).map(|(due, _)| *due);
        let waiting = self.ready.iter().zip(self.calls).filter(|(_, calls)| *calls > 0);
        let filled = waiting.filter_map(|(due, _)| due.first()).map(|(due, _)| due.plus(FILL));
        let circuits = [&self.ledger, &self.bus, &self.queues].map(|circuit| circuit.deadline());
        let others = circuits.into_iter().chain(filled).chain([self.extend_at, self.depth_at]).filter(|at| *at > now);
        dues.chain(others).min().unwrap_or_else(|| now.plus(self.options.depth_interval))
    }

    fn mark(&mut self, now: Timestamp) -> Option<Call> {
        let index = Stage::Mark.index();
        if !self.ledger.allows(now) || self.is_thin(index, now, claims::CALL_CLAIMS_MAX) {
            return None;
        }
        let items = self.take(index, now, claims::CALL_CLAIMS_MAX, |_| true);
        let at = self.ports.clock.now();
        let marks = self.each(&items, |item| {
            Some((item.event.as_ref()?.key_hash, item.token(), item.placed.clone().filter(|id| !id.is_empty())))
        });
        self.ledger_call(items, |items| Call::Mark { items, marks, at })
    }

    fn release(&mut self, now: Timestamp) -> Option<Call> {
        if !self.ledger.allows(now) {
            return None;
        }
        let items = self.take(Stage::Release.index(), now, claims::CALL_CLAIMS_MAX, |_| true);
        let claims = self.each(&items, |item| Some((item.event.as_ref()?.key_hash, item.token())));
        self.ledger_call(items, |items| Call::Release { items, claims })
    }

    fn ledger_call(&mut self, items: Vec<u64>, call: impl FnOnce(Vec<u64>) -> Call) -> Option<Call> {
        if items.is_empty() {
            return None;
        }
        self.ledger.started();
        Some(call(items))
    }

    fn delete(&mut self, now: Timestamp) -> Option<Call> {
        let (feed, items) = self.of_one_feed(Stage::Delete, now)?;
        let receipts = self.receipts(&items);
        Some(Call::Delete { feed, items, receipts })
    }

    fn give(&mut self, now: Timestamp) -> Option<Call> {
        let (feed, items) = self.of_one_feed(Stage::Return, now)?;
        let receipts = self.receipts(&items);
        Some(Call::Return { feed, items, receipts })
    }

    /// Whether the next call of a stage that has no bound of its own would be fuller a little later.
    fn is_thin(&self, index: usize, now: Timestamp, max: usize) -> bool {
        self.fills(index, now, max, usize::MAX, |_| false)
    }

    fn of_one_feed(&mut self, stage: Stage, now: Timestamp) -> Option<(Feed, Vec<u64>)> {
        if self.is_thin(stage.index(), now, queue::CALL_MESSAGES_MAX) {
            return None;
        }
        let mut feed = None;
        let same = |item: &Item| *feed.get_or_insert(item.feed) == item.feed;
        let items = self.take(stage.index(), now, queue::CALL_MESSAGES_MAX, same);
        Some((feed.filter(|_| !items.is_empty())?, items))
    }

    fn send(&mut self, now: Timestamp) -> Option<Call> {
        let mut to = None;
        let mut bytes = 0;
        let limit = self.options.put_bytes;
        let items = self.take(Stage::Send.index(), now, queue::CALL_MESSAGES_MAX, |item| {
            let held = matches!(item.fate, Fate::Held | Fate::Waiting);
            let target = if held { Target::Held } else { Target::Dead };
            let size = item.message.body.len();
            let fits = *to.get_or_insert(target) == target && (bytes == 0 || bytes + size <= limit);
            bytes += if fits { size } else { 0 };
            fits
        });
        let target = to.filter(|_| !items.is_empty())?;
        let delay = self.options.held_delay;
        let messages = self.each(&items, |item| {
            Some(match &item.fate {
                Fate::Letter { reason, why } => letter::dead(item, *reason, why),
                Fate::Held => queue::Outgoing { delay, ..letter::held(item) },
                Fate::Waiting => queue::Outgoing { delay: delay.min(LOOK_MAX), ..letter::held(item) },
                Fate::Return => letter::dead(item, Reason::Refused, ""),
            })
        });
        Some(Call::Send { target, items, messages })
    }

    fn put(&mut self, now: Timestamp) -> Option<Call> {
        if !self.bus.allows(now) {
            return None;
        }
        let (lease, attempt) = (self.options.lease, self.options.attempt_timeout);
        let may_put = |item: &Item| item.since.is_some_and(|since| claim::may_put(since, lease, attempt, now));
        let index = Stage::Put.index();
        let due = self.ready[index].range(..=(now, u64::MAX)).map(|(_, seq)| *seq);
        let short: Vec<u64> = due.filter(|seq| self.items.get(seq).is_none_or(|item| !may_put(item))).collect();
        for seq in short {
            let fresh = self.token();
            if let Some(item) = self.items.get_mut(&seq) {
                let held = item.token();
                item.renew(fresh);
                self.schedule(seq, Stage::TakeOver(held), now);
            }
        }
        let max = if self.bus.is_open() { 1 } else { bus::CALL_ENTRIES_MAX };
        let mut room = self.options.unmarked_max.saturating_sub(self.loads[Load::Unmarked as usize]);
        if self.fills(index, now, max, room, |item| item.load != Load::Unmarked) {
            return None;
        }
        let (mut bytes, limit) = (0, self.options.put_bytes);
        let home = self.options.home.clone();
        let mut entries = Vec::new();
        let items = self.take(index, now, max, |item| {
            let one_more = usize::from(item.load != Load::Unmarked);
            let Some(event) = item.event.as_ref().filter(|_| one_more <= room) else { return false };
            let entry = event.entry(&home, item.accepted, item.message.trace.clone());
            let size = entry.bytes();
            let fits = entries.is_empty() || bytes + size <= limit;
            if fits {
                room -= one_more;
                bytes += size;
                entries.push(entry);
            }
            fits
        });
        if items.is_empty() {
            return None;
        }
        for seq in &items {
            self.set_load(*seq, Load::Unmarked);
        }
        self.bus.started();
        Some(Call::Put { items, entries })
    }

    fn take_over(&mut self, now: Timestamp) -> Option<Call> {
        if !self.ledger.allows(now) {
            return None;
        }
        let items = self.take(Stage::TakeOver(claim::Token(0)).index(), now, 1, |_| true);
        let item = *items.first()?;
        let Stage::TakeOver(from) = self.items.get(&item)?.stage else { return None };
        let claim = self.claims(&items).pop()?;
        self.ledger.started();
        Some(Call::TakeOver { item, claim, from })
    }

    fn claim(&mut self, now: Timestamp) -> Option<Call> {
        // Not while the bus takes nothing: the claims would only keep others waiting.
        if !self.ledger.allows(now) || !self.bus.allows(now) {
            return None;
        }
        let one = self.ledger.is_open() || self.bus.is_open();
        let mut room = self.options.claimed_max.saturating_sub(self.loads[Load::Claimed as usize]);
        let mut bytes = 0;
        let max = if one { 1 } else { claims::CALL_CLAIMS_MAX };
        let index = Stage::Claim.index();
        if self.fills(index, now, max, room, |item| item.load == Load::None) {
            return None;
        }
        let draining = self.draining;
        let items = self.take(index, now, max, |item| {
            if draining && item.placed.is_none() {
                return false;
            }
            if item.load == Load::None {
                let Some(less) = room.checked_sub(1) else { return false };
                room = less;
            }
            bytes += item.message.body.len();
            true
        });
        for seq in &items {
            if self.items.get(seq).is_some_and(|item| item.load == Load::None) {
                self.set_load(*seq, Load::Claimed);
            }
        }
        if self.options.shadow {
            let keys = self.each(&items, |item| Some(item.event.as_ref()?.key_hash));
            return self.ledger_call(items, |items| Call::Look { items, keys });
        }
        let claims = self.claims(&items);
        self.ledger_call(items, |items| Call::Claim { items, claims, bytes })
    }

    /// The rows for these messages: claimed, or done where the event is on the bus already.
    fn claims(&self, items: &[u64]) -> Vec<Claim> {
        let at = self.ports.clock.now();
        let expires = at.plus(self.options.retention);
        self.each(items, |item| {
            let event = item.event.as_ref()?;
            let state = match &item.placed {
                Some(id) => State::Done { id: Some(id.clone()).filter(|id| !id.is_empty()) },
                None => State::Claimed { token: item.token(), lease: self.options.lease },
            };
            let (payload, origin, reserved) = (event.payload_hash, self.options.home.clone(), event.is_reserved());
            let row = Row { payload, state, at, expires, origin, reserved };
            Some(Claim { key: event.key_hash, row })
        })
    }

    fn extend(&mut self, now: Timestamp) -> Option<Call> {
        if self.extending || now < self.extend_at || !self.queues.allows(now) {
            return None;
        }
        let half = self.options.visibility / 2;
        let ends = |item: &Item| !matches!(item.stage, Stage::Delete | Stage::Return);
        let mut feed = None;
        let mut items = Vec::new();
        let mut next = now.plus(half);
        for (seq, item) in self.items.iter().filter(|(_, item)| ends(item)) {
            let at = item.visible_until.minus(half);
            let fits = at <= now && *feed.get_or_insert(item.feed) == item.feed;
            if fits && items.len() < queue::CALL_MESSAGES_MAX {
                items.push(*seq);
            } else {
                next = next.min(at);
            }
        }
        self.extend_at = next;
        let feed = feed.filter(|_| !items.is_empty())?;
        self.extending = true;
        let receipts = self.receipts(&items);
        Some(Call::Extend { feed, items, receipts })
    }

    fn receive(&mut self, now: Timestamp) -> Option<Call> {
        let allowed = [&self.ledger, &self.bus, &self.queues].iter().all(|circuit| circuit.allows(now));
        if self.paused || self.draining || !allowed || self.bytes >= self.options.in_flight_bytes {
            return None;
        }
        let under_way: usize = self.receives.iter().sum();
        let taken = self.items.len() + under_way * queue::CALL_MESSAGES_MAX;
        let room = self.options.in_flight.max(IN_FLIGHT_MIN).saturating_sub(taken);
        // More would only be hidden from other agents, and hidden again, until its turn comes.
        let ahead_max = self.options.receives * queue::CALL_MESSAGES_MAX + UNCLAIMED_MAX;
        let unclaimed = self.due(Stage::Claim.index(), now).take(ahead_max).count();
        let room = room.min(ahead_max.saturating_sub(unclaimed + under_way * queue::CALL_MESSAGES_MAX));
        // While a circuit is open one message tries whether it closes, if there is none that could.
        let trying = self.ledger.is_open() || self.bus.is_open();
        let receiving = |feed: Feed| self.receives[feed as usize];
        if room < queue::CALL_MESSAGES_MAX || trying && (!self.items.is_empty() || receiving(Feed::Main) > 0) {
            return None;
        }
        let max = if trying { 1 } else { queue::CALL_MESSAGES_MAX };
        // The held queue first: the main one could keep it waiting for ever.
        let feed = if !trying && receiving(Feed::Held) == 0 {
            Feed::Held
        } else if receiving(Feed::Main) < self.wanted.min(self.options.receives) {
            Feed::Main
        } else {
            return None;
        };
        self.receives[feed as usize] += 1;
        Some(Call::Receive { feed, max })
    }

    fn depth(&mut self, now: Timestamp) -> Option<Call> {
        if self.asking_depth || self.draining || now < self.depth_at {
            return None;
        }
        self.asking_depth = true;
        self.depth_at = now.plus(self.options.depth_interval);
        Some(Call::Depth)
    }

    fn each<T>(&self, items: &[u64], of: impl FnMut(&Item) -> Option<T>) -> Vec<T> {
        items.iter().filter_map(|seq| self.items.get(seq)).filter_map(of).collect()
    }

    fn receipts(&self, items: &[u64]) -> Vec<String> {
        self.each(items, |item| Some(item.message.receipt.clone()))
    }
}
