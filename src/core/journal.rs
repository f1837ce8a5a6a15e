//! All that a region keeps besides events, as a fold over changes.
//!
//! Changes stand in the hub's log between the events, so one fsync makes an event, the high-water that it moves and the
//! ledger entry that it implies durable together. A log segment begins with the [`State`] so far; recovery reads that
//! and folds the changes behind it.
//!
//! Both are encoded with postcard; variants and fields are only ever appended, and the segment's header carries the
//! format's version.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    batch::Reason,
    key::KeyHash,
    position::{Incarnation, Lives, Position, Stray},
    region::Kept,
    time::Timestamp,
};

/// How many lives of one origin a region remembers. An origin whose crash loop goes past it is sent again from its
/// log's beginning: keys suppress the repeats.
const LIVES_MAX: usize = 64;

/// How many own lives are remembered before the oldest is folded away.
const OWN_LIVES_MAX: usize = 4096;

/// How many single events are remembered for each link: what went or came outside of the order, and what is held back.
pub const STRAYED_MAX: usize = 10_000;

/// How many discarded letters and losses stay listed.
const CLOSED_MAX: usize = 10_000;

/// What happened. Appended to the log before anybody relies on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// This hub began a new life after `after`.
    Began { incarnation: Incarnation, after: u64 },
    /// This region has everything of `origin` up to here.
    HighWater { origin: String, incarnation: Incarnation, sequence: u64 },
    /// How far the link to `peer` is.
    Progress { peer: String, progress: Progress },
    /// From `after` on, the link to `peer` passes what `pattern` (JSON) matches.
    Filter { peer: String, after: u64, pattern: String },
    /// An operator stopped or started the link to `peer`.
    Paused { peer: String, paused: bool, at: Timestamp },
    /// An event of this hub can never be delivered to the letter's peer. Its bytes follow the change in the frame.
    DeadLettered { letter: Letter },
    /// A letter left the queue.
    Closed { id: u64, how: Closed, at: Timestamp },
    /// The link to `peer` lost its place.
    Lost { peer: String, loss: Loss },
    /// An arrival from `sender` had no effect because its key was known (`payload` the same) or was refused.
    Suppressed { sender: String, key: KeyHash, origin: Position, at: Timestamp, same_payload: bool },
    /// As [`Change::Strayed`], from a build that did not know where in the peer's log.
    Bypassed { peer: String, sequence: u64, mark: u64 },
    /// `peer` has sent back all that it held of this region when it held this beyond our own log.
    Repaired { peer: String, beyond: Vec<Stray> },
    /// The link to `peer` delivered one event outside of the order; it is in the peer's log up to `at`.
    Strayed { peer: String, sequence: u64, at: Position },
    /// What `origin` held back and did not bring since is this now.
    Holes { origin: String, holes: Vec<Position> },
    /// An event that this region published and lost came back, and a copy that another region published under the same
    /// key stands at `offset`. Its origin may have lost it as well, so this region brings it to its peers.
    Adopted { offset: u64 },
    /// A vote, or what is decided of the regions.
    Regions { kept: Box<Kept> },
}

/// How far a link is: a low-water and the exceptions above or below it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Every offset up to here is at the peer, was left out on purpose, or is named in `held` or a dead letter.
    pub cursor: u64,
    /// The last offset that a batch to the peer covered; at or below `cursor`, since gaps at the end are not sent.
    pub sent: u64,
    /// Offsets that wait for something of their own (a payload, a claim), with how often they were tried.
    pub held: Vec<(u64, u32)>,
    /// What stands at `cursor`.
    pub mark: Mark,
    pub at: Timestamp,
}

/// What the record at an offset says of the log up to there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub accepted: Timestamp,
    /// See [`Header::local_events`](super::event::Header::local_events).
    pub local_events: u64,
    pub local_bytes: u64,
}

impl From<&super::event::Header> for Mark {
    fn from(header: &super::event::Header) -> Self {
        let planted = crate::planted::is(crate::planted::Bug::WatermarkFromProducersTime);
        let accepted = if planted { header.time } else { header.accepted };
        Mark { accepted, local_events: header.local_events, local_bytes: header.local_bytes }
    }
}

/// An event that could not be delivered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    pub id: u64,
    pub peer: String,
    /// The event's offset in this hub.
    pub sequence: u64,
    pub key: String,
    pub key_hash: KeyHash,
    pub source: String,
    pub detail_type: String,
    pub reason: Reason,
    pub accepted: Timestamp,
    pub dead: Timestamp,
    pub attempts: u32,
}

/// Where a letter's event is kept: a frame of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// First offset of the segment.
    pub segment: u64,
    pub position: u64,
    pub size: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Closed {
    /// The peer has it now.
    Redriven,
    /// An operator gave it up.
    Discarded,
}

/// Events that a link can never deliver, because the log had to drop them first. An entry of the loss inventory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Offsets after `from` up to and with `to`.
    pub from: u64,
    pub to: u64,
    /// How many of these were services' events of this region; what the link's filter left out is counted too.
    pub events: u64,
    pub first_accepted: Timestamp,
    pub last_accepted: Timestamp,
    pub at: Timestamp,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkState {
    pub progress: Option<Progress>,
    pub filters: Vec<(u64, String)>,
    pub paused: bool,
    pub losses: Vec<Loss>,
    /// Of an older build; see [`Change::Bypassed`].
    bypassed: Vec<(u64, u64)>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub lives: Lives,
    /// By origin: how far each of its lives is here.
    pub high_waters: BTreeMap<String, Vec<(Incarnation, u64)>>,
    pub links: BTreeMap<String, LinkState>,
    pub letters: BTreeMap<u64, (Letter, Place)>,
    pub letters_given: u64,
    /// Peer and key of letters that an operator gave up, oldest first.
    pub discarded: Vec<(String, KeyHash)>,
    /// The log's end when this was written.
    pub head: Head,
    /// By origin: single events that came outside of its stream (redriven, replayed, repaired), one entry for each life.
    pub strays: BTreeMap<String, Vec<Stray>>,
    /// By peer: what it held of this region beyond our own log when it last sent all that back.
    pub repaired: BTreeMap<String, Vec<Stray>>,
    /// By peer: own events that went to it outside of the order, and where its log was then. No high-water of it tells of
    /// them; if it loses that part of its log they go out again.
    pub strayed: BTreeMap<String, Vec<(u64, Position)>>,
    /// By origin: what its high-water passes and this region does not have.
    pub holes: BTreeMap<String, Vec<Position>>,
    /// Copies of other regions that this region brings to its peers like its own, oldest first.
    pub adopted: Vec<u64>,
    /// Votes, and which regions serve users; `None` as long as nothing was ever decided.
    pub regions: Option<Box<Kept>>,
}

/// How many fields of [`State`] a snapshot may lack, because an older build wrote it.
const APPENDED: usize = 6;

/// The end of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub offset: u64,
    pub accepted: Timestamp,
    pub hlc: Timestamp,
    /// Services' events accepted here since the log began, and their bytes.
    pub local_events: u64,
    pub local_bytes: u64,
    /// Services' events taken in over links since the log began.
    pub applied_events: u64,
    /// The last offset that was published here; what follows came over links.
    pub last_local: u64,
}

impl Head {
    pub fn mark(&self) -> Mark {
        Mark { accepted: self.accepted, local_events: self.local_events, local_bytes: self.local_bytes }
    }
}

impl State {
    /// Reads a snapshot. What an older build did not write is empty.
    ///
    /// # Errors
    /// Bytes that are no state.
    pub fn decode(bytes: &[u8]) -> Result<State, postcard::Error> {
        let mut state: State = match postcard::from_bytes(bytes) {
            // Postcard writes an empty map as one zero, and what is not there too.
            Err(postcard::Error::DeserializeUnexpectedEnd) => postcard::from_bytes(&[bytes, &[0; APPENDED]].concat())?,
            decoded => decoded?,
        };
        let peers: Vec<String> = state.links.keys().cloned().collect();
        for peer in peers {
            let older = std::mem::take(&mut state.link(&peer).bypassed);
            older.into_iter().for_each(|(sequence, _)| state.strayed(&peer, sequence, Position::default()));
        }
        Ok(state)
    }

    /// Folds one change in. `place` is where the change's frame stands.
    pub fn fold(&mut self, change: &Change, place: Place) {
        match change {
            Change::Began { incarnation, after } => {
                self.lives.0.retain(|(_, began)| began < after);
                self.lives.0.push((*incarnation, *after));
                if self.lives.0.len() > OWN_LIVES_MAX {
                    self.lives.0.remove(0);
                }
            }
            Change::HighWater { origin, incarnation, sequence } => {
                let marks = match self.high_waters.get_mut(origin) {
                    Some(marks) => marks,
                    None => self.high_waters.entry(origin.clone()).or_default(),
                };
                raise(marks, *incarnation, *sequence);
                self.forget_strays(origin, *incarnation, *sequence);
            }
            Change::Progress { peer, progress } => self.link(peer).progress = Some(progress.clone()),
            Change::Filter { peer, after, pattern } => self.link(peer).filters.push((*after, pattern.clone())),
            Change::Paused { peer, paused, .. } => self.link(peer).paused = *paused,
            Change::DeadLettered { letter } => {
                self.letters_given = self.letters_given.max(letter.id);
                self.letters.insert(letter.id, (letter.clone(), place));
            }
            Change::Closed { id, how, .. } => {
                if let Some((letter, _)) = self.letters.remove(id)
                    && *how == Closed::Discarded
                {
                    self.discarded.push((letter.peer, letter.key_hash));
                    let excess = self.discarded.len().saturating_sub(CLOSED_MAX);
                    self.discarded.drain(..excess);
                }
            }
            Change::Lost { peer, loss } => {
                let losses = &mut self.link(peer).losses;
                losses.push(loss.clone());
                let excess = losses.len().saturating_sub(CLOSED_MAX);
                losses.drain(..excess);
            }
            Change::Suppressed { .. } => {}
            // A place in no life: it goes out once more, and is a duplicate.
            Change::Bypassed { peer, sequence, .. } => self.strayed(peer, *sequence, Position::default()),
            Change::Holes { origin, holes } if holes.is_empty() => drop(self.holes.remove(origin)),
            Change::Holes { origin, holes } => drop(self.holes.insert(origin.clone(), holes.clone())),
            Change::Adopted { offset } => {
                self.adopted.push(*offset);
                let excess = self.adopted.len().saturating_sub(STRAYED_MAX);
                self.adopted.drain(..excess);
            }
            Change::Strayed { peer, sequence, at } => self.strayed(peer, *sequence, *at),
            Change::Regions { kept } => self.regions = Some(kept.clone()),
            Change::Repaired { peer, beyond } => {
                self.repaired.insert(peer.clone(), beyond.clone());
            }
        }
    }

    /// What an origin held back, after it said that it holds back `held`, and brought `came`.
    pub fn holes_after(had: &[Position], held: &[Position], came: &[Position]) -> Vec<Position> {
        let known: BTreeSet<&Position> = had.iter().collect();
        let came: BTreeSet<&Position> = came.iter().collect();
        let new = held.iter().filter(|position| !known.contains(position));
        let mut holes: Vec<Position> = had.iter().chain(new).filter(|hole| !came.contains(hole)).copied().collect();
        let excess = holes.len().saturating_sub(STRAYED_MAX);
        holes.drain(..excess);
        holes
    }

    fn strayed(&mut self, peer: &str, sequence: u64, at: Position) {
        let strayed = match self.strayed.get_mut(peer) {
            Some(strayed) => strayed,
            None => self.strayed.entry(peer.to_owned()).or_default(),
        };
        strayed.retain(|(known, _)| *known != sequence);
        strayed.push((sequence, at));
        let excess = strayed.len().saturating_sub(STRAYED_MAX);
        strayed.drain(..excess);
    }

    /// How far this hub has each life of `origin`, and what of it came outside of the order.
    pub fn held_of(&self, origin: &str) -> (Vec<(Incarnation, u64)>, Vec<Stray>) {
        let high_waters = self.high_waters.get(origin).cloned().unwrap_or_default();
        (high_waters, self.strays.get(origin).cloned().unwrap_or_default())
    }

    /// The own events that went to `peer` outside of the order and stood in a part of its log that it lost, if `lives`
    /// and `head` say how its log is now.
    pub fn lost_strays(&self, peer: &str, lives: &Lives, head: u64) -> Vec<u64> {
        let strayed = self.strayed.get(peer).map(Vec::as_slice).unwrap_or_default();
        strayed.iter().filter(|(_, at)| !lives.contains(at, head)).map(|(sequence, _)| *sequence).collect()
    }

    /// An event of `origin` came outside of its stream and stands `at` in this log. No high-water tells of it, so the
    /// origin, if it is restored to a time before it, learns from this that it lacks it.
    pub fn stray(&mut self, origin: &str, event: Position, at: Position) {
        let strays = match self.strays.get_mut(origin) {
            Some(strays) => strays,
            None => self.strays.entry(origin.to_owned()).or_default(),
        };
        let known = strays.iter().position(|stray| stray.incarnation == event.incarnation);
        let sequence = known.map_or(0, |index| strays.remove(index).sequence).max(event.sequence);
        strays.push(Stray { incarnation: event.incarnation, sequence, at });
        if strays.len() > LIVES_MAX {
            strays.remove(0);
        }
    }

    /// The high-water of `origin` covers them now.
    fn forget_strays(&mut self, origin: &str, incarnation: Incarnation, sequence: u64) {
        if let Some(strays) = self.strays.get_mut(origin) {
            strays.retain(|stray| stray.incarnation != incarnation || stray.sequence > sequence);
            if strays.is_empty() {
                self.strays.remove(origin);
            }
        }
    }

    fn link(&mut self, peer: &str) -> &mut LinkState {
        self.links.entry(peer.to_owned()).or_default()
    }

    /// The dead letter for this event and peer, if there is one.
    pub fn letter_of(&self, peer: &str, sequence: u64) -> Option<u64> {
        self.letters
            .iter()
            .find(|(_, (letter, _))| letter.sequence == sequence && letter.peer == peer)
            .map(|(id, _)| *id)
    }
}

/// Raises the mark of `incarnation`; a new life goes to the end, and the oldest is forgotten beyond [`LIVES_MAX`].
pub fn raise(marks: &mut Vec<(Incarnation, u64)>, incarnation: Incarnation, sequence: u64) {
    match marks.iter_mut().find(|(known, _)| *known == incarnation) {
        Some((_, mark)) => *mark = sequence.max(*mark),
        None => {
            marks.push((incarnation, sequence));
            if marks.len() > LIVES_MAX {
                marks.remove(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { segment: 1, position: 0, size: 0 };

    #[test]
    fn a_high_water_never_falls_within_a_life() {
        let mut state = State::default();
        for (life, sequence) in [(1, 10), (1, 4), (2, 3)] {
            let change = Change::HighWater { origin: "a".to_owned(), incarnation: Incarnation(life), sequence };
            state.fold(&change, PLACE);
        }
        assert_eq!(state.high_waters["a"], [(Incarnation(1), 10), (Incarnation(2), 3)]);
    }

    #[test]
    fn a_stray_is_remembered_until_the_high_water_covers_it() {
        let mut state = State::default();
        let at = |sequence| Position { incarnation: Incarnation(9), sequence };
        for (life, sequence, offset) in [(1, 7, 20), (2, 30, 21), (1, 5, 22)] {
            state.stray("a", Position { incarnation: Incarnation(life), sequence }, at(offset));
        }
        let of_1 = Stray { incarnation: Incarnation(1), sequence: 7, at: at(22) };
        let of_2 = Stray { incarnation: Incarnation(2), sequence: 30, at: at(21) };
        assert_eq!(state.strays["a"], [of_2, of_1]);
        for (sequence, left) in [(6, 2), (7, 1)] {
            let incarnation = Incarnation(1);
            state.fold(&Change::HighWater { origin: "a".to_owned(), incarnation, sequence }, PLACE);
            assert_eq!(state.strays["a"].len(), left);
        }
    }

    #[test]
    fn what_strayed_is_lost_with_the_part_of_the_peers_log_that_it_stood_in() {
        let mut state = State::default();
        let (one, two) = (Incarnation(1), Incarnation(2));
        for (sequence, incarnation, at) in [(7, one, 20), (8, one, 30), (9, two, 45), (7, two, 46)] {
            let at = Position { incarnation, sequence: at };
            state.fold(&Change::Strayed { peer: "b".to_owned(), sequence, at }, PLACE);
        }
        let lost = |lives: &[(Incarnation, u64)], head| state.lost_strays("b", &Lives(lives.to_vec()), head);
        assert!(lost(&[(one, 0), (two, 40)], 50).is_empty());
        assert_eq!(lost(&[(one, 0), (Incarnation(3), 25)], 60), [8, 9, 7]);
        assert_eq!(lost(&[(one, 0), (two, 40)], 45), [7]);
        assert!(state.lost_strays("c", &Lives::default(), 0).is_empty());
    }

    #[test]
    fn a_snapshot_of_an_older_build_reads_with_what_it_lacks_empty() {
        let state = State { letters_given: 3, head: Head { offset: 9, ..Head::default() }, ..State::default() };
        let bytes = postcard::to_allocvec(&state).unwrap();
        assert_eq!(State::decode(&bytes), Ok(state.clone()));
        assert_eq!(State::decode(&bytes[..bytes.len() - APPENDED]), Ok(state));
        assert!(State::decode(&bytes[..bytes.len() - APPENDED - 1]).is_err());
    }

    #[test]
    fn a_life_that_wrote_nothing_leaves_no_trace() {
        let mut state = State::default();
        for (life, after) in [(1, 0), (2, 10), (3, 10)] {
            state.fold(&Change::Began { incarnation: Incarnation(life), after }, PLACE);
        }
        assert_eq!(state.lives.0, [(Incarnation(1), 0), (Incarnation(3), 10)]);
    }
}
