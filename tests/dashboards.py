#!/usr/bin/env python3
"""The dashboards and rules under `dashboards/`, read and tried: `python3 tests/dashboards.py`.

Reads: dashboards are what generate.py makes, panels are described and have units, each metric of a query exists, each
exported metric is shown or listed in debugging.txt, each alert has its section of the runbook and cases for promtool.
Tries: promtool's checks and tests; a Prometheus that scrapes three live regions under load, where each query must find
series and no alert may fire, traces must show as exemplars, and a collector must get all metrics; then one agent is stopped, and its alerts must fire and end; and an operation on a document
cannot be done, and its alert must fire.

With `--drills`, instead of all that: each experiment in `chaos/` must fire exactly the alerts that it lists.

Needs target/debug/hubweave and .venv's Python (`make tools`), and installs Debian's package `prometheus` where it is absent. Exit code 1 if anything is not
met; `--read` leaves out what needs programs.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

try:
    from google.protobuf import json_format
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
except ImportError:
    json_format = None  # reading needs none of them

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "dashboards"
RULES = FOLDER / "prometheus"
REGIONS = ["eu-central-1", "us-east-1", "ap-southeast-2"]
STOPPED = "us-east-1"

LOAD_SECONDS = 20
READY_PATIENCE = 60
ALERT_PATIENCE = 45

# The live cluster is watched each second, and the alerts that are tried wait for less.
SHORTER = [
    (r"interval: 15s", "interval: 1s"),
    (r"> 30\n", "> 8\n"),
    (r"for: 30s", "for: 2s"),
    (r"for: 1m", "for: 10s"),  # Prometheus finds its targets after 5
]

# Some of the load belongs to this trace: as AWS writes it, and its id as tools for traces show it.
X_RAY = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
TRACE = "5759e988bd862e3fe1be46a994272793"

# A drill's trouble lasts for seconds, so that for drills the rules wait for less still: what each alert would say if it lasted.
SHORTER_FOR_DRILLS = [
    (r"interval: 15s", "interval: 250ms"),
    (r"> 30\n", "> 4\n"),  # without heartbeats
    (r"> 60\n", "> 2\n"),  # of exposure
    (r"\[2m\]", "[3s]"),
    (r"offset 2m", "offset 4s"),
    (r"for: (30s|1m|2m|5m|15m)\n", "for: 0s\n"),
    (r"for: 1h\n", "for: 7s\n"),  # not serving; 20 minutes of different documents stay
]

# Queries that find nothing in a healthy cluster: (dashboard, panel), why.
EMPTY = {
    ("hubweave-overview", "What fires"): "nothing fires",
    ("hubweave-link", "Time until caught up"): "no backlog",
    ("hubweave-failover", "How long each part took"): "no failover",
}

# Starting a region on AWS takes its emulator: a page of what such an agent exports besides stands in for it, growing each second.
ON_AWS = """
hubweave_aws_requests_total{service="sqs",operation="ReceiveMessage",outcome="ok",region="aws-1"}
hubweave_aws_requests_total{service="sqs",operation="DeleteMessageBatch",outcome="throttled",region="aws-1"}
hubweave_aws_requests_total{service="dynamodb",operation="PutItem",outcome="ok",region="aws-1"}
hubweave_aws_requests_total{service="events",operation="PutEvents",outcome="ok",region="aws-1"}
hubweave_events_forwarded_total{peer="aws-2",result="delivered",region="aws-1"}
hubweave_local_entries_total{result="new",region="aws-1"}
hubweave_ledger_rows_read_total{region="aws-1"}
""".split()

OTHER_METRICS = {"up", "ALERTS"}
WORDS = set(
    "abs absent and avg_over_time bool by changes count deriv histogram_quantile group_left group_right increase ignoring"
    " label_replace last_over_time max max_over_time min offset on or quantile_over_time rate sum time unless vector".split()
)


class Checks:
    """What was looked at, and what is not met."""

    def __init__(self):
        self.wrong = []

    def that(self, holds, what):
        if not holds:
            self.wrong.append(what)
            print(f"not met: {what}", flush=True)
        return holds

    def done(self, what, before):
        if len(self.wrong) == before:
            print(f"ok: {what}", flush=True)


# What stands in the files.


def exported():
    """The names that src/metrics.rs and the files below src/metrics declare, and the histograms among them."""
    paths = [ROOT / "src/metrics.rs", *sorted((ROOT / "src/metrics").rglob("*.rs"))]
    text = "".join(path.read_text().split("#[cfg(test)]")[0] for path in paths)
    names = set(re.findall(r'"(hubweave_[a-z_]+)"', text))
    histograms = set(re.findall(r'declare\.histograms\(\s*"(hubweave_[a-z_]+)"', text))
    return names, histograms


def metrics_of(expr):
    """The metrics that a query names, without the suffixes of histograms, and recorded ones by their whole names."""
    expr = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expr)
    expr = re.sub(r"\b(by|on|ignoring|group_left|group_right|without)\s*\([^)]*\)", " ", expr)
    expr = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\$\w+|\b[0-9][0-9a-z.]*\b", " ", expr)
    return {word for word in re.findall(r"[a-zA-Z_:][\w:]*", expr) if word not in WORDS}


def base(name, histograms):
    stem = re.sub(r"_(bucket|count|sum)$", "", name)
    return stem if stem in histograms else name


def boards(checks):
    found = []
    for path in sorted(FOLDER.rglob("*.json")):
        try:
            found.append((path.name, json.loads(path.read_text())))
        except ValueError as error:
            checks.that(False, f"{path.name} is JSON: {error}")
    return found


def queries(board):
    """(panel's title, target) of all panels."""
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target


def check_boards(checks, found, known):
    names, histograms = known
    uids = [board["uid"] for _, board in found]
    checks.that(len(set(uids)) == len(uids) and uids, f"dashboards have uids of their own: {uids}")
    for file, board in found:
        panels = board["panels"]
        ids = [panel["id"] for panel in panels]
        checks.that(len(set(ids)) == len(ids), f"{file}: ids of panels differ: {ids}")
        variables = {variable["name"] for variable in board["templating"]["list"]}
        for name in ("datasource", "region", "peer", "objective"):
            checks.that(name in variables, f"{file}: has the variable {name}")
        used = set(re.findall(r"\$\{?([a-z_]+)", json.dumps([panels, board["annotations"]])))
        unknown = {name for name in used if not name.startswith("__")} - variables
        checks.that(not unknown, f"{file}: variables that are used exist: {sorted(unknown)}")
        places = set()
        for panel in panels:
            where = f"{file}: {panel['title']}"
            place = panel["gridPos"]
            taken = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            checks.that(not taken & places and place["x"] + place["w"] <= 24, f"{where}: has a place of its own")
            places |= taken
            if panel["type"] == "row":
                continue
            checks.that(len(panel.get("description", "")) > 10, f"{where}: is described")
            checks.that(panel["fieldConfig"]["defaults"].get("unit"), f"{where}: has a unit")
            checks.that(panel["targets"], f"{where}: asks for something")
            refs = [target["refId"] for target in panel["targets"]]
            checks.that(len(set(refs)) == len(refs), f"{where}: queries have names of their own")
            for thing in [panel, *panel["targets"]]:
                source = thing.get("datasource", {}).get("uid")
                checks.that(source == "${datasource}", f"{where}: the datasource is the variable, not {source}")
        for title, target in [*queries(board), *(("annotation", entry) for entry in board["annotations"]["list"])]:
            unknown = {base(name, histograms) for name in metrics_of(target["expr"])} - names - OTHER_METRICS
            checks.that(not unknown, f"{file}: {title}: metrics exist: {sorted(unknown)}")
            fixed = re.findall(r"(?:rate|increase)\([^$]*\[(?!\$__)", target["expr"])
            checks.that(not fixed, f"{file}: {title}: rates go by $__rate_interval or $__range")
    tagged = [file for file, board in found if "aws" in board["tags"]]
    of_aws = [file for file, board in found if any("hubweave_aws_" in target["expr"] for _, target in queries(board))]
    checks.that(tagged == of_aws, f"boards for AWS have the tag aws: {of_aws}, {tagged}")


def check_coverage(checks, found, known):
    names, histograms = known
    shown = {
        base(name, histograms)
        for _, board in found
        for _, target in queries(board)
        for name in metrics_of(target["expr"])
    }
    lines = [line for line in (FOLDER / "debugging.txt").read_text().splitlines() if line and not line.startswith("#")]
    listed = {line.split(":")[0] for line in lines}
    checks.that(all(": " in line for line in lines), "debugging.txt gives a reason for each metric")
    missing = names - shown - listed
    checks.that(not missing, f"each metric is on a dashboard or in debugging.txt: {sorted(missing)}")
    checks.that(listed <= names, f"debugging.txt lists what is exported: {sorted(listed - names)}")
    checks.that(not listed & shown, f"debugging.txt lists what no dashboard shows: {sorted(listed & shown)}")


def anchors(text):
    """GitHub's names of a document's sections."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def check_rules(checks, known):
    names, histograms = known
    texts = {path.name: path.read_text() for path in sorted(RULES.glob("*.yml"))}
    recorded = set(re.findall(r"- record: (\S+)", texts["recording.yml"]))
    used = set()
    for text in (texts["recording.yml"], texts["alerts.yml"]):
        for expr in re.findall(r"^ {8}expr: (?:\|2?\n((?: {9,}.*\n|\n)+)|(.+)\n)", text, re.MULTILINE):
            used |= metrics_of("".join(expr))
    unknown = {base(name, histograms) for name in used} - names - recorded - OTHER_METRICS
    checks.that(not unknown, f"metrics of rules exist: {sorted(unknown)}")
    checks.that(recorded <= used, f"recorded metrics are used: {sorted(recorded - used)}")
    sections, of_section = anchors((ROOT / "docs/OPERATIONS.md").read_text()), {}
    runbook = (ROOT / "docs/OPERATIONS.md").read_text()
    alerts = re.split(r"^ {6}- alert: ", texts["alerts.yml"], flags=re.MULTILINE)[1:]
    cases = "".join(text for name, text in texts.items() if name.endswith("_test.yml"))
    for alert in alerts:
        name = alert.split("\n")[0]
        for part in ("severity: (page|ticket)$", "summary: .", "description: .", "runbook_url: .", "expr: ."):
            checks.that(re.search(rf"^ +{part}", alert, re.MULTILINE), f"{name}: has {part.split(':')[0]}")
        document, _, anchor = re.search(r"runbook_url: (\S+)", alert + "runbook_url: -")[1].partition("#")
        checks.that(
            document == "docs/OPERATIONS.md" and anchor in sections, f"{name}: its section exists: {document}#{anchor}"
        )
        checks.that(
            of_section.setdefault(anchor, name) == name, f"{name}: has a section of its own, not {of_section[anchor]}'s"
        )
        checks.that(name in runbook, f"{name}: the runbook names it")
        after = re.findall(rf"alertname: {name}\n +exp_alerts:(.*)\n", cases)
        checks.that(
            " []" in after and "" in after,
            f"{name}: promtool has a case in which it fires and one in which it does not",
        )
    for path in sorted((ROOT / "chaos").rglob("*.yaml")):
        listed = re.findall(r"^    alerts: \[(.*)\]$", path.read_text(), re.MULTILINE)
        checks.that(listed or path.parent.name == "aws", f"{path.name} lists the alerts that it sets off")
        unknown = {name for names in listed for name in names.split(", ")} - set(of_section.values())
        checks.that(not unknown, f"alerts that {path.name} lists exist: {sorted(unknown)}")
    return len(set(of_section.values()))


def check_folder(checks):
    made = subprocess.run([sys.executable, FOLDER / "generate.py", "--check"], capture_output=True, text=True)
    checks.that(made.returncode == 0, made.stderr.strip() or "generate.py --check")
    forbidden = [
        path
        for path in FOLDER.rglob("*")
        if path.name in ("package.json", "node_modules") or "alerting" in path.relative_to(FOLDER).parts
    ]
    checks.that(not forbidden, f"no package.json, node_modules or alerts of Grafana's own: {forbidden}")


# What is tried.

PACKAGES = {"prometheus": "prometheus", "promtool": "prometheus", "chromium": "chromium", "chromedriver": "chromium-driver"}


def install():
    """Debian's packages; only the programs are wanted: no service must stay. Answers whether they are there."""
    absent = sorted({package for program, package in PACKAGES.items() if not shutil.which(program)})
    if not absent:
        return True
    if not shutil.which("apt-get"):
        return False
    rootly = [] if os.geteuid() == 0 else ["sudo"]
    quietly = {"check": False, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    print(f"absent: {', '.join(absent)}; installing Debian's packages", flush=True)
    subprocess.run([*rootly, "apt-get", "update", "--quiet"], **quietly)
    install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *absent]
    subprocess.run([*rootly, *install], **quietly)
    stop = (
        ["systemctl", "disable", "--now", "prometheus"]
        if shutil.which("systemctl")
        else ["service", "prometheus", "stop"]
    )
    if shutil.which(stop[0]):
        subprocess.run([*rootly, *stop], capture_output=True, check=False)
    return all(shutil.which(program) for program in PACKAGES)


def start_promtool():
    commands = [
        ["promtool", "check", "config", "prometheus.yml"],
        ["promtool", "check", "rules", "recording.yml", "alerts.yml"],
        ["promtool", "test", "rules", *sorted(path.name for path in RULES.glob("*_test.yml"))],
    ]
    return [
        (command, subprocess.Popen(command, cwd=RULES, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        for command in commands
    ]


def end_promtool(checks, started):
    for command, process in started:
        said, _ = process.communicate(timeout=120)
        if not checks.that(process.returncode == 0, " ".join(command)):
            print("\n".join(line for line in said.splitlines() if line.strip()), flush=True)
        else:
            print(f"ok: {' '.join(command)}", flush=True)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def get(url, **parameters):
    if parameters:
        url += "?" + urllib.parse.urlencode(parameters, doseq=True)
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def post(url, body, **headers):
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def until(patience, holds):
    began = time.monotonic()
    while not (answer := holds()):
        if time.monotonic() - began > patience:
            return None
        time.sleep(0.25)
    return answer


class Collector(BaseHTTPRequestHandler):
    """Takes pushes as an OpenTelemetry collector does, by the protocol's own messages; keeps the last of each region."""

    pushed = {}
    traces = set()
    wrong = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            assert self.path == "/v1/metrics" and self.headers["Content-Type"] == "application/json", self.path
            request = json_format.Parse(body, ExportMetricsServiceRequest())
            resource = request.resource_metrics[0].resource
            names = {attribute.key: attribute.value.string_value for attribute in resource.attributes}
            # The messages take any base64 for a trace's id, where the protocol's JSON has hexadecimal digits.
            self.traces.update(re.findall(rb'"traceId":"([^"]*)"', body))
            self.pushed[names["cloud.region"]] = request.resource_metrics[0].scope_metrics[0].metrics
        except Exception as error:
            self.wrong.append(f"{error}: {body[:300]}")
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


class AgentOnAws(BaseHTTPRequestHandler):
    """Its `/metrics`."""

    def do_GET(self):
        body = "".join(f"{series} {time.monotonic():.0f}\n" for series in ON_AWS).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Live:
    """Three regions as config/local.toml has them, and a Prometheus that watches them, in a folder of their own."""

    def __init__(self, binary, folder, shorter=SHORTER):
        self.binary, self.folder = binary, folder
        self.on_aws = ThreadingHTTPServer(("127.0.0.1", 0), AgentOnAws)
        self.collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
        ports = free_ports(2 * len(REGIONS) + 1)
        self.api, self.admin = dict(zip(REGIONS, ports)), dict(zip(REGIONS, ports[3:]))
        self.prometheus = f"http://127.0.0.1:{ports[-1]}"
        self.started = []
        text = (ROOT / "config/local.toml").read_text().replace('"data/', f'"{folder}/')
        for at, name in enumerate(REGIONS, 1):
            text = text.replace(f":740{at}", f":{self.api[name]}").replace(f":750{at}", f":{self.admin[name]}")
        self.file = folder / "topology.toml"
        # Answers that are lost are soon asked for again: no heartbeat may be late by that.
        if shorter is SHORTER_FOR_DRILLS:
            text += '\n[replication]\nattempt_timeout = "800ms"\n'
        pushes = f'[otlp]\nendpoint = "http://127.0.0.1:{self.collector.server_port}"\ninterval = "1s"\n'
        self.file.write_text(f"{text}\n{pushes}")
        for name in ("prometheus.yml", "recording.yml", "alerts.yml"):
            text = (RULES / name).read_text()
            for long, short in shorter:
                text = re.sub(long, short, text)
            for at, region in enumerate(REGIONS, 1):
                text = text.replace(f":750{at}", f":{self.admin[region]}")
            last = f"          - 127.0.0.1:{self.admin[REGIONS[-1]]}\n"
            text = text.replace(last, f"{last}          - 127.0.0.1:{self.on_aws.server_port}\n")
            (folder / name).write_text(text)

    def __enter__(self):
        for server in (self.on_aws, self.collector):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            self.start("up", [self.binary, "up", "--config", self.file])
            for name in REGIONS:
                if not until(READY_PATIENCE, lambda: self.answers(f"http://127.0.0.1:{self.admin[name]}/readyz")):
                    raise RuntimeError(f"{name} does not get ready: {(self.folder / 'up.log').read_text()[-2000:]}")
            listen = self.prometheus.removeprefix("http://")
            self.start(
                "prometheus",
                [
                    "prometheus",
                    "--config.file=prometheus.yml",
                    "--storage.tsdb.path=series",
                    "--enable-feature=exemplar-storage",
                    f"--web.listen-address={listen}",
                    "--log.level=warn",
                ],
            )
            if not until(READY_PATIENCE, lambda: self.answers(f"{self.prometheus}/-/ready")):
                raise RuntimeError(f"Prometheus does not start: {(self.folder / 'prometheus.log').read_text()[-2000:]}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for server in (self.on_aws, self.collector):
            server.shutdown()
        for process in reversed(self.started):
            process.terminate()
        for process in self.started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()  # the children of `up` end by themselves then
                process.wait()

    def start(self, name, command):
        with open(self.folder / f"{name}.log", "w") as log:
            self.started.append(
                subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    def answers(self, url):
        try:
            return get(url) or True
        except OSError:
            return False

    def load(self):
        """Traffic with objects and documents; and what services get wrong, so that its panels have something to show."""
        journal = self.folder / "journal.jsonl"
        load = subprocess.Popen(
            [
                self.binary,
                "load",
                "--config",
                self.file,
                "--rate",
                "100",
                "--duration",
                f"{LOAD_SECONDS}s",
                "--state",
                "4",
                "--journal",
                journal,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        began = time.monotonic()
        number = 0
        while load.poll() is None:
            if time.monotonic() - began > LOAD_SECONDS + READY_PATIENCE:
                load.kill()
            for name in REGIONS:
                self.publish_badly(name, number)
            self.write_at_once(number)
            number += 1
            time.sleep(1)
        print(load.communicate()[0].strip(), flush=True)
        return load.returncode == 0

    def publish_badly(self, name, number):
        entry = {"Source": "shop", "DetailType": "Order", "Detail": json.dumps({"idempotencyKey": f"{name}-{number}"})}
        other = {**entry, "Detail": json.dumps({"idempotencyKey": f"{name}-{number}", "other": 1})}
        empty = {**entry, "Source": ""}
        traced = {**entry, "Detail": json.dumps({"idempotencyKey": f"traced-{name}-{number}"}), "TraceHeader": X_RAY}
        self.publish(name, entry, other, empty, traced)
        try:
            get(f"http://127.0.0.1:{self.api[name]}/payloads/nothing-here-{number}")
        except urllib.error.HTTPError:
            pass

    def publish(self, name, *entries):
        headers = {"X-Amz-Target": "AWSEvents.PutEvents", "Content-Type": "application/x-amz-json-1.1"}
        post(f"http://127.0.0.1:{self.api[name]}", {"Entries": entries}, **headers)

    def write_at_once(self, number):
        """All regions write to one document, twice under one key; one of them deletes another, twice."""

        def write(name):
            document = f"http://127.0.0.1:{self.api[name]}/v1/state/profile/both-{number}"
            ops = [{"field": field, "op": "set", "value": name} for field in ("language", "nickname")]
            for _ in range(2):
                post(document, {"ops": ops}, **{"Content-Type": "application/json", "Idempotency-Key": name})

        writers = [threading.Thread(target=write, args=[name]) for name in REGIONS]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        gone = f"http://127.0.0.1:{self.api[REGIONS[0]]}/v1/state/profile/gone-{number}"
        post(gone, {"ops": [{"field": "plays", "op": "increment", "by": 1}]}, **{"Content-Type": "application/json"})
        for _ in range(2):
            with urllib.request.urlopen(urllib.request.Request(gone, method="DELETE"), timeout=30):
                pass

    def ask(self, expr, instant):
        expr = expr.replace("$__rate_interval", "10s").replace("$__range", "30s").replace("$objective", "5")
        expr = re.sub(r"\$[a-z]+_million", "1", re.sub(r"\$(region|peer)\b", ".+", expr))
        now = time.time()
        if instant:
            answer = get(f"{self.prometheus}/api/v1/query", query=expr, time=now)
        else:
            answer = get(f"{self.prometheus}/api/v1/query_range", query=expr, start=now - 15, end=now, step=5)
        series = json.loads(answer)["data"]["result"]
        values = lambda each: [each["value"]] if "value" in each else each["values"]
        return [each for each in series if any(value != "NaN" for _, value in values(each))]

    def firing(self, state="firing"):
        found = self.ask(f'ALERTS{{alertstate="{state}"}}', True)
        return [each["metric"] for each in found]

    def pid(self, name):
        return int((self.folder / name / "agent.pid").read_text())


def check_panels(checks, live, found):
    count = series = 0
    for _, board in found:
        for title, target in queries(board):
            where = (board["uid"], title)
            try:
                answer = live.ask(target["expr"], target["instant"])
            except urllib.error.HTTPError as error:
                checks.that(False, f"{where[0]}: {title}: Prometheus takes the query: {error.read().decode()[:300]}")
                continue
            if where in EMPTY and target["refId"] != "objective":
                # A backlog of the load may be in sight still.
                checks.that(
                    until(30, lambda: not live.ask(target["expr"], target["instant"])), f"{where[0]}: {title}: finds something, and may leave the list of those that do not"
                )
            else:
                checks.that(answer, f"{where[0]}: {title}: finds series: {target['expr']}")
            count, series = count + 1, series + len(answer)
        for entry in board["annotations"]["list"]:
            live.ask(entry["expr"], False)  # finds nothing; Prometheus must take it
        for variable in board["templating"]["list"]:
            if variable["type"] != "query":
                continue
            selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()
            selector = selector.replace('"$region"', f'"{REGIONS[0]}"').replace("$region", ".+")
            values = json.loads(get(f"{live.prometheus}/api/v1/label/{label}/values", **{"match[]": selector}))["data"]
            checks.that(values, f"{board['uid']}: the variable {variable['name']} has values")
    stale = set(EMPTY) - {(board["uid"], title) for _, board in found for title, _ in queries(board)}
    checks.that(not stale, f"panels that may be empty exist: {sorted(stale)}")
    return count, series


def check_live(checks, binary, found, known):
    with tempfile.TemporaryDirectory(prefix="hubweave-dashboards-") as folder, Live(binary, Path(folder)) as live:
        checks.that(live.load(), "load ends well")
        exports = get(f"http://127.0.0.1:{live.admin[REGIONS[0]]}/metrics")
        extra = set(re.findall(r"^# TYPE (\S+)", exports, re.MULTILINE)) - known[0]
        checks.that(not extra, f"what /metrics has is declared in src/metrics: {sorted(extra)}")

        before = len(checks.wrong)
        count, series = check_panels(checks, live, found)
        checks.done(f"{count} queries, {series} series, {len(EMPTY)} panels that are empty for a reason", before)

        before = len(checks.wrong)
        check_traces_and_pushes(checks, live, exports)
        checks.done("traces show in Prometheus, and a collector takes all that is exported", before)

        before = len(checks.wrong)
        fired = live.ask(
            'count by (alertname, region, instance) (count_over_time(ALERTS{alertstate="firing"}[10m]))', True
        )
        checks.that(not fired, f"no alert fires on a healthy cluster: {[each['metric'] for each in fired]}")
        rules = json.loads(get(f"{live.prometheus}/api/v1/rules"))["data"]["groups"]
        broken = [rule["name"] for group in rules for rule in group["rules"] if rule["health"] != "ok"]
        checks.that(rules and not broken, f"all rules are evaluated: {broken}")
        checks.done("no alert fires on a healthy cluster", before)

        before = len(checks.wrong)
        with Browser(Path(folder)) as browser:
            check_page(checks, live, browser)
        checks.done("the status page in Chromium: live, narrow and wide, and its buttons do what they say", before)

        before = len(checks.wrong)
        stop_an_agent(checks, live)
        checks.done(f"{STOPPED} stopped: its alerts fire, and end when it is back", before)

        before = len(checks.wrong)
        ask_what_cannot_be(checks, live)
        checks.done("an operation on a document that cannot be done: its alert fires", before)


def check_traces_and_pushes(checks, live, exports):
    expr = f'hubweave_replication_lag_seconds_bucket{{region="{REGIONS[0]}", stream="events"}}'
    now = time.time()
    found = json.loads(get(f"{live.prometheus}/api/v1/query_exemplars", query=expr, start=now - 120, end=now))["data"]
    traces = {exemplar["labels"].get("trace_id") for series in found for exemplar in series["exemplars"]}
    checks.that(traces == {TRACE}, f"Prometheus has the trace of an event as an exemplar: {traces}")
    checks.that(not Collector.wrong, f"what is pushed is OTLP: {Collector.wrong[:1]}")
    checks.that(set(Collector.pushed) == set(REGIONS), f"each region pushes: {sorted(Collector.pushed)}")
    families = set(re.findall(r"^# TYPE (\S+)", exports, re.MULTILINE))
    pushed = {metric.name: metric for metric in Collector.pushed.get(REGIONS[0], [])}
    missing = families - set(pushed)
    checks.that(not missing, f"all that /metrics has is pushed: {sorted(missing)}")
    lag = pushed["hubweave_replication_lag_seconds"].histogram
    cumulative = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    checks.that(lag.aggregation_temporality == cumulative, "histograms are cumulative")
    for point in lag.data_points:
        whole = point.count == sum(point.bucket_counts) and len(point.bucket_counts) == len(point.explicit_bounds) + 1
        checks.that(whole, f"the buckets of a histogram add up: {point}")
    checks.that(any(point.exemplars for point in lag.data_points), "a push has exemplars")
    checks.that(Collector.traces == {TRACE.encode()}, f"with the trace of the event: {Collector.traces}")


class Browser:
    """Chromium without a window, by the WebDriver protocol."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        (port,) = free_ports(1)
        self.base = f"http://127.0.0.1:{port}"
        with open(self.folder / "chromedriver.log", "w") as log:
            self.driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=log, stderr=log)
        if not until(READY_PATIENCE, self.ready):
            raise RuntimeError("chromedriver does not start")
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            f"--user-data-dir={self.folder}/chromium",
        ]
        options = {"goog:chromeOptions": {"args": arguments}, "unhandledPromptBehavior": "ignore"}
        session = post(f"{self.base}/session", {"capabilities": {"alwaysMatch": options}})["value"]["sessionId"]
        self.session = f"{self.base}/session/{session}"
        return self

    def __exit__(self, *_):
        try:
            with urllib.request.urlopen(urllib.request.Request(self.session, method="DELETE"), timeout=10):
                pass
        except OSError:
            pass
        self.driver.terminate()
        self.driver.wait(20)

    def ready(self):
        try:
            return json.loads(get(f"{self.base}/status"))["value"]["ready"]
        except OSError:
            return False

    def open(self, url):
        post(f"{self.session}/url", {"url": url})

    def script(self, text, *arguments):
        return post(f"{self.session}/execute/sync", {"script": text, "args": list(arguments)})["value"]

    def size(self, width, height):
        post(f"{self.session}/window/rect", {"width": width, "height": height})

    def click(self, label):
        """A real click on the button with this label; the page draws it anew each second, so again where it was gone."""

        def clicked():
            try:
                found = post(f"{self.session}/element", {"using": "css selector", "value": f'button[aria-label="{label}"]'})
                (element,) = found["value"].values()
                post(f"{self.session}/element/{element}/click", {})
                return True
            except urllib.error.HTTPError:
                return False

        return until(20, clicked)

    def accept(self, text=None):
        """Answers what the page asks."""

        def accepted():
            try:
                if text is not None:
                    post(f"{self.session}/alert/text", {"text": text})
                post(f"{self.session}/alert/accept", {})
                return True
            except urllib.error.HTTPError:
                return False

        return until(20, accepted)


def check_page(checks, live, browser):
    home, peer = REGIONS[:2]
    text = lambda where: browser.script("return document.querySelector(arguments[0])?.innerText || ''", where)
    row = lambda table, name: browser.script(
        "return [...document.querySelectorAll(`#${arguments[0]} tr`)].map(row => row.innerText)"
        ".find(text => text.includes(arguments[1])) || ''",
        table,
        name,
    )
    browser.open(f"http://127.0.0.1:{live.admin[home]}/")
    checks.that(until(20, lambda: text("#region") == home), f"the page names its region: {text('#region')}")
    checks.that(until(20, lambda: "All links deliver" in text("#verdict")), f"all is well: {text('#verdict')}")
    checks.that(until(20, lambda: "active" in row("links", peer)), f"a link is active: {row('links', peer)}")
    curves = browser.script("return document.querySelectorAll('#links polyline').length")
    checks.that(curves >= len(REGIONS) - 1, f"the last minutes are drawn: {curves} lines")
    checks.that(all("active" in row("regions", name) for name in REGIONS), "all regions serve")
    before = text("#time")
    checks.that(until(10, lambda: text("#time") != before), "the page is live")
    for width in (1400, 390):
        browser.size(width, 900)
        wide = browser.script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        checks.that(wide <= 0, f"at {width} pixels nothing sticks out: {wide}")
    browser.size(1400, 1000)
    checks.that(browser.click(f"Pause {peer}") and browser.accept(), "a link can be paused")
    checks.that(until(20, lambda: "paused" in row("links", peer)), f"it is paused: {row('links', peer)}")
    checks.that(browser.click(f"Resume {peer}"), "it can be resumed")
    checks.that(until(20, lambda: "active" in row("links", peer)), f"it is active again: {row('links', peer)}")
    checks.that(browser.click(f"Evacuate {peer}") and browser.accept("a look at the page"), "a region can be left")
    checks.that(until(40, lambda: "evacuated" in row("regions", peer)), f"it is left: {row('regions', peer)}")
    checks.that("a look at the page" in row("log", peer), f"the reason is among the decisions: {row('log', peer)}")
    checks.that(browser.click(f"Fail back {peer}") and browser.accept("enough seen"), "users can be sent back")
    checks.that(until(60, lambda: "active" in row("regions", peer)), f"it serves again: {row('regions', peer)}")


def stop_an_agent(checks, live):
    hold = live.folder / STOPPED / "agent.hold"
    hold.touch()
    os.kill(live.pid(STOPPED), signal.SIGTERM)
    others = {("HubweaveHeartbeatMissing", name) for name in REGIONS if name != STOPPED}
    expected = others | {("HubweaveAgentDown", STOPPED), ("HubweaveRegionSuspected", "")}

    def names():
        return {(alert["alertname"], alert.get("region", "")) for alert in live.firing()}

    seen = until(ALERT_PATIENCE, lambda: (now := names()) >= expected and now) or names()
    checks.that(seen == expected, f"exactly these fire without {STOPPED}: {sorted(expected)}, not {sorted(seen)}")
    for alert in json.loads(get(f"{live.prometheus}/api/v1/alerts"))["data"]["alerts"]:
        if alert["state"] == "firing":
            print(f"    {alert['labels']['severity']}: {alert['annotations']['summary']}", flush=True)
    hold.unlink()
    checks.that(until(ALERT_PATIENCE, lambda: not live.firing()), f"nothing fires once it is back: {live.firing()}")


def ask_what_cannot_be(checks, live):
    """Comes last, as the alert looks back for an hour."""
    detail = {"type": "no-such-type", "id": "1", "delete": True}
    live.publish(REGIONS[0], {"Source": "shop", "DetailType": "State Operation", "Detail": json.dumps(detail)})
    expected = [("HubweaveStateEventsUnreadable", REGIONS[0])]

    def seen():
        return [(alert["alertname"], alert.get("region", "")) for alert in live.firing()]

    checks.that(until(ALERT_PATIENCE, lambda: seen() == expected), f"exactly this fires: {expected}, not {seen()}")


def check_drills(checks, binary):
    """Each experiment fires exactly the alerts that it lists; each in a cluster of its own, as some alerts look back."""
    import yaml

    for path in sorted((ROOT / "chaos").glob("*.yaml")):
        before = len(checks.wrong)
        listed = set(yaml.safe_load(path.read_text())["extensions"][0].get("alerts", []))
        with (
            tempfile.TemporaryDirectory(prefix="hubweave-drill-") as folder,
            Live(binary, Path(folder), SHORTER_FOR_DRILLS) as live,
        ):
            all_seen = lambda: live.ask("count(up == 1) == 4", True) and not live.firing() and not live.firing("pending")
            checks.that(until(READY_PATIENCE, all_seen), f"{path.stem}: nothing fires before it: {live.firing()}")
            began = time.monotonic()
            command = [binary, "drill", "run", path, "--config", live.file]
            drill = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
            checks.that(drill.returncode == 0, f"{path.stem} passes: {drill.stdout[-600:]}{drill.stderr[-600:]}")
            time.sleep(2)  # until the last of it is evaluated
            window = f"{time.monotonic() - began:.0f}s"
            fired = live.ask(f'count by (alertname) (max_over_time(ALERTS{{alertstate="firing"}}[{window}]))', True)
            fired = {each["metric"]["alertname"] for each in fired}
            checks.that(fired == listed, f"{path.stem} fires exactly {sorted(listed)}, not {sorted(fired)}")
        checks.done(f"{path.stem}: {', '.join(sorted(listed))}", before)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--read", action="store_true", help="only what needs no programs")
    parser.add_argument("--drills", action="store_true", help="only: each experiment fires exactly the alerts it lists; six minutes of a machine that does nothing else")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/debug/hubweave")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    checks = Checks()
    if arguments.drills:
        if checks.that(install(), f"programs are there: apt-get install {' '.join(sorted(set(PACKAGES.values())))}"):
            check_drills(checks, arguments.binary.resolve())
        print(f"{len(checks.wrong)} not met" if checks.wrong else "drills and their alerts: all met", flush=True)
        return 1 if checks.wrong else 0
    known = exported()
    found = boards(checks)
    check_folder(checks)
    check_boards(checks, found, known)
    check_coverage(checks, found, known)
    alerts = check_rules(checks, known)
    panels = sum(panel["type"] != "row" for _, board in found for panel in board["panels"])
    checks.done(f"{len(found)} dashboards, {panels} panels, {alerts} alerts, {len(known[0])} metrics", 0)
    if not arguments.read:
        installed = checks.that(install(), f"programs are there: apt-get install {' '.join(sorted(set(PACKAGES.values())))}")
        checks.that(json_format, "OpenTelemetry's messages are there: make tools, then .venv/bin/python tests/dashboards.py")
        built = checks.that(arguments.binary.exists(), f"{arguments.binary} is there: cargo build")
        promtool = start_promtool() if installed else []
        if installed and built and json_format:
            check_live(checks, arguments.binary.resolve(), found, known)
        end_promtool(checks, promtool)
    print(f"{len(checks.wrong)} not met" if checks.wrong else "dashboards and rules: all met", flush=True)
    return 1 if checks.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
