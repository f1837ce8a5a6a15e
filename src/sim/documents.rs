//! Documents of a simulated cluster: a peer's over the network, and what services and checks do to those of each region.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::{Instant, sleep};

use super::{
    cluster::{CONVERGES_WITHIN, Cluster, lock},
    net::{SimPeer, Site},
    node::Running,
    requests::{self, All, Asked, Client, Wish},
};
use crate::{
    core::{
        event::STATE_CONFLICT,
        invariant::{Invariant, Violation},
        link::Failure,
        state::document::Document,
    },
    ports::{
        documents::{self, Answer, Documents, Question, RemoteDocuments},
        hub::Hub,
        inbox::Refusal,
    },
};

/// Documents that changed are on disk after this.
const FLUSHED_WITHIN: Duration = Duration::from_millis(1_500);

/// As a file names it that says nothing.
pub(super) const CLUSTER: &str = "hubweave";

impl RemoteDocuments for SimPeer {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, Failure>> {
        // Over the wire format, as in production.
        let bytes = documents::encode(&question);
        let asker = self.home.clone();
        let work = move |site: Site| {
            let (bytes, asker) = (bytes.clone(), asker.clone());
            async move {
                let question = documents::decode(&bytes).map_err(Refusal::Malformed)?;
                let admission = site.inbox.admit(CLUSTER, &asker).await?;
                if admission.answer_lost {
                    return Err(Refusal::CutOff);
                }
                let answer = match &site.documents {
                    Some(documents) => documents.answer(question).await,
                    None => return Err(Refusal::Malformed("there are no documents".to_owned())),
                };
                answer.map(|answer| documents::encode(&answer)).map_err(|error| match error {
                    documents::Error::Unavailable { why, retry_after } => Refusal::Unavailable { why, retry_after },
                    other => Refusal::Malformed(other.to_string()),
                })
            }
            .boxed()
        };
        async move {
            let bytes = self.bounded(Arc::new(work)).await?;
            documents::decode(&bytes).map_err(Failure::Unanswered)
        }
        .boxed()
    }
}

impl Cluster {
    /// Services change documents.
    pub fn change_documents(&mut self) {
        let index = self.chance.below(3) as usize;
        for _ in 0..self.chance.between(1, 4) {
            let wish = lock(&self.requests).draw(&mut self.chance, 0.0);
            match wish {
                Wish::Ask(number) => self.ask(index, number),
                Wish::Delete(id) => self.delete_document(index, id),
            }
        }
    }

    /// A request that was never made before, with `more` operations; answers its number.
    pub fn request(&mut self, index: usize, id: &'static str, more: &str, is_keyed: bool) -> usize {
        let amount = requests::draw_amount(&mut self.chance);
        let number = lock(&self.requests).add(Asked::new(id, amount, more, is_keyed));
        self.ask(index, number);
        number
    }

    /// A service of one of the lives that may answer it.
    fn client(&mut self, index: usize) -> Option<Client> {
        let node = &self.nodes[index];
        let lives: Vec<&Running> = node.running.iter().chain(&node.ghost).collect();
        let running = *self.chance.pick(&lives)?;
        let (region, life, net) = (node.name, running.life, self.net.clone());
        Some(Client {
            region,
            documents: Arc::new(running.agent.documents.clone()?),
            requests: self.requests.clone(),
            trace: self.trace.clone(),
            is_heard: Box::new(move || net.is_alive(region, life)),
        })
    }

    /// A service makes a request, or makes it again.
    pub fn ask(&mut self, index: usize, number: usize) {
        if let Some(client) = self.client(index) {
            tokio::spawn(client.ask(number));
        }
    }

    pub fn delete_document(&mut self, index: usize, id: &'static str) {
        if let Some(client) = self.client(index) {
            tokio::spawn(client.delete(id));
        }
    }

    /// What the regions that are up show.
    async fn shown(&self) -> All {
        let mut all = BTreeMap::new();
        for node in &self.nodes {
            let documents = node.running.as_ref().and_then(|running| running.agent.documents.clone());
            if let Some(documents) = documents
                && let Some(shown) = requests::shown(&documents).await
            {
                all.insert(node.name, shown);
            }
        }
        all
    }

    /// A restore took what no region shows now.
    pub async fn lose_requests(&mut self) {
        // What a region fetched from the one that lost it is on its disk only when it was flushed.
        sleep(FLUSHED_WITHIN).await;
        let all = self.shown().await;
        lock(&self.requests).set_adrift(&all);
    }

    pub async fn check_documents(&mut self) {
        let all = self.shown().await;
        lock(&self.requests).check_all(&all, &mut self.violations);
    }

    /// What is not as it must be once everything healed.
    pub async fn check_documents_equal(&self, open: &mut Vec<Violation>) {
        let all = self.shown().await;
        if all.len() < self.nodes.len() {
            open.push(Violation::new(Invariant::Quiet, "documents do not answer".to_owned()));
        }
        lock(&self.requests).check_equal(&all, open);
    }

    /// Waits until all regions show the same documents; says so if they never do.
    pub async fn settle_documents(&mut self) {
        let started = Instant::now();
        loop {
            sleep(Duration::from_secs(1)).await;
            let mut open = Vec::new();
            self.check_documents_equal(&mut open).await;
            if open.is_empty() || started.elapsed() > CONVERGES_WITHIN {
                self.violations.extend(open);
                return;
            }
        }
    }

    /// These requests and no others took effect on a document, in every region.
    pub async fn expect_members(&mut self, id: &str, expected: &[usize]) {
        requests::expect_members(&self.shown().await, id, expected, &mut self.violations);
    }

    /// A field of a document shows this, in every region.
    pub async fn expect_field(&mut self, id: &str, field: &str, expected: &str) {
        requests::expect_field(&self.shown().await, id, field, expected, &mut self.violations);
    }

    /// The documents of a region with all that it knows of them; `None` where it knows nothing.
    async fn wholes(&self, index: usize) -> BTreeMap<&'static str, Option<Document>> {
        let running = self.nodes[index].running.as_ref();
        let Some(documents) = running.and_then(|running| running.agent.documents.clone()) else {
            return BTreeMap::new();
        };
        documents.answer(requests::wholes_question()).await.map(requests::wholes).unwrap_or_default()
    }

    /// What regions have seen of documents that are deleted now.
    pub async fn remembered(&self, regions: &[usize]) -> Vec<String> {
        let mut remembered = Vec::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(index, _)| regions.contains(index)) {
            remembered.extend(requests::remembered(node.name, self.wholes(index).await));
        }
        remembered
    }

    /// Which regions remember that this document is deleted.
    pub async fn remembering(&self, id: &str) -> Vec<bool> {
        let mut remembering = Vec::new();
        for index in 0..self.nodes.len() {
            let wholes = self.wholes(index).await;
            remembering.push(wholes.get(id).is_some_and(|whole| whole.as_ref().is_some_and(Document::is_tombstone)));
        }
        remembering
    }

    /// Keys of the conflicts that a region's hub has been told.
    pub async fn told(&self, index: usize) -> BTreeSet<String> {
        let mut told = BTreeSet::new();
        let Some(running) = &self.nodes[index].running else { return told };
        let mut reader = running.hub.reader(running.hub.base());
        while let Ok(records) = reader.next(1_000, 1 << 20).await {
            if records.is_empty() {
                break;
            }
            let conflicts = records.iter().filter(|record| record.detail_type() == STATE_CONFLICT);
            told.extend(conflicts.map(|record| record.key().to_owned()));
        }
        told
    }

    /// Writes that stand side by side in a region were told there.
    pub async fn check_told(&self, open: &mut Vec<Violation>) {
        for (index, node) in self.nodes.iter().enumerate() {
            // What its log lost or dropped was told once; the documents need not know.
            let is_whole = node.running.as_ref().is_some_and(|running| running.hub.base() == 0);
            if !is_whole || self.rotted.contains(&index) {
                continue;
            }
            let told = self.told(index).await;
            requests::check_told(node.name, &self.wholes(index).await, &told, open);
        }
    }
}
