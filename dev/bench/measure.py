#!/usr/bin/python3
"""Measures every target of a plan and writes what came out as JSON; report.py makes it readable.

Runs in the bench's container, where wrk and the servers are. The targets take turns within each
load, in another order each round, so that whatever else the machine does meets all of them. One
target is under load at a time, on the loopback address. `--longest` says how long it can take.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import http.client
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from app import BIG, HELLO

HOST = "127.0.0.1"
HERE = Path(__file__).parent

# An upload, in bytes.
UPLOAD = 1_000_000

# An answer that takes longer is an error, in seconds.
PATIENCE = 20

# How long the servers may take to start, and wrk to end after its time is over, in seconds.
START = 30
GRACE = 10

PACKAGES = (
    "apache2-bin",
    "gunicorn",
    "libapache2-mod-wsgi-py3",
    "libfcgi0ldbl",
    "nginx-light",
    "python3",
    "uwsgi-core",
    "wrk",
)

Json = dict[str, Any]


class Load(NamedTuple):
    """What is asked of a target: `clients` connections, each with one request at a time."""

    name: str
    title: str
    path: str
    clients: int
    workers: int
    upload: int = 0  # bytes of each request's body


LOADS = (
    Load("hello-1", "small answer, 1 client", "/hello", 1, 4),
    Load("hello-4", "small answer, 4 clients", "/hello", 4, 4),
    Load("hello-16", "small answer, 16 clients", "/hello", 16, 4),
    Load("hello-64", "small answer, 64 clients", "/hello", 64, 4),
    Load("hello-256", "small answer, 256 clients", "/hello", 256, 4),
    Load("work", "10 ms of work, 64 clients, 8 workers", "/work", 64, 8),
    Load("big", "100 KB answers, 16 clients", "/big", 16, 4),
    Load("upload", "1 MB uploads, 16 clients", "/upload", 16, 4, UPLOAD),
)

# Not wrk's: after idleness each client connects and sends one request, all at once.
BURST = Load("burst", "64 requests at once after idleness", "/hello", 64, 4)


class Settings(NamedTuple):
    """How often, and how long in seconds."""

    rounds: int = 5
    seconds: int = 4
    first: int = 2  # before anything is measured, so that a target has all its workers
    warm_up: int = 1  # before each measurement, discarded
    settle: float = 0.5  # then, so that the requests it left unanswered are no longer in the way
    bursts: int = 3  # in one round
    idle: float = 3.0  # before each burst


# Everything once, and briefly: this checks that the bench works and measures nothing.
SMOKE = Settings(rounds=1, seconds=1, first=0, warm_up=0, settle=0.0, bursts=1, idle=0.0)


class Failed(Exception):
    """A target cannot be measured; the message says why."""


def main() -> int:
    """Measure as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path, help="JSON: the targets and their ports")
    parser.add_argument("result", type=Path, help="JSON to write, after each round")
    parser.add_argument("--rounds", type=int, default=Settings().rounds)
    parser.add_argument("--seconds", type=int, default=Settings().seconds, help="for each load")
    parser.add_argument("--smoke", action="store_true", help="once, briefly; an error is fatal")
    parser.add_argument("--longest", action="store_true", help="print the most seconds it takes")
    options = parser.parse_args()
    settings = SMOKE if options.smoke else Settings(options.rounds, options.seconds)
    targets: list[Json] = json.loads(options.plan.read_text())
    if options.longest:
        print(longest(len(targets), settings))
        return 0
    try:
        samples = measure(targets, settings, options.result)
    except Failed as error:
        print(f"measure: {error}", file=sys.stderr)
        return 1
    wrong = [sample for sample in samples if any(sample["errors"].values())]
    for sample in wrong:
        print(f"measure: {sample['target']}, {sample['load']}: {sample['errors']}", file=sys.stderr)
    return 1 if wrong and options.smoke else 0


def longest(targets: int, settings: Settings) -> int:
    """Return the most seconds that measuring so many targets can take."""
    prepare = START + len(LOADS) * PATIENCE + 2 * (settings.first + GRACE)
    warm_up = settings.warm_up + settings.settle
    load = warm_up + settings.seconds + 2 * GRACE
    bursts = warm_up + GRACE + settings.bursts * (settings.idle + PATIENCE)
    return math.ceil(targets * (prepare + settings.rounds * (len(LOADS) * load + bursts)))


def measure(targets: list[Json], settings: Settings, path: Path) -> list[Json]:
    """Measure all targets, write the result to `path`, and return its samples."""
    samples: list[Json] = []
    result: Json = {
        "begun": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "settings": settings._asdict(),
        "machine": machine(),
        "software": software(),
        "modules": {name: module(name) for name in ("patched", "pristine")},
        "loads": [load._asdict() for load in (*LOADS, BURST)],
        "targets": [{**target, "headers": prepare(target, settings)} for target in targets],
        "samples": samples,
    }
    for number in range(settings.rounds):
        first = number * len(targets) // settings.rounds
        for load in (*LOADS, BURST):
            for target in targets[first:] + targets[:first]:
                if load.name in left_out(target):
                    continue
                for found in measure_one(target, load, settings):
                    sample = {"round": number, "load": load.name, "target": target["name"], **found}
                    samples.append(sample)
                    print(*sample.values(), flush=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
    return samples


def left_out(target: Json) -> dict[str, str]:
    """Return the loads that make no sense for a target, each with the reason."""
    reasons: dict[str, str] = target.get("left_out", {})
    return reasons


def measure_one(target: Json, load: Load, settings: Settings) -> list[Json]:
    """Return what one load of one target gave in one round."""
    port = target["ports"][str(load.workers)]
    if settings.warm_up:
        wrk(port, load, settings.warm_up)
        time.sleep(settings.settle)
    if load is not BURST:
        before = steal()
        found = wrk(port, load, settings.seconds)
        return [{**found, "steal_ms": steal() - before}]
    bursts = []
    for _ in range(settings.bursts):
        time.sleep(settings.idle)
        bursts.append(asyncio.run(burst(port)))
    return bursts


def prepare(target: Json, settings: Settings) -> dict[str, str]:
    """Check a target's answers, have it start its workers, and return a greeting's headers."""
    headers: dict[str, str] = {}
    deadline = time.monotonic() + START
    for load in LOADS:
        if load.name in left_out(target):
            continue
        port = target["ports"][str(load.workers)]
        while True:
            try:
                status, headers_of_this, body = ask(port, load)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Failed(
                        f"{target['name']} does not answer on port {port}: {error}"
                    ) from error
                time.sleep(0.2)
        expected = {"/big": BIG, "/upload": b"%d\n" % UPLOAD}.get(load.path, HELLO)
        if (status, body) != (200, expected):
            raise Failed(f"{target['name']} answers {load.path} with {status} and {body[:80]!r}")
        if load.path == "/hello":
            headers = headers_of_this
        if settings.first and load.name in ("hello-16", "work"):
            wrk(port, load, settings.first)
    return headers


def ask(port: int, load: Load) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of one answer."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    try:
        method, body = ("POST", b"x" * load.upload) if load.upload else ("GET", None)
        connection.request(method, load.path, body)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def wrk(port: int, load: Load, seconds: int) -> Json:
    """Return what wrk measures in so many seconds; errors are counted by their kinds."""
    command = ["wrk", "--latency", "--threads", "1", "--connections", str(load.clients)]
    command += ["--duration", f"{seconds}s", "--timeout", f"{PATIENCE}s"]
    command += ["--script", str(HERE / "wrk.lua"), f"http://{HOST}:{port}{load.path}"]
    environment = {**os.environ, "UPLOAD": str(load.upload or "")}
    try:
        run = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            timeout=seconds + GRACE,
            check=True,
        )
    except subprocess.SubprocessError as error:
        raise Failed(f"wrk on port {port}, {load.name}: {error}") from error
    found = json.loads(run.stdout.splitlines()[-1])
    seconds_taken = found["duration_us"] / 1e6
    answered = found["requests"] - found["errors"]["status"]
    return {
        "seconds": round(seconds_taken, 3),
        "requests": found["requests"],
        "requests_per_s": round(answered / seconds_taken, 1),
        **{f"{name}_ms": found[f"{name}_us"] / 1000 for name in ("p50", "p90", "p99", "max")},
        "errors": found["errors"],
    }


async def burst(port: int) -> Json:
    """Send all requests of a burst at once; return how long they took, together and each."""
    begun = time.monotonic()
    answers = await asyncio.gather(*(one_of_burst(port) for _ in range(BURST.clients)))
    last = time.monotonic() - begun
    times = sorted(seconds * 1000 for seconds, _ in answers)
    return {
        "requests": len(answers),
        "last_ms": round(last * 1000, 3),
        "p50_ms": round(statistics.median(times), 3),
        "max_ms": round(times[-1], 3),
        "errors": {"burst": sum(not right for _, right in answers)},
    }


async def one_of_burst(port: int) -> tuple[float, bool]:
    """Return how many seconds one request took, and whether it was answered rightly."""
    begun = time.monotonic()
    try:
        answer = await asyncio.wait_for(exchange(port), PATIENCE)
    except (OSError, asyncio.TimeoutError):
        answer = b""
    right = answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(HELLO)
    return time.monotonic() - begun, right


async def exchange(port: int) -> bytes:
    """Return the answer to one request, on a connection of its own."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(f"GET {BURST.path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
        return await reader.read()
    finally:
        writer.close()


def steal() -> int:
    """Return for how many ms in all other guests had this machine's cores: "steal" of proc(5)."""
    steal = int(Path("/proc/stat").read_text().split(maxsplit=9)[8])
    return steal * 1000 // os.sysconf("SC_CLK_TCK")


def machine() -> Json:
    """Return what the numbers depend on besides the software."""
    processors = Path("/proc/cpuinfo").read_text().splitlines()
    models = [
        line.partition(":")[2].strip() for line in processors if line.startswith("model name")
    ]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": models[0] if models else platform.machine(),
        "kernel": ".".join(platform.release().split(".")[:2]),
    }


def software() -> dict[str, str]:
    """Return the versions of Debian's packages, and of those that came as wheels."""
    queries = (
        ["dpkg-query", "--show", "--showformat", "${Package}==${Version}\n", *PACKAGES],
        [str(HERE / "venv/bin/pip"), "list", "--format", "freeze", "--disable-pip-version-check"],
    )
    versions: dict[str, str] = {}
    for query in queries:
        lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
        versions.update((name, version) for name, _, version in (x.partition("==") for x in lines))
    return {
        name: version
        for name, version in sorted(versions.items())
        if name not in ("pip", "setuptools")
    }


def module(name: str) -> Json:
    """Return what one mod_fcgid is, and what it was built from."""
    file = HERE / f"mod_fcgid-{name}.so"
    record: Json = json.loads(file.with_suffix(".json").read_text())
    return {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "inputs": record["inputs"]}


if __name__ == "__main__":
    sys.exit(main())
