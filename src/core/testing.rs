//! Records for tests.

use bytes::Bytes;

use super::{
    event::{Draft, Placement, Record, encode_local},
    key::{KeyHash, PayloadHash},
    position::Incarnation,
    time::Timestamp,
};
use sha2::{Digest, Sha256};

/// A draft as ingress would make it of `detail`.
pub fn draft(key: &str, detail: &str) -> Draft {
    Draft {
        key: Some(key.to_owned()),
        source: "app.test".to_owned(),
        detail_type: "Tested".to_owned(),
        detail: detail.to_owned(),
        time: None,
        resources: Vec::new(),
        payload_hash: PayloadHash(Sha256::digest(detail).into()),
        stamp_stripped: false,
        has_payload: false,
        trace: None,
    }
}

/// A local record of life 5, accepted `offset` seconds after the epoch.
pub fn record(offset: u64, key: &str, detail: &str) -> Record {
    placed(offset, &draft(key, detail))
}

/// The first record, of a draft as it is.
pub fn record_of(draft: &Draft) -> Record {
    placed(1, draft)
}

fn placed(offset: u64, draft: &Draft) -> Record {
    let mut out = Vec::new();
    let at = Timestamp::from_millis(offset * 1000);
    let key = draft.key.as_deref().unwrap_or("a/1");
    encode_local(
        &mut out,
        draft,
        key,
        KeyHash::of(&draft.source, &draft.detail_type, key),
        Incarnation(5),
        Placement { offset, accepted: at, hlc: at, local_events: offset, local_bytes: offset * 100 },
    );
    Record::parse(Bytes::from(out)).unwrap()
}
