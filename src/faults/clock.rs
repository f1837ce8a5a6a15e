//! A clock that is off.

use std::{sync::Arc, time::Duration};

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
        let now = self.inner.now();
        let skew = self.faults.skew_ms();
        let by = Duration::from_millis(skew.unsigned_abs());
        if skew < 0 { now.minus(by) } else { now.plus(by) }
    }
}
