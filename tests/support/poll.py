"""Waits for what another process does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(claim: Callable[[], bool], seconds: float = 30, interval: float = 0.2) -> bool:
    """Whether `claim` comes true within the time; it is looked at every `interval` seconds."""
    deadline = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def seconds_until(claim: Callable[[], bool], seconds: float = 60) -> float:
    """How many seconds it takes until `claim` is true, which must be within the time."""
    begun = time.monotonic()
    assert eventually(claim, seconds, interval=0.1), f"not within {seconds} s"
    return time.monotonic() - begun
