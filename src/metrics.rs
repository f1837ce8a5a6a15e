//! Every metric, declared once: name, unit, labels, help.
//!
//! A registry belongs to one agent, so that several can run in one process (tests, simulation). Families whose labels
//! are bounded are there from the start, at 0. Children that the event path touches are looked up once and kept.

use std::{sync::Arc, time::Duration};

use prometheus::{
    Counter, CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::core::{
    batch::Reason,
    invariant::Invariant,
    link::{Skip, Status},
    time::Timestamp,
};

pub mod exemplars;
pub mod open_metrics;
pub mod otlp;
mod regions;
mod state;

use exemplars::{Exemplar, Exemplars, Traced};
pub use regions::RegionMetrics;
pub use state::StateMetrics;

/// Replication lag in seconds: from a millisecond (same rack) to the quarter of an hour that people get paged for.
const LAG_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0, 900.0,
];

/// The family whose buckets have exemplars.
const LAG: &str = "hubweave_replication_lag_seconds";

/// What crosses links, as the label `stream` says it.
pub const STREAMS: [&str; 4] = ["events", "state", "objects", "heartbeat"];

/// What became of an event at a peer, as the label `result` says it.
pub const RESULTS: [&str; 3] = ["delivered", "duplicate", "rejected"];

/// What became of a local event at the ledger, as the label `result` says it.
pub const LOCAL_ENTRIES: [&str; 6] = ["new", "known", "repeat", "late", "conflict", "malformed"];

/// States of a region, as the label `state` says them.
pub const REGION_STATES: [&str; 4] = ["active", "draining", "evacuated", "recovering"];

pub struct Metrics {
    registry: Registry,
    pub region_state: IntGaugeVec,
    pub requests: IntCounterVec,
    pub accepted: IntCounter,
    pub refused: IntCounterVec,
    pub deduplicated: IntCounterVec,
    pub stamps_stripped: IntCounter,
    pub applied: IntCounterVec,
    pub suppressed: IntCounterVec,
    pub skipped: IntCounterVec,
    pub heartbeat_received: GaugeVec,
    pub log_bytes: Gauge,
    pub backup_last: Gauge,
    pub objects_stored: Gauge,
    pub objects_stored_bytes: Gauge,
    pub objects_unreadable: Gauge,
    pub objects_files_left: Gauge,
    pub objects_requests: IntCounterVec,
    pub objects_read_through: IntCounterVec,
    pub faults_active: IntGaugeVec,
    pub invariant_violations: IntCounterVec,
    /// Handed to the clients of AWS regions.
    pub aws_requests: IntCounterVec,
    forwarded: IntCounterVec,
    lag: HistogramVec,
    backlog_events: GaugeVec,
    backlog_bytes: GaugeVec,
    backlog_deltas: GaugeVec,
    watermark: GaugeVec,
    exposure: GaugeVec,
    link_state: IntGaugeVec,
    clock_offset: GaugeVec,
    dead_letters: GaugeVec,
    dead_lettered: IntCounterVec,
    rate_limited: CounterVec,
    held: GaugeVec,
    rewinds: IntCounterVec,
    lost: IntCounterVec,
    attempts: IntCounterVec,
    objects_copied: IntCounterVec,
    object_bytes_copied: IntCounterVec,
    objects_waiting: GaugeVec,
    objects_waiting_seconds: GaugeVec,
    shadowed: IntCounterVec,
    repeats: IntCounterVec,
    claims_lost: IntCounterVec,
    claims_unmarked: IntCounterVec,
    pub local_entries: IntCounterVec,
    pub stamps_audited: IntCounterVec,
    pub ledger_rows_read: IntCounter,
    pub state: StateMetrics,
    pub regions: RegionMetrics,
    pub otlp_pushes: IntCounterVec,
    exemplars: Arc<Exemplars>,
}

/// The children of one link.
pub struct LinkMetrics {
    pub delivered: IntCounter,
    pub duplicate: IntCounter,
    pub rejected: IntCounter,
    pub lag_events: Histogram,
    pub lag_state: Histogram,
    pub lag_objects: Histogram,
    pub lag_heartbeat: Histogram,
    pub backlog_events: Gauge,
    pub backlog_bytes: Gauge,
    pub backlog_deltas: Gauge,
    pub watermark: Gauge,
    pub exposure: Gauge,
    pub clock_offset: Gauge,
    pub dead_letters: Gauge,
    pub rate_limited_seconds: Counter,
    pub held: Gauge,
    pub rewinds: IntCounter,
    pub lost: IntCounter,
    pub batches_answered: IntCounter,
    pub batches_failed: IntCounter,
    pub objects_copied: IntCounter,
    pub objects_present: IntCounter,
    pub objects_beside: IntCounter,
    pub objects_missing: IntCounter,
    pub objects_damaged: IntCounter,
    pub objects_failed: IntCounter,
    pub object_bytes_copied: IntCounter,
    pub objects_waiting: Gauge,
    pub objects_waiting_seconds: Gauge,
    pub shadow_new: IntCounter,
    pub shadow_known: IntCounter,
    pub repeats_unanswered: IntCounter,
    pub repeats_taken_over: IntCounter,
    pub claims_lost: IntCounter,
    pub claims_unmarked: IntCounter,
    state: IntGaugeVec,
    dead_lettered: IntCounterVec,
    traced_events: Arc<Traced>,
    traced_objects: Arc<Traced>,
    peer: String,
}

impl Metrics {
    /// All metrics of the agent of `region`, with the peers of its links.
    ///
    /// # Errors
    /// Two declarations of one name: a mistake in this file.
    pub fn new(region: &str, peers: &[String]) -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new_custom(None, Some([("region".to_owned(), region.to_owned())].into()))?;
        let declare = Declare { registry: &registry };
        let build =
            declare.gauges("hubweave_build_info", "Always 1; the label says which version runs.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        let metrics = Metrics {
            region_state: declare.int_gauges("hubweave_region_state", "1 for the state the region is in.", &["state"])?,
            requests: declare.counters(
                "hubweave_api_requests_total",
                "Requests that the api listener answered, by route and HTTP status.",
                &["route", "status"],
            )?,
            accepted: declare.counter(
                "hubweave_events_accepted_total",
                "Events of services that the region's hub took in; repeats of a known key are not counted.",
            )?,
            refused: declare.counters(
                "hubweave_events_refused_total",
                "Entries of publish requests that were refused, by error code.",
                &["code"],
            )?,
            deduplicated: declare.counters(
                "hubweave_events_deduplicated_total",
                "Local publishes under a known key: repeat (same payload) or conflict (another payload).",
                &["result"],
            )?,
            stamps_stripped: declare.counter(
                "hubweave_stamps_stripped_total",
                "Stamps found in published events, inherited or forged, and taken out.",
            )?,
            applied: declare.counters(
                "hubweave_events_applied_total",
                "Events of services that arrived over links and took effect here, by origin region.",
                &["origin"],
            )?,
            suppressed: declare.counters(
                "hubweave_arrivals_suppressed_total",
                "Arrivals without effect because their key was known: duplicate (same payload) or conflict.",
                &["origin", "result"],
            )?,
            skipped: declare.counters(
                "hubweave_events_skipped_total",
                "Events that links left out on purpose, once per link, by reason.",
                &["reason"],
            )?,
            heartbeat_received: declare.gauges(
                "hubweave_heartbeat_received_timestamp_seconds",
                "When the last heartbeat of a region arrived, by this region's clock; 0 if none did since the start.",
                &["origin"],
            )?,
            log_bytes: declare.gauge("hubweave_log_bytes", "Size of the hub's log on disk.")?,
            backup_last: declare.gauge(
                "hubweave_backup_last_timestamp_seconds",
                "Of which moment the last backup is, by this clock; 0 if none was made since the start.",
            )?,
            objects_stored: declare.gauge("hubweave_objects_stored", "Objects in the region's object store.")?,
            objects_stored_bytes: declare.gauge("hubweave_objects_stored_bytes", "Bytes of these objects.")?,
            objects_unreadable: declare.gauge(
                "hubweave_objects_unreadable",
                "Objects of the store whose entries were found damaged at its start.",
            )?,
            objects_files_left: declare.gauge(
                "hubweave_objects_files_left",
                "Files of removed objects that stay until the next start, as too many waited for their removal.",
            )?,
            objects_requests: declare.counters(
                "hubweave_objects_requests_total",
                "Requests of services to the object store, by S3's name of the operation and HTTP status.",
                &["operation", "status"],
            )?,
            objects_read_through: declare.counters(
                "hubweave_objects_read_through_total",
                "Requests of services for an object that was not here and was answered from a peer.",
                &["peer"],
            )?,
            faults_active: declare.int_gauges(
                "hubweave_faults_active",
                "Injected faults that are in force, by kind: not 0 means that what hurts was ordered.",
                &["kind"],
            )?,
            invariant_violations: declare.counters(
                "hubweave_invariant_violations_total",
                "Times that the agent found one of its own promises broken. Anything above 0 is a bug: report it.",
                &["invariant"],
            )?,
            aws_requests: declare.counters(
                "hubweave_aws_requests_total",
                "Calls to AWS by API name and outcome: ok, throttled, refused, failed (5xx) or unanswered.",
                &["service", "operation", "outcome"],
            )?,
            forwarded: declare.counters(
                "hubweave_events_forwarded_total",
                "Events of services that a link brought to an end, by what the peer answered. Heartbeats do not count.",
                &["peer", "result"],
            )?,
            lag: declare.histograms(
                "hubweave_replication_lag_seconds",
                "From acceptance at home to the durable answer of the peer, by the home region's clock.",
                LAG_BUCKETS,
                &["peer", "stream"],
            )?,
            backlog_events: declare.gauges(
                "hubweave_link_backlog_events",
                "Events of services accepted here that the link has not brought to an end; an upper bound while it \
                 filters.",
                &["peer"],
            )?,
            backlog_bytes: declare.gauges("hubweave_link_backlog_bytes", "The same in bytes.", &["peer"])?,
            backlog_deltas: declare.gauges(
                "hubweave_link_backlog_deltas",
                "What services did to documents here and the peer does not have, at most.",
                &["peer"],
            )?,
            watermark: declare.gauges(
                "hubweave_link_watermark_timestamp_seconds",
                "Everything accepted up to this time is at the peer, or held, or in the dead letters.",
                &["peer"],
            )?,
            exposure: declare.gauges(
                "hubweave_rpo_exposure_seconds",
                "Now minus the watermark while anything is undelivered, else 0: what losing this region now would cost.",
                &["peer"],
            )?,
            link_state: declare.int_gauges("hubweave_link_state", "1 for the state the link is in.", &["peer", "state"])?,
            clock_offset: declare.gauges(
                "hubweave_clock_offset_seconds",
                "The peer's clock minus ours, estimated from the quickest of the last answers.",
                &["peer"],
            )?,
            dead_letters: declare.gauges("hubweave_dead_letters", "Dead letters that wait for a person.", &["peer"])?,
            dead_lettered: declare.counters(
                "hubweave_dead_lettered_total",
                "Events that went to the dead letters, by reason.",
                &["peer", "reason"],
            )?,
            rate_limited: declare.float_counters(
                "hubweave_rate_limited_seconds_total",
                "Time that a link waited for its own limits.",
                &["peer"],
            )?,
            held: declare.gauges("hubweave_link_held_events", "Events that wait for something of their own.", &["peer"])?,
            rewinds: declare.counters(
                "hubweave_link_rewinds_total",
                "Times that a peer was found to lack what it had confirmed (restored from an older copy), and refilled.",
                &["peer"],
            )?,
            lost: declare.counters(
                "hubweave_link_lost_events_total",
                "Events that the log had to drop before the link delivered them; see the loss inventory in the status.",
                &["peer"],
            )?,
            objects_copied: declare.counters(
                "hubweave_objects_copied_total",
                "Payloads on their way to a peer: copied; present (there already); beside (copied, or there, under another \
                 key, as the peer's holds other bytes); missing (not here, looked for again); damaged (arrived as \
                 something else and refused); failed (a store did not answer).",
                &["peer", "result"],
            )?,
            object_bytes_copied: declare.counters(
                "hubweave_object_bytes_copied_total",
                "Bytes of payloads copied to a peer.",
                &["peer"],
            )?,
            objects_waiting: declare.gauges(
                "hubweave_objects_waiting",
                "Events that wait for their payloads: missing here, or under way.",
                &["peer"],
            )?,
            objects_waiting_seconds: declare.gauges(
                "hubweave_objects_waiting_seconds",
                "How long the oldest event that waits for its payloads has been accepted.",
                &["peer"],
            )?,
            attempts: declare.counters(
                "hubweave_link_batches_total",
                "Batches put on the wire, by whether an answer came.",
                &["peer", "result"],
            )?,
            shadowed: declare.counters(
                "hubweave_shadow_events_total",
                "Events of a link in shadow mode: known to the peer already (somebody else brought them) or new to it.",
                &["peer", "result"],
            )?,
            repeats: declare.counters(
                "hubweave_possible_repeats_total",
                "Events that may have a second effect on a managed bus: a put without an answer, or a claim that was taken \
                 over from an agent that was lost.",
                &["peer", "cause"],
            )?,
            claims_lost: declare.counters(
                "hubweave_claims_lost_total",
                "Events whose claim had been taken over when they were to be marked.",
                &["peer"],
            )?,
            claims_unmarked: declare.counters(
                "hubweave_claims_unmarked_total",
                "Events published through the agent of a managed region whose claim it could not mark done before it stopped.",
                &["peer"],
            )?,
            ledger_rows_read: declare.counter(
                "hubweave_ledger_rows_read_total",
                "Rows of the region's own ledger on managed services that were read for verify.",
            )?,
            local_entries: declare.counters(
                "hubweave_local_entries_total",
                "Events of services on a managed bus at the region's own ledger: new, known, repeat (published twice \
                 here), late (a link had delivered the key: a second effect), conflict, malformed.",
                &["result"],
            )?,
            stamps_audited: declare.counters(
                "hubweave_stamps_audited_total",
                "Stamped events on a managed bus: genuine (came over a link), inherited (a stamp of another event), malformed.",
                &["result"],
            )?,
            state: StateMetrics::declare(&declare)?,
            regions: RegionMetrics::declare(&declare, peers)?,
            otlp_pushes: declare.counters(
                "hubweave_otlp_pushes_total",
                "Pushes of metrics to a collector: taken, partial (it left some out) or failed.",
                &["outcome"],
            )?,
            exemplars: Arc::default(),
            registry: registry.clone(),
        };
        for state in REGION_STATES {
            metrics.region_state.with_label_values(&[state]).set(i64::from(state == "active"));
        }
        for invariant in Invariant::OWN {
            metrics.invariant_violations.with_label_values(&[invariant.as_str()]);
        }
        for skip in Skip::ALL {
            metrics.skipped.with_label_values(&[skip.as_str()]);
        }
        for result in ["genuine", "inherited", "malformed"] {
            metrics.stamps_audited.with_label_values(&[result]);
        }
        for result in LOCAL_ENTRIES {
            metrics.local_entries.with_label_values(&[result]);
        }
        for outcome in ["taken", "partial", "failed"] {
            metrics.otlp_pushes.with_label_values(&[outcome]);
        }
        for result in ["repeat", "conflict"] {
            metrics.deduplicated.with_label_values(&[result]);
        }
        for peer in peers {
            metrics.objects_read_through.with_label_values(&[peer]);
            metrics.applied.with_label_values(&[peer]);
            metrics.heartbeat_received.with_label_values(&[peer]).set(0.0);
            for result in ["duplicate", "conflict"] {
                metrics.suppressed.with_label_values(&[peer, result]);
            }
            metrics.link(peer);
        }
        Ok(metrics)
    }

    /// The children of the link to `peer`, at 0 if they are new.
    pub fn link(&self, peer: &str) -> LinkMetrics {
        for stream in STREAMS {
            self.lag.with_label_values(&[peer, stream]);
        }
        for reason in Reason::ALL {
            self.dead_lettered.with_label_values(&[peer, reason.as_str()]);
        }
        let objects = |result| self.objects_copied.with_label_values(&[peer, result]);
        let forwarded = |result| self.forwarded.with_label_values(&[peer, result]);
        let link = LinkMetrics {
            delivered: forwarded(RESULTS[0]),
            duplicate: forwarded(RESULTS[1]),
            rejected: forwarded(RESULTS[2]),
            lag_events: self.lag.with_label_values(&[peer, STREAMS[0]]),
            lag_state: self.lag.with_label_values(&[peer, STREAMS[1]]),
            lag_objects: self.lag.with_label_values(&[peer, STREAMS[2]]),
            lag_heartbeat: self.lag.with_label_values(&[peer, STREAMS[3]]),
            backlog_events: self.backlog_events.with_label_values(&[peer]),
            backlog_bytes: self.backlog_bytes.with_label_values(&[peer]),
            backlog_deltas: self.backlog_deltas.with_label_values(&[peer]),
            watermark: self.watermark.with_label_values(&[peer]),
            exposure: self.exposure.with_label_values(&[peer]),
            clock_offset: self.clock_offset.with_label_values(&[peer]),
            dead_letters: self.dead_letters.with_label_values(&[peer]),
            rate_limited_seconds: self.rate_limited.with_label_values(&[peer]),
            held: self.held.with_label_values(&[peer]),
            rewinds: self.rewinds.with_label_values(&[peer]),
            lost: self.lost.with_label_values(&[peer]),
            batches_answered: self.attempts.with_label_values(&[peer, "answered"]),
            batches_failed: self.attempts.with_label_values(&[peer, "failed"]),
            objects_copied: objects("copied"),
            objects_present: objects("present"),
            objects_beside: objects("beside"),
            objects_missing: objects("missing"),
            objects_damaged: objects("damaged"),
            objects_failed: objects("failed"),
            object_bytes_copied: self.object_bytes_copied.with_label_values(&[peer]),
            objects_waiting: self.objects_waiting.with_label_values(&[peer]),
            objects_waiting_seconds: self.objects_waiting_seconds.with_label_values(&[peer]),
            shadow_new: self.shadowed.with_label_values(&[peer, "new"]),
            shadow_known: self.shadowed.with_label_values(&[peer, "known"]),
            repeats_unanswered: self.repeats.with_label_values(&[peer, "unanswered"]),
            repeats_taken_over: self.repeats.with_label_values(&[peer, "taken_over"]),
            claims_lost: self.claims_lost.with_label_values(&[peer]),
            claims_unmarked: self.claims_unmarked.with_label_values(&[peer]),
            state: self.link_state.clone(),
            dead_lettered: self.dead_lettered.clone(),
            traced_events: self.exemplars.traced(peer, STREAMS[0]),
            traced_objects: self.exemplars.traced(peer, STREAMS[2]),
            peer: peer.to_owned(),
        };
        link.set_state("active");
        link
    }

    /// How many events and heartbeats the link to `peer` delivered since the start, and the sum of their lags in seconds.
    pub fn delivered_so_far(&self, peer: &str) -> (u64, f64) {
        let of = |stream| self.lag.with_label_values(&[peer, stream]);
        let prompt = [of(STREAMS[0]), of(STREAMS[3])];
        (prompt.iter().map(Histogram::get_sample_count).sum(), prompt.iter().map(Histogram::get_sample_sum).sum())
    }

    /// Services' events on a managed bus that this agent saw: local ones at the ledger, and arrivals.
    pub fn events_seen(&self) -> u64 {
        use prometheus::core::Collector;
        let families = [&self.local_entries, &self.applied].into_iter().flat_map(Collector::collect);
        let values = families.flat_map(|family| {
            family.get_metric().iter().map(|metric| metric.get_counter().get_value()).collect::<Vec<f64>>()
        });
        values.sum::<f64>() as u64
    }

    /// Everything in Prometheus's text format.
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        // Writing to a vector does not fail; a family that cannot be encoded is a bug that an empty page shows.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8(out).unwrap_or_default()
    }

    /// The same with exemplars, in OpenMetrics's.
    pub fn open_metrics(&self) -> String {
        open_metrics::text(&self.registry.gather(), &self.exemplars)
    }

    /// The same for an OpenTelemetry collector, in JSON.
    pub fn otlp(&self, resource: &otlp::Resource, now: Timestamp) -> String {
        otlp::request(&self.registry.gather(), &self.exemplars, resource, now).to_string()
    }
}

impl LinkMetrics {
    /// The state that is shown.
    pub fn state(&self) -> &'static str {
        let shown = |name: &&str| self.state.with_label_values(&[self.peer.as_str(), name]).get() == 1;
        Status::NAMES.into_iter().find(shown).unwrap_or_default()
    }

    /// Shows `state` as the link's only one.
    pub fn set_state(&self, state: &str) {
        for name in Status::NAMES {
            self.state.with_label_values(&[self.peer.as_str(), name]).set(i64::from(name == state));
        }
    }

    /// What a service published is at the peer, `lag` after the home region accepted it; as part of this trace.
    pub fn observe_lag(&self, has_payload: bool, lag: Duration, trace: Option<String>, at: Timestamp) {
        let (histogram, traced) = match has_payload {
            true => (&self.lag_objects, &self.traced_objects),
            false => (&self.lag_events, &self.traced_events),
        };
        let value = lag.as_secs_f64();
        histogram.observe(value);
        if let Some(trace) = trace {
            traced.note(Exemplar { trace, value, at });
        }
    }

    pub fn count_dead_letter(&self, reason: Reason) {
        self.dead_lettered.with_label_values(&[self.peer.as_str(), reason.as_str()]).inc();
    }
}

/// Declares and registers in one step.
struct Declare<'a> {
    registry: &'a Registry,
}

impl Declare<'_> {
    fn registered<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        collector: Result<C, prometheus::Error>,
    ) -> Result<C, prometheus::Error> {
        let collector = collector?;
        self.registry.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.registered(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.registered(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn float_counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<CounterVec, prometheus::Error> {
        self.registered(CounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.registered(Gauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
        self.registered(GaugeVec::new(Opts::new(name, help), labels))
    }

    fn int_gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.registered(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        self.registered(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }
}

#[cfg(test)]
mod tests;
