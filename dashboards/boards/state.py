"""Documents: what services do to them, what met, whether regions hold the same, what is deleted."""

from boards.panels import (
    ANY_IS_BAD,
    ANY_IS_ODD,
    GREEN,
    LAG,
    LINK,
    PEER,
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
    BLOCKED,
    CONFLICTS,
    DIFFERING,
    PROMPT,
    RATE,
    rate,
)

UNREADABLE = "hubweave_state_unreadable_events_total"
EXPIRED = "hubweave_state_expired_deltas_total"
DISCARDED = "hubweave_state_discarded_documents_total"
GAPS = "hubweave_state_log_gaps_total"
DROPPED = "hubweave_state_parked_dropped_total"
FORGOTTEN = "hubweave_state_requests_forgotten_total"
EVICTED = "hubweave_state_evicted"
LEFT_OUT = "hubweave_state_left_out_deltas_total"
REDONE = "hubweave_state_redone_requests_total"

# What writes on their way explain, as recording.yml has it: writes a second times the mean lag of the slowest link.
WRITES = " + ".join(
    [
        rate("hubweave_state_merges_total", "region", "@region"),
        rate("hubweave_state_requests_total", "region", '@region, result="applied"'),
    ]
)
LAG_SUM, LAG_COUNT = (
    rate(f"hubweave_replication_lag_seconds_{part}", "region, peer", PROMPT) for part in ("sum", "count")
)
UNDER_WAY = f"({WRITES}) * on () group_left () max({LAG_SUM} / ({LAG_COUNT} > 0))"


def interval(metric):
    return f"sum by (region) (increase({metric}{{@region}}{RATE}))"


STATE = dashboard(
    "hubweave-state",
    "hubweave: state",
    "Documents: what services do to them, what met, whether all regions hold the same, and what is deleted.",
    [],
    [REGION, PEER, LAG],
    [
        stat(
            "Documents",
            "short",
            "Of all types, in the region that has most of each. Regions that hold the same have the same number.",
            "sum(max by (type) (hubweave_state_documents{@region}))",
        ),
        stat(
            "Conflicts, in this range",
            "short",
            "Pairs of writes that had not seen each other, to the same register or multi-value. Each region finds its own, so two "
            "regions that see the same one count two.",
            CONFLICTS,
            decimals=0,
        ),
        stat(
            "Ranges that differ",
            "short",
            "Of 4,096, between the two regions that differ most, when they last compared. Under load some always do: what is "
            "written is on its way. Without load it is 0 within a minute.",
            f"max({DIFFERING})",
            thresholds=steps((0, GREEN), (1, YELLOW)),
        ),
        stat(
            "Deleted and remembered",
            "short",
            "Deleted documents of all types, in the region that remembers most of each. They stay for two retentions, 30 days by "
            "default, and until all regions have seen the deletes.",
            "sum(max by (type) (hubweave_state_tombstones{@region}))",
        ),
        stat(
            "Deletes not seen by a region",
            "short",
            "Deleted documents, old enough to be forgotten, that one region has not seen the deletes of, or that does not answer.",
            f"max({BLOCKED})",
            thresholds=ANY_IS_ODD,
        ),
        stat(
            "Events without effect, in this range",
            "short",
            "About documents, that could not be read or done. The agent's log says which and why.",
            f"sum(increase({UNREADABLE}{{@region}}[$__range]))",
            thresholds=ANY_IS_BAD,
            decimals=0,
        ),
        row("Requests"),
        lines(
            "Requests of services",
            "reqps",
            "applied; duplicate: the Idempotency-Key was known; nothing: there was nothing to delete. What is refused is not in it.",
            query(
                rate("hubweave_state_requests_total", "region, type, result", "@region") + " > 0",
                "{{region}}: {{type}} {{result}}",
            ),
            custom=STACKED,
        ),
        lines(
            "Merged from other regions",
            "eps",
            "Writes of other regions, and whole documents that were fetched. Without load and without faults 0.",
            query(rate("hubweave_state_merges_total", "region, type", "@region"), "{{region}}: {{type}}"),
        ),
        lines(
            "Documents",
            "short",
            "By region and type. Lines of one type that stay apart: a region lacks some.",
            query("max by (region, type) (hubweave_state_documents{@region})", "{{region}}: {{type}}"),
        ),
        lines(
            "Writes on their way",
            "short",
            "What services did to documents here and the peer does not have, at most. They count in the RPO exposure of the link.",
            query("max by (region, peer) (hubweave_link_backlog_deltas{@link})", LINK),
        ),
        row("Conflicts"),
        lines(
            "Conflicts",
            "eps",
            "last_writer: a register showed one of the two and the other is lost to readers. kept_both: a multi-value shows both "
            "until somebody sets it. Each is an event `State Conflict` in the region's feed.",
            query(
                rate("hubweave_state_conflicts_total", "region, type, field, resolution", "@region"),
                "{{region}}: {{type}}.{{field}} {{resolution}}",
            ),
            custom=STACKED,
            w=14,
        ),
        table(
            "Conflicts by field, in this range",
            "In the region that found most. Many on one field: services of two regions write the same document; another kind of "
            "field, or one home region for each document, avoids it.",
            [
                (
                    "conflicts",
                    "short",
                    "max by (type, field, resolution) "
                    "(sum by (region, type, field, resolution) (increase(hubweave_state_conflicts_total{@region}[$__range])))",
                    None,
                )
            ],
            w=10,
            h=8,
        ),
        row("Do all regions hold the same"),
        matrix(
            "Ranges that differ",
            "short",
            "Of 4,096: between the row's region and the column's, when the row's last compared, about each 10 s. A peer that does "
            "not answer leaves the number as it was.",
            DIFFERING,
            w=8,
            h=8,
            thresholds=steps((0, GREEN), (1, YELLOW)),
        ),
        lines(
            "Ranges that differ, over time",
            "short",
            "`explained`: documents that are on their way, about, by the rate of writes and the slowest link's mean lag. The alert is at "
            "more than three times that, for 20 minutes, without falling.",
            query(DIFFERING, LINK),
            query(UNDER_WAY, "{{region}}: explained"),
        ),
        lines(
            "Documents that are wanted",
            "short",
            "They lack something that other writes stand on, and are fetched from the peers after 2 s. A number that stays: no "
            "peer has it, or none answers.",
            query("max by (region) (hubweave_state_wanted_documents{@region})", "{{region}}"),
        ),
        row("Deleted documents"),
        lines(
            "Remembered",
            "short",
            "Tombstones, by region and type.",
            query("max by (region, type) (hubweave_state_tombstones{@region})", "{{region}}: {{type}}"),
        ),
        lines(
            "Forgotten",
            "short",
            "In each interval: deletes that every region had seen, two retentions after them. 0 for the first 30 days.",
            query(interval("hubweave_state_collected_total"), "{{region}}"),
        ),
        lines(
            "Kept because of a region",
            "short",
            "Deletes, old enough to be forgotten, that the second region has not seen or does not answer for. Also where the "
            "file has no enabled link to it.",
            query(BLOCKED, "{{region}} because of {{peer}}"),
            thresholds=ANY_IS_ODD,
        ),
        lines(
            "Regions left out",
            "short",
            "1 while the documents of the first region do without the second one: deletes are forgotten without it, and what it "
            "wrote before is not merged.",
            query(f"max by (region, peer) ({EVICTED}{{@link}})", "{{region}} without {{peer}}"),
            thresholds=ANY_IS_ODD,
        ),
        row("Trouble, in each interval"),
        lines(
            "Events without effect",
            "short",
            "Deltas that could not be read: another version, or damage. `State Operation` events that could not be read or done: a "
            "service's mistake.",
            query(interval(UNREADABLE), "{{region}}"),
            thresholds=ANY_IS_BAD,
        ),
        lines(
            "Brought by comparing instead",
            "short",
            "What links did not bring in time: deltas older than a retention (expired), what the log had dropped (gaps in the "
            "log), deltas beyond the 64 of a document that may wait for an earlier one (dropped). Nothing is lost by it.",
            query(interval(EXPIRED), "{{region}}: expired"),
            query(interval(GAPS), "{{region}}: gaps in the log"),
            query(interval(DROPPED), "{{region}}: dropped"),
            thresholds=ANY_IS_ODD,
        ),
        lines(
            "Given up or forgotten early",
            "short",
            "Documents of a copy of the region that was older than a retention, given up and fetched from the peers (given up); "
            "Idempotency-Keys that a document forgot before their time, so that a late retry would count again (keys).",
            query(interval(DISCARDED), "{{region}}: given up"),
            query(interval(FORGOTTEN), "{{region}}: keys"),
            query(interval(LEFT_OUT), "{{region}}: of an evicted region, not merged"),
            query(interval(REDONE), "{{region}}: done again after its eviction"),
            thresholds=ANY_IS_ODD,
        ),
        row("Tables of regions on AWS"),
        lines(
            "Writes to tables",
            "short",
            "Writes that another agent was quicker than, tried again (conflicts); writes whose delta the bus did not take, which "
            "comparing brings to the peers (unsent); merges that an item has no room for, so their document waits until something "
            "is removed from it (too large). 0 for embedded regions.",
            query(interval("hubweave_state_write_conflicts_total"), "{{region}}: conflicts"),
            query(interval("hubweave_state_unsent_deltas_total"), "{{region}}: unsent"),
            query(interval("hubweave_state_too_large_total"), "{{region}}: too large"),
        ),
    ],
)
