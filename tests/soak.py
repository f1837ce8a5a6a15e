#!/usr/bin/env python3
"""Rounds of kill -9 and partitions under load, each with `verify` at its end. `make soak` calls it.

A round is: load with a journal while the agents are killed in random order, then `verify --journal`; then load while
two regions are cut off from each other, and `verify` again. With `--drills`, so many experiments of chaos/ are run
before that, in turn. Figures are printed after each round and each drill. Exit code 1 if anything was lost or took effect
twice; the regions' data and logs are kept then.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REGIONS = ["eu-central-1", "us-east-1", "ap-southeast-2"]
READY_PATIENCE = 60
CATCH_UP_PATIENCE = 300

# `up` backs off from a region that died more often than this; what is to be shown here is recovery, not patience.
DEATHS_MAX, DEATHS_SPAN = 5, 30


class Failed(Exception):
    """The verdict is no."""


class Cluster:
    """Three regions under `up`, in a directory of their own."""

    def __init__(self, binary, directory):
        self.binary, self.directory = binary, directory
        ports = free_ports(2 * len(REGIONS))
        self.admin = dict(zip(REGIONS, ports[len(REGIONS) :]))
        text = '[cluster]\nname = "soak"\n\n[faults]\nenabled = true\n'
        for name, api in zip(REGIONS, ports):
            text += f'\n[[region]]\nname = "{name}"\ndata_dir = "{directory / name}"\n'
            text += f'api = "127.0.0.1:{api}"\nadmin = "127.0.0.1:{self.admin[name]}"\n'
        self.file = directory / "topology.toml"
        self.file.write_text(text)
        self.up = None

    def __enter__(self):
        with open(self.directory / "up.log", "w") as log:
            self.up = subprocess.Popen(self.command("up"), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for name in REGIONS:
            self.wait_ready(name)
        return self

    def __exit__(self, *_):
        self.up.terminate()
        try:
            self.up.wait(30)
        except subprocess.TimeoutExpired:
            self.up.kill()  # its children end by themselves then
            self.up.wait()

    def command(self, *arguments):
        return [self.binary, *arguments, "--config", str(self.file)]

    def run(self, *arguments, timeout=600):
        done = subprocess.run(
            self.command(*arguments, "--json"), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
        try:
            return done.returncode, json.loads(done.stdout)
        except ValueError:
            raise Failed(f"{' '.join(arguments)}: {done.stdout}{done.stderr}") from None

    def drill(self, file):
        """Runs an experiment; answers the report."""
        report = self.directory / "drills" / f"{file.stem}-{time.time_ns()}.json"
        done = subprocess.run(
            self.command("drill", "run", str(file), "--json", "--report", str(report)),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise Failed(f"{file.stem}: {done.stdout}{done.stderr}") from None

    def get(self, name, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin[name]}{path}", timeout=5) as answer:
            return answer.read()

    def is_ready(self, name):
        try:
            self.get(name, "/readyz")
            return True
        except OSError:
            return False

    def wait_ready(self, name):
        began = time.monotonic()
        while not self.is_ready(name):
            if time.monotonic() - began > READY_PATIENCE:
                raise Failed(f"{name} is not ready after {READY_PATIENCE} s")
            time.sleep(0.02)

    def pid(self, name):
        return int((self.directory / name / "agent.pid").read_text())

    def kill(self, name):
        """kill -9; answers how long until the region served again."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        while self.pid(name) == pid:
            if time.monotonic() - began > READY_PATIENCE:
                raise Failed(f"{name} was not started again")
            time.sleep(0.01)
        self.wait_ready(name)
        return time.monotonic() - began

    def links(self):
        for name in REGIONS:
            for link in json.loads(self.get(name, "/v1/status"))["links"]:
                yield name, link

    def wait_caught_up(self, began):
        """Answers the seconds from `began` until no link has anything to bring over."""
        while any(link["backlog_events"] for _, link in self.links()):
            if time.monotonic() - began > CATCH_UP_PATIENCE:
                raise Failed(f"not caught up after {CATCH_UP_PATIENCE} s")
            time.sleep(0.05)
        return time.monotonic() - began

    def sum_of_metric(self, name):
        total = 0.0
        for region in REGIONS:
            for line in self.get(region, "/metrics").decode().splitlines():
                if line.startswith((name + "{", name + " ")):
                    total += float(line.rsplit(" ", 1)[1])
        return total


class Load:
    """`load` in the background. It sends every event again until it is acknowledged."""

    def __init__(self, cluster, rate, seconds):
        self.journal = cluster.directory / f"journal-{time.time_ns()}.jsonl"
        arguments = ["load", "--json", "--rate", str(rate), "--duration", f"{seconds}s", "--journal", str(self.journal)]
        self.process = subprocess.Popen(
            cluster.command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def is_running(self):
        return self.process.poll() is None

    def stop(self):
        """Ends it early: what was acknowledged is in the journal."""
        self.process.send_signal(signal.SIGINT)

    def report(self):
        out, err = self.process.communicate(timeout=600)
        try:
            return json.loads(out)
        except ValueError:
            raise Failed(f"load: {out}{err}") from None


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def verify(cluster, journal, figures):
    """Every acknowledged event is in every region, once."""
    code, report = cluster.run("verify", "--wait", "120s", "--journal", str(journal))
    found = report["journal"]
    figures.update(
        acknowledged=found["acknowledged"],
        lost=found["missing_count"],
        second_effects=max(found["twice_count"], report["twice_count"]),
        verify_seconds=round(report["seconds"], 2),
        verdict=report["verdict"],
    )
    if code != 0:
        raise Failed(f"verify: {json.dumps(figures)}\n{json.dumps(report, indent=1)[:4000]}")


def kills(cluster, rate, count, chance):
    """So many kills in random order, at random moments."""
    load = Load(cluster, rate, max(60, count * 10))  # ended early, when the kills are done
    deaths = {name: [] for name in REGIONS}
    restarts, figures = [], {"part": "kill -9", "kills": count, "rate": rate}
    try:
        time.sleep(2)
        began = time.monotonic()
        for _ in range(count):
            if not load.is_running():
                raise Failed(f"the load ended after {len(restarts)} kills: {load.report()}")
            name = next_to_die(deaths, chance)
            deaths[name].append(time.monotonic())
            restarts.append(cluster.kill(name))
            time.sleep(chance.uniform(0.1, 3.5))
        figures["seconds"] = round(time.monotonic() - began, 1)
        ended = time.monotonic()
        load.stop()
        report = load.report()
    finally:
        load.process.kill()
    figures["catch_up_seconds"] = round(cluster.wait_caught_up(ended), 2)
    figures["retried"] = report["retried"]
    figures["restart_seconds"] = {"median": round(sorted(restarts)[count // 2], 2), "worst": round(max(restarts), 2)}
    verify(cluster, load.journal, figures)
    return figures


def next_to_die(deaths, chance):
    """A region that `up` will start again at once."""
    while True:
        since = time.monotonic() - DEATHS_SPAN - 1
        free = [name for name, times in deaths.items() if sum(at > since for at in times) < DEATHS_MAX]
        if free:
            return chance.choice(free)
        time.sleep(0.1)


def partition(cluster, rate, seconds, chance):
    """Two regions that cannot reach each other, while services go on publishing in both."""
    one, other = chance.sample(REGIONS, 2)
    figures = {"part": "partition", "between": [one, other], "seconds": seconds, "rate": rate}
    load = Load(cluster, rate, seconds + 10)
    peak = exposure = 0
    try:
        time.sleep(3)
        cluster.run("fault", "inject", "--region", one, "--peer", other, "--kind", "partition")
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            time.sleep(0.5)
            for _, link in cluster.links():
                peak = max(peak, link["backlog_events"])
                exposure = max(exposure, link["rpo_exposure_seconds"])
        cut = {(name, link["peer"]): link["backlog_events"] for name, link in cluster.links()}
        cluster.run("fault", "clear", "--region", one)
        healed = time.monotonic()
        # While the load goes on a link is never empty for long: it has caught up when what waits is a moment's worth.
        while max(link["backlog_events"] for _, link in cluster.links()) > rate / 10:
            if time.monotonic() - healed > CATCH_UP_PATIENCE:
                raise Failed(f"not caught up {CATCH_UP_PATIENCE} s after the heal")
            time.sleep(0.02)
        figures["catch_up_seconds"] = round(time.monotonic() - healed, 2)
        report = load.report()
    finally:
        load.process.kill()
    figures.update(backlog_peak=peak, exposure_peak_seconds=round(exposure, 1), waiting_at_heal=sum(cut.values()))
    figures.update(retried=report["retried"], failed=report["failed"], achieved_rate=round(report["achieved_rate"], 1))
    cluster.wait_caught_up(time.monotonic())
    verify(cluster, load.journal, figures)
    return figures


def drills(cluster, count, names, totals):
    """So many experiments one after the other; each must pass."""
    files = sorted(file for file in (ROOT / "chaos").glob("*.yaml") if not names or file.stem in names)
    if not files:
        raise Failed(f"no such experiment: {', '.join(names)}")
    for number in range(count):
        file = files[number % len(files)]
        began = time.monotonic()
        report = cluster.drill(file)
        measured = report["hubweave"]
        figures = {name: value for name, value in measured.items() if isinstance(value, (int, float, str))}
        figures["seconds"] = round(time.monotonic() - began, 1)
        print(f"drill {number + 1}: {json.dumps(figures)}", flush=True)
        totals["drills"] += 1
        for name in ("acknowledged", "lost", "delivered_twice", "duplicates"):
            totals[name] = totals.get(name, 0) + (measured[name] or 0)
        if measured["verdict"] != "passed":
            raise Failed(f"{file.stem}: {'; '.join(measured['reasons'])}\n{json.dumps(report['run'], indent=1)[:4000]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30, help="begin no round after this long (default 30)")
    parser.add_argument("--rounds", type=int, default=0, help="at most so many rounds (default: as many as fit)")
    parser.add_argument("--kills", type=int, default=50, help="kill -9 per round (default 50)")
    parser.add_argument("--partition", type=int, default=120, help="seconds of partition per round (default 120)")
    parser.add_argument("--drills", type=int, default=0, help="experiments of chaos/ to run first (default 0)")
    parser.add_argument("--drill", action="append", default=[], help="only this experiment, by name (may be repeated)")
    parser.add_argument("--rate", type=int, default=1000, help="events a second over all regions (default 1000)")
    parser.add_argument("--seed", type=int, default=None, help="order and moments; printed at the start")
    parser.add_argument("--binary", default=str(ROOT / "target/release/hubweave"))
    options = parser.parse_args()
    if not Path(options.binary).exists():
        sys.exit(f"{options.binary} is not there; `make soak` builds it")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    directory = Path(tempfile.mkdtemp(prefix="hubweave-soak-"))
    print(f"seed {seed}, {os.cpu_count()} cores, data in {directory}", flush=True)
    began, rounds, totals = time.monotonic(), 0, {"acknowledged": 0, "kills": 0, "drills": 0}
    try:
        with Cluster(options.binary, directory) as cluster:
            drills(cluster, options.drills, options.drill, totals)
            while time.monotonic() - began < options.minutes * 60 and rounds != (options.rounds or -1):
                rounds += 1
                parts = []
                if options.kills:
                    parts.append(lambda: kills(cluster, options.rate, options.kills, chance))
                if options.partition:
                    parts.append(lambda: partition(cluster, options.rate, options.partition, chance))
                for part in parts:
                    figures = part()
                    totals["acknowledged"] += figures["acknowledged"]
                    totals["kills"] += figures.get("kills", 0)
                    print(f"round {rounds}: {json.dumps(figures)}", flush=True)
            violations = cluster.sum_of_metric("hubweave_invariant_violations_total")
            if violations:
                raise Failed(f"{violations:.0f} invariant violations")
    except (Failed, OSError, subprocess.TimeoutExpired) as why:
        print(f"FAILED in round {rounds}, after {totals['drills']} drills: {why}\ndata and logs are kept in {directory}; again with --seed {seed}")
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    print(f"{rounds} rounds: {json.dumps(totals)}; lost 0, second effects 0")
    return 0


if __name__ == "__main__":
    sys.exit(main())
