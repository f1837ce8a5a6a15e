"""Which regions serve users, what leaving one would lose, failovers and drills."""

from boards.panels import (
    ANY_IS_BAD,
    ANY_IS_ODD,
    BLUE,
    GREEN,
    GREY,
    LAG,
    LINK,
    ORANGE,
    PEER,
    RED,
    REGION,
    dashboard,
    lines,
    matrix,
    query,
    row,
    stat,
    steps,
    table,
    texts,
)
from boards.queries import BACKLOG, EXPOSURE, RATE

SERVES = "max by (region) (hubweave_region_state{@region, state=\"active\"})"
STATE = "max by (region) ({})".format(
    " or ".join(
        f'(hubweave_region_state{{@region, state="{state}"}} == 1) * {at}'
        for at, state in enumerate(["active", "recovering", "draining", "evacuated"])
    )
)
STATES = texts(
    **{"0": ("active", GREEN), "1": ("recovering", BLUE), "2": ("draining", ORANGE), "3": ("evacuated", GREY)}
)
SUSPECTED = "max by (region, peer) (hubweave_region_suspected{@link})"
HEARD = texts(**{"0": ("heard", GREEN), "1": ("not heard", RED)})
DURATION = "hubweave_failover_duration_seconds"
DRILL = "max by (drill) (hubweave_drill_last_run_timestamp_seconds{{@region, verdict=\"{}\"}})"


def age(verdict):
    """Seconds; nothing for a drill that never ended so."""
    last = DRILL.format(verdict)
    return f"(time() - ({last} > 0)) or ({last} == 0) * -1"


NEVER = texts(**{"-1": ("never", GREY)})

FAILOVER = dashboard(
    "hubweave-failover",
    "hubweave: failover and drills",
    "Which regions serve users, what leaving one would lose right now, how failovers went, and when drills last passed.",
    [],
    [REGION, PEER, LAG],
    [
        stat(
            "Regions that serve",
            "short",
            "Active in their own eyes. A region that is cut off and was evacuated by the others still counts: it does not know.",
            f"sum({SERVES})",
            thresholds=steps((0, RED), (1, GREEN)),
        ),
        stat(
            "Not heard of",
            "short",
            "Pairs of regions: the first heard nothing of the second for longer than failover.suspect_after.",
            f"sum({SUSPECTED})",
            thresholds=ANY_IS_BAD,
        ),
        stat(
            "Would be lost, at most",
            "s",
            "RPO exposure: of the worst link, how old the oldest event is that the peer does not have. What an ungraceful evacuation of its home "
            "would lose now, until that region can be read again.",
            f"max({EXPOSURE})",
            thresholds=steps((0, GREEN), (5, ORANGE), (60, RED)),
        ),
        stat(
            "To bring over first",
            "short",
            "Events: what a graceful evacuation has to wait for, on the link that has most.",
            f"max({BACKLOG})",
        ),
        stat(
            "Decisions that not all know",
            "short",
            "The difference between the regions' last epochs. Above 0 for more than some seconds: a region cannot be reached.",
            "max(hubweave_region_epoch{@region}) - min(hubweave_region_epoch{@region})",
            thresholds=ANY_IS_ODD,
        ),
        stat(
            "Failovers, in this range",
            "short",
            "Evacuations and returns, by whichever agent coordinated.",
            f'sum(increase({DURATION}_count{{@region, phase="total"}}[$__range]))',
            decimals=0,
        ),
        row("Who serves"),
        lines(
            "State of each region",
            "short",
            "0 active, 1 recovering, 2 draining, 3 evacuated, in its own eyes. `hubweave failover status` says who decided it and why.",
            query(STATE, "{{region}}"),
            mappings=STATES,
            w=12,
        ),
        matrix(
            "Who hears whom",
            "short",
            "The row's region of the column's. A region that nobody hears is lost; one that a single other does not hear has a broken way.",
            SUSPECTED,
            thresholds=steps((0, GREEN), (1, RED)),
            mappings=HEARD,
        ),
        row("What leaving a region would lose"),
        lines(
            "RPO exposure",
            "s",
            "How old the oldest event is that the peer does not have. 0: it has everything.",
            query(EXPOSURE, LINK),
        ),
        lines("Backlog", "short", "Events that the peer does not have.", query(BACKLOG, LINK)),
        row("Failovers"),
        lines(
            "How long each part took",
            "s",
            "Mean of those in the interval. assess: what survivors know; vote: a majority's; drain, catch_up: links; compare: documents.",
            query(
                f"sum by (phase) (increase({DURATION}_sum{{@region}}{RATE})) / sum by (phase) (increase({DURATION}_count{{@region}}{RATE}))",
                "{{phase}}",
            ),
        ),
        lines(
            "Failovers",
            "short",
            "In each interval, by the agent that coordinated.",
            query(f'sum by (region) (increase({DURATION}_count{{@region, phase="total"}}{RATE}))', "{{region}}"),
        ),
        row("Drills"),
        table(
            "When each drill last ended",
            "By verdict. The alert is at 30 days without a pass, for drills that ever passed, and for a cluster of that age where none did.",
            [("passed", "s", age("passed"), None), ("failed", "s", age("failed"), None)],
            h=12,
        ),
    ],
)
