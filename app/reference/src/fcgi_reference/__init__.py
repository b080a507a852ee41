"""A WSGI application for checking a deployment, `fcgi_reference:application`.

It answers as the FastCGI hello world in C does, byte for byte. /healthz says whether a worker
answers at all. The other pages show the worker's environment or keep a worker busy, so they are
404 unless FCGI_REFERENCE_DEVELOPMENT=1 is in the application's environment:

/info                    the worker and the request; HTML for people, JSON by Accept
/echo, /echo?body=1      what arrived, as JSON; the body itself
/stream?n=10&interval=1  n lines, one each interval seconds
/sleep?ms=1000           an answer after that time
/upload                  a form; the size and SHA-256 of what is sent

They take at most LONGEST seconds, LINES lines and LARGEST bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any, Callable
from urllib.parse import parse_qs

from .pages import info_page, upload_page

__version__ = "1.0.0"

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]

# How much of a body is held at a time, in bytes.
BLOCK = 65536

# How much of a body is kept in memory, in bytes; more goes to a temporary file.
MEMORY = 1 << 20

# The longest that /stream and /sleep can be asked to take, in seconds.
LONGEST = 60.0

# The most lines of /stream.
LINES = 1_000_000

# The largest body that /echo and /upload read, in bytes: what the role httpd lets through.
LARGEST = 128 << 20

DEVELOPMENT = "FCGI_REFERENCE_DEVELOPMENT"

_started = time.time()
_counts = {"requests": 0, "hello": 0}
_is_secret = re.compile(
    r"pass|secret|token|key|auth|cookie|credential|session|signature", re.IGNORECASE
).search
_userinfo = re.compile(r"(?<=://)[^/@\s]+@")


class WrongQuery(ValueError):
    """A query parameter cannot be used; the message says which and why."""


class TooLarge(ValueError):
    """The body has more than LARGEST bytes."""


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer one request (PEP 3333)."""
    _counts["requests"] += 1
    path = environ.get("PATH_INFO", "")
    page = _PAGES.get(path) or _DEVELOPMENT_PAGES.get(path)
    if page is None:
        return _text(start_response, "404 Not Found", "There is no such page.\n")
    if path in _DEVELOPMENT_PAGES and os.environ.get(DEVELOPMENT) != "1":
        return _text(
            start_response,
            "404 Not Found",
            f"{path} is for development. Set {DEVELOPMENT}=1 in the application's environment.\n",
        )
    try:
        return page(environ, start_response)
    except WrongQuery as error:
        return _text(start_response, "400 Bad Request", f"{error}\n")
    except TooLarge:
        message = f"The body is larger than {LARGEST} bytes: send less.\n"
        return _text(start_response, "413 Content Too Large", message)


def _hello(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    number = _counts["hello"]
    _counts["hello"] += 1
    start_response("200 OK", [("Content-type", "text/html")])
    return [b"Hello world!<br>\r\nRequest number %d." % number]


def _healthz(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return _text(start_response, "200 OK", "ok\n")


def _info(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    facts = {
        "role": environ.get("FCGI_ROLE", "RESPONDER"),
        "pid": os.getpid(),
        "uptime_s": round(time.time() - _started, 3),
        "requests": _counts["requests"],
        "hello": _counts["hello"],
        "socket": environ.get("fcgiserve.socket", ""),
        "peer": _join(environ.get("REMOTE_ADDR", ""), environ.get("REMOTE_PORT", "")),
        "host": socket.gethostname(),
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "directory": os.getcwd(),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "wsgi": {
            name: environ[name]
            for name in ("wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once")
        },
        "request": _masked(
            {name: value for name, value in environ.items() if isinstance(value, str)}
        ),
        "environment": _masked(dict(os.environ)),
    }
    if "application/json" in environ.get("HTTP_ACCEPT", ""):
        return _json(start_response, facts)
    return _html(start_response, info_page(facts))


def _echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    if _query(environ).get("body") == "1":
        # Not block by block: nginx stops sending a body as soon as an answer begins.
        body = tempfile.SpooledTemporaryFile(max_size=MEMORY)  # noqa: SIM115
        try:
            for block in _blocks(environ):
                body.write(block)
        except BaseException:
            body.close()
            raise
        body.seek(0)
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return _file(body)
    return _json(
        start_response,
        {
            "method": environ["REQUEST_METHOD"],
            "path": environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""),
            "query": environ.get("QUERY_STRING", ""),
            "headers": _headers(environ),
            **_digest(environ),
        },
    )


def _upload(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        return _html(start_response, upload_page())
    begun = time.monotonic()
    digest = _digest(environ)
    digest["seconds"] = round(time.monotonic() - begun, 3)
    return _json(start_response, digest)


def _stream(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    query = _query(environ)
    count = int(_number(query, "n", 10, LINES))
    interval = _number(query, "interval", 1, LONGEST / max(count - 1, 1))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Cache-Control", "no-store")])
    return _lines(count, interval)


def _lines(count: int, interval: float) -> Iterator[bytes]:
    for number in range(count):
        if number:
            time.sleep(interval)
        yield b"line %d of %d\n" % (number + 1, count)


def _sleep(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    milliseconds = _number(_query(environ), "ms", 1000, LONGEST * 1000)
    time.sleep(milliseconds / 1000)
    return _text(start_response, "200 OK", f"slept {milliseconds:g} ms\n")


_PAGES: dict[str, Callable[[Environ, StartResponse], Iterable[bytes]]] = {
    "": _hello,
    "/": _hello,
    "/healthz": _healthz,
}
_DEVELOPMENT_PAGES: dict[str, Callable[[Environ, StartResponse], Iterable[bytes]]] = {
    "/info": _info,
    "/echo": _echo,
    "/upload": _upload,
    "/stream": _stream,
    "/sleep": _sleep,
}


def _query(environ: Environ) -> dict[str, str]:
    fields = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    return {name: values[-1] for name, values in fields.items()}


def _number(query: dict[str, str], name: str, default: float, highest: float) -> float:
    text = query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= highest:
        raise WrongQuery(f"{name} is {text!r}: give a number from 0 to {highest:g}")
    return value


def _headers(environ: Environ) -> dict[str, str]:
    headers = {
        name[5:].replace("_", "-").title(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            headers[name.replace("_", "-").title()] = environ[name]
    return dict(sorted(headers.items()))


def _blocks(environ: Environ) -> Iterator[bytes]:
    room = LARGEST
    while block := environ["wsgi.input"].read(BLOCK):
        room -= len(block)
        if room < 0:
            raise TooLarge
        yield block


def _file(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while block := file.read(BLOCK):
            yield block


def _digest(environ: Environ) -> dict[str, Any]:
    length = 0
    sha256 = hashlib.sha256()
    for block in _blocks(environ):
        length += len(block)
        sha256.update(block)
    return {"length": length, "sha256": sha256.hexdigest()}


def _masked(variables: dict[str, str]) -> dict[str, str]:
    return {
        name: "(masked)" if _is_secret(name) and value else _userinfo.sub("(masked)@", value)
        for name, value in sorted(variables.items())
    }


def _join(host: str, port: str) -> str:
    return f"{host}:{port}" if host and port else host


def _text(start_response: StartResponse, status: str, text: str) -> Iterable[bytes]:
    return _whole(start_response, status, "text/plain; charset=utf-8", text)


def _json(start_response: StartResponse, value: object) -> Iterable[bytes]:
    return _whole(start_response, "200 OK", "application/json", json.dumps(value, indent=2) + "\n")


def _html(start_response: StartResponse, text: str) -> Iterable[bytes]:
    return _whole(start_response, "200 OK", "text/html; charset=utf-8", text)


def _whole(
    start_response: StartResponse, status: str, content_type: str, text: str
) -> Iterable[bytes]:
    body = text.encode("utf-8", "backslashreplace")
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    start_response(status, headers)
    return [body]
