"""Waits for what another process does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def eventually(claim: Callable[[], Value], seconds: float = 30, interval: float = 0.2) -> Value:
    """The first true value of `claim`, or its last value when the time is over."""
    deadline = time.monotonic() + seconds
    while not (value := claim()) and time.monotonic() < deadline:
        time.sleep(interval)
    return value


def seconds_until(claim: Callable[[], object], seconds: float = 60) -> float:
    """How many seconds pass until `claim` is true, which must be so within the time."""
    begun = time.monotonic()
    assert eventually(claim, seconds, interval=0.1), f"not within {seconds} s"
    return time.monotonic() - begun
