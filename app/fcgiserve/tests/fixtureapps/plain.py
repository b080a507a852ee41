"""Applications that behave."""

import atexit
import hashlib
import os
import signal
import time


def hello(environ, start_response):
    start_response("200 OK", [("Content-type", "text/html")])
    return [b"Hello world!"]


def pid(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


def echo(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return iter(lambda: environ["wsgi.input"].read(65536), b"")


def digest(environ, start_response):
    sha256 = hashlib.sha256()
    length = 0
    while block := environ["wsgi.input"].read(65536):
        sha256.update(block)
        length += len(block)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{length} {sha256.hexdigest()}".encode()]


def logs(environ, start_response):
    start_response("200 OK", [])
    yield b"one"
    environ["wsgi.errors"].write("two")
    yield b"three"
    environ["wsgi.errors"].write("four")
    environ["wsgi.errors"].flush()


def ticking(environ, start_response):
    """From now on the process gets a signal every 20 ms, as from a profiler."""
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    # Python takes the handler back when it ends, and the next signal would kill it.
    atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ticking"]


def sleep(environ, start_response):
    """Says in the log that it began, so that a test need not guess."""
    os.write(2, b"sleeping\n")
    time.sleep(float(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"slept"]


def zeros(environ, start_response):
    """As many MiB as the query string says, in a stream."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    block = bytes(65536)
    return (block for _ in range(int(environ["QUERY_STRING"]) * 16))


def environment(environ, start_response):
    """The request's variables and the names of the others, one a line."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{name}={value}\n".encode("latin-1") for name, value in sorted(environ.items())]
