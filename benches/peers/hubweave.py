"""hubweave: regions on this machine, linked as in production, each one process with a folder of its own."""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time

from measure import Failed, cpu_seconds, event, forget_peak, free_ports, live, memory_mib, settle, start, stop, until

BATCH = 1000
STRUCTURED, BATCHED = "application/cloudevents+json", "application/cloudevents-batch+json"


def version(binary):
    return subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.strip()


def cloud_event(number, prefix):
    return (
        f'{{"specversion":"1.0","id":"{prefix}-{number:09d}","source":"bench.orders","type":"order.created",'
        f'"data":{event(number, prefix)}}}'
    )


class Connection:
    """HTTP/1.1, kept alive. A request is sent whole; the answer is read when it comes, or waited for."""

    def __init__(self, port):
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def send(self, method, path, body=b"", kind="application/json"):
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
        if body:
            head += f"Content-Type: {kind}\r\n"
        self.socket.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def answer(self):
        """Reads once. (status, body) if the answer is whole now, else None."""
        more = self.socket.recv(1 << 16)
        if not more:
            raise Failed(f"port {self.port}: the agent closed the connection")
        self.received += more
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return None
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if length is None:
            raise Failed(f"port {self.port}: an answer without length: {head[:200]!r}")
        if len(body) < int(length[1]):
            return None
        self.received = b""
        return int(head[9:12]), body

    def ask(self, method, path, body=b"", kind="application/json"):
        self.send(method, path, body, kind)
        while (answer := self.answer()) is None:
            pass
        return answer

    def close(self):
        self.socket.close()


class Agents:
    # What the file says besides the regions.
    more = ""

    def __init__(self, binary, folder, names):
        self.folder = folder
        os.makedirs(folder)
        ports = free_ports(2 * len(names))
        self.api = dict(zip(names, ports))
        self.admin_ports = dict(zip(names, ports[len(names):]))
        text = '[cluster]\nname = "bench"\n'
        for name in names:
            text += f'\n[[region]]\nname = "{name}"\nbackend = "embedded"\ndata_dir = {json.dumps(f"{folder}/{name}")}\n'
            text += f'api = "127.0.0.1:{self.api[name]}"\nadmin = "127.0.0.1:{self.admin_ports[name]}"\n'
        text += self.more
        config = f"{folder}/topology.toml"
        with open(config, "w") as file:
            file.write(text)
        environment = {**os.environ, "RUST_LOG": os.environ.get("RUST_LOG", "warn")}
        self.processes = {
            name: start([binary, "run", "--config", config, "--region", name], f"{folder}/{name}.log",
                        cwd=folder, env=environment)
            for name in names
        }
        self.admin = {}
        try:
            for name, port in self.admin_ports.items():
                until(f"region {name} is ready", 30, lambda: self.is_ready(name, port), self.children())
        except BaseException:
            self.close()
            raise

    def children(self):
        return list(self.processes.values())

    def is_ready(self, name, port):
        try:
            connection = Connection(port)
        except OSError:
            return False
        self.admin[name] = connection
        return connection.ask("GET", "/readyz")[0] == 200

    def status(self, name):
        code, body = self.admin[name].ask("GET", "/v1/status")
        if code != 200:
            raise Failed(f"status of {name}: {code} {body[:300]!r}")
        return json.loads(body)

    def link(self, source, target):
        return next(link for link in self.status(source)["links"] if link["peer"] == target)

    def switch(self, source, target, action):
        code, body = self.admin[source].ask("POST", f"/v1/links/{target}/{action}")
        if code != 200:
            raise Failed(f"{action} {source} -> {target}: {code} {body[:300]!r}")

    def load(self, name, count, connections=4):
        """Publishes `count` events in batches, each acknowledged, over some connections."""
        batches = iter(range(0, count, BATCH))
        lock, failures = threading.Lock(), []

        def work():
            try:
                connection = Connection(self.api[name])
                while not failures:
                    with lock:
                        first = next(batches, None)
                    if first is None:
                        break
                    numbers = range(first, min(first + BATCH, count))
                    body = f"[{','.join(cloud_event(number, 'e') for number in numbers)}]".encode()
                    code, answer = connection.ask("POST", "/v1/events", body, BATCHED)
                    for _ in range(200):
                        if code != 503:
                            break
                        time.sleep(0.05)
                        code, answer = connection.ask("POST", "/v1/events", body, BATCHED)
                    if code not in (200, 202) or answer.count(b'"accepted"') != len(numbers):
                        raise Failed(f"load: {code} {answer[:300]!r}")
                connection.close()
            except (Failed, OSError) as error:
                failures.append(error)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(600)
        if failures:
            raise Failed(str(failures[0]))

    def close(self):
        for connection in self.admin.values():
            connection.close()
        stop(*self.processes.values())
        shutil.rmtree(self.folder, ignore_errors=True)


def catch_up(binary, folder, count, seconds_max=300):
    """Loads region a while its link to b is paused, lets it go, and waits until b has all of it."""
    agents = Agents(binary, folder, ["a", "b"])
    try:
        agents.switch("a", "b", "pause")
        before = time.perf_counter()
        agents.load("a", count)
        loading = time.perf_counter() - before
        if (early := agents.status("b")["events"]) != 0:
            raise Failed(f"a paused link delivered {early} events")
        settle(folder, count)
        processes = agents.children()
        loaded = {name: memory_mib(process) for name, process in agents.processes.items()}
        for process in processes:
            forget_peak(process)
        cpu, begin = [cpu_seconds(process) for process in processes], time.perf_counter()
        agents.switch("a", "b", "resume")
        until("region b catches up", seconds_max, lambda: agents.status("b")["events"] >= count, processes)
        seconds = time.perf_counter() - begin
        cpu = [cpu_seconds(process) - before for process, before in zip(processes, cpu)]
        until("the link's backlog is 0", 30, lambda: agents.link("a", "b")["backlog_events"] == 0, processes)
        if (events := agents.status("b")["events"]) != count:
            raise Failed(f"region b has {events} events of {count}")
        peaks = {name: memory_mib(process)[1] for name, process in agents.processes.items()}
        time.sleep(5)
        after = {name: memory_mib(process)[0] for name, process in agents.processes.items()}
    finally:
        agents.close()
    return {
        "events": count, "seconds": seconds, "cpu_seconds": sum(cpu), "per_second": count / seconds,
        "per_cpu_second": count / max(sum(cpu), 0.01),
        "cpu_seconds_of": {"source": round(cpu[0], 2), "target": round(cpu[1], 2)},
        "peak_mib": {"source": peaks["a"], "target": peaks["b"]},
        "memory_mib": {
            "backlog": {"source": loaded["a"][0], "target": loaded["b"][0]},
            "peak_while_loading": {"source": loaded["a"][1], "target": loaded["b"][1]},
            "peak_in_catch_up": {"source": peaks["a"], "target": peaks["b"]},
            "5_s_after": {"source": after["a"], "target": after["b"]},
        },
        "loaded_per_second": count / loading,
    }


class Publisher:
    """One event a request, each over whichever connection is free."""

    def __init__(self, port, connections=64):
        self.free = [Connection(port) for _ in range(connections)]
        self.connections = {connection.socket: connection for connection in self.free}
        self.busy = {}

    def sockets(self):
        return list(self.connections)

    def is_ready(self):
        return bool(self.free)

    def publish(self, number):
        connection = self.free.pop()
        self.busy[connection.socket] = number
        connection.send("POST", "/v1/events", cloud_event(number, "live").encode(), STRUCTURED)

    def read(self, source):
        connection = self.connections[source]
        answer = connection.answer()
        if answer is None:
            return []
        code, body = answer
        if code not in (200, 202) or b'"accepted"' not in body:
            raise Failed(f"live: {code} {body[:300]!r}")
        self.free.append(connection)
        return [self.busy.pop(source)]


class Subscriber:
    """A region's events as a server-sent stream."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        request = f"GET /v1/events?from=now HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n"
        self.socket.sendall(request.encode())
        self.chunked, self.text = b"", b""
        while b"\r\n\r\n" not in self.chunked:
            self.chunked += self.socket.recv(1 << 16) or self.closed()
        head, _, self.chunked = self.chunked.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0] or b"transfer-encoding: chunked" not in head.lower():
            raise Failed(f"no stream of events: {head[:300]!r}")

    def closed(self):
        raise Failed("the agent closed the stream of events")

    def sockets(self):
        return [self.socket]

    def read(self, _):
        self.chunked += self.socket.recv(1 << 20) or self.closed()
        while (end := self.chunked.find(b"\r\n")) >= 0:
            size = int(self.chunked[:end].split(b";")[0], 16)
            if len(self.chunked) < end + 4 + size:
                break
            self.text += self.chunked[end + 2 : end + 2 + size]
            self.chunked = self.chunked[end + 4 + size :]
        whole, found, rest = self.text.rpartition(b"\n\n")
        if not found:
            return []
        self.text = rest
        return [int(number) for number in re.findall(rb'"benchSequence": ?(\d+)', whole)]


def lag(binary, folder, rate, seconds):
    agents = Agents(binary, folder, ["a", "b"])
    try:
        subscriber, publisher = Subscriber(agents.api["b"]), Publisher(agents.api["a"])
        processes = agents.children()
        cpu = cpu_seconds(*processes)
        result = live(rate, seconds, publisher, subscriber)
        cpu = cpu_seconds(*processes) - cpu
        own = agents.link("a", "b")["lag_seconds"]
        own = {point: value and round(value * 1e3, 3) for point, value in own.items()}
        return result | {"cpu_seconds": round(cpu, 2), "own_histogram_ms": own}
    finally:
        agents.close()


def idle(binary, folder, seconds):
    """What a region of three keeps in memory, and what it costs, while nothing happens but heartbeats."""
    agents = Agents(binary, folder, ["a", "b", "c"])
    try:
        processes = agents.children()
        time.sleep(2)
        cpu = cpu_seconds(*processes)
        time.sleep(seconds)
        cpu = cpu_seconds(*processes) - cpu
        return {
            "seconds": seconds,
            "resident_mib": {name: memory_mib(process)[0] for name, process in agents.processes.items()},
            "cpu_percent_each": round(100 * cpu / seconds / len(processes), 2),
        }
    finally:
        agents.close()
