//! What `verify` compares: every event of a service in the hub, as one stream of JSON lines. See `docs/HTTP.md`.

use std::{
    fmt::Write,
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use super::{Agent, inbox::read_state};
use crate::{
    core::{event::Record, key::hex, position::Incarnation, reference},
    ports::hub::ReadError,
};

#[derive(Serialize)]
struct First {
    region: String,
    base: u64,
    head: u64,
    head_time: String,
    now: String,
    incarnations: Vec<(Incarnation, u64)>,
    expires_before: String,
    links: Vec<Link>,
    discarded: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Link {
    peer: String,
    cursor: u64,
    held: Vec<u64>,
    filters: Vec<(u64, String)>,
    dead: Vec<u64>,
    losses: Vec<(u64, u64)>,
}

/// Which events.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// Offsets after this.
    pub from: u64,
    /// Up to and with this; the head if `None`.
    pub to: Option<u64>,
    pub envelope: bool,
    /// With the objects that an event refers to.
    pub references: bool,
}

impl Agent {
    /// The stream, in pieces. It ends early, without its last line, if the reader goes away or the log cannot be read.
    pub fn keys(self: &Arc<Self>, range: Range) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(4);
        let agent = self.clone();
        tokio::spawn(async move { agent.send_keys(range, sender).await });
        receiver
    }

    async fn send_keys(&self, range: Range, sender: mpsc::Sender<Bytes>) {
        let head = self.hub.end();
        // As they are now: an event that was accepted under other pointers is read with these.
        let pointers = match range.references {
            true => self.config.lock().unwrap_or_else(PoisonError::into_inner).claim_check.reference.clone(),
            false => Vec::new(),
        };
        let to = range.to.unwrap_or(head.offset).min(head.offset);
        let first = self.first_line(head.offset, head.accepted.to_rfc3339());
        let mut piece = serde_json::to_string(&first).unwrap_or_default();
        piece.push('\n');
        let mut at = range.from.max(self.hub.base());
        let mut reader = self.hub.reader(at);
        let mut count = 0u64;
        while at < to {
            let records = match reader.next(4096, 1 << 20).await {
                Ok(records) => records,
                Err(ReadError::Dropped { base, .. }) => {
                    at = base;
                    reader.seek(base);
                    continue;
                }
                Err(ReadError::Failed(why)) => {
                    tracing::error!(why, "the log cannot be read for verify");
                    return;
                }
            };
            let Some(last) = records.last() else { break };
            at = last.header.offset;
            for record in records.iter().filter(|record| record.header.offset <= to && !record.header.is_reserved()) {
                count += 1;
                self.push_key(&mut piece, record, &pointers, range.envelope);
            }
            if sender.send(Bytes::from(std::mem::take(&mut piece))).await.is_err() {
                return;
            }
        }
        let _ = writeln!(piece, "{{\"end\":{count}}}");
        let _ = sender.send(Bytes::from(piece)).await;
    }

    fn first_line(&self, head: u64, head_time: String) -> First {
        let now = self.clock.now();
        let views: Vec<_> = self.links.iter().map(|(peer, link)| (peer.clone(), link.view())).collect();
        read_state(&*self.hub, |state| First {
            region: self.region.clone(),
            base: self.hub.base(),
            head,
            head_time,
            now: now.to_rfc3339(),
            incarnations: state.lives.0.clone(),
            expires_before: now.minus(self.expire_after()).to_rfc3339(),
            links: views
                .into_iter()
                .map(|(peer, view)| {
                    let link = state.links.get(&peer);
                    let letters = state.letters.values().map(|(letter, _)| letter);
                    Link {
                        cursor: view.cursor,
                        held: view.held,
                        filters: link.map(|link| link.filters.clone()).unwrap_or_default(),
                        dead: letters.filter(|letter| letter.peer == peer).map(|letter| letter.sequence).collect(),
                        losses: link
                            .map(|link| link.losses.iter().map(|loss| (loss.from, loss.to)).collect())
                            .unwrap_or_default(),
                        peer,
                    }
                })
                .collect(),
            discarded: state.discarded.iter().map(|(peer, key)| (peer.clone(), hex(&key.0))).collect(),
        })
    }

    fn push_key(&self, out: &mut String, record: &Record, pointers: &[String], envelope: bool) {
        let header = &record.header;
        let (key, payload) = (hex(&header.key_hash.0), hex(&header.payload_hash.0[..16]));
        let origin = match record.origin_region() {
            Some(origin) => format!("\"{origin}\""),
            None => "null".to_owned(),
        };
        let _ = write!(
            out,
            "{{\"k\":\"{key}\",\"p\":\"{payload}\",\"o\":{origin},\"s\":{},\"n\":{},\"t\":{}",
            header.origin.sequence,
            header.offset,
            header.accepted.as_millis()
        );
        if header.has_payload() && !pointers.is_empty() {
            // One that is malformed leads nowhere, and the link's dead letters say so.
            let found = reference::find(record.detail(), pointers).unwrap_or_default();
            let found: Vec<_> = found.iter().map(|found| (&found.target.bucket, &found.target.key)).collect();
            let _ = write!(out, ",\"r\":{}", serde_json::to_string(&found).unwrap_or_default());
        }
        if header.is_pending() {
            out.push_str(",\"w\":true");
        }
        if envelope {
            out.push_str(",\"e\":");
            // Line breaks outside of strings are the producer's white space; here they would end the line.
            out.push_str(&self.envelope(record).replace(['\n', '\r'], " "));
        }
        out.push_str("}\n");
    }
}
