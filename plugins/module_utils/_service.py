# Copyright fcgid.stack maintainers
# SPDX-License-Identifier: Apache-2.0
"""A service that applies a configuration, and must answer no worse than before."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from ansible_collections.fcgid.stack.plugins.module_utils._probe import (
    ConnectionRefused,
    NoAnswer,
    get_status,
)

LOOPBACK_URL = re.compile(r"http://((?:127\.0\.0\.1|\[::1\])(?::\d+)?)(/\S*)?")
NO_ANSWER = 0
INTERVAL = 0.2  # seconds between two requests of a probe


class Probe(NamedTuple):
    """A URL of http and the loopback address, and the Host header if it is another."""

    url: str
    host: str | None

    def is_local(self) -> bool:
        """Return whether the URL is one of this host."""
        return bool(LOOPBACK_URL.fullmatch(self.url))

    def status(self, timeout: float) -> int | None:
        """Return the status of the answer, NO_ANSWER, or None when the connection is refused."""
        matched = LOOPBACK_URL.fullmatch(self.url)
        if not matched:
            raise ValueError(f"{self.url} is not a URL of this host")
        try:
            return get_status(matched[1], matched[2] or "/", self.host, timeout)
        except ConnectionRefused:
            return None
        except NoAnswer:
            return NO_ANSWER

    def wait_for_status(self, before: int | None, timeout: float) -> int | None:
        """Return the first status that is no worse than `before`, or the last within `timeout`."""
        end = time.monotonic() + timeout
        while True:
            after = self.status(max(end - time.monotonic(), INTERVAL))
            if no_worse(before, after) or time.monotonic() + INTERVAL > end:
                return after
            time.sleep(INTERVAL)

    def __str__(self) -> str:
        return f"{self.url} (Host: {self.host})" if self.host else self.url


def no_worse(before: int | None, after: int | None) -> bool:
    """Return whether the status `after` is at least as good as the one `before`."""
    if before == NO_ANSWER:
        return after is not None
    if after is None or after == NO_ANSWER:
        return False
    return after < 500 or before is None or before >= 500


def describe(status: int | None) -> str:
    """Return what a probe found, in words."""
    if status is None:
        return "connection refused"
    return f"status {status}" if status else "no answer"


class Service:
    """What runs with the configuration, and how it answered when this object was made.

    `apply` has the service load the live configuration. `undo` reverts what else `apply` did, if
    it is not empty. `run_command` is that of AnsibleModule; `timeout` is in seconds a probe.
    """

    def __init__(
        self,
        run_command: Callable[..., tuple[Any, str, str]],
        apply: str,
        undo: str,
        probes: list[Probe],
        timeout: float,
    ) -> None:
        self._run_command = run_command
        self._apply = shlex.split(apply)
        self._undo = shlex.split(undo)
        self._timeout = timeout
        self._probes = probes
        # All at once: one that does not answer takes no time from the others.
        self._pool = ThreadPoolExecutor(max(len(probes), 1))
        self._before = list(self._pool.map(lambda probe: probe.status(timeout), probes))

    def apply(self) -> str:
        """Have the service load the live configuration, and probe it.

        Where the connection was refused before, there must be an answer by now. Returns what went
        wrong, or "".
        """
        return self._run(self._apply) or self._compare(list(zip(self._probes, self._before)))

    def apply_fallback(self) -> str:
        """Have the service load the former configuration, which is live again, and probe it.

        Returns what went wrong, or "".
        """
        problem = self._run(self._apply)
        if self._undo:
            problem = self._run(self._undo) or problem
        answered = [
            (probe, before)
            for probe, before in zip(self._probes, self._before)
            if before is not None
        ]
        return problem or self._compare(answered)

    def answered_before(self) -> bool:
        """Return whether any probe was answered before."""
        return any(self._before)

    def _run(self, command: list[str]) -> str:
        """Run a command. Returns what went wrong, or ""."""
        try:
            status, out, err = self._run_command(command, handle_exceptions=False)
        except OSError as error:
            status, out, err = error.errno, "", error.strerror or ""
        return (
            f"{shlex.join(command)} ended with {status}: {(err or out).strip()}" if status else ""
        )

    def _compare(self, probes: list[tuple[Probe, int | None]]) -> str:
        """Probe again. Returns which answers are worse than before, or ""."""
        answers = self._pool.map(
            lambda pair: pair[0].wait_for_status(pair[1], self._timeout), probes
        )
        return "; ".join(
            f"{probe}: {describe(before)} before, {describe(after)} after"
            for (probe, before), after in zip(probes, answers)
            if not no_worse(before, after)
        )
