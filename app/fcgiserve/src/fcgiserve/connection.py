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

import contextlib
import struct
from dataclasses import dataclass
from typing import Any, Optional, Union

from . import records
from .records import ProtocolError, RecordReader, decode_pairs

# What PARAMS may hold before the request is refused as OVERLOADED, in bytes. Web servers stop
# at 64 KB or so; without a limit a peer could make a worker hold any amount.
PARAMS_LIMIT = 1 << 20

# The input streams that each role has, section 6.
_STREAMS = {
    records.RESPONDER: (records.STDIN,),
    records.AUTHORIZER: (),
    records.FILTER: (records.STDIN, records.DATA),
}


@dataclass
class RequestReceived:
    """A request whose PARAMS are complete (sections 5.1 and 5.2)."""

    request_id: int
    role: int
    params: dict[str, Any]


@dataclass
class InputReceived:
    """A piece of the STDIN or DATA stream; empty `data` is the end (sections 5.3 and 6.4)."""

    stream: int
    data: bytes


@dataclass
class RequestAborted:
    """The request is of no use any more: ABORT_REQUEST (section 5.4), or the peer left."""

    reason: str


@dataclass
class Reply:
    """Bytes to send now: a management answer (section 4), or a refused request (section 5.5)."""

    data: bytes


@dataclass
class ProtocolFailed:
    """The peer does not speak FastCGI 1.0: close the connection. No event follows."""

    reason: str


Event = Union[RequestReceived, InputReceived, RequestAborted, Reply, ProtocolFailed]


# A request without a body as mod_fcgid sends it: these bytes, the lengths of content and padding
# in the header of the only PARAMS record, a reserved byte, content, padding, these bytes.
_PLAIN_BEGIN = records.encode_begin_request(1, records.RESPONDER) + bytes(
    (records.VERSION, records.PARAMS, 0, 1)
)
_LENGTHS = struct.Struct(">HB")
_PLAIN_LENGTHS = len(_PLAIN_BEGIN)
_PLAIN_START = _PLAIN_LENGTHS + 4
_PLAIN_END = records.encode_record(records.PARAMS, 1) + records.encode_record(records.STDIN, 1)
_PLAIN_AROUND = _PLAIN_START + len(_PLAIN_END)


def _decode_request_in_python(data: bytes) -> Optional[dict[str, str]]:
    """Return the parameters when `data` is one whole request of the most common kind.

    That is request 1 of a Responder, PARAMS in one record, no body, no FCGI_KEEP_CONN: what
    mod_fcgid sends for a GET. Of anything else, and of parameters that end inside a pair, the
    general way finds out what it is; that both find the same is a property test.
    """
    if not (data.startswith(_PLAIN_BEGIN) and data.endswith(_PLAIN_END)):
        return None
    length, padding = _LENGTHS.unpack_from(data, _PLAIN_LENGTHS)
    if not length or len(data) != _PLAIN_AROUND + length + padding:
        return None
    with contextlib.suppress(ProtocolError):
        return decode_pairs(data[_PLAIN_START : _PLAIN_START + length])
    return None


# The same in C, if it was compiled: see compile.py.
_decode_request = _decode_request_in_python
with contextlib.suppress(ImportError):
    from ._speedups import decode_request as _decode_request


class Connection:
    """The state of one connection."""

    #: The number of requests that the application answers at the same time, over all its
    #: processes: the answer to GET_VALUES (section 4.1).
    concurrency = 1
    #: Id of the active request; 0 when there is none.
    request_id = 0
    #: Whether the connection stays open when no request is active (FCGI_KEEP_CONN).
    keep_connection = True

    _failed = False
    _reader: Optional[RecordReader] = None
    _role = 0
    # The content of PARAMS so far, None when the stream is complete.
    _params: Optional[list[bytes]] = None
    _params_size = 0
    # What came on input streams before PARAMS were complete.
    _early: Optional[list[Event]] = None
    # The input streams of the active request that have not ended.
    _streams: tuple[int, ...] = ()

    @property
    def input_ended(self) -> bool:
        """Whether every stream that the active request's role has is complete."""
        return not self._streams

    def receive_whole(self, data: bytes) -> Optional[dict[str, Any]]:
        """Take the first bytes on the connection if they are one whole request of the usual kind.

        Returns its parameters: it is request 1, to a Responder, and its body is empty. Of None
        nothing was taken, and the bytes are for `receive_data`, which finds the same in them.
        """
        if self.request_id or self._reader is not None:
            return None
        params = _decode_request(data)
        if params is None:
            return None
        self.request_id = 1
        self.keep_connection = False
        return params

    def receive_data(self, data: bytes) -> list[Event]:
        """Take the next bytes from the web server and return what they mean, in order."""
        events: list[Event] = []
        if self._failed:
            return events
        reader = self._reader = self._reader or RecordReader()
        try:
            for kind, request_id, content in reader.feed(data):
                if request_id == 0:
                    self._receive_management(kind, content, events)
                elif kind == records.BEGIN_REQUEST:
                    self._begin(request_id, content, events)
                elif request_id != self.request_id:
                    continue
                elif kind == records.PARAMS:
                    if self._params is not None:
                        self._receive_params(content, events)
                elif kind in self._streams:
                    self._receive_input(kind, content, events)
                elif kind == records.ABORT_REQUEST:
                    self._abort(events)
            if reader.failure is not None:
                raise ProtocolError(reader.failure)
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

    def end_request(self) -> None:
        """Make the active request inactive: END_REQUEST is sent (section 5.5)."""
        self.request_id = 0
        self._params = None
        self._early = None

    def _receive_management(self, kind: int, content: bytes, events: list[Event]) -> None:
        if kind != records.GET_VALUES:
            events.append(Reply(records.encode_unknown_type(kind)))
            return
        known = {
            "FCGI_MAX_CONNS": str(self.concurrency),
            "FCGI_MAX_REQS": str(self.concurrency),
            "FCGI_MPXS_CONNS": "0",
        }
        asked = decode_pairs(content)
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
        streams = _STREAMS.get(role)
        if streams is None:
            self._refuse(request_id, records.UNKNOWN_ROLE, events)
            return
        self._streams = streams
        self._params = []
        self._params_size = 0

    def _abort(self, events: list[Event]) -> None:
        if self._params is None:
            self._streams = ()
            events.append(RequestAborted("the web server aborted the request"))
        else:
            self._refuse(self.request_id, records.REQUEST_COMPLETE, events)

    def _refuse(self, request_id: int, status: int, events: list[Event]) -> None:
        self._streams = ()
        end = records.encode_record(records.STDOUT, request_id) if not status else b""
        events.append(Reply(end + records.encode_end_request(request_id, 0, status)))
        self.end_request()

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
        parts = self._params
        params = decode_pairs(parts[0] if len(parts) == 1 else b"".join(parts))
        self._params = None
        events.append(RequestReceived(self.request_id, self._role, params))
        if self._early is not None:
            events.extend(self._early)
            self._early = None

    def _receive_input(self, kind: int, content: bytes, events: list[Event]) -> None:
        if not content:
            self._streams = self._streams[1:] if kind == self._streams[0] else self._streams[:1]
        event = InputReceived(kind, content)
        if self._params is None:
            events.append(event)
        elif self._hold(len(content) + 8, events):
            if self._early is None:
                self._early = []
            self._early.append(event)
