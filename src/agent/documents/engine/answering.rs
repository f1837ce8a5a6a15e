//! What other regions ask of the documents.

use std::time::Duration;

use super::{
    super::shelf::{Broken, Entry, Shelf},
    Engine,
};
use crate::{
    core::state::{Clock as StateClock, Key, document::Document, op::Refused},
    ports::documents::{ANSWER_BYTES_MAX, Answer, Error, PAGE_MAX, Question},
};

impl Engine {
    /// What a peer asks.
    pub(super) async fn answer(
        &mut self,
        shelf: &mut Shelf,
        question: Question,
    ) -> Result<Result<Answer, Error>, Broken> {
        let is_of_content = !matches!(question, Question::Includes(_) | Question::Standing { .. } | Question::Slept);
        if is_of_content && self.is_waking() {
            // It may hold what everybody else has forgotten.
            let why = self.absent().unwrap_or_default().to_owned();
            return Ok(Err(Error::Unavailable { why, retry_after: Duration::from_secs(5) }));
        }
        Ok(Ok(match question {
            Question::Sums(ranges) => {
                let sums = shelf.sums();
                match ranges.iter().map(|range| sums.of(*range)).collect() {
                    Some(sums) => Answer::Sums(sums),
                    None => return Ok(Err(Error::Refused(Refused::Malformed("no such range".to_owned())))),
                }
            }
            Question::List { bucket, after } => {
                self.flush(shelf).await?;
                let (listed, more) = shelf.list(Some(bucket), after.as_ref(), PAGE_MAX).await?;
                Answer::List { more: more && listed.len() == PAGE_MAX, listed }
            }
            Question::Digests(keys) => {
                shelf.load(&keys).await?;
                shelf.sums();
                Answer::Digests(keys.iter().map(|key| shelf.get(key).and_then(Entry::digest)).collect())
            }
            Question::Wholes(keys) => {
                shelf.load(&keys).await?;
                let mut bytes = 0;
                let mut wholes = Vec::new();
                for key in &keys {
                    let known = shelf.get(key).filter(|entry| entry.document != Document::default());
                    let whole = known.map(|entry| entry.document.encode());
                    bytes += whole.as_ref().map_or(0, Vec::len);
                    if bytes > ANSWER_BYTES_MAX && !wholes.is_empty() {
                        break;
                    }
                    wholes.push(whole);
                }
                Answer::Wholes(wholes)
            }
            Question::Includes(asked) => {
                shelf.load(asked.iter().map(|(key, _)| key)).await?;
                // Whoever asks forgets for good what is seen here, and no delta of it would be young enough to be merged
                // after a crash.
                if shelf.dirty() > 0 {
                    self.flush(shelf).await?;
                }
                let includes = |(key, clock): &(Key, StateClock)| {
                    // Forgotten is seen: only what every region has seen is forgotten.
                    let has_nothing = |entry: &Entry| entry.document == Document::default() && entry.parked.is_empty();
                    let seen = |entry: &Entry| has_nothing(entry) || entry.document.clock().includes(clock);
                    shelf.get(key).is_none_or(seen)
                };
                Answer::Includes(asked.iter().map(includes).collect())
            }
            Question::Standing { of, standing } => Answer::Standing(self.asked(shelf, &of, &standing).await?),
            Question::Slept => Answer::Slept(self.slept()),
        }))
    }
}
