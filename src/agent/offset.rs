//! How far a peer's clock is from ours, from the four times of an exchange (RFC 5905, section 8).

use std::collections::VecDeque;

use crate::core::time::Timestamp;

/// Exchanges that are remembered; the quickest of them says the most.
const SAMPLES: usize = 16;

#[derive(Debug, Default)]
pub struct ClockOffset {
    /// Round trip without the peer's own time, and the offset it gives; both in seconds.
    samples: VecDeque<(f64, f64)>,
}

impl ClockOffset {
    /// Sent and answered by our clock; received and replied by the peer's.
    pub fn add(&mut self, sent: Timestamp, received: Timestamp, replied: Timestamp, answered: Timestamp) {
        let [sent, received, replied, answered] = [sent, received, replied, answered].map(Timestamp::as_secs_f64);
        let round_trip = (answered - sent) - (replied - received);
        let offset = ((received - sent) + (replied - answered)) / 2.0;
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((round_trip, offset));
    }

    /// The peer's clock minus ours; `None` before the first exchange. Right to within half the quickest round trip.
    pub fn seconds(&self) -> Option<f64> {
        self.samples.iter().min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, offset)| *offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quickest_exchange_decides() {
        let at = Timestamp::from_millis;
        let mut offset = ClockOffset::default();
        assert_eq!(offset.seconds(), None);
        // The peer is 10 s ahead; one slow exchange, one quick one.
        offset.add(at(1_000), at(11_900), at(11_910), at(1_920));
        offset.add(at(2_000), at(12_001), at(12_005), at(2_006));
        assert!((offset.seconds().unwrap() - 10.0).abs() < 0.002);
    }
}
