//! What a message carries when it is written into another queue: its own text, and beside it what is known of it.

use crate::{
    core::{batch::Reason, time::Timestamp},
    ports::queue::{Message, Outgoing},
};

use super::item::Item;

/// When the home region accepted the event, in milliseconds; a queue that it is moved to counts from the move.
pub const ACCEPTED: &str = "hubweave-accepted";
/// Why it is a dead letter, spelled as in metrics.
pub const REASON: &str = "hubweave-reason";
/// The same for people.
pub const WHY: &str = "hubweave-why";
pub const KEY: &str = "hubweave-key";
/// Somebody redrove it knowing that the peer's ledger may have forgotten its key.
pub const AGED: &str = "hubweave-aged";

/// Characters of [`WHY`]; attributes count into a message's size.
const WHY_MAX: usize = 500;

/// When the home region accepted a message's event.
pub fn accepted(message: &Message) -> Timestamp {
    let noted = message.attributes.get(ACCEPTED).and_then(|millis| millis.parse().ok());
    noted.map_or(message.sent, Timestamp::from_millis)
}

/// The message for the dead letters.
pub fn dead(item: &Item, reason: Reason, why: &str) -> Outgoing {
    let mut letter = held(item);
    let why: String = why.chars().filter(|c| !c.is_control()).take(WHY_MAX).collect();
    letter.attributes.insert(REASON.to_owned(), reason.as_str().to_owned());
    if !why.is_empty() {
        letter.attributes.insert(WHY.to_owned(), why);
    }
    if let Some(event) = &item.event {
        // A queue takes no control characters, and an attribute may not be empty.
        let key: String = event.key.chars().filter(|c| !c.is_control()).collect();
        if !key.is_empty() {
            letter.attributes.insert(KEY.to_owned(), key);
        }
    }
    letter
}

/// The message for the held queue, without its delay.
pub fn held(item: &Item) -> Outgoing {
    let mut attributes = item.message.attributes.clone();
    attributes.insert(ACCEPTED.to_owned(), item.accepted.as_millis().to_string());
    Outgoing {
        body: item.message.body.clone(),
        delay: std::time::Duration::ZERO,
        attributes,
        trace: item.message.trace.clone(),
    }
}
