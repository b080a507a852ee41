"""The streams that an application sees: request body in, error text out.

A body is handed to the application as it arrives. It is held back only while the application is
kept waiting by a web server that first writes the whole body and then reads the answer, as
mod_fcgid does: without that, both would wait for each other for ever. What is held back goes to
a temporary file when it is more than `HELD_IN_MEMORY`.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from typing import IO, Callable, Optional

HELD_IN_MEMORY = 1 << 20


class IncompleteBody(ConnectionAbortedError):
    """The request's body ended before it was complete; it must not be used."""


class InputStream:
    """`wsgi.input` (PEP 3333, "Input and Error Streams"): STDIN, or DATA for a Filter.

    `receive` blocks until more has been given to `feed`, `finish` or `fail`. `length` is the
    size in bytes that was announced, or None: then the stream is read to its end, which is how
    a chunked body arrives. With a length, end of file is at that length, and an earlier end
    raises IncompleteBody in whichever call meets it.
    """

    # Most requests have no body, and are cheaper without what would hold one.
    _chunks: Optional[deque[bytes]] = None
    _chunk = b""
    _at = 0  # where in the chunk the application stands
    _held = 0  # the size of all chunks
    _spool: Optional[IO[bytes]] = None
    _spool_read = 0
    _spool_written = 0
    _failure: Optional[str] = None

    def __init__(self, receive: Callable[[], None], length: Optional[int]) -> None:
        self._receive = receive
        self._expected = self._left = length
        self._ended = length == 0

    def feed(self, data: bytes) -> None:
        """Append what arrived. Bytes beyond the announced length are dropped."""
        if self._ended or self._failure is not None:
            return
        if self._left is not None:
            if len(data) >= self._left:
                data = data[: self._left]
                self._ended = True
            self._left -= len(data)
        if self._spool is None and self._held + len(data) <= HELD_IN_MEMORY:
            self._held += len(data)
            if self._chunks is None:
                self._chunks = deque()
            self._chunks.append(data)
            return
        try:
            if self._spool is None:
                self._spool = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
                self._spool_read = self._spool_written = 0
            self._spool.seek(self._spool_written)
            if self._spool.write(data) < len(data):
                raise OSError("the disk is full")
        except OSError as error:
            self.fail(f"the body could not be kept in {tempfile.gettempdir()}: {error}")
            return
        self._spool_written += len(data)

    def finish(self) -> None:
        """Take note of the end of the stream."""
        if self._ended:
            return
        if self._left:
            have = (self._expected or 0) - self._left
            self.fail(f"the body ended after {have} of {self._expected} bytes")
        self._ended = True

    def fail(self, reason: str) -> None:
        """Let reads raise IncompleteBody, unless the body is complete already."""
        if not self._ended and self._failure is None:
            self._failure = reason

    def close(self) -> None:
        """Drop what was not read, and what still arrives."""
        self._ended = True
        self._chunks = None
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _take(self, size: int) -> bytes:
        """Return up to `size` bytes of the current chunk; the rest of it when negative."""
        end = len(self._chunk) if size < 0 else self._at + size
        data = self._chunk[self._at : end]
        self._at += len(data)
        return data

    def _fill(self) -> bool:
        """Make the next bytes of the body the current chunk; False at its end."""
        while True:
            if self._chunks:
                self._chunk = self._chunks.popleft()
                self._held -= len(self._chunk)
            elif self._spool is not None:
                self._spool.seek(self._spool_read)
                self._chunk = self._spool.read(65536)
                self._spool_read += len(self._chunk)
                if self._spool_read == self._spool_written:
                    self._spool.close()
                    self._spool = None
            elif self._failure is not None:
                raise IncompleteBody(self._failure)
            elif self._ended:
                return False
            else:
                self._receive()
                continue
            self._at = 0
            return True

    def read(self, size: Optional[int] = -1) -> bytes:
        """Return `size` bytes, fewer at the end of the body only; all of it without a size."""
        left = -1 if size is None or size < 0 else size
        parts: list[bytes] = []
        while left and (self._at < len(self._chunk) or self._fill()):
            data = self._take(left)
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    def readline(self, size: Optional[int] = -1) -> bytes:
        """Return one line with its newline, at most `size` bytes of it."""
        left = -1 if size is None or size < 0 else size
        parts: list[bytes] = []
        while left and (self._at < len(self._chunk) or self._fill()):
            newline = self._chunk.find(b"\n", self._at) + 1
            whole = newline - self._at if newline else -1
            data = self._take(whole if left < 0 or 0 <= whole < left else left)
            parts.append(data)
            left -= len(data)
            if data.endswith(b"\n"):
                break
        return b"".join(parts)

    def readlines(self, hint: Optional[int] = -1) -> list[bytes]:
        """Return the remaining lines; with a positive `hint`, lines of about that many bytes."""
        lines: list[bytes] = []
        have = 0
        for line in self:
            lines.append(line)
            have += len(line)
            if hint is not None and 0 < hint <= have:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        """Yield the remaining lines."""
        while line := self.readline():
            yield line


class ErrorStream:
    """`wsgi.errors` (PEP 3333): text that goes to the web server's log for this request.

    Text is collected until `flush` or until something else is sent, and then handed to `send`
    as UTF-8.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._parts: list[str] = []
        #: Whether anything was sent.
        self.sent = False

    def write(self, text: str) -> int:
        """Append text; returns its length. Raises TypeError for anything but str."""
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        self._parts.append(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Append each of the lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send what was collected."""
        if self._parts:
            data = "".join(self._parts).encode("utf-8", "backslashreplace")
            self._parts.clear()
            self.sent = True
            self._send(data)
