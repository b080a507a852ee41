"""Fuzz the reader, the name-value codec and the state machine with atheris.

A bounded run, as in CI:    python fuzz/fuzz_protocol.py -runs=1000000 -rss_limit_mb=256
A long run, with a corpus:  python fuzz/fuzz_protocol.py -rss_limit_mb=256 CORPUS_DIRECTORY

Besides crashes, hangs and growing memory it looks for what must hold for any input: only
ProtocolError is raised, and the events do not depend on how the bytes are cut.
"""

import sys

import atheris

with atheris.instrument_imports():
    from fcgiserve import records
    from fcgiserve.connection import Connection, InputReceived

BEGIN = records.encode_begin_request(1, records.RESPONDER)
# The data begins with where to cut and what to put before: without a request to begin with,
# most random bytes would end at the first header.
PREFIXES = (b"", BEGIN, BEGIN + records.encode_record(records.PARAMS, 1))


def events_of(pieces):
    """Return the events of the pieces and what the connection says of itself after them.

    Input is handed on as it comes: what comes of one stream in pieces is put together again.
    """
    connection = Connection()
    events = [None]
    for piece in pieces:
        for event in connection.receive_data(piece):
            before = events[-1]
            parts = all(isinstance(one, InputReceived) and one.data for one in (before, event))
            if parts and before.stream == event.stream:
                before.data += event.data
            else:
                events.append(event)
    events += connection.receive_eof()
    return events[1:], connection.request_id, connection.keep_connection


def frame(data):
    """Return the data as records whose headers are valid, so that their meaning is reached."""
    parts = []
    while len(data) > 2:
        kind, size = data[0] % 13, data[1]
        parts.append(records.encode_record(kind, data[2] % 3, data[3 : 3 + size]))
        data = data[3 + size :]
    return b"".join(parts)


def one_input(data):
    """Check one input."""
    if len(data) < 2:
        return
    cut, prefix, data = data[0] + 1, PREFIXES[data[1] % len(PREFIXES)], data[2:]
    for stream in (prefix + data, prefix + frame(data)):
        whole = events_of([stream])
        pieces = [stream[start : start + cut] for start in range(0, len(stream), cut)]
        assert events_of(pieces) == whole, stream
        params = Connection().receive_whole(stream)
        assert params is None or whole[0][0].params == params, stream
    try:
        pairs = records.decode_pairs(data)
    except records.ProtocolError:
        return
    assert records.decode_pairs(records.encode_pairs(pairs.items())) == pairs


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
