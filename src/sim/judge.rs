//! Judging a cluster: safety in the middle of things, then everything heals and all must become equal.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Invariant, REGIONS, Violation,
    audit::Audit,
    cluster::{CONVERGES_WITHIN, Cluster, DETAIL_TYPE, SOURCE, SYNC_ENDS_WITHIN, lock},
    history::{Effect, Exceptions, History, Place, effects},
    node::{Node, Running},
    objects::Shelf,
};
use crate::{
    agent::Selection,
    core::{key::KeyHash, time::Timestamp},
    ports::hub::Hub,
};

impl Cluster {
    /// Safety, in the middle of things.
    pub async fn check(&mut self) {
        let index = self.chance.below(3) as usize;
        let hubs = self.hubs().await;
        let history = self.history.clone();
        for (region, effects) in &hubs {
            let objects = self.objects_of(region);
            lock(&history).check_hub(region, effects, &objects, &mut self.violations);
        }
        self.check_places(index, &hubs);
        self.check_documents().await;
        self.check_regions();
        self.check_agents();
    }

    /// What the agents that are up found broken by themselves.
    pub fn check_agents(&mut self) {
        for node in &self.nodes {
            for running in node.running.iter().chain(&node.ghost) {
                self.violations.extend(running.agent.violations());
            }
        }
    }

    /// The low-water and watermark of a node's links.
    fn check_places(&mut self, index: usize, hubs: &BTreeMap<&'static str, Vec<Effect>>) {
        let home = self.nodes[index].name;
        let Some(running) = &self.nodes[index].running else { return };
        let status = running.agent.status();
        let Some(here) = hubs.get(home) else { return };
        for link in status.links.iter().filter(|link| link.held == 0) {
            let peer = link.peer.as_str();
            let rewound = self.rewound.iter().any(|index| self.nodes[*index].name == peer);
            let Some(there) = hubs.get(peer).filter(|_| !rewound) else { continue };
            let letters = {
                let state = running.hub.state();
                let state = state.read().unwrap_or_else(PoisonError::into_inner);
                let letters = state.letters.values().filter(|(letter, _)| letter.peer == peer);
                letters.map(|(letter, _)| letter.sequence).collect()
            };
            let watermark = Timestamp::parse_rfc3339(&link.watermark).unwrap_or_default();
            let place = Place { home, peer, cursor: link.cursor, watermark, letters, here, there };
            lock(&self.history).check_place(&place, &mut self.violations);
        }
    }

    pub async fn check_durable(&mut self, index: usize) {
        let Some(running) = &self.nodes[index].running else { return };
        if let Ok(effects) = effects(&running.hub).await {
            let name = self.nodes[index].name;
            // What a restore took comes back by and by.
            if !self.rewound.contains(&index) {
                lock(&self.history).check_durable(name, false, &effects, &mut self.violations);
            }
        }
    }

    /// What a link did not bring to its peer is on a list, or its filter kept it away when it was accepted.
    fn check_exceptions(
        &self,
        node: &Node,
        running: &Running,
        hubs: &BTreeMap<&'static str, Vec<Effect>>,
        history: &History,
        open: &mut Vec<Violation>,
    ) {
        let state = running.hub.state();
        let state = state.read().unwrap_or_else(PoisonError::into_inner);
        let here = hubs.get(node.name).map(Vec::as_slice).unwrap_or_default();
        for (peer, there) in hubs.iter().filter(|(peer, _)| **peer != node.name) {
            let filters = state.links.get(*peer).map(|link| link.filters.as_slice()).unwrap_or_default();
            let held = state.letters.values().map(|(letter, _)| letter).filter(|letter| letter.peer == *peer);
            let dead: BTreeSet<&str> = held.map(|letter| letter.key.as_str()).collect();
            let given_up = |key: &str| {
                let key = KeyHash::of(SOURCE, DETAIL_TYPE, key);
                state.discarded.iter().any(|(letter, hash)| letter == peer && *hash == key)
            };
            // A disk that was restored may have been one from before a letter.
            let rewound = self.rewound.iter().any(|index| self.nodes[*index].name == node.name);
            let dead = (!rewound).then_some(&dead);
            let exceptions = Exceptions { home: node.name, peer, here, there, filters, dead, given_up: &given_up };
            history.check_exceptions(&exceptions, open);
        }
    }

    /// Whether `verify` says what is so: after convergence, under traffic, and with something missing.
    async fn audit(&mut self) {
        let agents: Vec<_> = (0..self.nodes.len()).filter_map(|index| self.agent(index).cloned()).collect();
        let history = self.history.clone();
        let audit = Audit { agents: &agents, history: &history };
        let mut violations = audit.false_alarms().await;
        for index in 0..self.nodes.len() {
            self.publish_new(index, 3);
        }
        violations.extend(audit.false_alarms().await);
        violations.extend(audit.missed(&mut self.chance).await);
        self.violations.extend(violations);
    }

    fn objects_of(&self, region: &str) -> Shelf {
        let node = self.nodes.iter().find(|node| node.name == region);
        node.map(|node| node.disk.objects()).unwrap_or_default()
    }

    /// What is in the hubs that are up.
    pub async fn hubs(&self) -> BTreeMap<&'static str, Vec<Effect>> {
        let mut hubs = BTreeMap::new();
        for node in &self.nodes {
            if let Some(running) = &node.running
                && let Ok(effects) = effects(&running.hub).await
            {
                hubs.insert(node.name, effects);
            }
        }
        hubs
    }

    /// Ends all faults and waits until everything is as it must be; answers how long that took.
    pub async fn heal_and_converge(&mut self) -> f64 {
        self.trace.note("everything heals");
        self.net.heal();
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            node.disk.heal();
            node.held_back.set(0);
            let absent = std::mem::take(&mut node.absent);
            if let Some(running) = &node.running {
                running.power.heal();
                running.agent.faults.clear(None, None);
                if node.disk.has_failed() || running.has_ended() || !absent.is_empty() {
                    self.crash(index);
                }
            }
            if self.nodes[index].running.is_none() {
                self.up(index).await;
            }
            self.check_durable(index).await;
        }
        for index in 0..self.nodes.len() {
            self.end_ghost(index).await;
        }
        // A sync that was under way keeps its fate.
        tokio::time::sleep(SYNC_ENDS_WITHIN).await;
        self.bury().await;
        for node in &self.nodes {
            let Some(running) = &node.running else { continue };
            for peer in REGIONS.into_iter().filter(|peer| *peer != node.name) {
                let _ = running.agent.pause(peer, false).await;
            }
        }
        let healed = Instant::now();
        self.bring_back().await;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let open = self.open_ends().await;
            let late = healed.elapsed() > CONVERGES_WITHIN;
            if open.is_empty() || late {
                self.violations.extend(open);
                if !late {
                    self.audit().await;
                }
                self.check_agents();
                self.violations.sort();
                self.violations.dedup();
                self.trace.note(&format!("{} violations", self.violations.len()));
                return healed.elapsed().as_secs_f64();
            }
        }
    }

    /// What is not yet, or will never be, as it must be.
    async fn open_ends(&mut self) -> Vec<Violation> {
        let mut open = Vec::new();
        self.check_documents_equal(&mut open).await;
        self.check_told(&mut open).await;
        let hubs = self.hubs().await;
        let history = lock(&self.history);
        for (region, effects) in &hubs {
            history.check_hub(region, effects, &self.objects_of(region), &mut open);
            let restored = self.rewound.iter().any(|index| self.nodes[*index].name == *region);
            history.check_durable(region, restored, effects, &mut open);
        }
        if hubs.len() == REGIONS.len() {
            history.check_equal(&hubs, &mut open);
        } else {
            open.push(Violation::new(Invariant::Opens, format!("only {:?} are up", hubs.keys())));
        }
        for node in &self.nodes {
            let Some(running) = &node.running else { continue };
            for link in running.agent.status().links {
                if link.state != "active" || link.backlog_events > 0 || link.held > 0 {
                    let (home, peer, state) = (node.name, &link.peer, &link.state);
                    let what =
                        format!("{home} -> {peer}: {state}, backlog {}, held {}", link.backlog_events, link.held);
                    open.push(Violation::new(Invariant::Quiet, what));
                }
                if !link.losses.is_empty() && !self.expects_losses {
                    let what = format!("{} -> {}: {:?}", node.name, link.peer, link.losses);
                    open.push(Violation::new(Invariant::Losses, what));
                }
            }
            self.check_exceptions(node, running, &hubs, &history, &mut open);
            let letters = running.agent.letters(&Selection { limit: Some(usize::MAX), ..Selection::default() });
            for letter in letters.map(|list| list.letters).unwrap_or_default() {
                history.check_letter(node.name, &letter.peer, &letter.key, letter.reason, &mut open);
            }
        }
        open
    }
}
