//! What was found out about one thing that an agent needs, and what to do about it.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Works, and may surprise.
    Note,
    /// The agent cannot do its work, or would lose something.
    Missing,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub region: String,
    /// What was looked at: `queue hubweave-a-to-b`.
    pub what: String,
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What mends it: a command, a permission with its resource, an option.
    pub remedy: Option<String>,
}

/// What was found out about a region, in the order in which it was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    #[serde(skip)]
    region: String,
    pub findings: Vec<Finding>,
}

impl Findings {
    pub fn of(region: &str) -> Findings {
        Findings { region: region.to_owned(), findings: Vec::new() }
    }

    pub fn ok(&mut self, what: impl Into<String>, detail: impl Into<String>) {
        self.add(what.into(), Verdict::Ok, detail.into(), None);
    }

    pub fn note(&mut self, what: impl Into<String>, detail: impl Into<String>) {
        self.add(what.into(), Verdict::Note, detail.into(), None);
    }

    pub fn missing(&mut self, what: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) {
        self.add(what.into(), Verdict::Missing, detail.into(), Some(remedy.into()));
    }

    fn add(&mut self, what: String, verdict: Verdict, detail: String, remedy: Option<String>) {
        self.findings.push(Finding { region: self.region.clone(), what, verdict, detail, remedy });
    }

    pub fn is_missing_something(&self) -> bool {
        self.findings.iter().any(|finding| finding.verdict == Verdict::Missing)
    }
}
