"""A host that is changed or harmed under a steady load, of which every answer is checked.

The load is bounded, in time and in number, and comes from the test's own process over the engine's
bridge: so it also goes on while the container is stopped, and counts what fails meanwhile.

A plugin of pytest: it prints what was measured.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine import address_of
from poll import eventually
from testinfra.host import Host

CLIENTS = 8
PATIENCE = 30  # seconds; an answer that takes longer is a failure
LONGEST = 900  # seconds after which the load ends by itself
GREETING = re.compile(rb"Hello world!<br>\r\nRequest number \d+\.")

VHOST = "localhostfcgi"
Answer = tuple[int, bytes]


def request(
    address: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """Status and body of one answer, over a connection of its own."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    try:
        method = "GET" if body is None else "POST"
        connection.request(method, path, body, {"Host": VHOST} | (headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def greets(address: str, path: str) -> str:
    status, body = request(address, path)
    return "" if status == 200 and GREETING.fullmatch(body) else f"{status} {body[:60]!r}"


def sleeps(address: str) -> str:
    answer = request(address, "/sleep?ms=200")
    return "" if answer == (200, b"slept 200 ms\n") else str(answer)


def echoes(address: str) -> str:
    sent = random.randbytes(random.randrange(20_000))
    status, body = request(address, "/echo", sent)
    if status == 200 and json.loads(body)["sha256"] == hashlib.sha256(sent).hexdigest():
        return ""
    return f"{status} {body[:60]!r}"


# Quick ones and slow ones; each says what is wrong with the answer.
REQUESTS: dict[str, Callable[[str], str]] = {
    "/app.fcgi": lambda address: greets(address, "/app.fcgi"),
    "/x.fcgi": lambda address: greets(address, "/x.fcgi"),
    "/echo": echoes,
    "/sleep": sleeps,
}


@dataclass
class Load:
    """Clients that send one request after the other, until they are told to stop."""

    address: str
    paths: Sequence[str] = tuple(REQUESTS)
    sent: int = 0
    answered: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    # For each time that a client failed, once or in a row: when it sent the first of these
    # requests, and when it was answered again.
    series: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]

    def _client(self) -> None:
        end = time.monotonic() + LONGEST
        failing = 0.0
        while not self._over.is_set():
            sent = time.monotonic()
            if sent > end:
                self.failures.append("the load has ended by itself")
                failing = failing or sent
                break
            path = random.choice(self.paths)
            with self._lock:
                self.sent += 1
            try:
                wrong = REQUESTS[path](self.address)
            except (OSError, http.client.HTTPException, ValueError) as error:
                wrong = f"{type(error).__name__}: {error}"
            with self._lock:
                if wrong:
                    self.failures.append(f"{path}: {wrong}")
                    failing = failing or sent
                else:
                    self.answered.append(time.monotonic())
                    if failing:
                        self.series.append((failing, time.monotonic()))
                        failing = 0.0
            self._over.wait(0.2 if wrong else 0.01)
        if failing:
            self.series.append((failing, math.inf))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        time.sleep(0.5)
        return self

    def __exit__(self, *exc_info: object) -> None:
        time.sleep(0.5)
        self._over.set()
        for thread in self._threads:
            thread.join()

    def gap(self) -> float:
        """The longest time without an answer, in seconds."""
        times = sorted([*self.answered, time.monotonic()])
        return max((after - before for before, after in zip(times, times[1:])), default=0.0)

    def one_outage(self) -> bool:
        """Whether all series of failures have ended, and there is a moment that they share."""
        last_begun = max((begun for begun, _ in self.series), default=0.0)
        return all(last_begun <= ended < math.inf for _, ended in self.series)

    def wait_for_answer(self) -> None:
        """Return when a request was answered that was sent after this call."""
        before = len(self.answered) + CLIENTS
        is_answered = eventually(lambda: len(self.answered) > before, PATIENCE, interval=0.05)
        assert is_answered, "nothing was answered"


_rows: list[str] = []


@contextlib.contextmanager
def under_load(
    where: Host | str,
    event: str,
    allowed: int | None = 0,
    rule: str = "none",
    paths: Sequence[str] = tuple(REQUESTS),
) -> Iterator[Load]:
    """A load on a host, or an address, around what is done in the block.

    More than `allowed` failures of it fail the test. With None, one outage may be as long as it is,
    and must be over.
    """
    with Load(where if isinstance(where, str) else address_of(where), paths) as load:
        yield load
    reasons = Counter(re.sub(r"0x[0-9a-f]+", "", failure) for failure in load.failures)
    failed = f"{len(load.failures)} of {load.sent}"
    _rows.append(f"| {event} | {rule} | {failed} | {load.gap():.1f} |")
    right = load.one_outage() if allowed is None else len(load.failures) <= allowed
    assert right, f"{failed} failed: {reasons}"


def note(event: str, measured: str) -> None:
    """A row of the summary for what was measured without a load."""
    _rows.append(f"| {event} | | {measured} | |")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was measured, as it stands in docs/."""
    if _rows:
        terminalreporter.section("measured")
        terminalreporter.write_line(
            "| event | may fail | failed, or measured | longest time without an answer, s |"
        )
        terminalreporter.write_line("|---|---|---|---|")
        for row in _rows:
            terminalreporter.write_line(row)
