//! Which events a link carries: its pattern, and since when.
//!
//! A change of the pattern is written into the hub's log with the offset after which it applies. So it never applies
//! backwards: what was accepted before is judged by the pattern of its time, however late it is sent.

use serde_json::Value;

use super::documents;
use crate::{
    core::{
        event::{EMBEDDED_ACCOUNT, Record},
        pattern::{EventView, Pattern},
    },
    planted::{self, Bug},
};

#[derive(Clone, Debug)]
pub struct Filters {
    region: String,
    /// Ascending: after which offset, which pattern.
    epochs: Vec<(u64, Pattern)>,
}

impl Filters {
    /// From what the journal remembers. A pattern that does not compile any more passes everything: too much is
    /// suppressed by a consumer, too little is lost.
    pub fn new(region: &str, journal: &[(u64, String)]) -> Self {
        let epochs = journal.iter().map(|(after, text)| {
            let pattern = serde_json::from_str::<Value>(text).ok().and_then(|json| Pattern::parse(&json).ok());
            if pattern.is_none() {
                tracing::error!(after, pattern = text, "an old pattern does not compile; it passes everything");
            }
            (*after, pattern.unwrap_or_else(Pattern::everything))
        });
        Self { region: region.to_owned(), epochs: epochs.collect() }
    }

    /// The pattern in force at the end of the log, as text; `None` if none was ever written down.
    pub fn current(&self) -> Option<String> {
        self.epochs.last().map(|(_, pattern)| pattern.as_json().to_string())
    }

    pub fn push(&mut self, after: u64, pattern: Pattern) {
        self.epochs.push((after, pattern));
    }

    pub fn selects(&self, record: &Record) -> bool {
        // What it did to a document crosses by itself.
        if record.detail_type() == documents::events::OPERATION {
            return false;
        }
        let backwards = planted::is(Bug::FilterAppliedBackwards);
        let epoch = self.epochs.iter().rev().find(|(after, _)| backwards || *after < record.header.offset);
        match epoch {
            None => true,
            Some((_, pattern)) if pattern.is_everything() => true,
            Some((_, pattern)) => matches(pattern, record, &self.region),
        }
    }
}

/// Whether the event, as a reader of `region`'s hub would see it, matches.
pub fn matches(pattern: &Pattern, record: &Record, region: &str) -> bool {
    let resources: Vec<String> = match record.resources_json() {
        "[]" => Vec::new(),
        text => serde_json::from_str(text).unwrap_or_default(),
    };
    let with_stamp;
    let detail = if record.header.is_remote() {
        with_stamp = record.detail_json();
        &with_stamp
    } else {
        record.detail()
    };
    pattern.matches_view(&EventView {
        source: record.source(),
        detail_type: record.detail_type(),
        account: EMBEDDED_ACCOUNT,
        region,
        time: record.header.time,
        id: "",
        resources: &resources,
        detail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing;

    #[test]
    fn a_pattern_applies_from_its_offset_on_and_never_backwards() {
        let filters = Filters::new(
            "a",
            &[(0, "{}".to_owned()), (10, r#"{"detail":{"keep":[true]}}"#.to_owned()), (20, "{}".to_owned())],
        );
        let selects = |offset, detail| filters.selects(&testing::record(offset, "k", detail));
        assert!(selects(10, "{}"));
        assert!(!selects(11, "{}"));
        assert!(selects(11, r#"{"keep":true}"#));
        assert!(!selects(20, "{}"));
        assert!(selects(21, "{}"));
    }
}
