"""One request over CGI (RFC 3875), so that a script can be tried at a prompt.

Descriptor 1 is the answer, so it is put aside and replaced by descriptor 2: what the application
prints lands in the log, not in the answer.
"""

from __future__ import annotations

import os
import sys
from typing import Optional

from .channel import BadRequest, PeerGone, body_length
from .loader import import_or_stand_in
from .server import Settings
from .streams import InputStream
from .wsgi import Gateway


class CGIExchange:
    """The request in the process's environment and on descriptors 0 and 1."""

    role = "RESPONDER"
    request_id = 0
    data: Optional[InputStream] = None

    def __init__(self, output: int) -> None:
        self._output = output
        # PEP 3333, "Unicode Issues": the bytes of the environment, as Latin-1.
        self.params = {
            os.fsencode(name).decode("latin-1"): os.fsencode(value).decode("latin-1")
            for name, value in os.environ.items()
        }
        self.refusal: Optional[str] = None
        length = None
        try:
            length = body_length(self.params)
        except BadRequest as error:
            self.refusal = str(error)
        self.input = InputStream(self._receive, length)
        self.errors = sys.stderr
        self.status = 0

    def _receive(self) -> None:
        data = os.read(0, 65536)
        if data:
            self.input.feed(data)
        else:
            self.input.finish()

    def send(self, data: bytes) -> None:
        """Write a part of the answer. Raises PeerGone when nobody reads it."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._output, view) :]
        except BrokenPipeError as error:
            raise PeerGone(str(error)) from error

    def finish(self, data: bytes, app_status: int) -> None:
        """Write the last part of the answer."""
        self.status = app_status
        self.input.close()
        self.errors.flush()
        self.send(data)


def run_cgi(settings: Settings) -> int:
    """Answer the one request; return the exit status."""
    output = os.dup(1)
    os.dup2(2, 1)
    gateway = Gateway(
        import_or_stand_in(settings.application),
        script_name=settings.script_name,
        access_log=settings.access_log,
        run_once=True,
    )
    exchange = CGIExchange(output)
    gateway.answer(exchange)
    os.close(output)
    return exchange.status
