//! One message under way, from its reception until it is deleted or given back.

use crate::{
    core::{batch::Reason, claim::Token, envelope::Event, time::Timestamp},
    ports::queue::Message,
};

/// Where a message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feed {
    /// What the rule of the hub put there.
    Main,
    /// What had to wait long.
    Held,
}

impl Feed {
    pub const ALL: [Feed; 2] = [Feed::Main, Feed::Held];
}

/// What happens to a message next. A message that waits for another of the same key has no stage that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Bring the objects that go ahead of it to the peer's store.
    Bring,
    /// Insert its row in the peer's ledger.
    Claim,
    /// Replace a claim by its own.
    TakeOver(Token),
    /// Publish it on the peer's bus.
    Put,
    /// Mark its claim done.
    Mark,
    /// Give its claim up; then its fate.
    Release,
    /// Write it to the dead letters, or to the held queue; then delete it.
    Send,
    Delete,
    /// Make it visible again at once.
    Return,
}

impl Stage {
    pub const COUNT: usize = 9;

    pub fn index(self) -> usize {
        match self {
            Stage::Bring => 0,
            Stage::Claim => 1,
            Stage::TakeOver(_) => 2,
            Stage::Put => 3,
            Stage::Mark => 4,
            Stage::Release => 5,
            Stage::Send => 6,
            Stage::Delete => 7,
            Stage::Return => 8,
        }
    }
}

/// What becomes of a message that is not delivered now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It can never be delivered.
    Letter { reason: Reason, why: String },
    /// It may be, much later.
    Held,
    /// When its payload has come up.
    Waiting,
    /// Somebody else may try.
    Return,
}

/// What a message costs while it is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    None,
    /// It holds a claim, or may hold one, and was not put.
    Claimed,
    /// It was put, or may have been, and is not marked: a crash now may make a second effect.
    Unmarked,
}

#[derive(Debug)]
pub struct Item {
    pub feed: Feed,
    pub message: Message,
    /// `None`: what the message holds is no event.
    pub event: Option<Event>,
    /// By the home region, also where it was held since.
    pub accepted: Timestamp,
    /// When it came here, by the steady clock.
    pub began: Timestamp,
    /// When it becomes visible to others, by the steady clock.
    pub visible_until: Timestamp,
    pub stage: Stage,
    /// When the stage may be gone about; `None` while a call is under way or another message of the key is first.
    pub due: Option<Timestamp>,
    /// A call is under way with it.
    pub out: bool,
    pub fate: Fate,
    pub load: Load,
    /// What it may have written into the ledger, the youngest last.
    pub tokens: Vec<Token>,
    /// When the request that wrote the youngest token was first sent.
    pub since: Option<Timestamp>,
    /// The youngest token replaces somebody else's claim; not counted yet.
    pub took_over: bool,
    /// The claim of somebody else that it waits for, and since when it was seen.
    pub seen: Option<(Token, Timestamp)>,
    /// An attempt to put it has no answer.
    pub ambiguous: bool,
    /// Its id on the peer's bus, once it is there.
    pub placed: Option<String>,
    /// How often it was put back or looked at in vain; sets the pause.
    pub attempts: u32,
    pub deletions: u32,
}

impl Item {
    /// A claim under `token` from now on; forgets the observation of somebody else's.
    pub fn renew(&mut self, token: Token) {
        self.tokens.push(token);
        self.since = None;
    }

    /// Whatever was written before is known to be gone.
    pub fn restart(&mut self, token: Token) {
        self.tokens.clear();
        self.took_over = false;
        self.renew(token);
    }

    pub fn token(&self) -> Token {
        self.tokens.last().copied().unwrap_or(Token(0))
    }
}
