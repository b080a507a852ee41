"""Applications that do what they must not; after each, the next request is answered.

The path says which; every other path is answered as it should be.
"""

import os
import sys
import threading

OK = [("Content-Type", "text/plain")]


def application(environ, start_response):
    act = _ACTS.get(environ["PATH_INFO"][1:])
    if act is None:
        start_response("200 OK", OK)
        return [b"pid %d" % os.getpid()]
    return act(environ, start_response)


def raises_before(environ, start_response):
    raise ValueError("before start_response")


def raises_after(environ, start_response):
    start_response("200 OK", OK)
    yield b"begun"
    raise ValueError("after the body began")


def too_long(environ, start_response):
    start_response("200 OK", [*OK, ("Content-Length", "4")])
    return iter([b"longer", b"still"])


def too_short(environ, start_response):
    start_response("200 OK", [*OK, ("Content-Length", "400")])
    return iter([b"short"])


def no_length(environ, start_response):
    start_response("200 OK", OK)
    return iter([b"some", b"thing"])


def one_piece(environ, start_response):
    start_response("200 OK", OK)
    return [b"x" * int(environ["QUERY_STRING"])]


def dies(environ, start_response):
    os._exit(3)


def endless(environ, start_response):
    start_response("200 OK", OK)
    try:
        while True:
            yield b"more" * 1000
    finally:
        os.write(2, b"endless was closed\n")


def exits(environ, start_response):
    sys.exit(3)


def exits_inside(environ, start_response):
    start_response("200 OK", OK)
    yield b"begun"
    sys.exit("enough")


def forks(environ, start_response):
    """The child comes back into the server as well."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    start_response("200 OK", OK)
    return [b"forked"]


def forks_and_leaves_the_child(environ, start_response):
    """The child lives on, with copies of the sockets, until its standard error is closed."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    _leaked.append(writer)  # the child ends with this process
    start_response("200 OK", OK)
    return [b"forked"]


def prints(environ, start_response):
    print("on standard output", flush=True)
    os.write(1, b"on descriptor 1\n")
    start_response("200 OK", OK)
    return [b"printed"]


def reads_descriptor_0(environ, start_response):
    start_response("200 OK", OK)
    return [os.read(0, 1)]


def starts_a_thread(environ, start_response):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    start_response("200 OK", OK)
    return [b"started"]


def keeps_the_input(environ, start_response):
    _leaked.append((environ["wsgi.input"], environ["wsgi.errors"]))
    start_response("200 OK", OK)
    return [b"kept"]


def uses_the_kept_input(environ, start_response):
    stream, errors = _leaked.pop()
    errors.write("after the end\n")
    errors.flush()
    start_response("200 OK", OK)
    return [b"read %d" % len(stream.read())]


def catches_everything(environ, start_response):
    write = start_response("200 OK", OK)
    for _ in range(1000):
        try:
            write(b"x" * 10_000)
        except BaseException:
            os.write(2, b"caught\n")
    return [b"end"]


def writes_errors_in_bulk(environ, start_response):
    environ["wsgi.errors"].write("e" * 300_000)
    start_response("200 OK", OK)
    return [b"logged"]


def breaks_the_log(environ, start_response):
    """What the server calls after the answer raises an exception that nobody expects."""
    environ["wsgi.errors"].write("never sent")
    environ["wsgi.errors"]._send = None
    start_response("200 OK", OK)
    return [b"broken"]


_leaked = []
_ACTS = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and name not in ("application",)
}
