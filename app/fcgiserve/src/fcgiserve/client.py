"""A FastCGI client: one request to a socket, as a web server would send it.

For health checks and tests; the body is sent while the answer is read, so neither side waits
for the other.
"""

from __future__ import annotations

import argparse
import select
import socket
import struct
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from . import records
from .listen import Address, ListenError, address_name, parse_address

_REQUEST_ID = 1
_REFUSALS = {
    records.CANT_MPX_CONN: "CANT_MPX_CONN: it takes one request a connection",
    records.OVERLOADED: "OVERLOADED: it is out of some resource",
    records.UNKNOWN_ROLE: "UNKNOWN_ROLE: it does not know the role asked for",
}


class RequestFailed(Exception):
    """No answer came back; the message says what happened instead."""


class Answer(NamedTuple):
    """An answer: HTTP status, headers, body, what came on STDERR, and the application status."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    errors: bytes
    app_status: int
    raw: bytes

    def header(self, name: str) -> Optional[str]:
        """Return the value of the first header called `name`, in any case; None without one."""
        for found, value in self.headers:
            if found.lower() == name.lower():
                return value
        return None


def request_params(
    path: str,
    *,
    method: str = "GET",
    headers: Iterable[tuple[str, str]] = (),
    body: Optional[bytes] = None,
) -> dict[str, str]:
    """Return the variables that a web server sends for this request (RFC 3875, section 4.1)."""
    path_info, _mark, query = path.partition("?")
    params = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path_info,
        "QUERY_STRING": query,
        "REQUEST_URI": path,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "fcgiserve",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
    }
    if body is not None:
        params["CONTENT_LENGTH"] = str(len(body))
    for name, value in headers:
        variable = name.upper().replace("-", "_")
        params[variable if variable == "CONTENT_TYPE" else f"HTTP_{variable}"] = value
    return params


def request(
    address: Address,
    params: Mapping[str, str],
    body: bytes = b"",
    *,
    timeout: float = 10.0,
    role: int = records.RESPONDER,
    data: bytes = b"",
) -> Answer:
    """Send one request and return its answer; `timeout` is for all of it, in seconds.

    `data` is the file of a Filter request (section 6.4). Raises RequestFailed.
    """
    deadline = time.monotonic() + timeout
    parts = [
        records.encode_begin_request(_REQUEST_ID, role),
        *records.encode_stream(records.PARAMS, _REQUEST_ID, records.encode_pairs(params.items())),
        records.encode_record(records.PARAMS, _REQUEST_ID),
    ]
    if role != records.AUTHORIZER:
        parts += records.encode_stream(records.STDIN, _REQUEST_ID, body)
        parts.append(records.encode_record(records.STDIN, _REQUEST_ID))
    if role == records.FILTER:
        parts += records.encode_stream(records.DATA, _REQUEST_ID, data)
        parts.append(records.encode_record(records.DATA, _REQUEST_ID))
    is_unix = isinstance(address, str)
    name = address_name(address)
    try:
        if is_unix:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        with sock:
            # connect(2) waits for room in the listen queue, but not with a socket that is
            # non-blocking, as settimeout() makes it.
            limit = struct.pack("ll", int(timeout), int(timeout % 1 * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            sock.connect(address)
            return _converse(sock, b"".join(parts), deadline)
    except (socket.timeout, BlockingIOError) as error:
        raise RequestFailed(f"no complete answer from {name} in {timeout:g} s") from error
    except records.ProtocolError as error:
        raise RequestFailed(str(error)) from error
    except OSError as error:
        raise RequestFailed(
            f"cannot talk to {name}: {error.strerror or error}; is the application running?"
        ) from error


def _converse(sock: socket.socket, request: bytes, deadline: float) -> Answer:
    reader = records.RecordReader()
    output: list[bytes] = []
    errors: list[bytes] = []
    left = memoryview(request)
    sock.setblocking(False)
    poll = select.poll()
    while True:
        poll.register(sock, select.POLLIN | (select.POLLOUT if left else 0))
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            raise socket.timeout
        if left and ready[0][1] & select.POLLOUT:
            try:
                left = left[sock.send(left) :]
            except ConnectionError:
                left = left[:0]  # the application has its reasons; read what it says
        if not ready[0][1] & ~select.POLLOUT:
            continue
        data = sock.recv(65536)
        if not data:
            raise RequestFailed("the application closed the connection without END_REQUEST")
        for kind, _request_id, content in reader.feed(data):
            if kind == records.STDOUT:
                output.append(content)
            elif kind == records.STDERR:
                errors.append(content)
            elif kind == records.END_REQUEST:
                app_status, refused = records.decode_end_request(content)
                if refused:
                    reason = _REFUSALS.get(refused, f"protocol status {refused}")
                    raise RequestFailed(f"the application refused the request, {reason}")
                return _parse(b"".join(output), b"".join(errors), app_status)
        if reader.failure is not None:
            raise RequestFailed(reader.failure)


def _parse(raw: bytes, errors: bytes, app_status: int) -> Answer:
    lines, gap, body = raw.replace(b"\r\n\r\n", b"\n\n", 1).partition(b"\n\n")
    if not gap:
        raise RequestFailed(f"the answer has no headers: {raw[:80]!r}")
    status = 200
    headers: list[tuple[str, str]] = []
    for line in lines.decode("latin-1").splitlines():
        name, _colon, value = line.partition(":")
        if name.lower() == "status":
            number = value.strip()[:3]
            if not (number.isascii() and number.isdigit()):
                raise RequestFailed(f"the answer has a status without a number: {value.strip()!r}")
            status = int(number)
        else:
            headers.append((name, value.strip()))
    if status == 200 and any(name.lower() == "location" for name, _value in headers):
        status = 302
    return Answer(status, headers, body, errors, app_status, raw)


def main(argv: Sequence[str]) -> int:
    """Run `fcgiserve get`; return 0 for a 2xx or 3xx answer, 1 for another or none."""
    parser = argparse.ArgumentParser(
        prog="fcgiserve get", description="Send one FastCGI request and print the answer."
    )
    parser.add_argument("socket", help="/path/to/socket or host:port")
    parser.add_argument("path", help="path with query, such as /info?x=1")
    parser.add_argument("-X", "--method", help="default: GET, with --data POST")
    parser.add_argument(
        "-H", "--header", action="append", default=[], metavar="NAME:VALUE", help="repeatable"
    )
    parser.add_argument("-d", "--data", help="the body; @FILE takes it from a file")
    parser.add_argument(
        "-p",
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a variable such as SCRIPT_NAME=/app.fcgi; repeatable",
    )
    parser.add_argument("-i", "--include", action="store_true", help="print the headers too")
    parser.add_argument("-t", "--timeout", type=float, default=10.0, metavar="SECONDS")
    options = parser.parse_args(argv)
    body = None
    try:
        address = parse_address(options.socket)
        if options.data is not None:
            is_file = options.data.startswith("@")
            body = Path(options.data[1:]).read_bytes() if is_file else options.data.encode()
        params = request_params(
            options.path,
            method=options.method or ("GET" if body is None else "POST"),
            headers=[
                (name, value.strip())
                for name, _colon, value in (header.partition(":") for header in options.header)
            ],
            body=body,
        )
        for pair in options.param:
            name, _equals, value = pair.partition("=")
            params[name] = value
        answer = request(address, params, body or b"", timeout=options.timeout)
    except (ListenError, RequestFailed, OSError) as error:
        print(f"fcgiserve: {error}", file=sys.stderr)
        return 1
    out = sys.stdout.buffer
    if options.include:
        head = [f"Status: {answer.status}", *(f"{name}: {value}" for name, value in answer.headers)]
        out.write("".join(f"{line}\n" for line in [*head, ""]).encode("latin-1"))
    out.write(answer.body)
    out.flush()
    sys.stderr.write(answer.errors.decode("utf-8", "replace"))
    return 0 if 200 <= answer.status < 400 else 1
