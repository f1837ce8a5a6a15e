//! Chance that is the same on every machine and with every version of every library.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::ports::clock::Entropy;

/// SplitMix64 (Steele, Lea, Flood 2014): one word of state, and a stream of its own for each name.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The stream called `name` of `seed`: drawing more from one stream changes nothing in the others.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a; the generator's own mixing does the rest.
        let mut state = seed ^ 0xcbf2_9ce4_8422_2325;
        for byte in name.bytes() {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Chance(state)
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// One of 0, 1, … `end - 1`; 0 where there is no choice.
    pub fn below(&mut self, end: u64) -> u64 {
        self.word() % end.max(1)
    }

    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// True with this probability.
    pub fn hits(&mut self, probability: f64) -> bool {
        ((self.word() >> 11) as f64 / (1u64 << 53) as f64) < probability
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let index = self.below(items.len() as u64);
        items.get(usize::try_from(index).unwrap_or_default())
    }
}

/// A stream that an agent draws from.
pub struct SharedChance(Mutex<Chance>);

impl SharedChance {
    pub fn new(chance: Chance) -> Self {
        Self(Mutex::new(chance))
    }

    pub fn lock(&self) -> MutexGuard<'_, Chance> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entropy for SharedChance {
    fn next_u64(&self) -> u64 {
        self.lock().word()
    }
}
