//! What is wrong with a topology file: one line for each problem, in the file's order.

use std::fmt;

/// Why a topology file was refused. Nothing was started and nothing was changed.
///
/// `Display` prints one unwrapped line for each problem, `FILE, line N: KEY: OFFENDING VALUE: why`, without a final
/// newline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    problems: Vec<Problem>,
}

/// One problem, with the place to mend it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The file as the user named it; `standard input` for `-`.
    pub file: String,
    /// Counted from 1. `None` when the file could not be read at all.
    pub line: Option<usize>,
    /// The option, dotted, with positions counted from 0: `region[1].api`. Empty when the file could not be read.
    pub key: String,
    /// The offending value as it stands in the file, on one line; secrets are left out.
    pub value: String,
    /// What is wrong with it, and what would be right.
    pub why: String,
}

impl Error {
    /// The problems in the order of their lines. Never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// `None` if there is nothing to complain of.
    pub(super) fn of(mut problems: Vec<Problem>) -> Option<Error> {
        problems.sort_by_key(|problem| problem.line);
        (!problems.is_empty()).then_some(Error { problems })
    }

    /// The file as a whole is out of reach.
    /// A file that cannot be read at all.
    pub fn unreadable(file: &str, why: impl fmt::Display) -> Error {
        let problem = Problem {
            file: file.to_owned(),
            line: None,
            key: String::new(),
            value: String::new(),
            why: why.to_string(),
        };
        Error { problems: vec![problem] }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Error { problems: vec![problem] }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}, line {line}: {}: {}: {}", self.file, self.key, self.value, self.why),
            None => write!(f, "{}: {}", self.file, self.why),
        }
    }
}

impl std::error::Error for Error {}
