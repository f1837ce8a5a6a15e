"""MiniStack with some gaps closed: the AWS that the tests run against.

    GATEWAY_PORT=4566 BIND_HOST=127.0.0.1 python tests/emulated_aws.py

Ready when `GET /_ministack/health` answers. Regions and accounts share the process. It ends when standard input does, so
that it does not outlive the test that started it; `--stay` keeps it.

What is closed here: a rule's target may be a bus of another region; PutEvents checks entries (`InvalidArgument`,
`MalformedDetail`) and the size of the request as AWS does; an event keeps the caller's `Time`; a message that was sent
in a batch keeps its trace header; S3 copies nothing to where something stands if `If-None-Match` says so, knows checksums
over the whole of an object that was uploaded in parts, and reads ranges of versions. It patches private functions, hence
the pinned version in `requirements.txt`; `src/aws/tests` assert what it closes.
"""

import contextvars
import json
import os
import sys
import threading
from xml.etree import ElementTree

from ministack.core.responses import get_account_id, get_region, json_response, request_scope
from ministack.services import eventbridge, s3, sqs

# AWS's own since January 2026; MiniStack has the 256 KiB of before.
REQUEST_BYTES_MAX = int(os.environ.get("EB_MAX_ENTRY_BYTES", 1 << 20))
ENTRIES_MAX = 10

_caller_time = contextvars.ContextVar("caller_time", default=None)
_now, _put_events, _to_bus = eventbridge._now_ts, eventbridge._put_events, eventbridge._dispatch_to_event_bus


def now():
    given = _caller_time.get()
    return _now() if given is None else given


def size(entry):
    text = sum(len(str(entry.get(field) or "").encode()) for field in ("Source", "DetailType", "Detail"))
    resources = sum(len(resource.encode()) for resource in entry.get("Resources") or [])
    return text + resources + (14 if entry.get("Time") is not None else 0)


def complaint(entry):
    for field in ("Source", "DetailType", "Detail"):
        if not entry.get(field):
            return "InvalidArgument", f"Parameter {field} is not valid. Reason: {field} is a required argument."
    try:
        is_object = isinstance(json.loads(entry["Detail"]), dict)
    except ValueError:
        is_object = False
    return None if is_object else ("MalformedDetail", "Detail is malformed.")


def put_events(data, allow_aws_source=False):
    entries = data.get("Entries", [])
    if not 1 <= len(entries) <= ENTRIES_MAX:
        return _put_events(data, allow_aws_source)
    if sum(map(size, entries)) > REQUEST_BYTES_MAX:
        why = "Total size of the entries in the request is over the limit."
        return eventbridge.error_response_json("ValidationException", why, 400)
    answers, failed = [], 0
    for entry in entries:
        if wrong := complaint(entry):
            answers.append({"ErrorCode": wrong[0], "ErrorMessage": wrong[1]})
            failed += 1
            continue
        given = entry.get("Time")
        token = _caller_time.set(given if isinstance(given, (int, float)) else None)
        try:
            answer = json.loads(_put_events({**data, "Entries": [entry]}, allow_aws_source)[2])
        finally:
            _caller_time.reset(token)
        answers += answer["Entries"]
        failed += answer["FailedEntryCount"]
    return json_response({"FailedEntryCount": failed, "Entries": answers})


def to_bus(target, event, rule, path, payload=None):
    elsewhere = target.service == "events" and target.account_id == get_account_id() and target.region != get_region()
    if not elsewhere:
        return _to_bus(target, event, rule, path, payload)
    step = (get_region(), eventbridge._rule_key(rule.get("Name"), rule.get("EventBusName", "default")))
    if step in path:
        return None
    with request_scope(target.account_id, target.region):
        name = target.resource.split("/", 1)[1]
        if name in eventbridge._event_buses:
            forwarded = {**event, "EventBusName": name, "_DispatchPath": [*path, step]}
            if payload is not None:
                forwarded["Detail"] = payload
            eventbridge._dispatch_event(forwarded)
            forwarded.pop("_DispatchPath")
            eventbridge._archive_event(forwarded)
    return None


_batch_entries = contextvars.ContextVar("batch_entries", default=None)
_send, _send_batch = sqs._act_send_message, sqs._act_send_message_batch


def send_batch(data, url):
    token = _batch_entries.set(iter(data.get("Entries", [])))
    try:
        return _send_batch(data, url)
    finally:
        _batch_entries.reset(token)


def send(data, url):
    entries = _batch_entries.get()
    if entries is not None:
        # MiniStack sends a batch's entries in order, each by this function, without their system attributes.
        data = {**data, "MessageSystemAttributes": next(entries).get("MessageSystemAttributes")}
    return _send(data, url)


_get_object = s3._get_object
_copy, _create_upload, _complete_upload = s3._copy_object, s3._create_multipart_upload, s3._complete_multipart_upload


def texts(xml, name):
    return [element.text for element in ElementTree.fromstring(xml).iter() if element.tag.split("}")[-1] == name]


def copy_object(bucket, key, headers):
    there = (s3._ensure_bucket(bucket) or {}).get("objects", {}).get(key)
    conditions = {"if-none-match": headers.get("if-none-match", "")}
    return s3._check_put_preconditions(conditions, there) or _copy(bucket, key, headers)


def create_upload(bucket, key, headers):
    answer = _create_upload(bucket, key, headers)
    if answer[0] == 200 and headers.get("x-amz-checksum-type") == "FULL_OBJECT":
        s3._multipart_uploads[texts(answer[2], "UploadId")[0]]["whole"] = True
    return answer


def complete_upload(bucket, key, body, query, headers=None):
    upload = s3._multipart_uploads.get(s3._qp(query, "uploadId"), {})
    algorithm = upload.get("checksum_algorithm")
    if not (algorithm and upload.get("whole")):
        return _complete_upload(bucket, key, body, query, headers)
    headers = dict(headers or {})
    parts = [upload["parts"].get(int(number), {}) for number in texts(body, "PartNumber")]
    found = s3._compute_s3_checksum(algorithm, b"".join(part.get("body", b"") for part in parts))
    announced = headers.pop(f"x-amz-checksum-{algorithm.lower()}", None)
    if announced and announced != found:
        return s3._error("BadDigest", f"The {algorithm} you specified did not match the calculated checksum.", 400)
    upload["checksum_algorithm"] = None
    answer = _complete_upload(bucket, key, body, query, headers)
    upload["checksum_algorithm"] = algorithm
    if answer[0] == 200:
        made = s3._ensure_bucket(bucket)["objects"][key]
        made["checksums"], made["checksum_type"] = {algorithm: found}, "FULL_OBJECT"
    return answer


def get_object(bucket, key, headers, query=None):
    status, answer_headers, body = _get_object(bucket, key, headers, query)
    wanted = headers.get("range", "")
    # MiniStack has no ranges of versions.
    if status != 200 or not wanted or not s3._qp(query or {}, "versionId", ""):
        return status, answer_headers, body
    part = s3._parse_range(wanted, len(body))
    if part is None:
        return 416, {"Content-Type": "application/xml"}, s3._xml_body(s3._range_error_xml(bucket, key))
    start, end = part
    # A checksum is one of the whole.
    answer_headers = {name: value for name, value in answer_headers.items() if "checksum" not in name.lower()}
    answer_headers["Content-Length"] = str(end + 1 - start)
    answer_headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
    return 206, answer_headers, body[start : end + 1]


def end_with_standard_input():
    sys.stdin.buffer.read()
    os._exit(0)


eventbridge._now_ts, eventbridge._put_events, eventbridge._dispatch_to_event_bus = now, put_events, to_bus
sqs._act_send_message = send
s3._copy_object, s3._create_multipart_upload, s3._complete_multipart_upload = copy_object, create_upload, complete_upload
s3._get_object = get_object
sqs._HANDLERS["SendMessageBatch"] = send_batch

if __name__ == "__main__":
    if "--stay" not in sys.argv:
        threading.Thread(target=end_with_standard_input, daemon=True).start()
    sys.argv = sys.argv[:1]
    from ministack.app import main

    main()
