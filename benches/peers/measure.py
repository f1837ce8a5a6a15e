"""What both sides are measured with: processes, clocks, /proc, the disk's sync, one live load."""

import atexit
import ctypes
import os
import select
import signal
import socket
import statistics
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")
children = []


class Failed(Exception):
    """A phase that cannot be measured; says why. The other phases go on."""


def start(command, log, cwd=None, env=None):
    """A child process that ends with this one, whatever becomes of it. Its output goes to the file `log`."""

    def die_with_parent():
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)

    with open(log, "ab") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=cwd, env=env,
            preexec_fn=die_with_parent, start_new_session=True,
        )
    child.log = log
    children.append(child)
    return child


def stop(*given):
    for child in given:
        if child.poll() is None:
            child.terminate()
    for child in given:
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child in children:
            children.remove(child)


@atexit.register
def kill_all():
    for child in children:
        if child.poll() is None:
            child.kill()
            child.wait()
    children.clear()


def free_ports(count):
    """Ports of 127.0.0.1 that nobody listens on. All are taken before one is let go, so they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


def until(what, seconds, done, child=(), pause=0.02):
    """Polls `done` until it answers something true; answers that. Sleeps in between, so that it costs little CPU."""
    end = time.monotonic() + seconds
    while True:
        answer = done()
        if answer:
            return answer
        for process in child:
            if process.poll() is not None:
                with open(process.log, errors="replace") as log:
                    raise Failed(f"{what}: process ended with {process.returncode}: {log.read()[-2000:].strip()}")
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(pause)


def cpu_seconds(*given):
    """User and system time of processes since they began."""
    total = 0
    for child in given:
        with open(f"/proc/{child.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def memory_mib(child):
    """(resident now, most since the start or the last `forget_peak`)"""
    found = {}
    with open(f"/proc/{child.pid}/status") as status:
        for line in status:
            name, _, value = line.partition(":")
            if name in ("VmRSS", "VmHWM"):
                found[name] = int(value.split()[0]) / 1024
    return round(found["VmRSS"], 1), round(found["VmHWM"], 1)


def forget_peak(child):
    try:
        with open(f"/proc/{child.pid}/clear_refs", "w") as refs:
            refs.write("5")
    except OSError:
        pass  # the peak then includes what came before, which only makes it worse


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def milliseconds(values):
    """Seconds to the points of their distribution, in ms."""
    points = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(percentile(values, share) * 1e3, 3) for name, share in points.items()} | {"n": len(values)}


def sync_seconds(folder, count, size=4096):
    """How long this disk takes to make an appended block durable, each time."""
    path = os.path.join(folder, "sync")
    block = os.urandom(size)
    taken = []
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(count):
            before = time.perf_counter()
            os.write(file, block)
            os.fdatasync(file)
            taken.append(time.perf_counter() - before)
    finally:
        os.close(file)
        os.unlink(path)
    return taken


def settle(folder, events):
    """Takes from both sides alike what is the machine's and not theirs.

    Dirty pages of what was just loaded are written now and not during the measurement. And where this is a virtual
    machine, memory that it touches for the first time costs a fault in its host, many times what writing to it takes
    (2.1 ms a MiB instead of 0.12 where this was found): so as much as the copy will need is touched here, as pages of a
    file that is removed again."""
    os.sync()
    block = os.urandom(1 << 20)
    path = os.path.join(os.path.dirname(folder), "warm")
    with open("/proc/meminfo") as info:
        available = next(int(line.split()[1]) >> 10 for line in info if line.startswith("MemAvailable"))
    try:
        with open(path, "wb", buffering=0) as file:
            for _ in range(min(2 * events * 1400 >> 20, available // 2)):
                file.write(block)
    finally:
        os.unlink(path)
    os.sync()
    time.sleep(1)


EVENT = (
    '{"benchSequence":%d,"metadata":{"idempotencyKey":"%s"},"orderId":"o-%09d","customer":{"id":"c-%05d",'
    '"country":"DE","segments":["returning","newsletter"]},"lines":[{"sku":"A-%04d","quantity":%d,"cents":%d},'
    '{"sku":"B-%04d","quantity":1,"cents":1995}],"note":"%s"}'
)
NOTE = ("delivered to the neighbour if nobody is at home; please ring twice. " * 20)[:1100]


def event(number, prefix="e", size=1024):
    """An order as JSON of exactly `size` bytes; both sides carry the same bytes."""
    fields = (number, f"{prefix}-{number:09d}", number, number % 99_991, number % 9_973, number % 7 + 1,
              number * 37 % 100_000, number % 8_999)
    return EVENT % (*fields, NOTE[: size - len(EVENT % (*fields, ""))])


def live(rate, seconds, publisher, subscriber):
    """Publishes `rate` events a second at even intervals, whether or not earlier ones are answered, and waits for each
    at the other side. One thread and one clock for both ends."""
    total = rate * seconds
    started, acked, seen = [0.0] * total, [0.0] * total, [0.0] * total
    sent = answered = arrived = 0
    late = 0.0
    clock = time.perf_counter
    begin = clock() + 0.1
    end = begin + seconds + 15
    sources = {source: (publisher, acked) for source in publisher.sockets()}
    sources |= {source: (subscriber, seen) for source in subscriber.sockets()}
    while answered < total or arrived < total:
        now = clock()
        if now > end:
            break
        while sent < total and begin + sent / rate <= now and publisher.is_ready():
            started[sent] = now = clock()
            late = max(late, now - (begin + sent / rate))
            publisher.publish(sent)
            sent += 1
        wait = 0.1
        if sent < total and publisher.is_ready():
            wait = max(0.0, begin + sent / rate - clock())
        readable, _, _ = select.select(list(sources), [], [], wait)
        at = clock()
        for source in readable:
            side, times = sources[source]
            for number in side.read(source):
                if 0 <= number < total and not times[number]:
                    times[number] = at
                    if times is seen:
                        arrived += 1
                    else:
                        answered += 1
    if not arrived:
        raise Failed(f"live: {sent} sent, {answered} acknowledged, none arrived at the peer")
    both = [n for n in range(total) if seen[n] and acked[n]]
    return {
        "rate": rate,
        "seconds": seconds,
        "sent": sent,
        "acknowledged": answered,
        "arrived": arrived,
        "lag_ms": milliseconds([seen[n] - started[n] for n in range(total) if seen[n]]),
        "publish_ms": milliseconds([acked[n] - started[n] for n in range(total) if acked[n]]),
        "after_acknowledgement_ms": milliseconds([seen[n] - acked[n] for n in both]) if both else None,
        "generator_late_ms_max": round(late * 1e3, 1),
    }


def median(values):
    return statistics.median(values)
