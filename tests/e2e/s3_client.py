#!/usr/bin/env python3
"""boto3 against a region's object store: `s3_client.py SCENARIO PORT [SECRET_KEY]`. Exits with 0 if everything was right."""

import base64
import concurrent.futures
import hashlib
import io
import os
import sys
import urllib.error
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

PORT = int(sys.argv[2])
SECRET = sys.argv[3] if len(sys.argv) > 3 else "any"
BUCKET = "bucket-1"
PART = 5 << 20

# Whatever S3 takes as a key, in the order of bytes.
KEYS = sorted(
    ["a", "a b", "ü/ключ 標", "..", "../x", "/lead", "a//b", "a+b%20c", "q?x=1&y#z", "a/./b", "it's(1)!*", "<&>\"", "k" * 1024, " both ends ", "folder/"],
    key=str.encode,
)


def client(secret=SECRET):
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{PORT}",
        aws_access_key_id="whoever",
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


def refused(call, **arguments):
    """The status and code of a call that must fail."""
    try:
        call(Bucket=BUCKET, **arguments)
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
    raise AssertionError(f"{arguments} was not refused")


def keys_and_listings(s3):
    for key in KEYS:
        body = os.urandom(100)
        s3.put_object(Bucket=BUCKET, Key=key, Body=body, ContentType="text/x-a", Metadata={"note": "1"}, CacheControl="no-cache")
        got = s3.get_object(Bucket=BUCKET, Key=key)
        assert got["Body"].read() == body, key
        assert (got["ContentType"], got["Metadata"], got["CacheControl"]) == ("text/x-a", {"note": "1"}, "no-cache"), got
        assert got["ETag"] == f'"{hashlib.md5(body).hexdigest()}"', got
    for listing in ("list_objects_v2", "list_objects"):
        for size in (1, 3, 1000):
            pages = s3.get_paginator(listing).paginate(Bucket=BUCKET, PaginationConfig={"PageSize": size})
            listed = [item["Key"] for page in pages for item in page["Contents"]]
            assert listed == KEYS, (listing, size, listed)
    assert s3.get_object_tagging(Bucket=BUCKET, Key="a")["TagSet"] == []
    assert refused(s3.get_object_tagging, Key="never") == (404, "NoSuchKey")
    page = s3.list_objects_v2(Bucket=BUCKET, Prefix="a", Delimiter="/")
    assert [prefix["Prefix"] for prefix in page["CommonPrefixes"]] == ["a/"], page
    assert [item["Key"] for item in page["Contents"]] == ["a", "a b", "a+b%20c"], page
    assert s3.list_objects_v2(Bucket=BUCKET, StartAfter="k" * 1024)["KeyCount"] == 2

    s3.copy_object(Bucket=BUCKET, Key="copy ü", CopySource={"Bucket": BUCKET, "Key": "ü/ключ 標"})
    assert s3.head_object(Bucket=BUCKET, Key="copy ü")["Metadata"] == {"note": "1"}
    onto_itself = {"Key": "copy ü", "CopySource": {"Bucket": BUCKET, "Key": "copy ü"}}
    assert refused(s3.copy_object, **onto_itself) == (400, "InvalidRequest")
    s3.copy_object(Bucket=BUCKET, MetadataDirective="REPLACE", Metadata={"note": "2"}, **onto_itself)
    assert s3.head_object(Bucket=BUCKET, Key="copy ü")["Metadata"] == {"note": "2"}

    over = {"CopySource": {"Bucket": BUCKET, "Key": "a"}, "Key": "copy ü"}
    assert refused(s3.copy_object, IfNoneMatch="*", **over) == (412, "PreconditionFailed")
    assert refused(s3.copy_object, IfMatch='"0"', **over) == (412, "PreconditionFailed")
    assert s3.head_object(Bucket=BUCKET, Key="copy ü")["Metadata"] == {"note": "2"}

    gone = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in [*KEYS, "copy ü", "never"]]})
    assert len(gone["Deleted"]) == len(KEYS) + 2 and "Errors" not in gone, gone
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)
    s3.delete_bucket(Bucket=BUCKET)
    assert refused(s3.list_objects_v2) == (404, "NoSuchBucket")
    assert refused(s3.get_object, Key="a") == (404, "NoSuchBucket")


def conditions_and_ranges(s3):
    body = os.urandom(300_000)
    s3.put_object(Bucket=BUCKET, Key="k", Body=body)
    for asked, part in (("bytes=10-19", body[10:20]), ("bytes=-7", body[-7:]), ("bytes=299990-", body[-10:])):
        got = s3.get_object(Bucket=BUCKET, Key="k", Range=asked)
        assert got["Body"].read() == part and got["ContentRange"].endswith("/300000"), asked
    assert refused(s3.get_object, Key="k", Range="bytes=300000-") == (416, "InvalidRange")
    head = s3.head_object(Bucket=BUCKET, Key="k")
    assert refused(s3.get_object, Key="k", IfNoneMatch=head["ETag"])[0] == 304
    assert refused(s3.get_object, Key="k", IfModifiedSince=head["LastModified"])[0] == 304
    assert refused(s3.get_object, Key="k", IfMatch='"0"') == (412, "PreconditionFailed")
    assert refused(s3.put_object, Key="k", Body=b"x", IfNoneMatch="*") == (412, "PreconditionFailed")
    assert refused(s3.put_object, Key="k", Body=b"x", IfMatch='"0"') == (412, "PreconditionFailed")
    # Over the connection that was just refused something.
    assert refused(s3.put_object, Key="none", Body=b"x", IfMatch='"0"') == (404, "NoSuchKey")
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"new", IfMatch=head["ETag"])
    assert s3.get_object(Bucket=BUCKET, Key="k")["Body"].read() == b"new"
    assert refused(s3.get_object, Key="nothing") == (404, "NoSuchKey")

    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    assert refused(s3.put_object, Key="damaged", Body=b"x", ContentMD5=wrong) == (400, "BadDigest")
    assert refused(s3.put_object, Key="damaged", Body=b"x", ChecksumSHA1=base64.b64encode(bytes(20)).decode())[0] == 400
    assert refused(s3.head_object, Key="damaged")[0] == 404
    for algorithm in ("CRC32", "SHA256", "SHA1"):
        s3.put_object(Bucket=BUCKET, Key="sum", Body=body, ChecksumAlgorithm=algorithm)
        # boto3 judges what it reads.
        assert s3.get_object(Bucket=BUCKET, Key="sum", ChecksumMode="ENABLED")["Body"].read() == body
    link = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "k"})
    assert urllib.request.urlopen(link).read() == b"new"

    def race(n):
        try:
            client().put_object(Bucket=BUCKET, Key="race", Body=b"%d" % n, IfNoneMatch="*")
            return n
        except ClientError as error:
            assert error.response["Error"]["Code"] == "PreconditionFailed", error
            return None

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        winners = [n for n in pool.map(race, range(32)) if n is not None]
    assert len(winners) == 1, winners
    assert s3.get_object(Bucket=BUCKET, Key="race")["Body"].read() == b"%d" % winners[0]


def uploads_in_parts(s3):
    for algorithm in ({}, {"ChecksumAlgorithm": "CRC32"}, {"ChecksumAlgorithm": "SHA256"}):
        upload = s3.create_multipart_upload(Bucket=BUCKET, Key="parts", ContentType="x/y", **algorithm)
        of_it = {"Bucket": BUCKET, "Key": "parts", "UploadId": upload["UploadId"]}
        pieces, parts = [os.urandom(PART), os.urandom(PART), os.urandom(10)], []
        for number, piece in enumerate(pieces, 1):
            part = s3.upload_part(PartNumber=number, Body=piece, **of_it, **algorithm)
            sums = {name: value for name, value in part.items() if name.startswith("Checksum") and name != "ChecksumType"}
            parts.append({"PartNumber": number, "ETag": part["ETag"], **sums})
        first = s3.list_parts(MaxParts=2, **of_it)
        assert first["IsTruncated"] and [part["Size"] for part in first["Parts"]] == [PART, PART]
        rest = s3.list_parts(PartNumberMarker=first["NextPartNumberMarker"], **of_it)
        assert not rest["IsTruncated"] and [part["PartNumber"] for part in rest["Parts"]] == [3]
        assert [one["UploadId"] for one in s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]] == [upload["UploadId"]]
        del of_it["Bucket"]
        backwards = {"MultipartUpload": {"Parts": parts[::-1]}, **of_it}
        assert refused(s3.complete_multipart_upload, **backwards) == (400, "InvalidPartOrder")
        if algorithm:
            sum_of = f"Checksum{algorithm['ChecksumAlgorithm']}"
            swapped = [parts[0] | {sum_of: parts[1][sum_of]}, *parts[1:]]
            damaged = {"MultipartUpload": {"Parts": swapped}, **of_it}
            assert refused(s3.complete_multipart_upload, **damaged) == (400, "InvalidPart")
        other = {"MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": f'"{"0" * 32}"'}]}, **of_it}
        assert refused(s3.complete_multipart_upload, **other) == (400, "InvalidPart")
        whole = {"Bucket": BUCKET, "MultipartUpload": {"Parts": parts}, **of_it}
        made = s3.complete_multipart_upload(**whole)
        of_parts = hashlib.md5(b"".join(hashlib.md5(piece).digest() for piece in pieces)).hexdigest()
        assert made["ETag"] == f'"{of_parts}-3"', made
        assert s3.complete_multipart_upload(**whole)["ETag"] == made["ETag"], "its answer may have been lost"
        got = s3.get_object(Bucket=BUCKET, Key="parts", ChecksumMode="ENABLED")
        assert got["Body"].read() == b"".join(pieces) and got["ContentType"] == "x/y"

    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="copied")["UploadId"]
    source, of_it = {"Bucket": BUCKET, "Key": "parts"}, {"Key": "copied", "UploadId": upload}
    ranges = {1: f"bytes=0-{PART - 1}", 2: f"bytes={PART}-{2 * PART + 9}"}
    copied = [
        {
            "PartNumber": number,
            "ETag": s3.upload_part_copy(
                Bucket=BUCKET, PartNumber=number, CopySource=source, CopySourceRange=asked, **of_it
            )["CopyPartResult"]["ETag"],
        }
        for number, asked in ranges.items()
    ]
    s3.complete_multipart_upload(Bucket=BUCKET, MultipartUpload={"Parts": copied}, **of_it)
    assert s3.get_object(Bucket=BUCKET, Key="copied")["Body"].read() == b"".join(pieces)

    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="small")["UploadId"]
    of_it = {"Key": "small", "UploadId": upload}
    parts = [
        {"PartNumber": number, "ETag": s3.upload_part(Bucket=BUCKET, PartNumber=number, Body=b"x", **of_it)["ETag"]}
        for number in (1, 2)
    ]
    small = {"MultipartUpload": {"Parts": parts}, **of_it}
    assert refused(s3.complete_multipart_upload, **small) == (400, "EntityTooSmall")
    assert refused(s3.delete_bucket) == (409, "BucketNotEmpty")
    s3.abort_multipart_upload(Bucket=BUCKET, **of_it)
    assert refused(s3.abort_multipart_upload, **of_it) == (404, "NoSuchUpload")
    assert refused(s3.head_object, Key="small")[0] == 404


def token(s3):
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"signed")
    link = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "k"})
    assert urllib.request.urlopen(link).read() == b"signed"
    large = os.urandom(3 * PART)
    s3.upload_fileobj(io.BytesIO(large), BUCKET, "large")
    s3.copy({"Bucket": BUCKET, "Key": "large"}, BUCKET, "copied")
    assert s3.get_object(Bucket=BUCKET, Key="copied")["Body"].read() == large
    stranger = client("another-secret")
    assert refused(stranger.put_object, Key="k", Body=b"x") == (403, "SignatureDoesNotMatch")
    assert refused(stranger.get_object, Key="k") == (403, "SignatureDoesNotMatch")
    path = f"http://127.0.0.1:{PORT}/{BUCKET}/k"
    with_token = urllib.request.Request(path, headers={"Authorization": f"Bearer {SECRET}"})
    assert urllib.request.urlopen(with_token).read() == b"signed"
    try:
        urllib.request.urlopen(path)
    except urllib.error.HTTPError as error:
        assert (error.code, b"AccessDenied" in error.read()) == (403, True)
    else:
        raise AssertionError("nobody asked for the token")


SCENARIOS = {scenario.__name__: scenario for scenario in (keys_and_listings, conditions_and_ranges, uploads_in_parts, token)}

if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](client())
