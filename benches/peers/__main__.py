"""hubweave beside its peers, in one run on one machine.

    python3 benches/peers [--quick] [--events N] [--json FILE]

Catch-up of one link, live lag, memory; JetStream's mirror over a leaf node does the same work beside it. Each phase is
bounded in time, only 127.0.0.1 is used, and whatever was started ends with this process. Numbers compare within a run:
the machine and its disk differ from day to day.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import signal
import sys
import tempfile

import hubweave
import nats
from measure import Failed, median, milliseconds, sync_seconds
from report import table

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 1800
PHASES = ["catch-up", "live", "memory"]


def arguments():
    parser = argparse.ArgumentParser(prog="python3 benches/peers", description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, help="of 1 KB in a catch-up (default 300000)")
    parser.add_argument("--backlog", type=int, help="events of the memory phase (default 1000000)")
    parser.add_argument("--runs", type=int, help="catch-ups of each side, in turn; the median counts (default 3)")
    parser.add_argument("--rate", type=int, default=1000, help="live events a second (default 1000)")
    parser.add_argument("--seconds", type=int, help="of live load (default 20)")
    parser.add_argument("--quick", action="store_true", help="a smoke run: everything small, numbers without meaning")
    parser.add_argument("--only", choices=PHASES + ["nats", "hubweave"], action="append",
                        help="a phase or a side; may be repeated")
    parser.add_argument("--json", metavar="FILE", help="also write the results as JSON")
    parser.add_argument("--binary", default=str(ROOT / "target/release/hubweave"), help="of hubweave")
    parser.add_argument("--dir", help="where the data goes; on the disk to measure (default: the system's for temporary files)")
    given = parser.parse_args()
    full, quick = (300_000, 1_000_000, 3, 20), (10_000, 20_000, 1, 3)
    for name, value in zip(("events", "backlog", "runs", "seconds"), quick if given.quick else full):
        if getattr(given, name) is None:
            setattr(given, name, value)
    # The agents run in folders of their own.
    given.binary = os.path.abspath(given.binary)
    given.idle = 3 if given.quick else 30
    phases = [phase for phase in given.only or [] if phase in PHASES] or PHASES
    sides = [side for side in given.only or [] if side not in PHASES] or ["nats", "hubweave"]
    return given, phases, sides


def machine():
    model = "unknown"
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {"cores": os.cpu_count(), "cpu": model, "kernel": platform.release(), "load_before": os.getloadavg()[0]}


def main():
    given, phases, sides = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Each phase has a limit of its own; this one is for what nobody thought of.
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"not done within {LIMIT_SECONDS} s"))
    signal.alarm(LIMIT_SECONDS)
    if "nats" in sides and nats.find_server() is None:
        print("nats-server is not installed (Debian: apt-get install nats-server): without it", file=sys.stderr)
        sides.remove("nats")
    if "hubweave" in sides and not os.access(given.binary, os.X_OK):
        sys.exit(f"{given.binary} is absent: cargo build --release --no-default-features")
    free = shutil.disk_usage(given.dir or tempfile.gettempdir()).free
    if free < 6 * 1100 * max(given.events, given.backlog):
        sys.exit(f"{free >> 20} MiB free are too few: another place with --dir, or fewer --events")
    folder = tempfile.mkdtemp(prefix="hubweave-bench-", dir=given.dir)
    results = {
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "options": {name: getattr(given, name) for name in ("events", "backlog", "runs", "rate", "seconds", "quick")},
        "machine": machine(),
        "versions": {},
        "failures": [],
    }
    if "nats" in sides:
        results["versions"]["nats"] = nats.version()
    if "hubweave" in sides:
        results["versions"]["hubweave"] = hubweave.version(given.binary)
    try:
        run(given, phases, sides, folder, results)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        print(table(results))
        if given.json:
            with open(given.json, "w") as file:
                json.dump(results, file, indent=2)
                file.write("\n")
    sys.exit(1 if results["failures"] else 0)


def run(given, phases, sides, folder, results):
    count = iter(range(1_000_000))

    def attempt(side, name, measure, *parameters):
        """One measurement; a failure is reported in its place and leaves the others."""
        if side not in sides:
            return None
        print(f"{name}: {side} ...", file=sys.stderr, flush=True)
        path = os.path.join(folder, f"{side}-{next(count)}")
        first = [given.binary, path] if side == "hubweave" else [path]
        try:
            return measure(*first, *parameters)
        except (Failed, OSError) as error:
            results["failures"].append(f"{name}, {side}: {error}")
            print(f"  failed: {error}", file=sys.stderr)
            return None

    syncs = sync_seconds(folder, 100)
    if "catch-up" in phases:
        runs = {"nats": [], "hubweave": []}
        for number in range(given.runs):
            for side, measure in (("nats", nats.catch_up), ("hubweave", hubweave.catch_up)):
                result = attempt(side, f"catch-up {number + 1}/{given.runs}", measure, given.events)
                if result:
                    runs[side].append(result)
        results["catch_up"] = {side: summary(found) for side, found in runs.items() if found}
        if len(results["catch_up"]) == 2:
            results["catch_up"]["ratio"] = {
                name: results["catch_up"]["hubweave"][name] / results["catch_up"]["nats"][name]
                for name in ("per_second", "per_cpu_second")
            }
    syncs += sync_seconds(folder, 100)
    if "live" in phases:
        results["live"] = {}
        for side, measure in (("nats", nats.lag), ("hubweave", hubweave.lag)):
            result = attempt(side, "live", measure, given.rate, given.seconds)
            if result:
                results["live"][side] = result
            syncs += sync_seconds(folder, 100)
        if len(results["live"]) == 2:
            results["live"]["ratio"] = {
                point: results["live"]["hubweave"]["lag_ms"][point] / results["live"]["nats"]["lag_ms"][point]
                for point in ("p50", "p99")
            }
    if "memory" in phases:
        results["memory"] = {
            "idle": attempt("hubweave", "idle", hubweave.idle, given.idle),
            "backlog": attempt("hubweave", "backlog", hubweave.catch_up, given.backlog),
        }
    results["sync_ms"] = milliseconds(syncs)


def summary(runs):
    """The medians over the runs, and each run."""
    names = ("per_second", "per_cpu_second", "seconds", "cpu_seconds")
    return {name: median([run[name] for run in runs]) for name in names} | {"runs": runs}


if __name__ == "__main__":
    main()
