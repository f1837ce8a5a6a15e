//! Power of one life of a node: it can go off between any two calls to a port.
//!
//! What a node does is, for everybody else, what its calls to disk and network do. A crash at a call is a crash at the
//! await that made it.

use std::sync::atomic::{AtomicU64, Ordering};

/// No fuse burns.
const ON: u64 = u64::MAX;

/// The power is off.
const OFF: u64 = u64::MAX - 1;

pub struct Power(AtomicU64);

impl Default for Power {
    fn default() -> Self {
        Power(AtomicU64::new(ON))
    }
}

impl Power {
    /// A call is made; `false` if the power is off, by this call or before.
    pub fn call(&self) -> bool {
        match self.0.load(Ordering::Relaxed) {
            ON => true,
            OFF => false,
            0 => {
                self.cut();
                false
            }
            left => {
                self.0.store(left - 1, Ordering::Relaxed);
                true
            }
        }
    }

    /// The power goes off at that many calls from now.
    pub fn burn(&self, calls: u64) {
        if self.is_on() {
            self.0.store(calls, Ordering::Relaxed);
        }
    }

    /// Whatever burned does not any more; a power that is off stays off.
    pub fn heal(&self) {
        if self.is_on() {
            self.0.store(ON, Ordering::Relaxed);
        }
    }

    pub fn cut(&self) {
        self.0.store(OFF, Ordering::Relaxed);
    }

    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) != OFF
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_power_goes_off_at_its_call_and_stays_off() {
        let power = Power::default();
        power.burn(2);
        assert_eq!([power.call(), power.call(), power.call(), power.call()], [true, true, false, false]);
        power.heal();
        assert!(!power.is_on());
    }
}
