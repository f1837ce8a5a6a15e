//! Metrics of documents.

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec};

use super::Declare;
use crate::core::state::{Kind, Schema};

/// What became of a request, as the label `result` says it.
pub const RESULTS: [&str; 3] = ["applied", "duplicate", "nothing"];

pub struct StateMetrics {
    pub merges: IntCounterVec,
    pub conflicts: IntCounterVec,
    pub tombstones: GaugeVec,
    pub documents: GaugeVec,
    pub wanted: Gauge,
    pub unreadable: IntCounter,
    pub too_old: IntCounter,
    pub discarded: IntCounter,
    pub collected: IntCounter,
    pub log_gaps: IntCounter,
    pub parked_dropped: IntCounter,
    pub requests_forgotten: IntCounter,
    pub digest_mismatched: GaugeVec,
    pub gc_blocked_by: GaugeVec,
    pub evicted: GaugeVec,
    pub left_out: IntCounterVec,
    pub redone: IntCounterVec,
    pub requests: IntCounterVec,
    pub unsent: IntCounter,
    pub write_conflicts: IntCounter,
    pub too_large: IntCounter,
}

impl StateMetrics {
    pub(super) fn declare(declare: &Declare<'_>) -> Result<StateMetrics, prometheus::Error> {
        Ok(StateMetrics {
            merges: declare.counters(
                "hubweave_state_merges_total",
                "Writes of other regions, and whole documents of theirs, that were merged, by document type.",
                &["type"],
            )?,
            conflicts: declare.counters(
                "hubweave_state_conflicts_total",
                "Pairs of writes that met here and had not seen each other: last_writer (a register) or kept_both.",
                &["type", "field", "resolution"],
            )?,
            tombstones: declare.gauges(
                "hubweave_state_tombstones",
                "Deleted documents that are remembered until every region has seen their deletes.",
                &["type"],
            )?,
            documents: declare.gauges("hubweave_state_documents", "Documents of the region, by type.", &["type"])?,
            wanted: declare.gauge(
                "hubweave_state_wanted_documents",
                "Documents that lack something which other writes stand on; they are fetched from the peers.",
            )?,
            unreadable: declare.counter(
                "hubweave_state_unreadable_events_total",
                "Events about documents that could not be read or done: the log line says which and why.",
            )?,
            too_old: declare.counter(
                "hubweave_state_expired_deltas_total",
                "Deltas that came after a delete before them may be forgotten; their documents were asked of the peers.",
            )?,
            discarded: declare.counter(
                "hubweave_state_discarded_documents_total",
                "Documents of a copy of this region that was too old to be merged.",
            )?,
            collected: declare.counter(
                "hubweave_state_collected_total",
                "Deleted documents that every region had seen the delete of, and that are forgotten.",
            )?,
            log_gaps: declare.counter(
                "hubweave_state_log_gaps_total",
                "Times that the log had dropped what was not in the documents yet; comparing with the peers brings it.",
            )?,
            parked_dropped: declare.counter(
                "hubweave_state_parked_dropped_total",
                "Deltas beyond those that may wait for an earlier one; their documents are fetched whole.",
            )?,
            requests_forgotten: declare.counter(
                "hubweave_state_requests_forgotten_total",
                "Idempotency keys that a document forgot before their time, as it had too many.",
            )?,
            digest_mismatched: declare.gauges(
                "hubweave_digest_mismatched_ranges",
                "Ranges of documents that differed from the peer's when they were last compared, of 4,096.",
                &["peer"],
            )?,
            gc_blocked_by: declare.gauges(
                "hubweave_gc_blocked_by",
                "Deleted documents that cannot be forgotten because this region has not seen their deletes.",
                &["peer"],
            )?,
            evicted: declare.gauges(
                "hubweave_state_evicted",
                "1 while the documents do without this region, which may be the agent's own.",
                &["peer"],
            )?,
            left_out: declare.counters(
                "hubweave_state_left_out_deltas_total",
                "Deltas of an evicted region that are not merged; it does them again when it is back.",
                &["peer"],
            )?,
            redone: declare.counters(
                "hubweave_state_redone_requests_total",
                "Requests of this region from before its eviction that no region had: done again, known by their keys after \
                 all, or lost because what they stand on is gone.",
                &["outcome"],
            )?,
            requests: declare.counters(
                "hubweave_state_requests_total",
                "Requests of services to documents: applied, duplicate (the key was known) or nothing (to delete).",
                &["type", "result"],
            )?,
            unsent: declare.counter(
                "hubweave_state_unsent_deltas_total",
                "Writes whose delta a managed bus did not take; comparing brings their documents to the peers.",
            )?,
            write_conflicts: declare.counter(
                "hubweave_state_write_conflicts_total",
                "Writes to a managed table that somebody else was quicker than; they were tried again.",
            )?,
            too_large: declare.counter(
                "hubweave_state_too_large_total",
                "Merges that a managed table has no room for: the document waits until something is removed from it.",
            )?,
        })
    }

    /// Shows a document type at 0.
    pub fn show_type(&self, of: &str, schema: &Schema) {
        self.merges.with_label_values(&[of]);
        self.tombstones.with_label_values(&[of]);
        self.documents.with_label_values(&[of]);
        for result in RESULTS {
            self.requests.with_label_values(&[of, result]);
        }
        for (field, shape) in &schema.0 {
            let resolution = match shape.kind {
                Kind::Register => "last_writer",
                Kind::MultiValue => "kept_both",
                _ => continue,
            };
            self.conflicts.with_label_values(&[of, field, resolution]);
        }
    }
}
