//! A ledger with the manners of a DynamoDB table: each row on its own condition; a row of a call may fail by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use super::wire::{Caller, Op, Wire};
use crate::{
    core::{key::KeyHash, link::Failure, time::Timestamp},
    planted::{self, Bug},
    ports::{
        claims::{CALL_CLAIMS_MAX, Claim, Claims, Inserted, Listed, Part, Row, State, Token},
        clock::Clock,
    },
    sim::{
        chance::Chance,
        trace::{Fault, SharedTrace},
    },
};

#[derive(Clone, Debug)]
struct Stored {
    row: Row,
    /// Whose claim it was before it was done.
    done_by: Option<Token>,
    /// Who wrote it, and when by the true time.
    agent: String,
    written_at: Instant,
}

struct Table {
    chance: Chance,
    rows: BTreeMap<KeyHash, Stored>,
    /// Tokens that lost their claim.
    superseded: BTreeSet<Token>,
    /// Marks and releases of those, which must not be.
    late: Vec<String>,
    row_fails: f64,
    trace: SharedTrace,
    /// How often a key's claim went from one holder to another.
    take_overs: BTreeMap<KeyHash, u64>,
}

/// What the service keeps.
pub struct Store {
    table: Mutex<Table>,
}

impl Store {
    pub fn new(seed: u64, region: &str, trace: SharedTrace) -> Arc<Store> {
        let chance = Chance::new(seed, &format!("ledger {region}"));
        let table = Table {
            chance,
            rows: BTreeMap::new(),
            superseded: BTreeSet::new(),
            late: Vec::new(),
            row_fails: 0.0,
            trace,
            take_overs: BTreeMap::new(),
        };
        Arc::new(Store { table: Mutex::new(table) })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chance that one row of a call is put off.
    pub fn set_row_fails(&self, probability: f64) {
        self.table().row_fails = probability;
    }

    /// What late holders of a claim could do; there should be none.
    pub fn take_late(&self) -> Vec<String> {
        std::mem::take(&mut self.table().late)
    }

    pub fn row(&self, key: KeyHash) -> Option<Row> {
        self.table().rows.get(&key).map(|stored| stored.row.clone())
    }

    /// How often somebody took over a claim of this key that was not his own.
    pub fn take_overs(&self, key: KeyHash) -> u64 {
        self.table().take_overs.get(&key).copied().unwrap_or(0)
    }

    /// Whether `agent` holds a claim on the key with so much left of its lease, or why not. The table saw the claim later
    /// than its holder began to count, so this is the mildest judge.
    pub fn holds(&self, key: KeyHash, agent: &str, region: &str, attempt: Duration) -> Result<(), String> {
        let table = self.table();
        let Some(stored) = table.rows.get(&key) else { return Err("there is no claim".to_owned()) };
        match &stored.row.state {
            // Its own region may have seen the event meanwhile; a link's key is done by the link alone.
            State::Done { .. } if stored.row.origin == region => Ok(()),
            State::Done { .. } => Err("the key is done".to_owned()),
            State::Claimed { .. } if stored.agent != agent => Err(format!("{} holds the claim", stored.agent)),
            State::Claimed { lease, .. } if stored.written_at + *lease < Instant::now() + attempt => {
                Err("its lease ends before the attempt".to_owned())
            }
            State::Claimed { .. } => Ok(()),
        }
    }
}

impl Table {
    fn put_off<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> Result<T, Failure> {
        if self.chance.hits(self.row_fails) {
            self.trace.lock().fault(Fault::Error);
            return Err(Failure::Throttled { after: Duration::from_millis(50) });
        }
        Ok(act(self))
    }

    fn insert(&mut self, claim: Claim, agent: &str, now: Timestamp) -> Inserted {
        match self.rows.get(&claim.key).filter(|stored| stored.row.expires > now) {
            Some(stored) => Inserted::Known(stored.row.clone()),
            None => {
                if let Some(State::Claimed { token, .. }) = self.rows.get(&claim.key).map(|stored| &stored.row.state) {
                    self.superseded.insert(*token);
                }
                let stored =
                    Stored { row: claim.row, done_by: None, agent: agent.to_owned(), written_at: Instant::now() };
                self.rows.insert(claim.key, stored);
                Inserted::New
            }
        }
    }

    fn take_over(&mut self, claim: Claim, from: Token, agent: &str) -> bool {
        let Some(stored) = self.rows.get_mut(&claim.key) else { return false };
        let held = matches!(stored.row.state, State::Claimed { token, .. } if token == from);
        if held {
            self.superseded.insert(from);
            // An agent renews its own leases before they end; later it may be another publish that takes over.
            let lapsed =
                matches!(stored.row.state, State::Claimed { lease, .. } if stored.written_at + lease <= Instant::now());
            *self.take_overs.entry(claim.key).or_default() += u64::from(lapsed || stored.agent != agent);
            *stored = Stored { row: claim.row, done_by: None, agent: agent.to_owned(), written_at: Instant::now() };
        }
        held
    }

    /// Whether the token may change the row.
    fn fenced(&mut self, key: KeyHash, token: Token, what: &str) -> bool {
        let Some(stored) = self.rows.get(&key) else { return false };
        let State::Claimed { token: held, .. } = stored.row.state else { return false };
        let may = held == token || planted::is(Bug::LeaseWithoutFencing);
        if may && (held != token || self.superseded.contains(&token)) {
            self.late.push(format!("{token:?} of {key:?} {what} after it was lost"));
        }
        may
    }

    fn mark(&mut self, key: KeyHash, token: Token, id: Option<String>, at: Timestamp) -> bool {
        if self.rows.get(&key).is_some_and(|stored| stored.done_by == Some(token)) {
            return true;
        }
        if !self.fenced(key, token, "marked") {
            return false;
        }
        if let Some(stored) = self.rows.get_mut(&key) {
            stored.row.state = State::Done { id };
            stored.row.at = at;
            stored.done_by = Some(token);
        }
        true
    }

    fn release(&mut self, key: KeyHash, token: Token) -> bool {
        let may = self.fenced(key, token, "released");
        // Not superseded: a late copy of the request that wrote the claim may write it again, and whoever gave it up may
        // well take that away.
        if may {
            self.rows.remove(&key);
        }
        may
    }
}

/// Rows of one page, few so that small ledgers have several.
const PAGE_ROWS: usize = 8;

/// A ledger as an agent sees it.
pub struct SimClaims {
    pub store: Arc<Store>,
    pub region: &'static str,
    pub caller: Caller,
    pub wire: Arc<Wire>,
    /// The agent's own, for what has expired.
    pub clock: Arc<dyn Clock>,
}

impl SimClaims {
    fn call<T: Send + 'static>(
        &self,
        op: Op,
        act: impl FnOnce(&mut Table, &str) -> Result<T, Failure> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, Failure>> {
        let (store, agent) = (self.store.clone(), self.caller.to_string());
        self.wire.call(&self.caller, self.region, op, move || act(&mut store.table(), &agent)).boxed()
    }
}

impl Claims for SimClaims {
    fn insert(&self, claims: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Result<Inserted, Failure>>, Failure>> {
        let now = self.clock.now();
        self.call(Op::Insert, move |table, agent| {
            let keys: BTreeSet<KeyHash> = claims.iter().map(|claim| claim.key).collect();
            if claims.len() > CALL_CLAIMS_MAX || keys.len() < claims.len() {
                return Err(Failure::Refused("too many rows, or one key twice".to_owned()));
            }
            let insert = |claim| table.put_off(|table| table.insert(claim, agent, now));
            Ok(claims.into_iter().map(insert).collect())
        })
    }

    fn take_over(&self, claim: Claim, from: Token) -> BoxFuture<'_, Result<bool, Failure>> {
        self.call(Op::TakeOver, move |table, agent| Ok(table.take_over(claim, from, agent)))
    }

    fn mark(
        &self,
        marks: Vec<(KeyHash, Token, Option<String>)>,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<Result<bool, Failure>>, Failure>> {
        self.call(Op::Mark, move |table, _| {
            let mark = |(key, token, id)| table.put_off(|table| table.mark(key, token, id, at));
            Ok(marks.into_iter().map(mark).collect())
        })
    }

    fn release(&self, claims: Vec<(KeyHash, Token)>) -> BoxFuture<'_, Result<Vec<Result<bool, Failure>>, Failure>> {
        self.call(Op::Release, move |table, _| {
            let release = |(key, token)| table.put_off(|table| table.release(key, token));
            Ok(claims.into_iter().map(release).collect())
        })
    }

    fn list(&self, part: Part, after: Option<KeyHash>) -> BoxFuture<'_, Result<Listed, Failure>> {
        let now = self.clock.now();
        self.call(Op::Get, move |table, _| {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let of_part = |key: &KeyHash| u32::from(key.0[15]) % part.of == part.number;
            let all = table.rows.range((from, Bound::Unbounded)).filter(|(key, _)| of_part(key));
            let page: Vec<(KeyHash, Row)> =
                all.take(PAGE_ROWS).map(|(key, stored)| (*key, stored.row.clone())).collect();
            let next = (page.len() == PAGE_ROWS).then(|| page.last().map(|(key, _)| *key)).flatten();
            Ok(Listed { rows: page.into_iter().filter(|(_, row)| row.expires > now).collect(), next })
        })
    }

    fn get(&self, keys: Vec<KeyHash>) -> BoxFuture<'_, Result<Vec<Option<Row>>, Failure>> {
        let now = self.clock.now();
        self.call(Op::Get, move |table, _| {
            let row = |key| table.rows.get(key).map(|stored| stored.row.clone()).filter(|row| row.expires > now);
            Ok(keys.iter().map(row).collect())
        })
    }
}
