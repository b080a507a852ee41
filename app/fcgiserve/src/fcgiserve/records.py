"""FastCGI records and name-value pairs, as bytes in and bytes out.

Nothing here does I/O or remembers a request. The rules that hold in this file:

* A record is an 8-byte header, 0 to 65535 bytes of content and 0 to 255 bytes of padding
  (FastCGI 1.0, section 3.3). Padding is skipped on reading; on writing every record is padded
  to a multiple of 8 bytes.
* What a reader sees does not depend on how the transport cut the bytes: a record is handed on
  whole or not at all. Only the content of a request's input, of which there may be gigabytes, is
  handed on as it comes, in pieces that are never empty; an empty record is the stream's end.
* Text is Latin-1, which keeps every byte, and is what PEP 3333 asks for.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Optional, Union

VERSION = 1

# Record types, section 8.
BEGIN_REQUEST = 1
ABORT_REQUEST = 2
END_REQUEST = 3
PARAMS = 4
STDIN = 5
STDOUT = 6
STDERR = 7
DATA = 8
GET_VALUES = 9
GET_VALUES_RESULT = 10
UNKNOWN_TYPE = 11

# The types that carry a request's input, sections 5.3 and 6.4.
_INPUT = (STDIN, DATA)

# Roles, section 5.1.
RESPONDER = 1
AUTHORIZER = 2
FILTER = 3

# Flag of BEGIN_REQUEST, section 5.1: the web server closes the connection, not the application.
KEEP_CONN = 1

# Protocol status of END_REQUEST, section 5.5.
REQUEST_COMPLETE = 0
CANT_MPX_CONN = 1
OVERLOADED = 2
UNKNOWN_ROLE = 3

MAX_CONTENT = 65535
# What a long stream is cut into: the largest content that needs no padding.
CUT = 65528

# Version, type, request id, content length, padding length, reserved (section 3.3).
HEADER = struct.Struct(">BBHHBx")
_BEGIN = struct.Struct(">HB5x")
_END = struct.Struct(">IB3x")
_LONG_LENGTH = struct.Struct(">I")
_PADDING = tuple(bytes(size) for size in range(8))


class ProtocolError(ValueError):
    """The bytes are not FastCGI 1.0; the message says where they stop being it."""


#: One record, or a piece of one, without its padding: type, request id and content (section 3.3).
Record = tuple[int, int, bytes]


class RecordReader:
    """Turns a byte stream, however it is cut, into records (section 3.3).

    STDIN and DATA of a request come in pieces where a record is not complete yet. After bytes
    that are no record, `failure` is set to the reason and no more is read.
    """

    #: Why the bytes are no records, if so.
    failure: Optional[str] = None
    _needed = 0
    # The record of which a piece was handed on, and what is still to come of it, in bytes.
    _begun = (0, 0)
    _content_left = 0
    _padding_left = 0

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Record]:
        """Take the next bytes of the stream and return the records that they complete."""
        if self.failure is not None:
            return []
        held = self._held
        if held:
            held += data
            if len(held) < self._needed:
                return []
            data = bytes(held)
            held.clear()
        records: list[Record] = []
        size = len(data)
        position = 0
        if self._content_left or self._padding_left:
            position = self._go_on(data, 0, records)
        while size - position >= 8:
            version, kind, request_id, length, padding = HEADER.unpack_from(data, position)
            if version != VERSION:
                self.failure = (
                    f"a record of FastCGI version {version} where only version 1 exists: "
                    "does the peer speak FastCGI to this socket?"
                )
                return records
            start = position + 8
            end = start + length
            if end + padding > size:
                if length and request_id and kind in _INPUT:
                    self._begun = kind, request_id
                    self._content_left = length
                    self._padding_left = padding
                    self._go_on(data, start, records)
                    return records
                held += data[position:]
                self._needed = 8 + length + padding
                return records
            records.append((kind, request_id, data[start:end]))
            position = end + padding
        if position < size:
            held += data[position:]
            self._needed = 8
        return records

    def _go_on(self, data: bytes, start: int, records: list[Record]) -> int:
        """Take what there is of the record that has begun; return where it stops in `data`."""
        content = data[start : start + self._content_left]
        if content:
            records.append((*self._begun, content))
        self._content_left -= len(content)
        end = start + len(content)
        padding = min(self._padding_left, len(data) - end)
        self._padding_left -= padding
        return end + padding


def encode_record(kind: int, request_id: int, content: bytes = b"") -> bytes:
    """Return one record, padded to a multiple of 8 bytes.

    Raises ValueError when the content is longer than 65535 bytes: use `encode_stream`.
    """
    length = len(content)
    if length > MAX_CONTENT:
        raise ValueError(f"{length} bytes do not fit one record: use encode_stream")
    padding = -length & 7
    header = HEADER.pack(VERSION, kind, request_id, length, padding)
    return header + content + _PADDING[padding] if padding else header + content


def encode_stream(kind: int, request_id: int, data: bytes) -> Iterator[bytes]:
    """Yield `data` as stream records, about a megabyte at a time, without the empty end record."""
    view = memoryview(data)
    for start in range(0, len(view), 16 * CUT):
        piece = view[start : start + 16 * CUT]
        parts: list[Union[bytes, memoryview]] = []
        for cut in range(0, len(piece), CUT):
            content = piece[cut : cut + CUT]
            padding = -len(content) & 7
            header = HEADER.pack(VERSION, kind, request_id, len(content), padding)
            parts += (header, content, _PADDING[padding])
        yield b"".join(parts)


def encode_begin_request(request_id: int, role: int, flags: int = 0) -> bytes:
    """Return a BEGIN_REQUEST record (section 5.1)."""
    return encode_record(BEGIN_REQUEST, request_id, _BEGIN.pack(role, flags))


def decode_begin_request(content: bytes) -> tuple[int, int]:
    """Return role and flags of a BEGIN_REQUEST record's content (section 5.1).

    Raises ProtocolError when the content is not 8 bytes long.
    """
    if len(content) != _BEGIN.size:
        raise ProtocolError(f"a BEGIN_REQUEST of {len(content)} bytes; it has 8")
    role, flags = _BEGIN.unpack(content)
    return role, flags


def encode_end_request(
    request_id: int, app_status: int = 0, protocol_status: int = REQUEST_COMPLETE
) -> bytes:
    """Return an END_REQUEST record; `app_status` is kept to 32 bits (section 5.5)."""
    content = _END.pack(app_status & 0xFFFFFFFF, protocol_status)
    return encode_record(END_REQUEST, request_id, content)


@lru_cache(maxsize=64)
def encode_end_of_answer(request_id: int, app_status: int = 0, errors: bool = False) -> bytes:
    """Return the records after an answer (sections 3.3 and 6.1): its streams end, and the request.

    `errors` says whether there was a STDERR stream beside STDOUT.
    """
    end = encode_record(STDOUT, request_id)
    if errors:
        end += encode_record(STDERR, request_id)
    return end + encode_end_request(request_id, app_status)


def decode_end_request(content: bytes) -> tuple[int, int]:
    """Return application status and protocol status of an END_REQUEST record (section 5.5).

    Raises ProtocolError when the content is not 8 bytes long.
    """
    if len(content) != _END.size:
        raise ProtocolError(f"an END_REQUEST of {len(content)} bytes; it has 8")
    app_status, protocol_status = _END.unpack(content)
    return app_status, protocol_status


def encode_unknown_type(kind: int) -> bytes:
    """Return the answer to a management record of a type that is not known (section 4.2)."""
    return encode_record(UNKNOWN_TYPE, 0, bytes([kind, 0, 0, 0, 0, 0, 0, 0]))


def encode_pairs(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Return name-value pairs as PARAMS and GET_VALUES carry them (section 3.4).

    Names and values are Latin-1 text; UnicodeEncodeError when they are not.
    """
    parts: list[bytes] = []
    for name, value in pairs:
        encoded = name.encode("latin-1"), value.encode("latin-1")
        for item in encoded:
            size = len(item)
            parts.append(bytes([size]) if size < 128 else _LONG_LENGTH.pack(size | 0x80000000))
        parts.extend(encoded)
    return b"".join(parts)


def decode_pairs(data: bytes) -> dict[str, str]:
    """Return the name-value pairs of a complete stream (section 3.4), in order.

    Of a name that comes twice the last value counts. Raises ProtocolError when the data ends
    inside a pair.
    """
    pairs = _decode(data)
    if pairs is None:
        raise ProtocolError(f"{len(data)} bytes of name-value pairs end inside a pair")
    return pairs


def _decode_in_python(data: bytes) -> Optional[dict[str, str]]:
    """Return the name-value pairs, None when the data ends inside one."""
    pairs: dict[str, str] = {}
    text = data.decode("latin-1")
    size = len(data)
    try:
        if data.isascii():
            # No byte has its high bit set, so every length is one byte: the usual case.
            start = 2
            while start <= size:
                middle = start + data[start - 2]
                end = middle + data[start - 1]
                pairs[text[start:middle]] = text[middle:end]
                start = end + 2
            position = start - 2
        else:
            position = _decode_long_pairs(data, text, pairs)
    except (IndexError, struct.error):
        return None
    return pairs if position == size else None


def _decode_long_pairs(data: bytes, text: str, pairs: dict[str, str]) -> int:
    """Put pairs with lengths of one or four bytes into `pairs`; return where the last ends."""
    size = len(data)
    position = 0
    while position < size:
        name_length = data[position]
        if name_length < 128:
            position += 1
        else:
            name_length = _LONG_LENGTH.unpack_from(data, position)[0] & 0x7FFFFFFF
            position += 4
        value_length = data[position]
        if value_length < 128:
            position += 1
        else:
            value_length = _LONG_LENGTH.unpack_from(data, position)[0] & 0x7FFFFFFF
            position += 4
        middle = position + name_length
        end = middle + value_length
        pairs[text[position:middle]] = text[middle:end]
        position = end
    return position


# The same in C, if it was compiled: see compile.py.
_decode = _decode_in_python
with contextlib.suppress(ImportError):
    from ._speedups import decode as _decode
