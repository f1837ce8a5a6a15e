//! One file for each kind of mistake, with the whole message that it gets.

use super::*;

#[track_caller]
fn refused(text: &str, lines: &[&str]) {
    let error = parse(text).unwrap_err();
    let lines: Vec<String> = lines.iter().map(|line| format!("x.toml, {line}")).collect();
    assert_eq!(error.lines().collect::<Vec<_>>(), lines, "\n{error}");
}

#[track_caller]
fn two_refused(rest: &str, lines: &[&str]) {
    refused(&format!("{TWO}{rest}"), lines);
}

#[test]
fn a_mistyped_key_is_told_the_nearest_known_one() {
    refused(
        "[[region]]\nname = \"a\"\napii = \"127.0.0.1:1\"\n[clutser]\nname = \"x\"\n",
        &[
            "line 3: region[0].apii: \"127.0.0.1:1\": unknown key, did you mean `api`?",
            "line 4: clutser: [clutser]: unknown key, did you mean `cluster`?",
        ],
    );
}

#[test]
fn an_unknown_key_far_from_all_is_told_what_there_is() {
    two_refused(
        "[heartbeat]\nfrequency = 3\n[state.t.dynamodb]\ntable = \"abc\"\n\"x\\ny\" = 1\n",
        &[
            "line 6: heartbeat.frequency: 3: unknown key, expected one of `interval`",
            "line 9: state.t.dynamodb.\"x\\ny\": 1: unknown key, expected one of `table` or `key`",
        ],
    );
}

#[test]
fn wrong_toml_is_one_line_with_its_key() {
    refused(
        "[[region]]\nname = \"a\"\n\n[[region]]\nname = \"b\"\napi = 127.0.0.1:7401\n",
        &["line 6: region[1].api: 127.0.0.1:7401: not TOML: invalid float (text stands in quotes)"],
    );
    refused(
        "[[region]]\nname = \"a\n",
        &["line 2: region[0].name: \"a: not TOML: invalid basic string, expected `\"`"],
    );
    refused("[cluster\n", &["line 1: (syntax): [cluster: not TOML: unclosed table, expected `]`"]);
    refused(
        "[auth]\napi_token = s3cret!\n",
        &["line 2: auth.api_token: …: not TOML: string values must be quoted, expected literal string"],
    );
}

#[test]
fn a_key_given_twice_is_wrong_toml() {
    refused("[cluster]\nname = \"a\"\nname = \"b\"\n", &["line 3: cluster.name: \"b\": not TOML: duplicate key"]);
}

#[test]
fn an_undefined_variable_is_named_with_its_line() {
    refused(
        "[[region]]\nname = \"a\"\napi = \"${HOST}:1\"\nadmin = \"${no good}\"\n",
        &[
            "line 3: region[0].api: ${HOST}: the environment variable HOST is not set",
            "line 4: region[0].admin: ${no good}: expected the name of an environment variable, `${NAME}`; \
             write `$${` for a literal `${`",
        ],
    );
}

#[test]
fn a_topology_without_regions_is_none() {
    refused("", &["line 1: region: (missing): a topology has at least one `[[region]]`"]);
    refused("[region]\nname = \"a\"\n", &["line 1: region: [region]: expected an array of tables: write `[[region]]`"]);
}

#[test]
fn a_region_needs_a_name_of_its_own() {
    refused(
        "[[region]]\nname = \"EU\"\n[[region]]\n[[region]]\nname = \"a\"\n[[region]]\nname = \"a\"\n",
        &[
            "line 2: region[0].name: \"EU\": a region's name has 1 to 63 lower-case letters, digits and `-`",
            "line 3: region[1].name: (missing): every region needs a name, such as `eu-central-1`",
            "line 7: region[3].name: \"a\": region[2] has this name already",
        ],
    );
}

#[test]
fn a_value_of_another_type_is_told_what_is_expected() {
    refused(
        "cluster = 5\n[[region]]\nname = 7\n[faults]\nenabled = \"yes\"\n[limits]\nmax_hops = 1.5\n",
        &[
            "line 1: cluster: 5: expected a table, found an integer",
            "line 3: region[0].name: 7: expected a string, found an integer",
            "line 5: faults.enabled: \"yes\": expected `true` or `false`, found a string",
            "line 7: limits.max_hops: 1.5: expected an integer, found a float",
        ],
    );
}

#[test]
fn a_duration_or_size_without_its_unit_is_refused() {
    two_refused(
        "[heartbeat]\ninterval = 5\n[log]\nretention = \"1w\"\nmax_size = \"20\"\n",
        &[
            "line 6: heartbeat.interval: 5: expected a duration with its unit (ms, s, m, h, d), such as \
             `500ms` or `15d`",
            "line 8: log.retention: \"1w\": expected a duration with its unit (ms, s, m, h, d), such as \
             `500ms` or `15d`",
            "line 9: log.max_size: \"20\": expected a size with its unit (B, KiB, MiB, GiB), such as `20MiB`",
        ],
    );
}

#[test]
fn values_out_of_bounds_are_told_the_bounds() {
    two_refused(
        "[heartbeat]\ninterval = \"0s\"\n[limits]\nmax_connections = 0\n[replication]\nbatch_bytes = \"1B\"\n\
         batch_events = -1\n[idempotency]\nretention = \"400d\"\n[cluster]\nmin_active = 3\n",
        &[
            "line 6: heartbeat.interval: \"0s\": must be between 10ms and 1h",
            "line 8: limits.max_connections: 0: must be between 1 and 1000000",
            "line 10: replication.batch_bytes: \"1B\": must be between 1KiB and 64MiB",
            "line 11: replication.batch_events: -1: must be between 1 and 65536",
            "line 13: idempotency.retention: \"400d\": must be between 1s and 366d",
            "line 15: cluster.min_active: 3: must be between 1 and the number of regions, 2",
        ],
    );
}

#[test]
fn a_listener_address_must_parse_and_stand_once() {
    refused(
        "[[region]]\nname = \"a\"\napi = \"127.0.0.1\"\nadmin = \"127.0.0.1:99999\"\n\
         [[region]]\nname = \"b\"\napi = \"127.0.0.1:9\"\nadmin = \"127.0.0.1:9\"\n",
        &[
            "line 3: region[0].api: \"127.0.0.1\": expected HOST:PORT, such as `127.0.0.1:7401`",
            "line 4: region[0].admin: \"127.0.0.1:99999\": the port must be between 0 and 65535",
            "line 8: region[1].admin: \"127.0.0.1:9\": region[1].api listens there already",
        ],
    );
}

#[test]
fn a_default_port_that_is_taken_is_told_at_the_region() {
    refused(
        "[[region]]\nname = \"a\"\nadmin = \"127.0.0.1:7402\"\n\n[[region]]\nname = \"b\"\n",
        &["line 5: region[1].api: 127.0.0.1:7402: region[0].admin listens there already"],
    );
}

#[test]
fn a_listener_away_from_loopback_needs_tokens() {
    refused(
        "[[region]]\nname = \"a\"\napi = \"0.0.0.0:1\"\nadmin = \"10.0.0.1:2\"\n[auth]\napi_token = \"t\"\n",
        &[
            "line 3: region[0].api: \"0.0.0.0:1\": a listener away from loopback needs peer_token in [auth]",
            "line 4: region[0].admin: \"10.0.0.1:2\": a listener away from loopback needs admin_token in [auth]",
        ],
    );
}

#[test]
fn a_bad_token_is_not_shown() {
    two_refused(
        "[auth]\napi_token = \"s3 cret\"\n",
        &["line 6: auth.api_token: \"…\": a token is not empty and has visible ASCII characters only, as it travels \
           in a header"],
    );
}

#[test]
fn two_regions_do_not_share_a_directory() {
    refused(
        "[[region]]\nname = \"a\"\n[[region]]\nname = \"b\"\ndata_dir = \"./data//a/\"\n",
        &["line 5: region[1].data_dir: \"./data//a/\": region[0] keeps its data there already"],
    );
}

#[test]
fn the_backend_and_its_section_go_together() {
    refused(
        "[[region]]\nname = \"a\"\nbackend = \"awz\"\n[[region]]\nname = \"b\"\nbackend = \"aws\"\n\
         [[region]]\nname = \"c\"\n[region.aws]\nhub = \"h\"\n[[region]]\nname = \"d\"\nbackend = \"aws\"\n\
         [region.aws]\nbucket = \"B\"\nexternal_id = \"x\"\n\
         endpoints = { sqs = \"ftp://\", e = { s3 = \"http://s\" } }\n",
        &[
            "line 3: region[0].backend: \"awz\": expected `embedded` or `aws`, did you mean `aws`?",
            "line 4: region[1].aws.hub: (missing): an AWS region needs its event bus, by name or ARN",
            "line 9: region[2].aws: [region.aws]: only a region with `backend = \"aws\"` has this section",
            "line 14: region[3].aws.hub: (missing): an AWS region needs its event bus, by name or ARN",
            "line 15: region[3].aws.bucket: \"B\": a bucket's name has 3 to 63 lower-case letters, digits, `-` and `.`",
            "line 16: region[3].aws.external_id: \"x\": goes with `role_arn`, which is missing",
            "line 17: region[3].aws.endpoints.sqs: \"ftp://\": expected a URL that starts with `https://` or `http://`",
            "line 17: region[3].aws.endpoints: { sqs = \"ftp://\", e = { s3 = \"http://s\" } }: \
             `e` is no region of this file",
        ],
    );
}

#[test]
fn a_link_joins_two_known_regions_once() {
    two_refused(
        "[[link]]\nfrom = \"a\"\nto = \"c\"\n[[link]]\nfrom = \"a\"\nto = \"a\"\n[[link]]\nto = \"b\"\n\
         [[link]]\nfrom = \"a\"\nto = \"b\"\n[[link]]\nfrom = \"a\"\nto = \"b\"\nmode = \"shadw\"\n",
        &[
            "line 7: link[0].to: \"c\": is no region of this file, expected `a` or `b`",
            "line 10: link[1].to: \"a\": a link joins two different regions",
            "line 11: link[2].from: (missing): a link needs both its regions, `from` and `to`",
            "line 18: link[4].to: \"b\": link[3] is from a to b already",
            "line 19: link[4].mode: \"shadw\": expected `deliver` or `shadow`, did you mean `shadow`?",
        ],
    );
}

#[test]
fn a_pattern_is_a_table_or_a_json_object() {
    two_refused(
        "[replication]\npattern = '{\"source\":'\n[[link]]\nfrom = \"a\"\nto = \"b\"\n\
         pattern = { time = [2026-11-23] }\n[[link]]\nfrom = \"b\"\nto = \"a\"\npattern = \"[]\"\n",
        &[
            "line 6: replication.pattern: '{\"source\":': not JSON: EOF while parsing a value at line 1 column 10",
            "line 10: link[0].pattern: { time = [2026-11-23] }: a pattern cannot hold the TOML date 2026-11-23: \
             put quotes around it",
            "line 14: link[1].pattern: \"[]\": expected an event pattern: a table, or a JSON object in a string",
        ],
    );
}

#[test]
fn json_pointers_are_checked_one_by_one() {
    two_refused(
        "[idempotency]\nkey = [\n  \"/detail/ok\",\n  \"detail/id\",\n  \"/detail/~2\",\n  \"/detial/id\",\n  5,\n]\n\
         [claim_check]\nreference = [\"/source\"]\nmissing = \"drop\"\n",
        &[
            "line 8: idempotency.key[1]: \"detail/id\": a JSON pointer starts with `/`, as in `/detail/idempotencyKey`",
            "line 9: idempotency.key[2]: \"/detail/~2\": in a JSON pointer `~` is written `~0`, and `/` within a \
             name `~1`",
            "line 10: idempotency.key[3]: \"/detial/id\": an event has no member `detial`: the pointer should start \
             with `/detail/`",
            "line 11: idempotency.key[4]: 5: expected a string, found an integer",
            "line 14: claim_check.reference[0]: \"/source\": references stand in an event's detail: the pointer should \
             start with `/detail/`",
            "line 15: claim_check.missing: \"drop\": expected `hold` or `forward`",
        ],
    );
}

#[test]
fn a_field_is_of_a_known_kind() {
    two_refused(
        "[state.profile]\na = \"sett\"\nb = \"map\"\nc = { map = \"maxx\" }\nd = { mop = \"max\" }\nuser = \"max\"\n\
         dynamodb = { key = \"user\" }\n[state.9lives]\na = 1\n",
        &[
            "line 6: state.profile.a: \"sett\": expected `register`, `multi-value`, `max`, `min`, `counter`, `set` \
             or `flag`, did you mean `set`?",
            "line 7: state.profile.b: \"map\": a map says what it is a map of: `{ map = \"max\" }`",
            "line 8: state.profile.c.map: \"maxx\": expected `register`, `multi-value`, `max`, `min`, `counter`, `set` \
             or `flag`, did you mean `max`?",
            "line 9: state.profile.d: { mop = \"max\" }: expected a kind, or `{ map = KIND }`",
            "line 10: state.profile.user: \"max\": the table's key names the document and can be no field of it",
            "line 12: state.9lives: [state.9lives]: a document type's name is a letter, then at most 127 letters, \
             digits, `_` and `-`",
            "line 13: state.9lives.a: 1: expected `register`, `multi-value`, `max`, `min`, `counter`, `set` or `flag`",
        ],
    );
}

#[test]
fn bounds_that_belong_together_must_fit() {
    two_refused(
        "[replication]\nretry_max = \"50ms\"\n[[link]]\nfrom = \"a\"\nto = \"b\"\nretry_min = \"20s\"\n\
         batch_bytes = \"16MiB\"\n[log]\nmax_size = \"100MiB\"\n[limits]\nmax_entry_bytes = \"9MiB\"\n",
        &[
            "line 6: replication.retry_max: \"50ms\": retry_min (100ms) must not exceed retry_max (50ms)",
            "line 10: link[0].retry_min: \"20s\": retry_min (20s) must not exceed retry_max (50ms)",
            "line 11: link[0].batch_bytes: \"16MiB\": must not exceed limits.max_request_bytes (8MiB)",
            "line 12: log.segment_size: 64MiB: must be at most half of log.max_size (100MiB)",
            "line 15: limits.max_entry_bytes: \"9MiB\": must not exceed limits.max_request_bytes (8MiB)",
        ],
    );
}

#[test]
fn a_ledger_that_forgets_too_early_is_refused_with_the_sum() {
    two_refused(
        "[idempotency]\nretention = \"1d\"\n",
        &["line 6: idempotency.retention: \"1d\": a ledger must keep its keys as long as an event can come again: \
           log 1d + last attempt 20s + margin 1h = 1d1h20s"],
    );
    two_refused(
        "[log]\nretention = \"15d\"\n[claim_check]\nreference = [\"/detail/x\"]\n",
        &["line 6: log.retention: \"15d\": longer than idempotency.retention (15d); a ledger must keep its keys as \
           long as an event can come again: log 15d + payload wait 10m + last attempt 20s + margin 1h = 15d1h10m20s"],
    );
    refused(
        "[[region]]\nname = \"a\"\nbackend = \"aws\"\naws = { hub = \"h\" }\n[idempotency]\nretention = \"14d\"\n",
        &["line 6: idempotency.retention: \"14d\": a ledger must keep its keys as long as an event can come again: \
           EventBridge's retries 1d + queue and dead letters 14d = 15d"],
    );
}

#[test]
fn an_attempt_on_aws_ends_before_its_lease() {
    refused(
        "[[region]]\nname = \"a\"\n[[region]]\nname = \"b\"\nbackend = \"aws\"\naws = { hub = \"h\" }\n\
         [[link]]\nfrom = \"a\"\nto = \"b\"\nattempt_timeout = \"15s\"\n",
        &["line 10: link[0].attempt_timeout: \"15s\": must be less than the lease of a claim on AWS, 15s"],
    );
}
