//! What the agents of one region share: small named values, each with a version that conditions its next change.

use futures::future::BoxFuture;

use crate::core::link::Failure;

/// A named value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub name: String,
    /// 1 when it is written first, then one more with each change.
    pub version: u64,
    pub text: String,
}

/// Contract:
/// - of any number of changes of one version exactly one takes effect;
/// - what was answered is durable, and a later `list` shows it;
/// - a change that was not answered may have taken effect.
pub trait Shared: Send + Sync {
    /// All values, in no order. There are few.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Value>, Failure>>;

    /// Writes the value whose version is `version` now (0: there is none yet); `false` if it is not, and then nothing
    /// was changed.
    fn change<'a>(&'a self, name: &'a str, text: &'a str, version: u64) -> BoxFuture<'a, Result<bool, Failure>>;
}
