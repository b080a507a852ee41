"""An application that needs more memory at each request, as many MiB as the query says."""

import os

_kept = []


def application(environ, start_response):
    _kept.append(bytearray(os.urandom(1 << 20)) * int(environ["QUERY_STRING"] or 0))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
