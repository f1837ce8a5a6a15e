//! What a region's table holds of evictions: who is left out, and how far the region itself is on its way back.
//!
//! ```text
//! partition     place              holds
//! m             standing           who is evicted, and this region's way back
//! g             <when>/type/id     a document that an evicted region could not keep
//! ```
//!
//! An agent may know less than the table: it was stopped for a while, or reads now and then. So every item with sums, which
//! is part of each write anyway, says from which term on something of a region is merged ([`Group`]). A write that was begun
//! before an eviction was noted there fails. Only when all groups have it the region says that it knows.

use serde::{Deserialize, Serialize};

use super::store::{Group, Store, decode_group, sums_change, sums_place, unreadable};
use crate::{
    agent::documents::form::{decode, encode},
    core::{
        link::Failure,
        state::{
            Key,
            document::Document,
            standing::{Eviction, Slept, Standing},
        },
        time::Timestamp,
    },
    ports::{
        documents::Met,
        items::{Change, Item, Place},
    },
};

/// The partition of what was given up.
const GIVEN_UP: &str = "g";

/// What a region keeps of evictions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Known, and noted in every group.
    pub standing: Standing,
    /// Known; some groups may not have it yet.
    pub heard: Standing,
    /// The eviction after which this region began anew; 0: it was never evicted.
    pub term: u64,
    pub coming: Option<Coming>,
    /// The table that this was written to: a copy of it that was restored has another name.
    pub table: String,
    /// The last time that a restored table was older than what regions remember of deletes.
    pub slept: Option<Slept>,
}

/// The region does not take part yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coming {
    /// Since this eviction; that of [`Kept::term`] where its table was restored.
    pub term: u64,
    pub step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// It says that it is back, and nobody else has noted that yet.
    Announced,
    /// Nobody forgets without it any more: it looks through its documents, group by group, from this one on.
    Cleans(u16),
    /// It has nothing that the others forgot, and takes in what they have.
    Fetches,
    /// Its table was restored and is old: it asks whether the others lived on meanwhile.
    Wakes,
}

impl Kept {
    /// It was evicted, and has not begun anew.
    pub fn is_out(&self, home: &str) -> bool {
        self.standing.term(home) > self.term
    }

    /// Why services are not served.
    pub fn absent(&self, home: &str) -> Option<&'static str> {
        let is_away = self.is_out(home) || self.coming.is_some();
        is_away.then_some(
            "this region was evicted, or its table is an old one: it looks through its documents and fetches those of the \
             others first",
        )
    }

    pub fn is_at(&self, step: Step) -> bool {
        self.coming.is_some_and(|coming| coming.step == step)
    }

    fn takes_part(&self, home: &str) -> bool {
        !self.is_out(home) && (self.coming.is_none() || self.is_at(Step::Fetches))
    }

    pub fn met(&self, home: &str) -> Met {
        let takes_part = self.takes_part(home);
        Met { standing: self.standing.clone(), term: self.term, takes_part, taken: None }
    }

    /// The table is looked at for the first time, or after it was restored. `slept`: nobody has written to it for so long.
    pub fn open(&mut self, table: &str, slept: Option<Slept>) {
        if self.table == table {
            return;
        }
        table.clone_into(&mut self.table);
        let Some(slept) = slept else { return };
        self.slept = Some(slept);
        // Whoever has announced himself, or is at it, looks through everything anyway.
        self.coming = match self.coming {
            Some(Coming { term, step: Step::Announced }) => Some(Coming { term, step: Step::Announced }),
            Some(Coming { term, step: Step::Cleans(_) }) => Some(Coming { term, step: Step::Cleans(0) }),
            _ => Some(Coming { term: self.term, step: Step::Wakes }),
        };
    }

    /// Takes in what another region knows. Of an eviction that is new here the groups must know first; the rest stands at once.
    pub fn hear(&mut self, theirs: Standing, home: &str) {
        self.heard.join(&theirs);
        let stands =
            |(region, eviction): &(&String, &Eviction)| *region == home || eviction.term <= self.standing.term(region);
        let known = self.heard.0.iter().filter(stands);
        let known = Standing(known.map(|(region, eviction)| (region.clone(), eviction.clone())).collect());
        self.standing.join(&known);
    }

    /// Terms that the groups may not have yet.
    pub fn untold(&self) -> Vec<(String, u64)> {
        let heard = self.heard.0.iter().filter(|(region, eviction)| eviction.term > self.standing.term(region));
        heard.map(|(region, eviction)| (region.clone(), eviction.term)).collect()
    }
}

/// Where it stands. The time is in the name: what was set aside before is not written over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    pub term: u64,
    /// In whole milliseconds.
    pub at: Timestamp,
    pub key: Key,
}

impl Aside {
    fn place(&self) -> Place {
        Place::new(GIVEN_UP, format!("{:06}-{:013}/{}/{}", self.term, self.at.as_millis(), self.key.of, self.key.id))
    }

    /// Its name in a listing.
    pub fn name(&self) -> String {
        self.place().sort
    }

    pub fn read(name: &str) -> Option<Aside> {
        let (when, key) = name.split_once('/')?;
        let (term, at) = when.split_once('-')?;
        let (of, id) = key.split_once('/')?;
        let at = Timestamp::from_millis(at.parse().ok()?);
        Some(Aside { term: term.parse().ok()?, at, key: Key::new(of, id) })
    }
}

fn standing_place() -> Place {
    Place::new("m", "standing")
}

impl Store {
    /// What is kept, and the version of it.
    ///
    /// # Errors
    /// The table did not answer, or a newer build wrote there.
    pub async fn kept(&self) -> Result<(Kept, u64), Failure> {
        let found = self.get(vec![standing_place()]).await?.pop().flatten();
        let Some(item) = found else { return Ok((Kept::default(), 0)) };
        let kept = decode(&item.bytes).map_err(|error| unreadable("who is evicted", &error))?;
        Ok((kept, item.version))
    }

    /// Writes it; `false` if somebody else did meanwhile.
    pub async fn keep(&self, kept: &Kept, version: u64) -> Result<bool, Failure> {
        self.write(vec![Change { place: standing_place(), bytes: Some(encode(kept)), version }]).await
    }

    /// Has one group know from which term on something of regions is merged; `false` if somebody else changed it meanwhile.
    pub async fn note_terms(&self, group: usize, terms: &[(String, u64)]) -> Result<bool, Failure> {
        let found = self.get(vec![sums_place(group)]).await?.pop().flatten();
        let (mut sums, version) = match found {
            Some(item) => (decode_group(group, &item)?, item.version),
            None => (Group::default(), 0),
        };
        let before = sums.terms.clone();
        for (region, term) in terms {
            let known = sums.terms.entry(region.clone()).or_default();
            *known = (*known).max(*term);
        }
        if sums.terms == before {
            return Ok(true);
        }
        self.write(vec![sums_change(group, &sums, version)]).await
    }

    /// Documents that were given up, behind this name, and whether there are more.
    pub async fn given_up(&self, after: Option<String>) -> Result<(Vec<(Aside, Item)>, bool), Failure> {
        let (page, more) = self.page(GIVEN_UP, after).await?;
        let read = |(name, item): (String, Item)| Some((Aside::read(&name)?, item));
        Ok((page.into_iter().filter_map(read).collect(), more))
    }

    /// Removes one for good; `false` if it is not there, or somebody else was quicker.
    pub async fn discard_given_up(&self, aside: &Aside) -> Result<bool, Failure> {
        let Some(item) = self.get(vec![aside.place()]).await?.pop().flatten() else { return Ok(false) };
        self.write(vec![Change { place: aside.place(), bytes: None, version: item.version }]).await
    }
}

/// The change that sets a document aside.
pub fn set_aside(aside: &Aside, document: &Document) -> Change {
    Change { place: aside.place(), bytes: Some(document.encode().into()), version: 0 }
}
