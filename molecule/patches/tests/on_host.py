"""Runs on the host under test: what needs many requests at once, or processes that are killed.

    on_host.py together PATH...        one request each, at the same moment
    on_host.py stopped PATH PROGRAM    requests whose workers are stopped, then killed
    on_host.py stress SECONDS          a load, and workers and httpd children killed at random

Each prints one line of JSON. Ends by itself.
"""

from __future__ import annotations

import collections
import http.client
import json
import os
import random
import re
import signal
import socket
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PATIENCE = 30  # seconds; an answer that takes longer is an error
CLIENTS = 24


def get(path: str) -> dict[str, Any]:
    """Request `path`, or //host/path; status, headers, body, and the seconds that it took."""
    vhost, path = path[2:].split("/", 1) if path.startswith("//") else ("localhostfcgi", path[1:])
    connection = http.client.HTTPConnection("127.0.0.1", timeout=PATIENCE)
    begun = time.monotonic()
    try:
        connection.request("GET", f"/{path}", headers={"Host": vhost})
        answer = connection.getresponse()
        body = answer.read().decode()
        seconds = time.monotonic() - begun
        headers = dict(answer.getheaders())
        return {"status": answer.status, "headers": headers, "body": body, "seconds": seconds}
    finally:
        connection.close()


def together(*paths: str) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(len(paths)) as pool:
        return list(pool.map(get, paths))


def children(pid: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:  # it has ended
        return []


def name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def httpd() -> tuple[list[int], list[int]]:
    """The httpd children, and the workers: the children of httpd's single-threaded child."""
    parent = int(Path("/run/httpd/httpd.pid").read_text())
    threaded: list[int] = []
    managers: list[int] = []
    for child in children(parent):
        try:
            several = len(os.listdir(f"/proc/{child}/task")) > 1
        except OSError:
            continue
        (threaded if several else managers).append(child)
    return threaded, [worker for manager in managers for worker in children(manager)]


def kill(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def stopped(path: str, program: str) -> list[dict[str, Any]]:
    """Answers to requests that were sent to workers which are stopped, and then killed."""
    for _ in range(200):  # until the workers have shown that they are quick
        get(path)
    workers = [worker for worker in httpd()[1] if name(worker) == program]
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(get, path) for _ in range(6)]
        time.sleep(0.5)
        # Those that wait for nobody may have been given to a worker that was started for them.
        held = sum(not answer.done() for answer in answers)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        assert held, "no request was held up: nothing was tried"
        return [answer.result() for answer in answers]


def stress(seconds: float) -> dict[str, Any]:
    """Count the outcomes under load while workers and httpd children are killed at random."""
    outcomes: collections.Counter[str] = collections.Counter()
    killed: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    end = time.monotonic() + seconds
    paths = ("/", "/", "/", "/healthz", "/x.fcgi", "/sleep?ms=20")

    def client(number: int) -> None:
        nonlocal slowest
        chance = random.Random(number)
        while time.monotonic() < end:
            begun = time.monotonic()
            try:
                if chance.random() < 0.02:  # a client that leaves
                    with socket.create_connection(("127.0.0.1", 80)) as leaving:
                        leaving.sendall(b"GET / HTTP/1.1\r\nHost: localhostfcgi\r\n\r\n")
                    outcome = "left"
                else:
                    outcome = str(get(chance.choice(paths))["status"])
            except (OSError, http.client.HTTPException) as error:
                outcome = type(error).__name__
            outcomes[outcome] += 1
            slowest = max(slowest, time.monotonic() - begun)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in clients:
        thread.start()
    chance = random.Random()
    while time.monotonic() < end - 3:
        time.sleep(chance.uniform(0.05, 0.5))
        threaded, workers = httpd()
        kind, pids = chance.choice([("worker", workers)] * 7 + [("httpd child", threaded)])
        if pids:
            killed[kind] += kill(chance.choice(pids), signal.SIGKILL)
    for thread in clients:
        thread.join()
    time.sleep(8)  # so that the process manager has taken back what the dead had
    status = urllib.request.urlopen("http://127.0.0.1:8079/server-status?auto", timeout=PATIENCE)
    table = dict(re.findall(r"^(Fcgid\w+): (\d+)$", status.read().decode(), re.MULTILINE))
    return {
        "outcomes": outcomes,
        "killed": killed,
        "slowest": slowest,
        "table": {key: int(value) for key, value in table.items()},
        "workers": len(httpd()[1]),
    }


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    if verb == "together":
        print(json.dumps(together(*arguments)))
    elif verb == "stopped":
        print(json.dumps(stopped(*arguments)))
    else:
        print(json.dumps(stress(float(arguments[0]))))
