//! What came of a region after it was left as it was: exactly the events that an evacuation could have lost.

use serde::Serialize;

use super::super::{Agent, Error};
use crate::{core::region::Left, ports::hub::Reader};

/// Events that one answer names; all are counted.
pub const NAMED_MAX: usize = 10_000;

/// Records that are read at once, and about how many bytes of them.
const CHUNK_EVENTS: usize = 1_000;
const CHUNK_BYTES: usize = 4 << 20;

/// An event that came late. A region with a log names it; a ledger has the hash of its key, and its id on the bus.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Late {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail_type: Option<String>,
    /// When its origin took it in, by that one's clock. RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<String>,
    /// When it came here. RFC 3339.
    pub arrived: String,
    /// Where it stands in this region's hub: `hubweave tail --from` shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// A service's event, or one of the agents' own (a delta of a document, for instance).
    pub reserved: bool,
}

/// The inventory of one region, as another one has it.
#[derive(Clone, Debug, Serialize)]
pub struct Inventory {
    /// Whose events.
    pub origin: String,
    /// Who tells.
    pub region: String,
    /// The epoch of the evacuation; `null` where the region was never left as it was.
    pub epoch: Option<u64>,
    /// When this region learned of it. RFC 3339.
    pub since: Option<String>,
    /// The region is active again: nothing is added any more.
    pub complete: bool,
    /// Services' events that came late; heartbeats are not counted.
    pub events: u64,
    pub named: Vec<Late>,
    /// The log begins after the evacuation, or the ledger forgets already: what came before that is not told.
    pub dropped: bool,
}

impl Inventory {
    /// Nothing yet.
    pub fn of(region: &str, origin: &str, left: Option<&Left>) -> Inventory {
        Inventory {
            origin: origin.to_owned(),
            region: region.to_owned(),
            epoch: left.map(|left| left.epoch),
            since: left.map(|left| left.at.to_rfc3339()),
            complete: left.is_some_and(|left| left.to.is_some()),
            events: 0,
            named: Vec::new(),
            dropped: false,
        }
    }
}

impl Agent {
    /// What came of `origin` between its last ungraceful evacuation and its return.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn inventory(&self, origin: &str) -> Result<Inventory, Error> {
        let left = self.regions.left().remove(origin);
        let mut inventory = Inventory::of(&self.region, origin, left.as_ref());
        let Some(left) = left else { return Ok(inventory) };
        let end = left.to.unwrap_or_else(|| self.hub.end().offset);
        let from = left.from.max(self.hub.base());
        inventory.dropped = from > left.from;
        let mut reader: Box<dyn Reader> = self.hub.reader(from);
        loop {
            let records = reader.next(CHUNK_EVENTS, CHUNK_BYTES).await?;
            let Some(last) = records.last().map(|record| record.header.offset) else { break };
            for record in records.iter().filter(|record| record.header.offset <= end) {
                let is_heartbeat =
                    record.header.is_reserved() && record.detail_type() == super::super::heartbeat::DETAIL_TYPE;
                if record.origin_region() != Some(origin) || is_heartbeat {
                    continue;
                }
                inventory.events += u64::from(!record.header.is_reserved());
                if inventory.named.len() < NAMED_MAX {
                    inventory.named.push(Late {
                        key: Some(record.key().to_owned()),
                        source: Some(record.source().to_owned()),
                        detail_type: Some(record.detail_type().to_owned()),
                        published: Some(record.header.hlc.to_rfc3339()),
                        arrived: record.header.accepted.to_rfc3339(),
                        offset: Some(record.header.offset),
                        reserved: record.header.is_reserved(),
                        ..Late::default()
                    });
                }
            }
            if last >= end {
                break;
            }
        }
        Ok(inventory)
    }
}
