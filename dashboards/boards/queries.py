"""Queries that several dashboards ask.

Several agents of one AWS region: counters are added up, of gauges the largest counts (`max by (region, peer)`).
"""

from boards.panels import BLUE, GREEN, GREY, ORANGE, RED, WITHIN, texts

RATE = "[$__rate_interval]"
# What the objective is about: objects take as long as they are large.
PROMPT = 'stream=~"events|heartbeat"'

EXPOSURE = "max by (region, peer) (hubweave_rpo_exposure_seconds{@link})"
BACKLOG = "max by (region, peer) (hubweave_link_backlog_events{@link})"
LETTERS = "max by (region, peer) (hubweave_dead_letters{@link})"
WATERMARK_AGE = "time() - (max by (region, peer) (hubweave_link_watermark_timestamp_seconds{@link}) > 0)"
HEARTBEAT_AGE = "time() - (max by (region, origin) (hubweave_heartbeat_received_timestamp_seconds{@arrivals}) > 0)"
DIFFERING = "max by (region, peer) (hubweave_digest_mismatched_ranges{@link})"
BLOCKED = "max by (region, peer) (hubweave_gc_blocked_by{@link})"
CONFLICTS = "sum(increase(hubweave_state_conflicts_total{@region}[$__range]))"
OFFSET = "max by (region, peer) (abs(hubweave_clock_offset_seconds{@link}))"
STATES = texts(
    **{
        "0": ("active", GREEN),
        "1": ("paused", BLUE),
        "2": ("disabled", GREY),
        "3": ("retrying", ORANGE),
        "4": ("refused", RED),
    }
)
STATE = "max by (region, peer) ({})".format(
    " or ".join(
        f'(hubweave_link_state{{@link, state="{state}"}} == 1) * {at}'
        for at, state in enumerate(["active", "paused", "disabled", "retrying", "refused"])
    )
)


def quantile(q, by="region, peer", which=PROMPT):
    # Without deliveries it is NaN, which is not at least 0.
    return (
        f"histogram_quantile({q}, sum by (le, {by}) "
        f"(rate(hubweave_replication_lag_seconds_bucket{{@link, {which}}}{RATE}))) >= 0"
    )


def within(by, over=RATE):
    """The share of deliveries within the objective; nothing where nothing was delivered."""
    by = f" by ({by})" if by else ""
    return (
        f"sum{by} (rate(hubweave_replication_lag_seconds_bucket{{@link, {PROMPT}, {WITHIN}}}{over}))"
        f" / (sum{by} (rate(hubweave_replication_lag_seconds_count{{@link, {PROMPT}}}{over})) > 0)"
    )


def rate(metric, by, matchers):
    return f"sum by ({by}) (rate({metric}{{{matchers}}}{RATE}))"
