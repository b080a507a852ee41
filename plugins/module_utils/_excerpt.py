# Copyright fcgid.stack maintainers
# SPDX-License-Identifier: Apache-2.0
"""Excerpts of what a worker or httpd wrote, for an error message."""

from __future__ import annotations

import os
from typing import BinaryIO

MAX_LINES = 40
MAX_BYTES = 1 << 16


def read_excerpt(file: BinaryIO, begin: int = 0) -> str:
    """Return what was written to `file` from the offset `begin` on; at most MAX_BYTES of it.

    Of more than that, the begin and the end. Whoever writes to the file may still do so, and may
    truncate it or make it as large as they like.
    """
    end = os.fstat(file.fileno()).st_size
    half = MAX_BYTES // 2
    if end - begin <= MAX_BYTES:
        text = os.pread(file.fileno(), max(end - begin, 0), begin)
    else:
        pieces = [os.pread(file.fileno(), half, at) for at in (begin, end - half)]
        text = b"\n".join(pieces)
    return text.decode(errors="replace")


def quote(text: str) -> str:
    """Return `text` as a quotation of at most MAX_LINES lines.

    Of more lines, the first and the last: the first exception is often the cause.
    """
    lines = text.strip().splitlines()
    if len(lines) > MAX_LINES:
        half = MAX_LINES // 2
        lines[half:-half] = [f"[{len(lines) - 2 * half} lines are left out here]"]
    return "It wrote:\n" + "\n".join(lines) if lines else "It wrote nothing."
