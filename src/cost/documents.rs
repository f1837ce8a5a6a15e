//! What documents of regions on AWS add to the bill.

use super::{BATCH, Load, MILLION, MONTH_SECONDS, prices::Price};

/// Items that do not follow from the rate of events.
pub const WHATS: [&str; 4] = ["document requests", "document deltas", "documents merged", "documents compared"];

/// A unit of reading, and of writing.
const READ_BYTES: f64 = 4_096.0;
const WRITE_BYTES: f64 = 1_024.0;

/// A document is read and written with its sums, which take one unit of either; a transaction takes twice the units.
const SUMS_UNITS: f64 = 1.0;
const TRANSACTION: f64 = 2.0;

/// Regions compare so often, and then read the sums of both tables, 16 queries of one unit each, and what both know of
/// evictions: twice at home, and with the time of the last sign of life at the peer.
const COMPARE_SECONDS: f64 = 30.0;
const COMPARE_UNITS: f64 = 2.0 * 16.0 + 4.0;

/// One region's part.
pub struct Part {
    /// Requests that this region's services make in a month.
    pub requests: f64,
    /// Links that leave, and that bring something.
    pub leaving: f64,
    pub delivering: f64,
    pub has_audit: bool,
}

/// Items: what, how many, of what, dollars.
pub fn items(part: &Part, load: &Load, price: &Price) -> [(&'static str, f64, &'static str, f64); 4] {
    let units = |bytes: f64, unit: f64| (bytes / unit).ceil().max(1.0) + SUMS_UNITS;
    let reading = units(load.document_bytes, READ_BYTES) * price.dynamodb_read_million;
    let writing = units(load.document_bytes, WRITE_BYTES) * TRANSACTION * price.dynamodb_write_million;
    let changed = |count: f64| count / MILLION * (reading + writing);
    let arrived = part.requests * part.delivering;
    let through_queue = 1.0 + 2.0 / BATCH;
    let queues = part.requests * part.leaving + arrived * (1.0 + f64::from(u8::from(part.has_audit)));
    let deltas = ((part.requests + arrived) * price.custom_event_million
        + queues * through_queue * price.sqs_request_million
        // Claimed and marked, as every event of a link is.
        + 2.0 * arrived * price.dynamodb_write_million)
        / MILLION;
    let compared = MONTH_SECONDS / COMPARE_SECONDS * part.leaving;
    let [requests, sent, merged, compare] = WHATS;
    [
        (requests, part.requests, "requests", changed(part.requests)),
        (sent, part.requests + arrived, "events", deltas),
        (merged, arrived, "deltas", changed(arrived)),
        (compare, compared, "rounds", compared * COMPARE_UNITS / MILLION * price.dynamodb_read_million),
    ]
}

/// Dollars for so many documents that were written with their sums.
pub fn written(documents: f64, load: &Load, price: &Price) -> f64 {
    let units = (load.document_bytes / WRITE_BYTES).ceil().max(1.0) + SUMS_UNITS;
    documents * units * TRANSACTION / MILLION * price.dynamodb_write_million
}
