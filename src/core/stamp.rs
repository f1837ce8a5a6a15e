//! The stamp: where a delivered event was published, in `detail.hubweave`.
//!
//! A stamp is believed only if its hash is the event's own. Services copy a received `detail` into new events, and with it
//! the stamp; such an event is a new one, and would never leave its region if its stamp were believed.

use super::{event::push_json_string, ingress::STAMP, json::Json, key::PayloadHash, object::Location, time::Timestamp};

/// What a delivered event says of its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp<'a> {
    pub origin: &'a str,
    /// The event's id and account at its origin.
    pub id: &'a str,
    pub account: &'a str,
    pub key: &'a str,
    pub hash: PayloadHash,
    /// Where the event stands in its origin's log; `None` where there is none (AWS).
    pub sequence: Option<u64>,
    pub time: Timestamp,
    /// How many links the event has crossed.
    pub hops: u8,
    /// The event went ahead of its payload, which did not come up in time: the stamp says `"payload":"pending"`.
    pub pending: bool,
    /// The whole detail stands in an object: the stamp says where, as `"offloaded":{..}`.
    pub offloaded: Option<&'a Offloaded>,
}

/// Where the whole detail of an event stands that was too large for the peer's hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offloaded {
    pub at: Location,
    pub size: u64,
    pub sha256: [u8; 32],
    /// Where payloads are referred to, which a payload hash leaves out.
    pub pointers: Vec<String>,
    /// The payload hash of what is left of the detail: by it the stamp is known to be this event's own.
    pub rest: PayloadHash,
}

impl Offloaded {
    fn push(&self, out: &mut String) {
        out.push_str(",\"offloaded\":{\"bucket\":");
        push_json_string(out, &self.at.bucket);
        out.push_str(",\"key\":");
        push_json_string(out, &self.at.key);
        out.push_str(",\"size\":");
        out.push_str(&self.size.to_string());
        out.push_str(",\"sha256\":\"");
        self.sha256.iter().for_each(|byte| out.push_str(&format!("{byte:02x}")));
        out.push_str("\",\"rest\":\"");
        out.push_str(&self.rest.to_string());
        out.push_str("\"}");
    }
}

impl Stamp<'_> {
    /// Appends the stamp as a JSON object.
    pub fn push(&self, out: &mut String) {
        out.push_str("{\"origin\":");
        push_json_string(out, self.origin);
        out.push_str(",\"id\":");
        push_json_string(out, self.id);
        out.push_str(",\"account\":");
        push_json_string(out, self.account);
        out.push_str(",\"key\":");
        push_json_string(out, self.key);
        out.push_str(",\"hash\":\"");
        out.push_str(&self.hash.to_string());
        out.push_str("\",\"sequence\":");
        match self.sequence {
            None => out.push_str("null"),
            Some(sequence) => out.push_str(&sequence.to_string()),
        }
        out.push_str(",\"time\":\"");
        out.push_str(&self.time.to_rfc3339());
        out.push_str("\",\"hops\":");
        out.push_str(&self.hops.to_string());
        if self.pending {
            out.push_str(",\"payload\":\"pending\"");
        }
        if let Some(offloaded) = self.offloaded {
            offloaded.push(out);
        }
        out.push('}');
    }

    pub fn to_json(&self) -> String {
        let mut out = String::with_capacity(256);
        self.push(&mut out);
        out
    }
}

/// What an event carries where a stamp would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: it was published here.
    Absent,
    /// The stamp of this very event.
    Genuine { origin: String, key: String, hops: u8 },
    /// Something else: inherited from another event, or forged.
    Inherited,
}

impl Found {
    /// What a detail carries whose own payload hash is `hash`.
    pub fn of(detail: &Json<'_>, hash: PayloadHash) -> Found {
        let Some(stamp) = detail.get(STAMP) else { return Found::Absent };
        let text = |name| stamp.get(name).and_then(Json::as_str).map(str::to_owned);
        let is_own =
            |found: Option<&Json<'_>>| found.and_then(Json::as_str).is_some_and(|found| found == hash.to_string());
        let rest = stamp.get("offloaded").and_then(|offloaded| offloaded.get("rest"));
        let fits = is_own(stamp.get("hash")) || is_own(rest);
        let hops = match stamp.get("hops") {
            Some(Json::Number(number)) => number.parse().ok(),
            _ => None,
        };
        match (text("origin"), text("key"), hops) {
            (Some(origin), Some(key), Some(hops)) if fits => Found::Genuine { origin, key, hops },
            _ => Found::Inherited,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::json;

    fn stamp(hash: PayloadHash) -> String {
        let stamp = Stamp {
            origin: "eu",
            id: "id-1",
            account: "000000000000",
            key: "k\"1",
            hash,
            sequence: None,
            time: Timestamp::from_millis(1_500),
            hops: 1,
            pending: false,
            offloaded: None,
        };
        stamp.to_json()
    }

    #[test]
    fn a_stamp_has_the_documented_members() {
        let hash = "07".repeat(32);
        let expected = format!(
            "{{\"origin\":\"eu\",\"id\":\"id-1\",\"account\":\"000000000000\",\"key\":\"k\\\"1\",\"hash\":\"{hash}\",\
             \"sequence\":null,\"time\":\"1970-01-01T00:00:01.5Z\",\"hops\":1}}"
        );
        assert_eq!(stamp(PayloadHash([7; 32])), expected);
    }

    #[test]
    fn only_a_stamp_with_the_events_own_hash_is_believed() {
        let own = PayloadHash([7; 32]);
        let found = |detail: &str| Found::of(&json::parse(detail).unwrap(), own);
        let stamped = |stamp: &str| format!("{{\"a\":1,\"hubweave\":{stamp}}}");
        let genuine = Found::Genuine { origin: "eu".to_owned(), key: "k\"1".to_owned(), hops: 1 };
        assert_eq!(found(&stamped(&stamp(own))), genuine);
        assert_eq!(found(&stamped(&stamp(PayloadHash([8; 32])))), Found::Inherited);
        assert_eq!(found(r#"{"a":1}"#), Found::Absent);
        let no_hops = stamp(own).replace("\"hops\":1", "\"hops\":\"1\"");
        for junk in ["null", "1", "[]", "{}", "{\"origin\":\"eu\"}", &no_hops] {
            assert_eq!(found(&stamped(junk)), Found::Inherited, "{junk}");
        }
    }
}
