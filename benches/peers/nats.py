"""NATS JetStream: a hub, a leaf node, and a mirror on the leaf of the hub's stream. A minimal client, no library."""

import json
import os
import re
import shutil
import socket
import subprocess
import time

from measure import Failed, cpu_seconds, event, forget_peak, free_ports, live, memory_mib, settle, start, stop, until

STREAM, MIRROR = "ORDERS", "ORDERS-MIRROR"


def find_server():
    """The path of nats-server, which Debian keeps where a user's PATH does not look, or None."""
    return shutil.which("nats-server", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def version():
    return subprocess.run([find_server(), "--version"], capture_output=True, text=True).stdout.strip()


class Client:
    """One connection; requests one at a time, publishing with as many acknowledgements outstanding as wanted."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        options = {"verbose": False, "pedantic": False, "headers": False, "name": "bench"}
        self.socket.sendall(b"CONNECT %s\r\nSUB _INBOX.r.* 1\r\nPING\r\n" % json.dumps(options).encode())
        self.requests = 0
        while not any(subject is None for subject, _ in self.read()):
            pass

    def close(self):
        self.socket.close()

    def read(self):
        """Waits for bytes; answers whole messages as (subject, payload), and a PONG as (None, None)."""
        more = self.socket.recv(1 << 20)
        if not more:
            raise Failed("nats-server closed the connection")
        self.received += more
        return self.messages()

    def messages(self):
        at, found, buffer = 0, [], self.received
        while True:
            end = buffer.find(b"\r\n", at)
            if end < 0:
                break
            line = bytes(buffer[at:end])
            if line.startswith(b"MSG "):
                parts = line.split()
                length = int(parts[-1])
                if len(buffer) < end + 4 + length:
                    break
                found.append((parts[1].decode(), bytes(buffer[end + 2 : end + 2 + length])))
                at = end + 4 + length
                continue
            if line == b"PING":
                self.socket.sendall(b"PONG\r\n")
            elif line == b"PONG":
                found.append((None, None))
            elif line.startswith(b"-ERR"):
                raise Failed(f"nats-server: {line.decode()}")
            at = end + 2
        del buffer[:at]
        return found

    def request(self, subject, body=None, seconds=10.0):
        """The answer as JSON, or None where nobody answers in time."""
        self.requests += 1
        inbox = f"_INBOX.r.{self.requests}"
        body = b"" if body is None else json.dumps(body).encode()
        self.socket.sendall(b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), inbox.encode(), len(body), body))
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                for found, payload in self.read():
                    if found == inbox:
                        return json.loads(payload)
            except TimeoutError:
                break
            finally:
                self.socket.settimeout(30)
        return None

    def ask(self, subject, body=None):
        answer = self.request(subject, body)
        if answer is None or "error" in answer:
            raise Failed(f"{subject}: {answer}")
        return answer

    def load(self, count, first=0, window=4096, chunk=256):
        """Stores `count` events, each acknowledged, with at most `window` unanswered."""
        sent = acked = 0
        while acked < count:
            while sent < count and sent - acked + chunk <= window:
                last = min(sent + chunk, count)
                self.socket.sendall(b"".join(
                    b"PUB orders.created _INBOX.r.a %d\r\n%s\r\n" % (len(body), body)
                    for body in (event(first + number).encode() for number in range(sent, last))
                ))
                sent = last
            acked += sum(subject == "_INBOX.r.a" for subject, _ in self.read())


class Servers:
    """A hub and a leaf, each with JetStream in files, in a domain of its own."""

    def __init__(self, folder):
        self.folder = folder
        hub_port, leaf_port, leaf_nodes = free_ports(3)
        os.makedirs(folder)
        common = "listen: 127.0.0.1:%d\nserver_name: %s\njetstream { store_dir: %s, domain: %s }\n"
        parts = {
            "hub": common % (hub_port, "hub", json.dumps(f"{folder}/hub"), "hub")
            + f"leafnodes {{ listen: 127.0.0.1:{leaf_nodes} }}\n",
            "leaf": common % (leaf_port, "leaf", json.dumps(f"{folder}/leaf"), "leaf")
            + f'leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{leaf_nodes}" }} ] }}\n',
        }
        self.processes = []
        for name, text in parts.items():
            with open(f"{folder}/{name}.conf", "w") as file:
                file.write(text)
            self.processes.append(start([find_server(), "-c", f"{folder}/{name}.conf"], f"{folder}/{name}.log"))
        self.clients = []
        try:
            self.hub, self.leaf = self.connect(hub_port), self.connect(leaf_port)
            for client, api in ((self.hub, "$JS.API.INFO"), (self.leaf, "$JS.API.INFO"), (self.leaf, "$JS.hub.API.INFO")):
                until(api, 20, lambda: client.request(api, seconds=0.5), self.processes)
            stream = {"name": STREAM, "subjects": ["orders.*"], "storage": "file", "num_replicas": 1}
            self.hub.ask(f"$JS.API.STREAM.CREATE.{STREAM}", stream)
        except BaseException:
            self.close()
            raise

    def connect(self, port):
        def attempt():
            try:
                return Client(port)
            except OSError:
                return None

        client = until("nats-server listens", 20, attempt, self.processes)
        self.clients.append(client)
        return client

    def mirror(self):
        source = {"name": STREAM, "external": {"api": "$JS.hub.API", "deliver": ""}}
        self.leaf.ask(f"$JS.API.STREAM.CREATE.{MIRROR}", {"name": MIRROR, "storage": "file", "mirror": source})

    def mirrored(self):
        return self.leaf.ask(f"$JS.API.STREAM.INFO.{MIRROR}")["state"]["messages"]

    def close(self):
        for client in self.clients:
            client.close()
        stop(*self.processes)
        shutil.rmtree(self.folder, ignore_errors=True)


def catch_up(folder, count):
    servers = Servers(folder)
    try:
        servers.hub.load(count)
        settle(folder, count)
        for process in servers.processes:
            forget_peak(process)
        cpu, begin = cpu_seconds(*servers.processes), time.perf_counter()
        servers.mirror()
        until("the mirror catches up", 120, lambda: servers.mirrored() >= count, servers.processes)
        seconds = time.perf_counter() - begin
        cpu = cpu_seconds(*servers.processes) - cpu
        peaks = [memory_mib(process)[1] for process in servers.processes]
    finally:
        servers.close()
    return {"events": count, "seconds": seconds, "cpu_seconds": cpu, "per_second": count / seconds,
            "per_cpu_second": count / max(cpu, 0.01), "peak_mib": {"source": peaks[0], "target": peaks[1]}}


class Publisher:
    def __init__(self, client):
        self.client = client

    def sockets(self):
        return [self.client.socket]

    def is_ready(self):
        return True

    def publish(self, number):
        body = event(number, "live").encode()
        self.client.socket.sendall(b"PUB orders.created _INBOX.r.p%d %d\r\n%s\r\n" % (number, len(body), body))

    def read(self, _):
        return [int(subject[10:]) for subject, _ in self.client.read() if subject and subject.startswith("_INBOX.r.p")]


class Subscriber:
    """A consumer of the mirror on the leaf, that the leaf pushes to."""

    def __init__(self, client):
        self.client = client
        client.socket.sendall(b"SUB bench.delivered 2\r\n")
        config = {"deliver_subject": "bench.delivered", "deliver_policy": "new", "ack_policy": "none"}
        client.ask(f"$JS.API.CONSUMER.CREATE.{MIRROR}", {"stream_name": MIRROR, "config": config})

    def sockets(self):
        return [self.client.socket]

    def read(self, _):
        found = (payload for subject, payload in self.client.read() if subject == "orders.created")
        return [int(re.search(rb'"benchSequence":(\d+)', payload)[1]) for payload in found]


def lag(folder, rate, seconds):
    servers = Servers(folder)
    try:
        servers.mirror()
        subscriber = Subscriber(servers.leaf)
        # One event goes ahead, so that the mirror has begun; no number of `live` is as high.
        servers.hub.load(1, first=100_000_000)
        until("the mirror begins", 30, lambda: servers.mirrored() >= 1, servers.processes)
        cpu = cpu_seconds(*servers.processes)
        result = live(rate, seconds, Publisher(servers.hub), subscriber)
        return result | {"cpu_seconds": round(cpu_seconds(*servers.processes) - cpu, 2)}
    finally:
        servers.close()
