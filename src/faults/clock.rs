//! A clock that is off.

use std::sync::Arc;

use super::Faults;
use crate::{core::time::Timestamp, ports::clock::Clock};

pub struct SkewedClock {
    inner: Arc<dyn Clock>,
    faults: Arc<Faults>,
}

impl SkewedClock {
    pub fn new(inner: Arc<dyn Clock>, faults: Arc<Faults>) -> Self {
        Self { inner, faults }
    }
}

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        self.inner.now().shifted(self.faults.skew_ms())
    }
}
