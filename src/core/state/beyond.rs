//! What a region that was evicted may keep of a document.
//!
//! The other regions may have forgotten a delete that it never saw. What it holds and they do not have is then either
//! something that they never heard of, or something that they deleted and forgot, and the document itself does not tell which.
//! Time does: a delete is forgotten only when it is older than two horizons, and it is newer than all that it took. So what
//! was written within one horizon is remembered by all who ever saw it, as long as no clock is wrong by a horizon.

use std::collections::BTreeMap;

use super::{Dot, document::Document};

impl Document {
    /// Whether all that stands here, and that `others` have not seen, was written so lately that nobody can have forgotten it.
    /// `is_recent` judges a write, and answers of all later ones of its replica what it answers of it.
    pub fn is_recent_beyond(&self, others: &Document, is_recent: impl Fn(Dot) -> bool) -> bool {
        let mut dots = self.cells.values().flat_map(BTreeMap::keys);
        let mut counts = self.tallies.iter().map(|(at, tally)| {
            // What counts was added after the base, and what the others have of it they have not forgotten.
            let base = self.bases.get(at).map_or(0, |base| base.number);
            let since = base.max(others.tallies.get(at).map_or(0, |known| known.number));
            (tally.number, Dot { replica: at.1, number: since })
        });
        dots.all(|dot| others.clock.covers(*dot) || is_recent(*dot))
            && counts.all(|(number, since)| number <= since.number || is_recent(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::state::testing::Region;

    /// Numbers are times here.
    fn at(region: &mut Region, number: u64) -> &mut Region {
        region.given = number - 1;
        region
    }

    fn is_kept(ours: &Region, others: &Document) -> bool {
        ours.document.is_recent_beyond(others, |dot| dot.number >= 100)
    }

    #[test]
    fn what_is_recent_or_known_is_kept_and_what_may_be_forgotten_is_not() {
        let language = |text: &str| format!(r#"{{"field":"language","op":"set","value":"{text}"}}"#);
        let member = r#"{"field":"watchlist","op":"add","value":"m1"}"#;
        let mut ours = Region::new(1);
        let old = at(&mut ours, 10).run(1, &language("de"));
        assert!(!is_kept(&ours, &Document::default()), "it may be deleted and forgotten");
        let mut others = Region::new(2);
        others.hear(&old);
        assert!(is_kept(&ours, &others.document));
        at(&mut ours, 150).run(2, &language("fr"));
        assert!(is_kept(&ours, &Document::default()), "nothing old is left of it");
        at(&mut ours, 160).run(2, member);
        assert!(is_kept(&ours, &others.document) && is_kept(&ours, &Document::default()));
        at(&mut ours, 170).delete(3);
        assert!(is_kept(&ours, &Document::default()));
    }

    #[test]
    fn a_count_is_kept_from_where_it_is_known_or_began() {
        let count = |by: i64| format!(r#"{{"field":"plays","op":"increment","by":{by}}}"#);
        let mut ours = Region::new(1);
        at(&mut ours, 150).run(1, &count(1));
        assert!(is_kept(&ours, &Document::default()), "it began lately");
        let mut ours = Region::new(1);
        let first = at(&mut ours, 10).run(1, &count(1));
        let second = at(&mut ours, 120).run(1, &count(1));
        at(&mut ours, 150).run(1, &count(1));
        assert!(!is_kept(&ours, &Document::default()), "the first part of it may be forgotten");
        let mut others = Region::new(2);
        others.hear(&first);
        assert!(!is_kept(&ours, &others.document), "so may what came next");
        others.hear(&second);
        assert!(is_kept(&ours, &others.document));
        let mut all = Region::new(3);
        all.document = ours.document.clone();
        assert!(is_kept(&ours, &all.document));
        // Deleted here, an old count is nothing any more; what is counted since is.
        at(&mut ours, 160).delete(4);
        assert!(is_kept(&ours, &Document::default()));
        at(&mut ours, 170).run(5, &count(7));
        assert!(is_kept(&ours, &Document::default()));
    }
}
