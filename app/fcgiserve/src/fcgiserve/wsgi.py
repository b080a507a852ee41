"""The gateway between one request and a WSGI application (PEP 3333).

The rules that hold in this file:

* Headers leave as the application gave them, and nothing is added to them. The status becomes a
  `Status:` line (CGI, RFC 3875, section 6.3.3) unless it is "200 OK", the default.
* Headers wait for the first piece of the body that is not empty, so that an error before it can
  still be answered with a 500.
* A list or tuple is a finished body: it leaves in one piece with its headers. Of any other
  iterable every piece is sent before the next is asked for.
* Whatever the application does, the request is ended, `close()` is called once, and the
  traceback is in the request's log.
"""

from __future__ import annotations

import json
import re
import time
import traceback
from collections.abc import Iterable
from functools import lru_cache
from operator import itemgetter
from types import TracebackType
from typing import Any, Callable, Optional, Protocol, Union
from wsgiref.util import FileWrapper

from .channel import PeerGone
from .log import write_line
from .streams import IncompleteBody, InputStream

Environ = dict[str, Any]
ExcInfo = Union[tuple[type[BaseException], BaseException, TracebackType], tuple[None, None, None]]
#: A WSGI application. `start_response` has more than one signature, hence the loose type.
Application = Callable[..., Iterable[bytes]]

_is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_is_status = re.compile(r"[1-9][0-9]{2} [^\x00-\x1f\x7f]*").fullmatch
_control = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search

# What PEP 3333 wants to be there, if the web server has not sent it.
_DEFAULTS = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "",
    "QUERY_STRING": "",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.0",
}
_required = itemgetter(*_DEFAULTS)

# Headers that belong to the web server (RFC 9110, section 7.6.1), and CGI's own status line.
_NOT_FOR_APPLICATIONS = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "status",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class Exchange(Protocol):
    """What the gateway needs of a request; FastCGI and CGI each have one."""

    params: Environ
    role: str
    request_id: int
    refusal: Optional[str]
    input: Any
    data: Optional[InputStream]
    errors: Any

    def send(self, data: bytes) -> None:
        """Send a part of the answer now."""

    def finish(self, data: bytes, app_status: int) -> None:
        """Send the last part and end the request."""


class Gateway:
    """Answers requests with one WSGI application.

    `script_name` says where the application is mounted, for web servers that put the whole path
    into SCRIPT_NAME; without it, what the web server says holds. `listener` is the name of the
    listening socket, for `fcgiserve.socket` in the environment. With `access_log` each request
    writes one line of JSON to standard error.
    """

    def __init__(
        self,
        application: Application,
        *,
        script_name: Optional[str] = None,
        listener: str = "",
        access_log: bool = False,
        run_once: bool = False,
    ) -> None:
        self._application = application
        self._script_name = script_name
        self._access_log = access_log
        self._own: Environ = {
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.multithread": False,
            "wsgi.multiprocess": True,
            "wsgi.run_once": run_once,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
            "fcgiserve.socket": listener,
        }

    def environ(self, exchange: Exchange) -> Environ:
        """Make the request's parameters its environment (PEP 3333, "environ Variables")."""
        environ = exchange.params
        try:
            _required(environ)
        except KeyError:
            for name, value in _DEFAULTS.items():
                environ.setdefault(name, value)
        environ.update(self._own)
        # Some web servers send these twice; PEP 3333 wants them without HTTP_.
        if "HTTP_CONTENT_TYPE" in environ:
            del environ["HTTP_CONTENT_TYPE"]
        if "HTTP_CONTENT_LENGTH" in environ:
            del environ["HTTP_CONTENT_LENGTH"]
        if "HTTPS" in environ and environ["HTTPS"].lower() in ("on", "1"):
            environ["wsgi.url_scheme"] = "https"
        environ["wsgi.input"] = exchange.input
        environ["wsgi.errors"] = exchange.errors
        environ["FCGI_ROLE"] = exchange.role
        if exchange.data is not None:
            environ["fcgi.data"] = exchange.data
        prefix = self._script_name
        if prefix is not None:
            path = environ["SCRIPT_NAME"] + environ["PATH_INFO"]
            rest = path[len(prefix) :]
            if path.startswith(prefix) and (not rest or rest[0] == "/"):
                environ["SCRIPT_NAME"] = prefix
                environ["PATH_INFO"] = rest
        if environ["SCRIPT_NAME"] == "/":
            environ["SCRIPT_NAME"] = ""
            environ["PATH_INFO"] = "/" + environ["PATH_INFO"].lstrip("/")
        return environ

    def answer(self, exchange: Exchange) -> None:
        """Run the application for one request and send its answer, or a 500 in its place."""
        if not self._access_log:
            Response(exchange).run(self._application, self.environ(exchange))
            return
        started = time.monotonic()
        response = Response(exchange)
        environ = self.environ(exchange)
        # The application may change its environment.
        request = {
            "client": environ.get("REMOTE_ADDR", ""),
            "role": exchange.role,
            "request_id": exchange.request_id,
            "method": environ["REQUEST_METHOD"],
            "path": environ["SCRIPT_NAME"] + environ["PATH_INFO"],
        }
        response.run(self._application, environ)
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **request,
            "status": int(response.status[:3] or 0),
            "bytes": response.sent,
            "seconds": round(time.monotonic() - started, 6),
            "outcome": response.outcome,
        }
        write_line(json.dumps(line))


@lru_cache(maxsize=128)
def encode_head(
    status: str, headers: tuple[tuple[str, str], ...]
) -> tuple[bytes, Optional[int], bool]:
    """Return an answer's head, its Content-Length, and whether the status allows no body.

    Raises TypeError for anything but str, and for headers that are no tuples, ValueError for a
    status or header that would not be one, or that would end the line that it stands on.
    """
    if not isinstance(status, str):
        raise TypeError(f"status must be str, not {type(status).__name__}")
    if not _is_status(status):
        raise ValueError(f"status {status!r} is not like '404 Not Found'")
    lines = [] if status == "200 OK" else [f"Status: {status}\r\n"]
    length = None
    for header in headers:
        if not isinstance(header, tuple):
            raise TypeError(f"a header must be a tuple, not {type(header).__name__}")
        name, value = header
        if not _is_token(name):
            raise ValueError(f"{name!r} is no header name")
        if _control(value):
            raise ValueError(f"header {name} has a control character in its value {value!r}")
        lowered = name.lower()
        if lowered in _NOT_FOR_APPLICATIONS:
            raise ValueError(f"header {name} is the web server's to set: leave it out")
        if lowered == "content-length":
            if not (value.isascii() and value.isdigit()):
                raise ValueError(f"Content-Length is {value!r}, not a number of bytes")
            length = int(value)
        lines.append(f"{name}: {value}\r\n")
    lines.append("\r\n")
    bodiless = status[0] == "1" or status.startswith(("204", "304"))
    return "".join(lines).encode("latin-1"), length, bodiless


class Response:
    """One answer in the making."""

    #: The status line as the application gave it.
    status = ""
    #: Bytes of body that were sent.
    sent = 0
    #: "complete", "failed", or "aborted" by the web server or the client.
    outcome = "complete"

    _head: Optional[bytes] = None
    _head_sent = False
    _length: Optional[int] = None
    _through = False  # nothing that is still to come may be sent

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._is_head = exchange.params.get("REQUEST_METHOD") == "HEAD"
        self._without_body = self._is_head

    def run(self, application: Application, environ: Environ) -> None:
        """Call the application and send what it returns; no exception leaves."""
        app_status = 0
        rest = b""
        try:
            rest = self._respond(application, environ)
        except PeerGone:
            self.outcome = "aborted"
        except IncompleteBody as error:
            self.outcome = "aborted"
            self._log(f"{error}; answered 400")
            rest = self._replace("400 Bad Request")
        except BaseException as error:
            self.outcome = "failed"
            app_status = _exit_status(error)
            self._log(_describe(error))
            rest = self._replace("500 Internal Server Error")
        try:
            self._exchange.finish(rest, app_status)
        except PeerGone:
            self.outcome = "aborted"

    def _respond(self, application: Application, environ: Environ) -> bytes:
        """Return what is left to send when the application is through."""
        if self._exchange.refusal is not None:
            self._log(f"{self._exchange.refusal}; answered 400")
            return self._replace("400 Bad Request")
        body = application(environ, self.start_response)
        if body.__class__ is list or body.__class__ is tuple:
            if len(body) == 1:
                return self._last(body[0])
            return self._last(b"".join([_checked(block) for block in body]))
        try:
            for block in body:
                if _checked(block):
                    self.write(block)
                    if self._through:
                        break
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()
        return self._last(b"")

    def start_response(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: Optional[ExcInfo] = None,
    ) -> Callable[[bytes], None]:
        """Set status and headers (PEP 3333, "The start_response() Callable").

        Raises RuntimeError when called twice without `exc_info`, TypeError for wrong types,
        ValueError for a status or header that would not be one.
        """
        if exc_info is not None:
            try:
                if self._head_sent and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._head is not None:
            raise RuntimeError(
                "start_response was called twice; after an error, call it with exc_info"
            )
        if not isinstance(headers, list):
            raise TypeError(f"headers must be a list, not {type(headers).__name__}")
        try:
            self._head, self._length, bodiless = encode_head(status, tuple(headers))
        except TypeError:
            # Not what can be looked up among the last heads; this says what is wrong with it.
            encode_head.__wrapped__(status, tuple(headers))
            raise
        self._without_body = bodiless or self._is_head
        self.status = status
        return self.write

    def write(self, data: bytes) -> None:
        """Send a piece of the body now (PEP 3333, "The write() Callable")."""
        data = self._next(data)
        if data:
            self._exchange.send(data)

    def _next(self, data: bytes) -> bytes:
        """Return what to send for a piece of the body, with the head before the first."""
        _checked(data)
        head = b""
        if not self._head_sent:
            if self._head is None:
                raise RuntimeError("the application did not call start_response before its body")
            self._head_sent = True
            head = self._head
        if self._without_body:
            self._through = True
            return head
        if self._length is not None and self.sent + len(data) > self._length:
            if not self._through:
                self._through = True
                self._log(f"the body is longer than its Content-Length of {self._length}: cut")
            data = data[: self._length - self.sent]
        self.sent += len(data)
        return head + data

    def _last(self, data: bytes) -> bytes:
        """Return what to send for the last piece of the body."""
        data = self._next(data)
        if self._length is not None and self.sent < self._length and not self._without_body:
            self._log(f"the body has {self.sent} bytes, its Content-Length says {self._length}")
        return data

    def _replace(self, status: str) -> bytes:
        """Return an answer instead of the application's, or nothing when that one has begun."""
        if self._head_sent:
            return b""
        self.status = status
        reason = status[4:]
        body = b"" if self._is_head else f"{reason}\n".encode()
        self.sent = len(body)
        return f"Status: {status}\r\nContent-Type: text/plain\r\n\r\n".encode() + body

    def _log(self, message: str) -> None:
        # The application may have put anything into its environment.
        get = self._exchange.params.get
        request = f"{get('REQUEST_METHOD', '')} {get('SCRIPT_NAME', '')}{get('PATH_INFO', '')}"
        number = self._exchange.request_id
        self._exchange.errors.write(f"fcgiserve: request {number} ({request}): {message}\n")


def _checked(block: bytes) -> bytes:
    if isinstance(block, bytes):
        return block
    raise TypeError(f"a body consists of bytes, not {type(block).__name__}")


def _exit_status(error: BaseException) -> int:
    """Return what the process would have exited with; it goes to the web server as appStatus."""
    if isinstance(error, SystemExit):
        if error.code is None:
            return 0
        if isinstance(error.code, int):
            return error.code
    return 1


def _describe(error: BaseException) -> str:
    if isinstance(error, ImportFailed):
        return str(error)
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()


class ImportFailed(Exception):
    """The application could not be imported; the message names the module and the error."""
