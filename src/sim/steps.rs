//! What happens in a run, drawn by chance: traffic, faults, operators.

use std::time::Duration;

use super::{
    Fault, REGIONS,
    cluster::{Cluster, lock},
    disk::Image,
    net::Quality,
    payload,
};
use crate::{
    agent::Selection,
    faults::{Direction, Kind, Order},
};

impl Cluster {
    /// The next thing that happens.
    pub async fn step(&mut self) {
        let pause = match self.chance.below(10) {
            0 => self.chance.millis(500, 5_000),
            1..4 => Duration::ZERO,
            _ => self.chance.millis(0, 200),
        };
        tokio::time::sleep(pause).await;
        self.bury().await;
        match self.chance.below(100) {
            0..45 => self.publish(),
            45..60 => self.change_documents(),
            60..85 => self.fault().await,
            85..94 => self.operate().await,
            _ => self.check().await,
        }
    }

    fn publish(&mut self) {
        let index = self.chance.below(3) as usize;
        let mut drafts = Vec::new();
        let count = if self.chance.hits(0.1) { self.chance.between(10, 60) } else { self.chance.between(1, 4) };
        for _ in 0..count {
            let mut history = lock(&self.history);
            let back = self.chance.below(12) as usize;
            let (key, detail, passes) = match history.recent(back).filter(|_| self.chance.hits(0.2)) {
                // A producer that got no answer tries again, maybe in another region.
                Some((key, detail, passes)) if self.chance.hits(0.9) => (key, detail, passes),
                Some((key, _, passes)) => {
                    let detail = format!("{{\"n\":{},\"pass\":{passes},\"other\":true}}", history.len());
                    (key, detail, passes)
                }
                None => {
                    let passes = self.chance.hits(0.9);
                    let payload = payload::Kind::draw(&mut self.chance, self.profile.payloads);
                    drafts.push(history.invent(passes, payload));
                    continue;
                }
            };
            history.attempt(&key, &detail, passes);
            drafts.push((key, detail));
        }
        self.send(index, drafts);
    }

    async fn fault(&mut self) {
        let Some(fault) = self.chance.pick(&self.faults).copied() else { return };
        let index = self.chance.below(3) as usize;
        let name = self.nodes[index].name;
        match fault {
            // Order one kind in the other half: at the agent's own ports.
            kind if self.chance.hits(0.5) && self.order(kind, index) => {}
            Fault::Crash => {
                if let Some(running) = self.nodes[index].running.as_ref().filter(|_| self.chance.hits(0.5)) {
                    let calls = self.chance.below(60);
                    self.trace.note(&format!("{name} will crash at its {calls}th call"));
                    running.power.burn(calls);
                } else if self.nodes[index].running.is_some() {
                    self.crash(index);
                }
                // Sometimes it stays down, and is brought up by a later step.
                if self.nodes[index].running.is_none() && self.chance.hits(0.7) {
                    self.restart(index).await;
                }
            }
            Fault::FailedSync if self.nodes[index].running.is_some() => {
                self.trace.note(&format!("syncs of {name} fail"));
                self.trace.lock().fault(fault);
                let probability = [0.1, 1.0][self.chance.below(2) as usize];
                self.nodes[index].disk.fail_syncs(probability);
            }
            Fault::DeadDisk if self.nodes[index].running.is_some() => {
                let operations = self.chance.below(12);
                self.trace.note(&format!("the disk of {name} dies in {operations} operations"));
                self.trace.lock().fault(fault);
                self.nodes[index].disk.die_in(operations);
            }
            Fault::Rollback => self.rollback(index).await,
            // What is lost must be known, and only nodes that are up can be asked.
            Fault::Clone | Fault::BitRot if self.nodes.iter().any(|node| node.running.is_none()) => {}
            Fault::Clone if self.nodes[index].ghost.is_some() => self.end_ghost(index).await,
            Fault::Clone => self.split(index).await,
            Fault::BitRot => self.rot(index).await,
            Fault::Hold => {
                let per_mille = [0, 20, 200][self.chance.below(3) as usize];
                self.trace.note(&format!("{name} holds back {per_mille} of a thousand"));
                self.nodes[index].held_back.set(per_mille);
            }
            Fault::Membership => self.change_members(index).await,
            Fault::ClockSkew => {
                let skew_ms = self.chance.between(0, 1_200_000) as i64 - 600_000;
                self.trace.note(&format!("the clock of {name} is off by {skew_ms} ms"));
                self.trace.lock().fault(fault);
                self.nodes[index].clock.set_skew(skew_ms);
            }
            Fault::FailedSync | Fault::DeadDisk => {}
            Fault::Reorder | Fault::Error => drop(self.order(fault, index)),
            _ => self.spoil(fault, index),
        }
        // Whoever is down may come up at any time.
        let down = (0..self.nodes.len()).find(|index| self.nodes[*index].running.is_none());
        if let Some(index) = down.filter(|_| self.chance.hits(0.4)) {
            self.restart(index).await;
        }
    }

    /// Orders the fault as operators do, at the agent's own ports. `false` if it is no kind that can be ordered.
    fn order(&mut self, fault: Fault, index: usize) -> bool {
        let (Ok(kind), Some(running)) = (fault.as_str().parse::<Kind>(), &self.nodes[index].running) else {
            return false;
        };
        let home = self.nodes[index].name;
        let others: Vec<&str> = REGIONS.into_iter().filter(|name| *name != home).collect();
        let peer = self.chance.pick(&others).map(|peer| (*peer).to_owned()).filter(|_| self.chance.hits(0.7));
        let direction = [Direction::Out, Direction::In, Direction::Both][self.chance.below(3) as usize];
        let delay_ms = match kind {
            Kind::ClockSkew => self.chance.between(0, 1_200_000) as i64 - 600_000,
            _ => self.chance.between(1, 3_000) as i64,
        };
        let probability = [0.05, 0.3, 1.0][self.chance.below(3) as usize];
        let for_ms = Some(self.chance.between(50, 8_000));
        let order = Order { kind, peer, direction, delay_ms, probability, for_ms };
        self.trace.note(&format!("{home} is ordered {order:?}"));
        self.trace.lock().fault(fault);
        running.agent.faults.inject(order).is_ok()
    }

    /// The node starts with a file that leaves a region out, or has it again.
    async fn change_members(&mut self, index: usize) {
        let home = self.nodes[index].name;
        let others: Vec<&'static str> = REGIONS.into_iter().filter(|name| *name != home).collect();
        let Some(peer) = self.chance.pick(&others).copied() else { return };
        let absent = &mut self.nodes[index].absent;
        let leaves = absent.insert(peer) || !absent.remove(peer);
        self.trace.note(&format!("{home} starts with a file that has {peer}: {}", !leaves));
        self.trace.lock().fault(Fault::Membership);
        if self.nodes[index].running.is_some() {
            self.crash(index);
        }
        self.up(index).await;
        self.check_durable(index).await;
    }

    /// Brings a node up; it may crash on the way.
    async fn restart(&mut self, index: usize) {
        if self.has(Fault::Crash) && self.chance.hits(0.2) {
            let wait = self.chance.millis(0, 12);
            let _ = tokio::time::timeout(wait, self.up(index)).await;
            self.crash(index);
        }
        self.up(index).await;
        self.check_durable(index).await;
    }

    fn spoil(&mut self, fault: Fault, index: usize) {
        let home = self.nodes[index].name;
        let others: Vec<&str> = REGIONS.into_iter().filter(|name| *name != home).collect();
        let peer = self.chance.pick(&others).copied().unwrap_or_default();
        let on = self.chance.hits(0.6);
        let strength = if on { [0.1, 0.3, 0.8][self.chance.below(3) as usize] } else { 0.0 };
        let delay_max_ms = if on { self.chance.between(20, 3_000) } else { Quality::GOOD.delay_max_ms };
        self.trace.note(&format!("{} {home} -> {peer}: {on} {strength}", fault.as_str()));
        self.net.change(home, peer, |quality| match fault {
            Fault::Partition => quality.cut = on,
            Fault::Delay => quality.delay_max_ms = delay_max_ms,
            Fault::Drop => quality.lose_request = strength,
            Fault::Duplicate => quality.duplicate = strength,
            Fault::Throttle => quality.throttle = strength,
            Fault::TimeoutAfterSuccess => quality.lose_reply = strength,
            Fault::Damage => quality.damage = strength,
            _ => {}
        });
    }

    /// Takes a copy of a disk, or brings one back that was taken before.
    async fn rollback(&mut self, index: usize) {
        if self.backups[index].is_none() || self.chance.hits(0.3) {
            self.backups[index] = Some(self.nodes[index].disk.backup());
            self.trace.note(&format!("{} is backed up", self.nodes[index].name));
            return;
        }
        // What is lost must be known, and only nodes that are up can be asked.
        if self.nodes.iter().any(|node| node.running.is_none()) {
            return;
        }
        // The same copy may be restored again; sometimes there is none that can be read.
        let keep = self.chance.hits(0.5);
        let empty = self.chance.hits(0.1);
        let Some(image) = self.backups[index].clone().map(|image| if empty { Image::default() } else { image }) else {
            return;
        };
        if !keep {
            self.backups[index] = None;
        }
        self.restore(index, image).await;
    }

    /// What operators do.
    async fn operate(&mut self) {
        if self.moves_users() && self.chance.hits(0.5) {
            return self.move_users().await;
        }
        let index = self.chance.below(3) as usize;
        let home = self.nodes[index].name;
        let others: Vec<&str> = REGIONS.into_iter().filter(|name| *name != home).collect();
        let peer = self.chance.pick(&others).copied().unwrap_or_default().to_owned();
        let Some(agent) = self.nodes[index].running.as_ref().map(|running| running.agent.clone()) else { return };
        let what = self.chance.below(6);
        let on = self.chance.hits(0.5);
        self.trace.note(&format!("operator: {what} {on} {home} -> {peer}"));
        match what {
            0 | 1 => {
                let link = (home.to_owned(), peer);
                self.profile.filtered.insert(link, on);
                if let Ok(config) = self.profile.config(&self.nodes[index].absent) {
                    let _ = agent.reload(config).await;
                }
            }
            2 => detach(async move {
                let _ = agent.pause(&peer, on).await;
            }),
            3 => detach(async move {
                let _ = agent.replay(&peer, None, None, false).await;
            }),
            4 => detach(async move {
                let _ = agent.redrive(&Selection::default()).await;
            }),
            _ => detach(async move {
                let _ = agent.discard(&Selection { limit: Some(1), ..Selection::default() }).await;
            }),
        }
    }
}

fn detach(what: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(what);
}
