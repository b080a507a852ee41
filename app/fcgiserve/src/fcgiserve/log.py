"""Lines on standard error, which mod_fcgid puts into httpd's main error log."""

from __future__ import annotations

import contextlib
import os


def write_line(text: str) -> None:
    """Write one line to descriptor 2 in one piece; a log that is gone is no error."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode("utf-8", "backslashreplace"))


def log(message: str) -> None:
    """Write a message with the name and id of this process."""
    write_line(f"fcgiserve[{os.getpid()}]: {message}")
