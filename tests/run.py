#!/usr/bin/env python3
"""Everything that must pass, in order, with a summary at the end. `make test` calls it.

Each stage runs to its end even if an earlier one failed: one run tells everything. The last line is
`N passed, N failed`; the exit code is 1 if anything failed.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Tests mostly wait for other processes, so more of them than cores.
E2E_THREADS = 4

def simulate(*arguments):
    """In the build that the tests have made; two runs at once on two cores."""
    return ["cargo", "run", "--quiet", "--", "simulate", "--jobs", str(os.cpu_count() or 2), *arguments]


# Name, command, limit in seconds (the first that compiles everything gets most), whether it runs cargo's tests.
STAGES = [
    ("format", ["cargo", "fmt", "--check"], 120, False),
    ("lints", ["cargo", "clippy", "--all-targets", "--", "-D", "warnings"], 1500, False),
    ("unit tests", ["cargo", "test", "--lib"], 1800, True),
    ("documentation's examples", ["cargo", "test", "--doc"], 600, True),
    ("tidiness", ["cargo", "test", "--test", "tidy"], 900, True),
    ("simulation", simulate("--seeds", "0..2000", "--twice", "100", "--require-coverage"), 1200, False),
    (
        "simulation on managed services",
        simulate("--world", "managed", "--seeds", "0..400", "--twice", "100", "--require-coverage"),
        600,
        False,
    ),
    ("histories with a name", simulate("--scenario", "all", "--seeds", "0..4"), 300, False),
    ("planted bugs", simulate("--plant", "all", "--seeds", "0..600"), 900, False),
    ("end to end", ["cargo", "test", "--test", "e2e", "--", f"--test-threads={E2E_THREADS}"], 900, True),
    # With the build that the tests have made.
    ("dashboards", [".venv/bin/python", "tests/dashboards.py"], 300, False),
]

RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;")
TEST = re.compile(r"^test (\S+)(?: - .*)? \.\.\. (ok|FAILED|ignored)")
SECTION = re.compile(r"^---- (\S+)(?: - .*)? stdout ----$")

COMPLAINT = re.compile(
    r"(error|Diff in|not met: |(\S+, )?seed \d+ FAILED|planted .*: MISSED|\d+ seeds run twice, [1-9])"
)

# So many lines of why are repeated in the summary.
WHY_LINES = 12


class Stage:
    """One command: what it printed, streamed while it runs, and what came of it."""

    def __init__(self, name, command, limit, tests):
        self.name, self.command, self.limit, self.tests = name, command, limit, tests
        self.lines = []
        self.passed = self.failed = 0
        self.failures = []  # (name, lines of why)

    def run(self):
        print(f"\n=== {self.name}: {' '.join(self.command)}", flush=True)
        began = time.monotonic()
        code, timed_out = self.execute()
        seconds = time.monotonic() - began
        self.judge(code, timed_out)
        print(f"=== {self.name}: {self.passed} passed, {self.failed} failed in {seconds:.0f} s", flush=True)

    def execute(self):
        try:
            process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # so that a time-out ends whatever it started
            )
        except OSError as error:
            self.lines.append(str(error))
            return 127, False
        timed_out = threading.Event()

        def give_up():
            timed_out.set()
            end(process)

        timer = threading.Timer(self.limit, give_up)
        timer.start()
        try:
            for line in process.stdout:
                sys.stdout.write(line)
                sys.stdout.flush()
                self.lines.append(line.rstrip("\n"))
            code = process.wait()
        except BaseException:
            end(process)
            raise
        finally:
            timer.cancel()
        return code, timed_out.is_set()

    def judge(self, code, timed_out):
        if self.tests:
            for line in self.lines:
                if match := RESULT.match(line):
                    passed, failed, ignored = map(int, match.groups())
                    self.passed += passed
                    self.failed += failed
                    if ignored:
                        self.fail(f"{ignored} tests were not run", ["nothing may be ignored"])
            named = [match[1] for match in map(TEST.match, self.lines) if match and match[2] == "FAILED"]
            self.failures += [(name, self.why(name)) for name in named]
        elif code == 0:
            self.passed += 1
        if timed_out:
            # Tests that were still running have no result of their own.
            self.fail(f"{self.name} took more than {self.limit} s and was ended", self.lines[-WHY_LINES:])
        elif code != 0 and not self.failures:
            self.fail(f"{self.name} (exit code {code})", self.errors())
        elif self.tests and not self.passed + self.failed and not any(map(RESULT.match, self.lines)):
            self.fail(f"{self.name} ran no tests at all", self.lines[-WHY_LINES:])

    def fail(self, name, why):
        self.failed += 1
        self.failures.append((name, why))

    def why(self, name):
        """What the test printed, without the backtrace."""
        starts = [at for at, line in enumerate(self.lines) if (match := SECTION.match(line)) and match[1] == name]
        if not starts:
            return []
        why = []
        for line in self.lines[starts[0] + 1 :]:
            if SECTION.match(line) or line.startswith(("failures:", "stack backtrace:", "note: run with")):
                break
            if line.strip():
                why.append(line)
        return why[:WHY_LINES]

    def errors(self):
        """The first complaints of the compiler or of the simulator, or the last lines."""
        at = [at for at, line in enumerate(self.lines) if COMPLAINT.match(line)]
        first = at[0] if at else max(0, len(self.lines) - WHY_LINES)
        return self.lines[first : first + WHY_LINES]


def environment():
    kept = {name: value for name, value in os.environ.items() if name not in ("RUST_LOG", "HUBWEAVE_CONFIG")}
    kept.update(CARGO_TERM_COLOR="never", NO_COLOR="1", TERM="dumb", RUST_BACKTRACE="0", CARGO_TERM_PROGRESS_WHEN="never")
    return kept


def end(process):
    """The whole session: a test's agents as well. They end with the test that started them in any case."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [name for name, *_ in STAGES]
    parser.add_argument("--only", action="append", choices=names, help="run this stage alone (may be repeated)")
    only = parser.parse_args().only or names
    began = time.monotonic()
    stages = [Stage(*stage) for stage in STAGES if stage[0] in only]
    for stage in stages:
        stage.run()
    failures = [(stage, *failure) for stage in stages for failure in stage.failures]
    print()
    for stage, name, why in failures:
        print(f"FAILED in {stage.name}: {name}")
        for line in why:
            print(f"    {line}")
    passed, failed = sum(stage.passed for stage in stages), sum(stage.failed for stage in stages)
    if not failures:
        print(f"Everything passed in {time.monotonic() - began:.0f} s.")
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failures or failed else 0


if __name__ == "__main__":
    sys.exit(main())
