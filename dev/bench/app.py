"""The WSGI application that every Python target of the bench serves; app.c is its twin in C.

/hello    a greeting
/work     the greeting after 10 ms of sleep, as if a database had been asked
/big      100 KB
/upload   reads the body and answers its length in bytes
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Callable

HELLO = b"Hello, world!\n"
BIG = b"x" * 100_000
WORK_SECONDS = 0.010

# How much of a body is read at a time, in bytes.
BLOCK = 65536

StartResponse = Callable[[str, list[tuple[str, str]]], object]


def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Answer one request (PEP 3333)."""
    path = environ.get("PATH_INFO", "")
    status = "200 OK"
    if path == "/hello":
        body = HELLO
    elif path == "/work":
        time.sleep(WORK_SECONDS)
        body = HELLO
    elif path == "/big":
        body = BIG
    elif path == "/upload":
        length = 0
        while block := environ["wsgi.input"].read(BLOCK):
            length += len(block)
        body = b"%d\n" % length
    else:
        status, body = "404 Not Found", b""
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
