//! Why a command did not do what it was asked, and the exit code that says so.

use std::{fmt, io};

/// What ends a command early. `main` turns it into one block on standard error and an exit code.
#[derive(Debug)]
pub enum Error {
    /// Exit code 1: the answer is no, or somebody could not be reached.
    No(String),
    /// Exit code 1, and everything there is to say has been said.
    Said,
    /// Exit code 2: bad arguments.
    Usage(String),
    /// Exit code 2: the topology file. The lines are printed as they are.
    Config(String, crate::config::Error),
    /// Exit code 0: nobody reads standard output any more (`hubweave tail | head`).
    Closed,
}

impl Error {
    /// The answer is no.
    pub fn no(what: impl fmt::Display) -> Error {
        Error::No(what.to_string())
    }

    /// Bad arguments.
    pub fn usage(what: impl fmt::Display) -> Error {
        Error::Usage(what.to_string())
    }

    /// What the process ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Closed => 0,
            Error::No(_) | Error::Said => 1,
            Error::Usage(_) | Error::Config(..) => 2,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::No(what) | Error::Usage(what) => write!(f, "error: {what}"),
            // The problems keep their own form, one line each, so that editors and scripts can find file and line.
            Error::Config(file, problems) => write!(f, "error: {file} cannot be used\n{problems}"),
            Error::Said | Error::Closed => Ok(()),
        }
    }
}

impl From<super::http::Error> for Error {
    fn from(error: super::http::Error) -> Self {
        // What the agent calls a bad request came from bad arguments.
        match error.status() {
            Some(400) => Error::Usage(error.to_string()),
            _ => Error::No(error.to_string()),
        }
    }
}

/// Failures of standard output: [`super::out`] is the only place that lets them through.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Error::Closed,
            _ => Error::No(format!("standard output: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_0_for_a_closed_pipe_1_for_no_and_2_for_bad_arguments() {
        let closed = Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(closed.exit_code(), 0);
        assert_eq!(Error::no("drift").exit_code(), 1);
        assert_eq!(Error::usage("no such region").exit_code(), 2);
    }

    #[test]
    fn problems_of_the_file_keep_their_lines() {
        let problems = match crate::config::Config::parse("nonsense = 1\n", "x.toml", &|_| None) {
            Err(problems) => problems,
            Ok(_) => unreachable!("an unknown key is refused"),
        };
        let error = Error::Config("x.toml".to_owned(), problems);
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().lines().any(|line| line.starts_with("x.toml, line 1: nonsense: ")), "{error}");
    }
}
