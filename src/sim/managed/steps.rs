//! What happens in a run, drawn by chance: producers, faults, operators.

use std::time::Duration;

use super::{
    bus,
    wire::{Op, Quality},
    world::{DAY, DETAIL_TYPE, World, lock},
};
use crate::sim::{Fault, REGIONS, payload};

impl World {
    /// The next thing that happens.
    ///
    /// # Errors
    /// An agent does not start.
    pub async fn step(&mut self, faults: &[Fault]) -> Result<(), String> {
        let pause = match self.chance.below(10) {
            0 => self.chance.millis(500, 20_000),
            1..4 => Duration::ZERO,
            _ => self.chance.millis(0, 300),
        };
        tokio::time::sleep(pause).await;
        self.bury();
        match self.chance.below(100) {
            0..60 => self.traffic(),
            60..88 => self.fault(faults)?,
            88..95 => self.operate().await,
            _ => {
                self.check();
                self.check_documents().await;
            }
        }
        self.ask_documents();
        // Whoever is down comes up some time.
        let down = (0..self.nodes.len()).find(|index| !self.nodes[*index].is_up());
        if let Some(index) = down.filter(|_| self.chance.hits(0.2)) {
            self.up(index)?;
        }
        Ok(())
    }

    fn traffic(&mut self) {
        let up: Vec<usize> = (0..self.nodes.len()).filter(|index| self.nodes[*index].is_up()).collect();
        let count = if self.chance.hits(0.1) { self.chance.between(10, 40) } else { self.chance.between(1, 4) };
        let details: Vec<String> = (0..count).map(|_| self.detail()).collect();
        let Some(index) = self.chance.pick(&up).copied().filter(|_| self.profile.api_only || self.chance.hits(0.6))
        else {
            if !self.profile.api_only {
                let region = self.chance.below(3) as usize;
                for detail in details {
                    let told = self.chance.hits(0.9);
                    self.publish_raw(region, DETAIL_TYPE, &detail, told);
                }
            }
            return;
        };
        for details in details.chunks(10) {
            self.publish(index, details.to_vec());
        }
    }

    /// A new event, or one that a producer tries again, maybe in another region, maybe with another payload.
    fn detail(&mut self) -> String {
        let back = self.chance.below(12) as usize;
        let (n, recent) = {
            let oracle = lock(&self.oracle);
            (oracle.len(), oracle.recent(back))
        };
        let again = recent.filter(|(name, _)| name.starts_with('k')).filter(|_| self.chance.hits(0.25));
        let number = self.chance.word() >> 16;
        match again {
            Some((_, detail)) if self.chance.hits(0.9) => detail,
            Some((name, _)) => format!("{{\"n\":{number},\"idempotencyKey\":\"{name}\",\"other\":true}}"),
            None if self.chance.hits(0.03) => {
                let region = self.chance.pick(&REGIONS).copied().unwrap_or_default();
                format!("{{\"n\":{number},\"idempotencyKey\":\"k{n}-{number}\",\"refusedBy\":\"{region}\"}}")
            }
            None if self.chance.hits(0.1) => format!("{{\"n\":{number}}}"),
            None => {
                let members = payload::Kind::draw(&mut self.chance, self.profile.payloads).members(n as u64);
                // Too large for a peer's bus.
                let big =
                    if self.chance.hits(0.03) { format!(",\"big\":\"{}\"", "x".repeat(3_000)) } else { String::new() };
                format!("{{\"n\":{number},\"idempotencyKey\":\"k{n}-{number}\"{members}{big}}}")
            }
        }
    }

    fn fault(&mut self, faults: &[Fault]) -> Result<(), String> {
        let Some(fault) = self.chance.pick(faults).copied() else { return Ok(()) };
        let on = self.chance.hits(0.6);
        let strength = if on { [0.05, 0.2, 0.6][self.chance.below(3) as usize] } else { 0.0 };
        let home = self.chance.pick(&REGIONS).copied().unwrap_or_default();
        let region = self.chance.pick(&REGIONS).copied().unwrap_or_default();
        let there = self.chance.below(3) as usize;
        self.trace.note(&format!("{} {home} -> {region}, {there}: {on} {strength}", fault.as_str()));
        match fault {
            Fault::Crash => self.kill(),
            Fault::ClockSkew => {
                let node = self.chance.below(self.nodes.len() as u64) as usize;
                let skew_ms = self.chance.between(0, 1_200_000) as i64 - 600_000;
                self.nodes[node].clock.set_skew(skew_ms);
                self.trace.lock().fault(fault);
            }
            Fault::Duplicate => {
                let region = &self.regions[there];
                region.bus.change(|quality| quality.fire_twice = strength);
                region.queues().for_each(|queue| queue.set_repeats(strength));
                self.trace.lock().fault(fault);
            }
            Fault::Delay => {
                let late_max = if self.chance.hits(0.3) { DAY } else { self.chance.millis(1_000, 60_000) };
                let late = if on { 0.1 } else { 0.0 };
                self.regions[there].bus.change(|quality| *quality = bus::Quality { late, late_max, ..*quality });
                let (too_late, stale) = if on { (0.1, 0.5) } else { (0.0, 0.0) };
                self.change_table(there, |quality| (quality.late, quality.stale) = (too_late, stale));
                let slowest = if on { self.chance.between(20, 6_000) } else { Quality::GOOD.delay_max_ms };
                self.wire.change(home, region, |quality| quality.delay_max_ms = slowest);
            }
            Fault::Throttle => {
                self.wire.change(home, region, |quality| quality.throttle = strength);
                self.regions[there].bus.change(|quality| quality.put_later = strength);
                self.regions[there].ledger.set_row_fails(strength);
                self.change_table(there, |quality| quality.trouble = strength);
            }
            // An agent that is cut off from its own region is a crashed one, near enough.
            Fault::Partition => self.wire.change(home, region, |quality| quality.cut = on && home != region),
            Fault::Drop => self.wire.change(home, region, |quality| quality.lose_request = strength),
            Fault::TimeoutAfterSuccess => self.wire.change(home, region, |quality| quality.lose_reply = strength),
            Fault::Hold => self.regions[there].bus.change(|quality| quality.put_later = strength),
            Fault::Damage => self.wire.change(home, region, |quality| quality.damage = strength),
            Fault::Error => {
                self.regions[there].ledger.set_row_fails(strength);
                self.change_table(there, |quality| quality.trouble = strength);
            }
            // These queues keep no order anyway, and managed services have neither disk nor members of ours.
            Fault::Reorder
            | Fault::FailedSync
            | Fault::DeadDisk
            | Fault::Rollback
            | Fault::Clone
            | Fault::BitRot
            | Fault::Membership => {}
        }
        Ok(())
    }

    fn deadly(&self) -> &'static [Op] {
        let [rest @ .., _] = &Op::DEADLY;
        if self.profile.documents.is_some() { &Op::DEADLY } else { rest }
    }

    /// An agent dies now, or as soon as a service has done something for it.
    fn kill(&mut self) {
        let index = self.chance.below(self.nodes.len() as u64) as usize;
        if self.chance.hits(0.4) {
            self.crash(index);
        } else if let Some(op) = self.chance.pick(self.deadly()).copied() {
            self.wire.trip(&self.nodes[index].name, op);
        }
    }

    async fn operate(&mut self) {
        let index = self.chance.below(self.nodes.len() as u64) as usize;
        let (link, on) = (self.chance.below(2) as usize, self.chance.hits(0.5));
        if self.chance.hits(0.6) {
            self.trace.note(&format!("{}: link {link} paused: {on}", self.nodes[index].name));
            self.pause(index, link, on);
        } else {
            self.stop(index).await;
        }
    }
}
