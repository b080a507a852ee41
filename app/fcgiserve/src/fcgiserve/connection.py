"""One FastCGI connection seen from the application, without I/O.

Bytes from the web server go in with `receive_data`; events come out. Bytes for the web server
are either a `Reply` event (the protocol's own answers) or built with `records` by whoever
answers the request. Theory of operation:

* A connection carries one request at a time. A second BEGIN_REQUEST while one is active is
  refused with CANT_MPX_CONN, and GET_VALUES says FCGI_MPXS_CONNS=0.
* A request becomes an event when its PARAMS stream is complete, because nothing can be done
  earlier and a name-value pair may straddle records (section 3.4). STDIN that comes earlier
  is held back until then.
* From `end_request` on the request's id is inactive; records that still arrive for it are
  ignored (section 3.3), which is also how an unread body is passed over.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

from . import records
from .records import ProtocolError, Record, RecordReader

# What PARAMS may hold before the request is refused as OVERLOADED, in bytes. Web servers stop
# at 64 KB or so; without a limit a peer could make a worker hold any amount.
PARAMS_LIMIT = 1 << 20

_ROLES = (records.RESPONDER, records.AUTHORIZER, records.FILTER)


class RequestReceived(NamedTuple):
    """A request whose PARAMS are complete (sections 5.1 and 5.2)."""

    request_id: int
    role: int
    params: dict[str, str]


class InputReceived(NamedTuple):
    """A piece of the STDIN or DATA stream; empty `data` is the end (sections 5.3 and 6.4)."""

    stream: int
    data: bytes


class RequestAborted(NamedTuple):
    """The request is of no use any more: ABORT_REQUEST (section 5.4), or the peer left."""

    reason: str


class Reply(NamedTuple):
    """Bytes to send now: a management answer (section 4), or a refused request (section 5.5)."""

    data: bytes


class ProtocolFailed(NamedTuple):
    """The peer does not speak FastCGI 1.0: close the connection. No event follows."""

    reason: str


Event = Union[RequestReceived, InputReceived, RequestAborted, Reply, ProtocolFailed]


class Connection:
    """The state of one connection.

    `concurrency` is the number of requests that the application answers at the same time, over
    all its processes; it is the answer to GET_VALUES (section 4.1).
    """

    __slots__ = (
        "_concurrency",
        "_early",
        "_failed",
        "_params",
        "_params_size",
        "_reader",
        "_role",
        "_streams",
        "keep_connection",
        "request_id",
    )

    def __init__(self, concurrency: int = 1) -> None:
        self._concurrency = concurrency
        self._reader = RecordReader()
        self._failed = False
        #: Id of the active request; 0 when there is none.
        self.request_id = 0
        #: Whether the connection stays open when no request is active (FCGI_KEEP_CONN).
        self.keep_connection = True
        self._role = 0
        self._params: Optional[list[bytes]] = None
        self._params_size = 0
        self._early: list[Event] = []
        # The input streams of the active request that have not ended.
        self._streams: tuple[int, ...] = ()

    @property
    def input_ended(self) -> bool:
        """Whether every stream that the active request's role has is complete."""
        return not self._streams

    def receive_data(self, data: bytes) -> list[Event]:
        """Take the next bytes from the web server and return what they mean, in order."""
        events: list[Event] = []
        if self._failed:
            return events
        try:
            for record in self._reader.feed(data):
                self._receive_record(record, events)
            if self._reader.failure is not None:
                raise ProtocolError(self._reader.failure)
        except ProtocolError as error:
            self._failed = True
            events.append(ProtocolFailed(str(error)))
        return events

    def receive_eof(self) -> list[Event]:
        """Take note that the web server will send no more.

        A request whose input is complete goes on: the peer may have closed its half only.
        """
        if self.request_id and not self._failed and (self._streams or self._params is not None):
            self._streams = ()
            self._params = None
            return [RequestAborted("the web server closed the connection inside the request")]
        return []

    def end_request(
        self, app_status: int = 0, protocol_status: int = records.REQUEST_COMPLETE
    ) -> bytes:
        """Make the active request inactive and return its END_REQUEST record (section 5.5)."""
        data = records.encode_end_request(self.request_id, app_status, protocol_status)
        self.request_id = 0
        self._params = None
        self._early = []
        return data

    def _receive_record(self, record: Record, events: list[Event]) -> None:
        kind, request_id, content = record
        if request_id == 0:
            self._receive_management(kind, content, events)
        elif kind == records.BEGIN_REQUEST:
            self._begin(request_id, content, events)
        elif request_id != self.request_id:
            pass
        elif kind == records.PARAMS:
            if self._params is not None:
                self._receive_params(content, events)
        elif kind in self._streams:
            self._receive_input(kind, content, events)
        elif kind == records.ABORT_REQUEST:
            if self._params is None:
                self._streams = ()
                events.append(RequestAborted("the web server aborted the request"))
            else:
                self._refuse(request_id, records.REQUEST_COMPLETE, events)

    def _receive_management(self, kind: int, content: bytes, events: list[Event]) -> None:
        if kind != records.GET_VALUES:
            events.append(Reply(records.encode_unknown_type(kind)))
            return
        known = {
            "FCGI_MAX_CONNS": str(self._concurrency),
            "FCGI_MAX_REQS": str(self._concurrency),
            "FCGI_MPXS_CONNS": "0",
        }
        asked = records.decode_pairs(content)
        values = records.encode_pairs((name, known[name]) for name in asked if name in known)
        events.append(Reply(records.encode_record(records.GET_VALUES_RESULT, 0, values)))

    def _begin(self, request_id: int, content: bytes, events: list[Event]) -> None:
        role, flags = records.decode_begin_request(content)
        if request_id == self.request_id:
            raise ProtocolError(f"a second BEGIN_REQUEST for the active request {request_id}")
        if self.request_id:
            end = records.encode_end_request(request_id, 0, records.CANT_MPX_CONN)
            events.append(Reply(end))
            return
        self.request_id = request_id
        self.keep_connection = bool(flags & records.KEEP_CONN)
        self._role = role
        if role not in _ROLES:
            self._refuse(request_id, records.UNKNOWN_ROLE, events)
            return
        self._params = []
        self._params_size = 0
        if role == records.RESPONDER:
            self._streams = (records.STDIN,)
        elif role == records.FILTER:
            self._streams = (records.STDIN, records.DATA)
        else:
            self._streams = ()

    def _refuse(self, request_id: int, status: int, events: list[Event]) -> None:
        self._streams = ()
        end = records.encode_record(records.STDOUT, request_id) if not status else b""
        events.append(Reply(end + self.end_request(0, status)))

    def _hold(self, size: int, events: list[Event]) -> bool:
        self._params_size += size
        if self._params_size <= PARAMS_LIMIT:
            return True
        self._refuse(self.request_id, records.OVERLOADED, events)
        return False

    def _receive_params(self, content: bytes, events: list[Event]) -> None:
        assert self._params is not None
        if content:
            if self._hold(len(content), events):
                self._params.append(content)
            return
        params = records.decode_pairs(b"".join(self._params))
        self._params = None
        events.append(RequestReceived(self.request_id, self._role, params))
        if self._early:
            events.extend(self._early)
            self._early = []

    def _receive_input(self, kind: int, content: bytes, events: list[Event]) -> None:
        if not content:
            self._streams = tuple(stream for stream in self._streams if stream != kind)
        event = InputReceived(kind, content)
        if self._params is None:
            events.append(event)
        elif self._hold(len(content) + 8, events):
            self._early.append(event)
