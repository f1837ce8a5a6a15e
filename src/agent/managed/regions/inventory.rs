//! What came of a region after it was left as it was: the rows of the own ledger say it, by the hashes of keys.

use super::super::{Error, Managed, keys::page};
use crate::{
    agent::regions::inventory::{Inventory, Late, NAMED_MAX},
    core::{key::hex, region::Left, time::Timestamp},
    ports::claims::{Part, Row, State},
};

impl Managed {
    /// What came of `origin` between its last ungraceful evacuation and its return. Reads the whole ledger.
    ///
    /// # Errors
    /// Somebody else reads the ledger, or it cannot be read.
    pub async fn inventory(&self, origin: &str) -> Result<Inventory, Error> {
        let left = self.regions.left().remove(origin);
        let mut inventory = Inventory::of(&self.region, origin, left.as_ref());
        let Some(Left { from, to, .. }) = left else { return Ok(inventory) };
        let _turn = self.reads.try_lock().map_err(|_| Error::Busy)?;
        // Rows of then may be forgotten.
        inventory.dropped = self.clock.now().since(Timestamp::from_millis(from)) >= self.retention;
        let to = to.unwrap_or(u64::MAX);
        let is_late = |row: &Row| row.origin == origin && (from..=to).contains(&row.at.as_millis());
        let mut after = None;
        loop {
            let listed = page(&*self.claims, Part { number: 0, of: 1 }, after).await.map_err(Error::Ledger)?;
            self.metrics.ledger_rows_read.inc_by(listed.rows.len() as u64);
            for (key, row) in listed.rows.iter().filter(|(_, row)| is_late(row)) {
                let State::Done { id } = &row.state else { continue };
                inventory.events += u64::from(!row.reserved);
                if inventory.named.len() < NAMED_MAX {
                    inventory.named.push(Late {
                        key_hash: Some(hex(&key.0)),
                        event_id: id.clone(),
                        arrived: row.at.to_rfc3339(),
                        reserved: row.reserved,
                        ..Late::default()
                    });
                }
            }
            after = listed.next;
            if after.is_none() {
                return Ok(inventory);
            }
        }
    }
}
