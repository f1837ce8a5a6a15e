"""Objects through a link beside rclone, which copies the same objects between the same two stores.

    python3 benches/peers/objects.py [--quick] [--runs N] [--json FILE]

The link brings an event for each object too. Both sides start with everything at home and nothing at the peer, take
turns, and end when all is there; rclone gets Debian's defaults and 16 transfers.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from hubweave import Agents, Connection, version
from measure import Failed, forget_peak, median, memory_mib, settle, until

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOME, PEER = "eu-central-1", "us-east-1"
SIZES = {"4 KiB": (4 << 10, 4_000, 200), "16 MiB": (16 << 20, 48, 4)}
TRANSFERS = 16
LIMIT_SECONDS = 300


def agents(binary, folder):
    class WithObjects(Agents):
        more = '\n[claim_check]\nreference = ["/detail/claimCheck"]\n'

    return WithObjects(binary, folder, [HOME, PEER])


def put_all(port, bucket, size, count):
    """Writes the objects, each with bytes of its own."""

    def work(numbers):
        connection = Connection(port)
        for number in numbers:
            body = os.urandom(size)
            status, answer = connection.ask("PUT", f"/{bucket}/{number:06d}", body, "application/octet-stream")
            if status != 200:
                raise Failed(f"put: {status} {answer[:200]!r}")
        connection.close()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [range(first, count, 8) for first in range(8)]))


def publish_all(port, bucket, count):
    connection = Connection(port)
    for first in range(0, count, 10):
        detail = [json.dumps({"claimCheck": f"s3://{bucket}/{number:06d}"}) for number in range(first, min(first + 10, count))]
        entries = [{"Source": "bench", "DetailType": "Object", "Detail": text} for text in detail]
        connection.send_put_events(entries)
    connection.close()


def send_put_events(self, entries):
    body = json.dumps({"Entries": entries}).encode()
    head = (
        f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/x-amz-json-1.1\r\n"
        f"X-Amz-Target: AWSEvents.PutEvents\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    self.socket.sendall(head.encode() + body)
    while (answer := self.answer()) is None:
        pass
    if answer[0] != 200 or json.loads(answer[1])["FailedEntryCount"]:
        raise Failed(f"PutEvents: {answer}")


Connection.send_put_events = send_put_events


def link(region, bucket, size, count):
    """Seconds until the peer has every event, and so every object; the agents' peak memory."""
    region.switch(HOME, PEER, "pause")
    put_all(region.api[HOME], bucket, size, count)
    publish_all(region.api[HOME], bucket, count)
    settle(region.folder, size * count // 1400)
    for process in region.children():
        forget_peak(process)
    before = region.status(PEER)["events"]
    began = time.monotonic()
    region.switch(HOME, PEER, "resume")
    until("the link to bring all", LIMIT_SECONDS, lambda: region.status(PEER)["events"] - before >= count,
          region.children())
    seconds = time.monotonic() - began
    peaks = [memory_mib(process)[1] for process in region.children()]
    return seconds, max(peaks)


def rclone(region, bucket, size, count):
    remote = lambda name: (
        f":s3,provider=Other,endpoint='http://127.0.0.1:{region.api[name]}',access_key_id=a,secret_access_key=b,"
        f"force_path_style=true:{bucket if name == HOME else bucket + '-rclone'}"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    command = ["rclone", "--config", "/dev/null", "copy", "--transfers", str(TRANSFERS), remote(HOME), remote(PEER)]
    settle(region.folder, size * count // 1400)
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    seconds = time.monotonic() - began
    if done.returncode:
        raise Failed(f"rclone: {done.stderr[-500:]}")
    listing = subprocess.run([*command[:3], "lsf", remote(PEER)], env=environment, capture_output=True, text=True, timeout=60)
    if len(listing.stdout.splitlines()) != count:
        raise Failed(f"rclone copied {len(listing.stdout.splitlines())} of {count}")
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run: numbers without meaning")
    parser.add_argument("--runs", type=int, default=3, help="of each side, in turn; the median counts (default 3)")
    parser.add_argument("--only", choices=list(SIZES), help="one size")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--binary", default=str(ROOT / "target/release/hubweave"))
    parser.add_argument("--dir", help="where the data goes; on the disk to measure")
    given = parser.parse_args()
    given.binary = os.path.abspath(given.binary)
    with_rclone = shutil.which("rclone") is not None
    if not with_rclone:
        print("rclone is not installed (Debian: apt-get install rclone): without it", file=sys.stderr)
    folder = tempfile.mkdtemp(prefix="hubweave-bench-", dir=given.dir)
    results = {"version": version(given.binary), "transfers": TRANSFERS, "sizes": {}}
    try:
        for name, (size, full, quick) in SIZES.items():
            if given.only not in (None, name):
                continue
            count, ours, theirs, peaks = quick if given.quick else full, [], [], []
            for run in range(1 if given.quick else given.runs):
                region = agents(given.binary, f"{folder}/{size}-{run}")
                try:
                    print(f"{name}, run {run + 1}: link ...", file=sys.stderr, flush=True)
                    seconds, peak = link(region, "bench", size, count)
                    ours.append(count / seconds)
                    peaks.append(peak)
                    if with_rclone:
                        print(f"{name}, run {run + 1}: rclone ...", file=sys.stderr, flush=True)
                        theirs.append(count / rclone(region, "bench", size, count))
                finally:
                    region.close()
                    shutil.rmtree(f"{folder}/{size}-{run}", ignore_errors=True)
            found = {"objects": count, "bytes": size, "link_per_second": median(ours), "peak_mib": max(peaks)}
            if theirs:
                found["rclone_per_second"] = median(theirs)
                found["ratio"] = median([one / other for one, other in zip(ours, theirs)])
                found["ratios"] = [round(one / other, 2) for one, other in zip(ours, theirs)]
            results["sizes"][name] = found
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, found in results["sizes"].items():
        mib = found["bytes"] / (1 << 20)
        line = f"{name} x {found['objects']}: link {found['link_per_second']:.0f} objects/s"
        line += f" ({found['link_per_second'] * mib:.0f} MiB/s), peak {found['peak_mib']:.0f} MiB"
        if "ratio" in found:
            line += f"; rclone {found['rclone_per_second']:.0f} objects/s ({found['rclone_per_second'] * mib:.0f} MiB/s);"
            line += f" ratio {found['ratio']:.2f} {found['ratios']}"
        print(line)
    if given.json:
        with open(given.json, "w") as file:
            json.dump(results, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
