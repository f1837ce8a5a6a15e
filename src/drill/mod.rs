//! Drills: experiments in Chaos Toolkit's open format, what was measured while one ran, and whether it passed.
//!
//! Nothing here calls an agent, starts a process or reads a clock; `cli::drill` does. In the order of a run:
//!
//! [`yaml`] reads a file with its lines, [`experiment`] makes of it what can be run ([`activity`]) or says what is wrong where,
//! [`extension`] is what hubweave's runner is told besides. [`substitute`] fills in variables, [`tolerance`] judges probes
//! ([`jsonpath`] within answers). [`timeline`] keeps what the regions said, [`measure`] makes numbers of it, [`journal`] is
//! the report in Chaos Toolkit's form, [`verdict`] judges it and [`page`] draws it.
//!
//! What each number means stands in `docs/DRILLS.md`.

pub mod activity;
pub mod experiment;
pub mod extension;
pub mod journal;
pub mod jsonpath;
pub mod measure;
pub mod page;
pub mod substitute;
pub mod timeline;
pub mod tolerance;
pub mod verdict;
pub mod yaml;

use std::fmt;

/// What is wrong with an experiment's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub line: u64,
    pub key: String,
    pub value: String,
    pub why: String,
}

/// Of an offending value so much is shown.
const SHOWN_MAX: usize = 80;

impl Problem {
    pub fn new(line: u64, key: &str, value: &str, why: impl Into<String>) -> Problem {
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        let value = match value.char_indices().nth(SHOWN_MAX) {
            Some((end, _)) => format!("{}...", &value[..end]),
            None => value,
        };
        Problem { line, key: key.to_owned(), value, why: why.into() }
    }
}

/// `line N: KEY: VALUE: why`, without what there is not.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        for part in [&self.key, &self.value] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.why)
    }
}
