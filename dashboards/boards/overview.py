"""Whether all regions have everything, how far behind each link is, what a loss would cost, where it hurts."""

from boards.panels import (
    ANY_IS_BAD,
    ANY_IS_ODD,
    DRAWN,
    GREEN,
    LAG,
    LINK,
    OBJECTIVE,
    PEER,
    RED,
    REGION,
    STACKED,
    YELLOW,
    dashboard,
    lines,
    matrix,
    query,
    row,
    stat,
    steps,
    table,
)
from boards.queries import (
    BACKLOG,
    BLOCKED,
    CONFLICTS,
    DIFFERING,
    EXPOSURE,
    HEARTBEAT_AGE,
    LETTERS,
    OFFSET,
    RATE,
    STATE,
    STATES,
    WATERMARK_AGE,
    quantile,
    rate,
    within,
)

# An agent without an answer, a link beyond the objective, letters, and what was lost since the agent started.
TROUBLES = (
    '(count(up{job="hubweave"} == 0) or vector(0))'
    f" + (count(({EXPOSURE} > $objective) or ({LETTERS} > 0)"
    " or (max by (region, peer) (hubweave_link_lost_events_total{@link}) > 0)) or vector(0))"
    f" + (count({HEARTBEAT_AGE} > 30) or vector(0))"
)

OVERVIEW = dashboard(
    "hubweave-overview",
    "hubweave: overview",
    "Whether all regions have everything, how far behind each link is, what an evacuation would lose, and where it hurts.",
    [],
    [REGION, PEER, LAG],
    [
        row("In ten seconds"),
        stat(
            "All regions have everything",
            "none",
            "`yes`: every agent answers and is heard, nothing has waited for longer than the objective, there are no dead letters "
            "and no losses. Else the number of agents and links that have one of these.",
            TROUBLES,
            thresholds=ANY_IS_BAD,
            mappings=[{"type": "value", "options": {"0": {"text": "yes", "color": GREEN, "index": 0}}}],
        ),
        stat(
            "Furthest behind, p99",
            "s",
            "The 99th percentile of lag on the slowest link, from acceptance at home to the peer's durable answer. Events and "
            "heartbeats; what is still waiting is not in it, but in the exposure.",
            f"max({quantile(0.99)})",
            thresholds=OBJECTIVE,
            decimals=1,
        ),
        stat(
            "An evacuation would lose, now",
            "s",
            "How far back the oldest event goes that some peer does not have: the worst link's exposure. 0: every peer has "
            "everything. On AWS at least 90 s while anything waits, as queues are counted late.",
            f"max({EXPOSURE})",
            thresholds=OBJECTIVE,
            decimals=1,
        ),
        stat(
            "Events at stake",
            "short",
            "Events accepted in one region that one of its links has not brought to an end: the worst link's backlog.",
            f"max({BACKLOG})",
            thresholds=steps((0, GREEN), (1000, YELLOW), (100000, RED)),
        ),
        stat(
            "Dead letters",
            "short",
            "Events that can never be delivered as they are, of all links. Each waits for a person.",
            f"sum({LETTERS})",
            thresholds=ANY_IS_BAD,
        ),
        stat(
            "Alerts firing",
            "short",
            "Of hubweave's alerts; needs the rules in dashboards/prometheus. 0 without the rules.",
            'count(ALERTS{alertname=~"Hubweave.*", alertstate="firing"}) or vector(0)',
            thresholds=ANY_IS_BAD,
        ),
        row("Where it hurts"),
        matrix(
            "Links: RPO exposure",
            "s",
            "What losing the row's region now would cost the column's, in seconds. A cell leads to the link.",
            EXPOSURE,
            thresholds=OBJECTIVE,
            decimals=1,
        ),
        matrix(
            "Links: lag, p99",
            "s",
            "99th percentile of the lag of events and heartbeats on each link. Empty: nothing was delivered.",
            quantile(0.99),
            thresholds=OBJECTIVE,
            decimals=3,
        ),
        matrix(
            "Links: state",
            "none",
            "retrying: sends fail. refused: the peer takes nothing. paused: by an operator. disabled: in the file.",
            STATE,
            mappings=STATES,
        ),
        matrix(
            "Links: backlog",
            "short",
            "Events that the link has not brought to an end; an upper bound while it filters.",
            BACKLOG,
            thresholds=steps((0, GREEN), (1000, YELLOW), (100000, RED)),
        ),
        table(
            "What fires",
            "Hubweave's alerts that fire, with what they are about; the runbook is docs/OPERATIONS.md.",
            [
                (
                    "firing",
                    "none",
                    "max by (alertname, severity, region, peer, origin, cause, reason, kind, invariant, instance) "
                    '(ALERTS{alertname=~"Hubweave.*", alertstate="firing"})',
                    None,
                )
            ],
            h=6,
            hidden=("Time", "firing"),
        ),
        row("Regions"),
        table(
            "Regions",
            "One row for each region: its state and version, traffic, log, letters, and what its loss would cost.",
            [
                ("is", "none", "max by (region, state) (hubweave_region_state{@region} == 1)", None),
                ("runs", "none", "max by (region, version) (hubweave_build_info{@region})", None),
                ("accepted", "eps", rate("hubweave_events_accepted_total", "region", "@region"), None),
                ("arrived", "eps", rate("hubweave_events_applied_total", "region", "@region"), None),
                (
                    "exposure",
                    "s",
                    "max by (region) (hubweave_rpo_exposure_seconds{@link})",
                    OBJECTIVE,
                ),
                (
                    "dead letters",
                    "short",
                    "sum by (region) (max by (region, peer) (hubweave_dead_letters{@link}))",
                    ANY_IS_BAD,
                ),
                ("log", "bytes", "max by (region) (hubweave_log_bytes{@region})", None),
                (
                    "broken promises",
                    "short",
                    "sum by (region) (hubweave_invariant_violations_total{@region})",
                    ANY_IS_BAD,
                ),
            ],
            h=6,
            hidden=("Time", "is", "runs"),
        ),
        lines(
            "Heartbeats: seconds since the last",
            "s",
            "At each region (first name), for each region that it should hear. One a second by default, on AWS every ten; the "
            "alert is at 30 s. Absent until the first has come.",
            query(HEARTBEAT_AGE, "{{region}} hears {{origin}}"),
            custom=DRAWN,
            thresholds=steps((0, GREEN), (30, RED)),
        ),
        lines(
            "Events taken in",
            "eps",
            "What services published in each region, without repeats.",
            query(rate("hubweave_events_accepted_total", "region", "@region"), "{{region}}"),
        ),
        lines(
            "Events arrived",
            "eps",
            "What came over links and took effect, by region and origin.",
            query(rate("hubweave_events_applied_total", "region, origin", "@arrivals"), "{{region}} from {{origin}}"),
        ),
        row("Over time"),
        lines(
            "Lag, p99",
            "s",
            "99th percentile of the lag of events and heartbeats. The line is the objective.",
            query(quantile(0.99), LINK, exemplars=True),
            thresholds=OBJECTIVE,
            custom=DRAWN,
            w=12,
        ),
        lines(
            "RPO exposure",
            "s",
            "What losing a region would have cost its peers, in seconds. The line is the objective.",
            query(EXPOSURE, LINK),
            thresholds=OBJECTIVE,
            custom=DRAWN,
            w=12,
        ),
        lines(
            "Watermark age",
            "s",
            "Everything older than this is at the peer, held, or in the dead letters. It follows the heartbeats; a straight "
            "climb is a link that stands.",
            query(WATERMARK_AGE, LINK),
            thresholds=OBJECTIVE,
            custom=DRAWN,
        ),
        lines(
            "Within the objective",
            "percentunit",
            "The share of deliveries, events and heartbeats, that took no longer than the objective. Alerts go by 99.9 % of a "
            "month. A link that delivers nothing shows nothing: look at the exposure.",
            query(within("region, peer"), LINK),
            thresholds=steps((0, RED), (0.999, GREEN)),
            custom=DRAWN,
            highest=1,
        ),
        lines("Dead letters", "short", "That wait for a person, by link.", query(LETTERS, LINK), thresholds=ANY_IS_BAD),
        lines(
            "Conflicts",
            "eps",
            "One key with two payloads: at home (a publish was refused) or at a peer (the event went to the dead letters). "
            "Somebody uses keys wrongly.",
            query(
                'sum by (region) (rate(hubweave_events_deduplicated_total{@region, result="conflict"}' + RATE + "))",
                "{{region}}, published",
            ),
            query(
                'sum by (region, origin) (rate(hubweave_arrivals_suppressed_total{@arrivals, result="conflict"}'
                + RATE
                + "))",
                "{{region}}, from {{origin}}",
            ),
        ),
        lines(
            "Clock offset",
            "s",
            "Between the two ends of a link, as the sender measured it. Above half a second one of them is off.",
            query(OFFSET, LINK),
            thresholds=steps((0, GREEN), (0.5, RED)),
            custom=DRAWN,
        ),
        lines(
            "Injected faults in force",
            "short",
            "What hurts then was ordered.",
            query("sum by (region, kind) (hubweave_faults_active{@region})", "{{region}}: {{kind}}"),
            thresholds=ANY_IS_ODD,
        ),
        row("Documents"),
        stat(
            "Documents",
            "short",
            "Of all types; more is on the dashboard `hubweave: state`. No data where the file has no document types.",
            "sum(max by (type) (hubweave_state_documents{@region}))",
            w=6,
        ),
        stat(
            "Conflicts between writes, in this range",
            "short",
            "Pairs of writes to one field that had not seen each other; each region counts its own.",
            CONFLICTS,
            w=6,
            decimals=0,
        ),
        stat(
            "Ranges of documents that differ",
            "short",
            "Of 4,096, between the two regions that differ most. Under load some always do; without, 0 within a minute.",
            f"max({DIFFERING})",
            w=6,
            thresholds=steps((0, GREEN), (1, YELLOW)),
        ),
        stat(
            "Deletes not seen by a region",
            "short",
            "Deleted documents that are old enough to be forgotten and stay because of the region that lacks most.",
            f"max({BLOCKED})",
            w=6,
            thresholds=ANY_IS_ODD,
        ),
        row("Publishing"),
        lines(
            "Publishes refused",
            "eps",
            "Entries of publish requests that were refused, by error code.",
            query(rate("hubweave_events_refused_total", "region, code", "@region"), "{{region}}: {{code}}"),
            custom=STACKED,
        ),
        lines(
            "Known keys",
            "eps",
            "Local publishes (`repeat`) and arrivals (`duplicate`) under a key that the region knew: the ledger at work.",
            query(
                'sum by (region) (rate(hubweave_events_deduplicated_total{@region, result="repeat"}' + RATE + "))",
                "{{region}}: repeat",
            ),
            query(
                'sum by (region, origin) (rate(hubweave_arrivals_suppressed_total{@arrivals, result="duplicate"}'
                + RATE
                + "))",
                "{{region}} from {{origin}}: duplicate",
            ),
        ),
        lines(
            "Requests answered with 4xx or 5xx",
            "reqps",
            "By the api listener, by route and status. 503: draining or overloaded.",
            query(
                rate("hubweave_api_requests_total", "region, route, status", '@region, status=~"[45].."'),
                "{{region}}: {{status}} {{route}}",
            ),
            custom=STACKED,
        ),
        lines(
            "Log",
            "bytes",
            "Size of the hub's log. At `log.max_size`, 8 GiB by default, undelivered events are dropped.",
            query("max by (region) (hubweave_log_bytes{@region})", "{{region}}"),
            w=12,
        ),
        lines(
            "Promises found broken",
            "short",
            "By the agents themselves, since their start. Anything above 0 is a bug: docs/OPERATIONS.md, A promise was found broken.",
            query(
                "sum by (region, invariant) (hubweave_invariant_violations_total{@region})", "{{region}}: {{invariant}}"
            ),
            thresholds=ANY_IS_BAD,
            w=12,
        ),
    ],
)
