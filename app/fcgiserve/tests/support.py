"""What the functional tests share: real workers on real sockets, and raw conversations."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple, Optional

from fcgiserve import records
from fcgiserve.client import Answer, RequestFailed, request, request_params

TESTS = Path(__file__).parent
PATIENCE = 20.0  # seconds until a test that waits gives up; no test asserts a time


class Record(NamedTuple):
    type: int
    request_id: int
    content: bytes


class Program:
    """`python -m fcgiserve` with its standard error in a file."""

    command: tuple[str, ...] = (sys.executable, "-m", "fcgiserve")

    def __init__(self, *arguments: str, stdin: Any = subprocess.DEVNULL, **options: Any) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        environment = {**os.environ, **options.pop("environment", {})}
        self.process = subprocess.Popen(
            [*options.pop("prefix", ()), *self.command, *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=options.pop("stderr", self._stderr),
            cwd=TESTS,
            env=environment,
            **options,
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._stderr.close()

    @property
    def log(self) -> str:
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), size, 0).decode()

    def wait_for_log(self, text: str) -> str:
        wait_until(lambda: text in self.log, lambda: f"no {text!r} in {self.log!r}")
        return self.log

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(PATIENCE)


class Worker(Program):
    """A worker with its listening socket on descriptor 0, as mod_fcgid starts it."""

    def __init__(self, application: str, *arguments: str, **options: Any) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self.address = f"{self._directory.name}/socket"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(self.address)
            listener.listen(5)
            super().__init__(application, *arguments, stdin=listener, **options)

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        self._directory.cleanup()

    def get(self, path: str = "/", **options: Any) -> Answer:
        return ask(self.address, path, **options)

    def connect(self) -> Conversation:
        return Conversation(self.address)


def ask(
    address: Any,
    path: str = "/",
    *,
    method: str = "GET",
    body: Optional[bytes] = None,
    params: Optional[dict[str, str]] = None,
    **options: Any,
) -> Answer:
    variables = request_params(path, method=method, body=body)
    variables.update(params or {})
    options.setdefault("timeout", PATIENCE)
    return request(address, variables, body or b"", **options)


def wsgi_params(path: str = "/") -> dict[str, str]:
    return request_params(path)


def answers(address: Any) -> bool:
    """Whether a worker answers at the address already."""
    try:
        return request(address, request_params("/"), timeout=5).status == 200
    except RequestFailed:
        return False


def listens(path: str) -> bool:
    """Whether a server listens at the socket, whose file is there a moment earlier (bind(2))."""
    with open("/proc/net/unix") as table:
        rows = [line.split() for line in table]
    # Num RefCount Protocol Flags Type St Inode Path; the flag is __SO_ACCEPTCON (proc(5)).
    return any(row[-1] == path and int(row[3], 16) & 0x10000 for row in rows[1:] if len(row) == 8)


class Conversation:
    """A connection on which a test says what it wants, record by record."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(address)
        self.socket.settimeout(PATIENCE)
        self._reader = records.RecordReader()
        self._read: list[Record] = []

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def next(self) -> Optional[Record]:
        """Return the next record, None at the end of the connection."""
        while not self._read:
            data = self.socket.recv(65536)
            if not data:
                return None
            self._read += [Record(*record) for record in self._reader.feed(data)]
        return self._read.pop(0)

    def until_end(self) -> list[Record]:
        """Return the records up to and with END_REQUEST."""
        found = []
        while not found or found[-1].type != records.END_REQUEST:
            record = self.next()
            assert record is not None, f"closed after {found}"
            found.append(record)
        return found

    def is_quiet(self) -> bool:
        return not self._read and not select.select([self.socket], [], [], 0.2)[0]


def begin(request_id: int = 1, role: int = records.RESPONDER, keep: bool = False) -> bytes:
    return records.encode_begin_request(request_id, role, records.KEEP_CONN if keep else 0)


def stream(kind: int, data: bytes = b"", request_id: int = 1) -> bytes:
    """Return a whole stream with its end record."""
    end = records.encode_record(kind, request_id)
    return b"".join(records.encode_stream(kind, request_id, data)) + end


def params(path: str = "/", request_id: int = 1, **more: str) -> bytes:
    pairs = records.encode_pairs({**request_params(path), **more}.items())
    return stream(records.PARAMS, pairs, request_id)


def whole_request(path: str = "/", request_id: int = 1, keep: bool = False) -> bytes:
    return (
        begin(request_id, keep=keep)
        + params(path, request_id)
        + stream(records.STDIN, b"", request_id)
    )


def output_of(found: list[Record], kind: int = records.STDOUT) -> bytes:
    return b"".join(record.content for record in found if record.type == kind)


def wait_until(condition: Any, message: Any = lambda: "it never came true") -> None:
    """Wait until the condition holds; fail when it does not in `PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, message()
        time.sleep(0.01)
