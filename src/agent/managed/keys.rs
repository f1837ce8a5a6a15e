//! What `verify` compares of a region on managed services: the rows of its own ledger, as one stream of JSON lines, and
//! single rows again. See `docs/HTTP.md`.
//!
//! A bus cannot be read back, so this is not what is on it: it is which keys the ledger holds for done. The stream reads the
//! whole table, a page at a time, without holding up claims: what is written meanwhile may be absent and is asked for again.

use std::{
    fmt::Write,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{CALL_TIMEOUT, Error, Managed};
use crate::{
    agent::rounds::within,
    core::{
        key::{KeyHash, hex},
        link::Failure,
        time::Timestamp,
    },
    ports::claims::{Claims, Listed, Part, Row, State},
};

/// Parts of a table that are read at the same time. A page of 1 MiB costs 128 read units, and a partition gives 3,000 in a
/// second to everybody.
const PARTS: u32 = 2;

/// How often one page is asked for, and the first pause in between, doubled each time.
const PAGE_TRIES: u32 = 6;
const PAGE_PAUSE: Duration = Duration::from_millis(200);

/// How long one page may take in all. A reader waits for 30 s between two pieces.
const PAGE_MAX: Duration = Duration::from_secs(20);

/// An empty line tells the reader, while no row comes, that the table is still being read.
const ALIVE: Duration = Duration::from_secs(10);

/// Pieces between the table and the connection.
const PIECES: usize = 4;

/// Keys of one question.
const ASKED_MAX: usize = 1_000;

/// Keys of one call to the ledger.
const CALL_KEYS_MAX: usize = 100;

#[derive(Serialize)]
struct First {
    region: String,
    /// Rows, not events: a bus cannot be read.
    ledger: bool,
    now: String,
    /// What services put on the bus themselves is in the ledger too.
    local_keys: bool,
    /// What of it is still in its queue, late by up to a minute; `null` if there is none, or it does not answer.
    local_keys_queue: Option<QueueDepth>,
    /// When the oldest of what came out of that queue last went in, or when it was found empty; `null` if neither was since
    /// this agent's start.
    local_keys_reached: Option<String>,
    /// Longer ago than this, what came from here may be forgotten here and not yet there.
    told_for_seconds: u64,
    retention_seconds: u64,
    links: Vec<Link>,
}

#[derive(Serialize)]
struct QueueDepth {
    visible: u64,
    in_flight: u64,
    delayed: u64,
}

#[derive(Serialize)]
struct Link {
    peer: String,
    /// It has a pattern, and no row tells what passes it.
    filtered: bool,
    /// When its feed was made.
    since: String,
    /// `null` while it cannot be told.
    watermark: Option<String>,
    /// As the queue counts; `null` if it does not answer.
    dead_letters: Option<u64>,
}

/// Keys to look at again.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedKeys {
    /// 32 hexadecimal digits each.
    pub keys: Vec<String>,
}

#[derive(Serialize)]
pub struct FoundKeys {
    rows: Vec<Line>,
}

/// A row as `verify` reads it.
#[derive(Serialize)]
struct Line {
    k: String,
    /// The first 16 bytes of the payload's hash.
    p: String,
    /// `null`: published here.
    o: Option<String>,
    /// When it was written, milliseconds since 1970.
    t: u64,
    /// Until when it counts.
    x: u64,
    /// Claimed and not done.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    c: bool,
    /// The event's id on the bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    i: Option<String>,
}

impl Managed {
    /// The stream, in pieces; only its first and last line without `rows`. It ends early, with a line that says why or
    /// without its last line, if the ledger cannot be read or the reader goes away. One reader of the rows at a time.
    ///
    /// # Errors
    /// Somebody else is reading them.
    pub fn keys(self: &Arc<Self>, rows: bool) -> Result<mpsc::Receiver<Bytes>, Error> {
        let turn = match rows {
            true => Some(self.reads.clone().try_lock_owned().map_err(|_| Error::Busy)?),
            false => None,
        };
        let (sender, receiver) = mpsc::channel(PIECES);
        let agent = self.clone();
        self.tasks.spawn(async move {
            let _turn = turn;
            tokio::select! {
                () = agent.stop.cancelled() => {}
                () = sender.closed() => {}
                () = agent.send_keys(rows, &sender) => {}
            }
        });
        Ok(receiver)
    }

    async fn send_keys(&self, rows: bool, sender: &mpsc::Sender<Bytes>) {
        let mut first = serde_json::to_string(&self.first_line().await).unwrap_or_default();
        first.push('\n');
        if sender.send(first.into()).await.is_err() {
            return;
        }
        let mut last = "{\"end\":0}\n".to_owned();
        if rows {
            let parts = (0..PARTS).map(|number| self.send_part(Part { number, of: PARTS }, sender));
            let read = tokio::select! {
                read = futures::future::try_join_all(parts) => read,
                () = keep_alive(sender) => return,
            };
            last = match read {
                Ok(counts) => format!("{{\"end\":{}}}\n", counts.iter().sum::<u64>()),
                Err(failure) => {
                    tracing::warn!(region = self.region, %failure, "the ledger cannot be read for verify");
                    format!("{}\n", serde_json::json!({ "error": format!("the region's ledger: {failure}") }))
                }
            };
        }
        let _ = sender.send(last.into()).await;
    }

    /// Answers how many rows there were.
    async fn send_part(&self, part: Part, sender: &mpsc::Sender<Bytes>) -> Result<u64, Failure> {
        let (mut count, mut after) = (0, None);
        loop {
            let Listed { rows, next } = page(&*self.claims, part, after).await?;
            self.metrics.ledger_rows_read.inc_by(rows.len() as u64);
            let mut piece = String::new();
            for (key, row) in rows.iter().filter(|(_, row)| !row.reserved) {
                count += 1;
                // Ids would be half of the stream; the few that matter are asked for by their keys.
                let line = Line { i: None, ..self.line(*key, row) };
                let _ = writeln!(piece, "{}", serde_json::to_string(&line).unwrap_or_default());
            }
            if !piece.is_empty() && sender.send(piece.into()).await.is_err() {
                return Err(Failure::Unanswered("the reader went away".to_owned()));
            }
            after = next;
            if after.is_none() {
                return Ok(count);
            }
        }
    }

    /// The rows of these keys that count, read consistently.
    ///
    /// # Errors
    /// Too many keys, or something that is none; the ledger does not answer.
    pub async fn found_keys(&self, asked: &AskedKeys) -> Result<FoundKeys, Error> {
        if asked.keys.len() > ASKED_MAX {
            return Err(Error::Invalid(format!("{} keys; at most {ASKED_MAX} in a question", asked.keys.len())));
        }
        let keys = asked.keys.iter().map(|text| {
            KeyHash::from_hex(text).ok_or_else(|| Error::Invalid(format!("`{text}`: expected 32 hexadecimal digits")))
        });
        let keys = keys.collect::<Result<Vec<KeyHash>, Error>>()?;
        let mut rows = Vec::new();
        for keys in keys.chunks(CALL_KEYS_MAX) {
            let found = within(CALL_TIMEOUT, self.claims.get(keys.to_vec())).await.map_err(Error::Ledger)?;
            rows.extend(keys.iter().zip(&found).filter_map(|(key, row)| Some(self.line(*key, row.as_ref()?))));
        }
        Ok(FoundKeys { rows })
    }

    fn line(&self, key: KeyHash, row: &Row) -> Line {
        let (claimed, id) = match &row.state {
            State::Claimed { .. } => (true, None),
            State::Done { id } => (false, id.clone()),
        };
        Line {
            k: hex(&key.0),
            p: hex(&row.payload.0[..16]),
            o: (row.origin != self.region).then(|| row.origin.clone()),
            t: row.at.as_millis(),
            x: row.expires.as_millis(),
            c: claimed,
            i: id,
        }
    }

    async fn first_line(&self) -> First {
        self.observe_backlogs();
        let links = self.links.iter().map(async |(peer, link)| {
            let cursor = link.cursor();
            let depth = within(CALL_TIMEOUT, link.ports.dead.depth()).await;
            Link {
                peer: peer.clone(),
                filtered: link.filtered,
                since: link.ports.since.to_rfc3339(),
                watermark: Some(cursor).filter(|at| at.0 > 0).map(|at| at.to_rfc3339()),
                dead_letters: depth.ok().map(|depth| depth.total()),
            }
        });
        let queue = self.local_keys.as_ref();
        let depth = async {
            let depth = within(CALL_TIMEOUT, queue?.queue.depth()).await.ok()?;
            Some(QueueDepth { visible: depth.visible, in_flight: depth.in_flight, delayed: depth.delayed })
        };
        let reached = queue.map_or(0, |queue| queue.reached_millis.load(Ordering::Relaxed));
        let (links, local_keys_queue) = futures::future::join(futures::future::join_all(links), depth).await;
        First {
            region: self.region.clone(),
            ledger: true,
            // After the depths: what had come into the ledger when they were asked for has come by then.
            now: self.clock.now().to_rfc3339(),
            local_keys: queue.is_some(),
            local_keys_queue,
            local_keys_reached: (reached > 0).then(|| Timestamp::from_millis(reached).to_rfc3339()),
            told_for_seconds: self.told_for.as_secs(),
            retention_seconds: self.retention.as_secs(),
            links,
        }
    }
}

/// Sends empty lines until the reader goes away.
async fn keep_alive(sender: &mpsc::Sender<Bytes>) {
    loop {
        tokio::time::sleep(ALIVE).await;
        if sender.send(Bytes::from_static(b"\n")).await.is_err() {
            return;
        }
    }
}

/// A page, asked for again while that may help.
pub(super) async fn page(claims: &dyn Claims, part: Part, after: Option<KeyHash>) -> Result<Listed, Failure> {
    within(PAGE_MAX, page_of_tries(claims, part, after)).await
}

async fn page_of_tries(claims: &dyn Claims, part: Part, after: Option<KeyHash>) -> Result<Listed, Failure> {
    let mut pause = PAGE_PAUSE;
    for _ in 1..PAGE_TRIES {
        match within(CALL_TIMEOUT, claims.list(part, after)).await {
            Err(Failure::Throttled { after }) => tokio::time::sleep(pause.max(after)).await,
            Err(Failure::Unanswered(_)) => tokio::time::sleep(pause).await,
            answer => return answer,
        }
        pause *= 2;
    }
    within(CALL_TIMEOUT, claims.list(part, after)).await
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
