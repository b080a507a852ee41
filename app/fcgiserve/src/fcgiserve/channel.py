"""A connected socket and the request on it: the I/O around `connection.Connection`.

What the worker and the gateway rely on:

* One receive usually brings a whole request, and one send takes a whole answer.
* A send never waits without also receiving while the request has input left, because a web
  server may write all of a body before it reads any of the answer.
* The protocol's own answers go out between records of the request, never inside one.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from typing import Any, Optional, Union

from . import records
from .connection import (
    Connection,
    InputReceived,
    Reply,
    RequestAborted,
    RequestReceived,
)
from .log import write_line
from .streams import ErrorStream, InputStream

RECEIVE_SIZE = 65536


class forks:
    """What this process knows about processes that the application forked off.

    Such a child that returns into the server must not answer as well; and while one lives, it
    holds copies of the sockets, so that closing them is not enough.
    """

    in_child = False
    has_child = False

    @classmethod
    def forget(cls) -> None:
        """Begin as a worker: what was forked before was no application's doing."""
        cls.in_child = cls.has_child = False

    @classmethod
    def _in_child(cls) -> None:
        cls.in_child = True

    @classmethod
    def _in_parent(cls) -> None:
        cls.has_child = True


os.register_at_fork(after_in_child=forks._in_child, after_in_parent=forks._in_parent)

# How long a connection whose input was not read is kept for the answer to be read: seconds
# without a byte, and seconds altogether.
LINGER = 2.0
LINGER_ALTOGETHER = 30.0

# How many digits the length of a body may have: all these numbers fit 64 bits.
LENGTH_DIGITS = 18

_ROLE_NAMES = {
    records.RESPONDER: "RESPONDER",
    records.AUTHORIZER: "AUTHORIZER",
    records.FILTER: "FILTER",
}


class PeerGone(ConnectionResetError):
    """The web server closed the connection or aborted the request: nobody reads the answer."""


class BadRequest(ValueError):
    """The request's parameters contradict themselves; the message says which."""


def body_length(params: dict[str, str], name: str = "CONTENT_LENGTH") -> Optional[int]:
    """Return the announced length of a body in bytes, None when there is none.

    Raises BadRequest when it is not a number of up to 18 digits. A client may send any number of
    them (RFC 9110, section 8.6), and int() refuses more than 4300 with a plain ValueError.
    """
    text = params.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise BadRequest(f"{name} is {text[:40]!r}, not a number of bytes")
    if len(text) > LENGTH_DIGITS:
        raise BadRequest(f"{name} has {len(text)} digits, {LENGTH_DIGITS} are the most")
    return int(text)


class Exchange:
    """One request and the way to answer it.

    `params` are the request's variables, `role` is RESPONDER, AUTHORIZER or FILTER, `input` the
    body, `data` the file of a Filter (section 6.4), `errors` the request's log.
    """

    #: Why the parameters cannot be used, if so.
    refusal: Optional[str] = None
    data: Optional[InputStream] = None

    def __init__(
        self, channel: Channel, request_id: int, role: int, params: dict[str, Any]
    ) -> None:
        #: The FastCGI request id, for the log.
        self.request_id = request_id
        self.params = params
        self.role = _ROLE_NAMES[role]
        self._channel = channel
        length = data_length = None
        try:
            if "CONTENT_LENGTH" in params:
                length = body_length(params)
            if role == records.FILTER:
                data_length = body_length(params, "FCGI_DATA_LENGTH")
        except BadRequest as error:
            self.refusal = str(error)
        receive = channel.receive_more
        self.input = InputStream(receive, 0 if role == records.AUTHORIZER else length)
        if role == records.FILTER:
            self.data = InputStream(receive, data_length)
        self.errors = ErrorStream(channel.send_errors)

    @property
    def streams(self) -> tuple[InputStream, ...]:
        """The request's input streams."""
        return (self.input,) if self.data is None else (self.input, self.data)

    def send(self, data: bytes) -> None:
        """Send a part of the answer now. Raises PeerGone when nobody is there to read it."""
        channel = self._channel
        if channel.aborted:
            raise PeerGone(channel.aborted)
        self.errors.flush()
        for piece in records.encode_stream(records.STDOUT, self.request_id, data):
            channel.transmit(piece)
        if channel.connection.input_ended:
            # A stream may go on for long: see whether the web server still wants it.
            channel.look()

    def finish(self, data: bytes, app_status: int) -> None:
        """Send the last part of the answer and end the request (sections 5.5 and 6.1)."""
        channel = self._channel
        request_id = self.request_id
        self.input.close()
        if self.data is not None:
            self.data.close()
        self.errors.flush()
        if channel.aborted:
            data = b""
        elif len(data) > records.CUT:
            for piece in records.encode_stream(records.STDOUT, request_id, data):
                channel.transmit(piece)
            data = b""
        end = records.encode_end_of_answer(request_id, app_status, self.errors.sent)
        if data:
            end = records.encode_record(records.STDOUT, request_id, data) + end
        channel.end_request(end)


class Channel:
    """One connection from the web server.

    `concurrency` is the connection's. The socket is blocking; reads that must not wait
    say so one by one.
    """

    #: The request that is complete enough to be answered, or is being answered.
    exchange: Optional[Exchange] = None
    #: Why the request need not be answered, if so.
    aborted = ""
    #: Whether nothing has come since the last request was answered.
    idle = False
    #: Why the connection cannot go on, if so.
    failure = ""
    _eof = False  # the web server will send no more
    _gone = False  # nor receive more

    def __init__(self, sock: socket.SocketType, concurrency: int = 1) -> None:
        self.socket = sock
        self.connection = Connection()
        self.connection.concurrency = concurrency
        self._replies: list[bytes] = []

    def receive(self, flags: int = 0) -> None:
        """Receive once and hand on what came. BlockingIOError when asked not to wait."""
        try:
            data = self.socket.recv(RECEIVE_SIZE, flags)
        except BlockingIOError:
            raise
        except OSError:  # whatever it was, nothing more will come
            data = b""
        connection = self.connection
        self.idle = False
        if data:
            if (params := connection.receive_whole(data)) is not None:
                self.exchange = Exchange(self, 1, records.RESPONDER, params)
                self.exchange.input.finish()
                return
            events = connection.receive_data(data)
        else:
            self._eof = True
            events = connection.receive_eof()
        for event in events:
            if isinstance(event, InputReceived):
                self._receive_input(event)
            elif isinstance(event, RequestReceived):
                self.aborted = ""
                self.exchange = Exchange(self, event.request_id, event.role, event.params)
            elif isinstance(event, Reply):
                self._replies.append(event.data)
            elif isinstance(event, RequestAborted):
                self._abort(event.reason)
            else:
                self.failure = event.reason
                self._abort(event.reason)

    def receive_more(self) -> None:
        """Receive once, waiting for it, and answer what the protocol must answer."""
        self.receive()
        if self._replies:
            self.transmit(b"")

    def look(self) -> None:
        """Receive what is there already, without waiting."""
        if self._eof:
            return
        try:
            self.receive(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if self._replies:
            self.transmit(b"")

    def _receive_input(self, event: InputReceived) -> None:
        assert self.exchange is not None
        stream = self.exchange.input if event.stream == records.STDIN else self.exchange.data
        assert stream is not None
        if event.data:
            stream.feed(event.data)
        else:
            stream.finish()

    def _abort(self, reason: str) -> None:
        self.aborted = reason
        if self.exchange is not None:
            for stream in self.exchange.streams:
                stream.fail(reason)

    def send_errors(self, data: bytes) -> None:
        """Send a part of the request's STDERR stream.

        When nobody is there to read it any more, it goes to this process's log.
        """
        try:
            if self.exchange is None or self._gone:
                raise PeerGone
            for piece in records.encode_stream(records.STDERR, self.exchange.request_id, data):
                self.transmit(piece)
        except PeerGone:
            write_line(data.decode().rstrip("\n"))

    def transmit(self, data: bytes) -> None:
        """Send bytes that end where a record ends. Raises PeerGone."""
        if forks.in_child:
            os._exit(0)
        if self._replies:
            data = b"".join([*self._replies, data])
            self._replies.clear()
        sent = self._send(data)
        if sent < len(data):
            self._transmit_slowly(memoryview(data)[sent:])

    def _transmit_slowly(self, data: memoryview) -> None:
        poll = select.poll()
        while data:
            receiving = not (self._eof or self.connection.input_ended)
            events = select.POLLOUT | (select.POLLIN if receiving else 0)
            poll.register(self.socket, events)
            ((_descriptor, ready),) = poll.poll()
            if receiving and ready & select.POLLIN:
                self.receive()
            if ready & ~select.POLLIN:
                data = data[self._send(data) :]
        if self._replies:
            self.transmit(b"")

    def _send(self, data: Union[bytes, memoryview]) -> int:
        """Send what can be sent without waiting; return how many bytes that were."""
        try:
            return self.socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._eof = self._gone = True
            self._abort(f"the web server closed the connection: {error}")
            raise PeerGone(self.aborted) from error

    def end_request(self, data: bytes) -> None:
        """Send the end of the answer; the connection is then idle, or to be closed."""
        self.exchange = None
        self.idle = True
        self.connection.end_request()
        self.transmit(data)

    @property
    def finished(self) -> bool:
        """Whether the connection is to be closed by this side (section 5.1)."""
        connection = self.connection
        if connection.request_id or connection.keep_connection:
            return self._eof or bool(self.failure)
        return True

    def close(self) -> None:
        """Close the connection so that the web server can still read its answer.

        Closing a socket with unread input makes the kernel reset the connection, and the answer
        may be lost: so what is still on its way is read first, up to the limits of `LINGER`.
        """
        sock = self.socket
        clean = self._eof or self.failure or self.connection.input_ended
        if forks.has_child or not clean:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(LINGER)
                deadline = time.monotonic() + LINGER_ALTOGETHER
                while not clean and sock.recv(RECEIVE_SIZE) and time.monotonic() < deadline:
                    pass
        with contextlib.suppress(OSError):  # the application may have closed every descriptor
            sock.close()
