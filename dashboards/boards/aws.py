"""Calls to AWS and their cost."""

from boards.panels import (
    ANY_IS_ODD,
    DRAWN,
    GREEN,
    LAG,
    LINK,
    OBJECTIVE,
    PEER,
    RED,
    STACKED,
    YELLOW,
    dashboard,
    lines,
    number,
    query,
    row,
    stat,
    steps,
    variable,
)
from boards.queries import (
    EXPOSURE,
    RATE,
    rate,
)

CALLS = "hubweave_aws_requests_total"
MONTH = "2592000"  # seconds, as `hubweave cost` has it


def dollars(count, price):
    """A month of a rate, at a price for a million."""
    return f"{count} * {MONTH} / 1e6 * ${price}"


DELIVERED = rate("hubweave_events_forwarded_total", "region", '@region, result="delivered"')
CLAIMED = rate("hubweave_events_forwarded_total", "region", '@region, result=~"delivered|duplicate"')
ENTERED = rate("hubweave_local_entries_total", "region", "@region")
ON_AWS = f" and on (region) sum by (region) ({CALLS})"
SQS = rate(CALLS, "region", '@region, service="sqs"')

AWS = dashboard(
    "hubweave-aws",
    "hubweave: AWS calls and cost",
    "Regions on EventBridge, SQS, DynamoDB and S3: calls, their outcomes, what they cost.",
    ["aws"],
    [
        variable("region", "Region", f"{CALLS}, region"),
        PEER,
        LAG,
        number("sqs_million", "SQS, $ per million", "0.40", "Requests, each 64 KiB."),
        number("events_million", "EventBridge, $ per million", "1.00", "Custom events, each 64 KiB."),
        number("writes_million", "DynamoDB, $ per million writes", "0.625", "On demand, each KiB of a row."),
    ],
    [
        stat("Calls", "reqps", "All calls to AWS of the chosen regions.", f"sum(rate({CALLS}{{@region}}{RATE}))", w=6),
        stat(
            "Not answered with ok",
            "percentunit",
            "Share of calls that were throttled, refused (4xx), failed (5xx) or not answered. A conditional write that loses is refused too.",
            f'(sum(rate({CALLS}{{@region, outcome!="ok"}}{RATE})) or vector(0)) / sum(rate({CALLS}{{@region}}{RATE}))',
            w=6,
            thresholds=steps((0, GREEN), (0.05, YELLOW), (0.25, RED)),
            decimals=1,
        ),
        stat(
            "A month at this rate",
            "currencyUSD",
            "Requests to SQS, events put on peers' buses, and rows of ledgers, at the prices above. Roughly: an event counts as one unit of "
            "64 KiB and a row as one KiB. `hubweave cost --measured` counts transfer, storage and reads as well.",
            f"sum(({dollars(SQS, 'sqs_million')}) + ({dollars(DELIVERED, 'events_million')})"
            f" + ({dollars(f'({CLAIMED} + {DELIVERED} + {ENTERED})', 'writes_million')}))",
            w=6,
            decimals=2,
        ),
        stat(
            "Possible repeats, in this range",
            "short",
            "Events that may have had a second effect on a managed bus.",
            "sum(increase(hubweave_possible_repeats_total{@link}[$__range]))",
            w=6,
            thresholds=ANY_IS_ODD,
        ),
        row("Calls"),
        lines(
            "Calls by service",
            "reqps",
            "EventBridge (events), SQS, DynamoDB, S3 and others.",
            query(rate(CALLS, "region, service", "@region"), "{{region}}: {{service}}"),
            custom=STACKED,
        ),
        lines(
            "Calls by operation",
            "reqps",
            "By AWS's name of the operation.",
            query(rate(CALLS, "service, operation", "@region"), "{{service}} {{operation}}"),
            custom=STACKED,
        ),
        lines(
            "Calls that did not end with ok",
            "reqps",
            "throttled; refused (4xx, often a permission); failed (5xx); unanswered.",
            query(
                rate(CALLS, "region, operation, outcome", '@region, outcome!="ok"'),
                "{{region}}: {{operation}} {{outcome}}",
            ),
            custom=STACKED,
        ),
        lines(
            "Throttled",
            "percentunit",
            "Share of each service's calls that AWS throttled. The agent slows down; ask for a higher quota.",
            query(
                f'sum by (region, service) (rate({CALLS}{{@region, outcome="throttled"}}{RATE}))'
                f" / sum by (region, service) (rate({CALLS}{{@region}}{RATE}))",
                "{{region}}: {{service}}",
            ),
        ),
        lines(
            "Calls for each event",
            "short",
            "Calls of the region for each event that its links brought to an end. Idle links still poll.",
            query(
                f"{rate(CALLS, 'region', '@region')} / ({rate('hubweave_events_forwarded_total', 'region', '@region')} > 0)",
                "{{region}}",
            ),
        ),
        lines(
            "Ledger rows read for verify",
            "cps",
            "Rows of the region's own table that `hubweave verify` read.",
            query(
                "sum by (region) (rate(hubweave_ledger_rows_read_total{@region}" + RATE + "))" + ON_AWS, "{{region}}"
            ),
        ),
        row("Cost, a month at this rate"),
        lines("SQS", "currencyUSD", "Requests at the price above.", query(dollars(SQS, "sqs_million"), "{{region}}")),
        lines(
            "EventBridge",
            "currencyUSD",
            "Events put on peers' buses, each as one unit of 64 KiB; without what services publish themselves.",
            query(dollars(DELIVERED, "events_million") + ON_AWS, "{{region}}"),
        ),
        lines(
            "DynamoDB writes",
            "currencyUSD",
            "A claim for each arrival, a mark for each delivery, a row for each local event.",
            query(dollars(f"({CLAIMED} + {DELIVERED} + {ENTERED})", "writes_million") + ON_AWS, "{{region}}"),
        ),
        row("What a managed bus cannot promise"),
        lines(
            "Possible repeats",
            "short",
            "In each interval: puts without an answer, and claims taken over from an agent that was lost.",
            query(
                "sum by (region, peer, cause) (increase(hubweave_possible_repeats_total{@link}" + RATE + "))",
                LINK + ": {{cause}}",
            ),
            thresholds=ANY_IS_ODD,
        ),
        lines(
            "Claims lost or left unmarked",
            "short",
            "In each interval: claims that had been taken over when they were to be marked; events published through the agent "
            "whose claim it could not mark before it stopped.",
            query("sum by (region, peer) (increase(hubweave_claims_lost_total{@link}" + RATE + "))", LINK + ": lost"),
            query(
                "sum by (region) (increase(hubweave_claims_unmarked_total{@region}" + RATE + "))",
                "{{region}}: unmarked",
            ),
            thresholds=ANY_IS_ODD,
        ),
        lines(
            "Local events at the ledger",
            "eps",
            "new, known, repeat (published twice here), late (a link had delivered the key: a second effect), conflict, malformed.",
            query(rate("hubweave_local_entries_total", "region, result", "@region"), "{{region}}: {{result}}"),
            custom=STACKED,
        ),
        lines(
            "Stamps audited",
            "eps",
            "genuine (came over a link), inherited (a service passed a stamp on), malformed.",
            query(rate("hubweave_stamps_audited_total", "region, result", "@region"), "{{region}}: {{result}}"),
            w=12,
        ),
        lines(
            "RPO exposure",
            "s",
            "At least 90 s while anything waits, as queues are counted late; an upper bound, above all while something is held.",
            query(EXPOSURE, LINK),
            thresholds=OBJECTIVE,
            custom=DRAWN,
            w=12,
        ),
    ],
)
