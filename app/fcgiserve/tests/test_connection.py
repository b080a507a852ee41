"""The state machine: one test for each point of FastCGI 1.0 that it owes, without I/O."""

from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import begin, params, stream, whole_request
from test_records import cut, cuts

from fcgiserve import connection, records
from fcgiserve.connection import (
    Connection,
    InputReceived,
    ProtocolFailed,
    Reply,
    RequestAborted,
    RequestReceived,
)
from fcgiserve.records import RecordReader, encode_pairs, encode_record

END_OF_STDIN = InputReceived(records.STDIN, b"")


def replies(events):
    """The records of all replies among the events."""
    data = b"".join(event.data for event in events if isinstance(event, Reply))
    return RecordReader().feed(data)


def events_of(data, sizes=(1 << 20,)):
    """The events of the data, fed in pieces of the given sizes; pieces of one stream as one."""
    state = Connection()
    events = []
    for piece in cut(data, sizes):
        for event in state.receive_data(piece):
            before = events[-1] if events else None
            pieces = all(isinstance(one, InputReceived) and one.data for one in (before, event))
            if pieces and before.stream == event.stream:
                before.data += event.data
            else:
                events.append(event)
    return events


def seen(state):
    return state.request_id, state.keep_connection, state.input_ended


def state_after(data, sizes=(1 << 20,)):
    """What the connection says of itself after the data."""
    state = Connection()
    for piece in cut(data, sizes):
        state.receive_data(piece)
    return seen(state)


def end_of(events):
    """Protocol status of the only END_REQUEST among the replies."""
    ((_, _, content),) = [item for item in replies(events) if item[0] == records.END_REQUEST]
    return records.decode_end_request(content)[1]


# Section 3.3


def test_records_for_inactive_ids_are_ignored():
    state = Connection()
    stray = encode_record(records.STDIN, 9, b"x") + encode_record(records.ABORT_REQUEST, 9)
    assert state.receive_data(stray) == []
    state.receive_data(begin(1) + stray)
    assert [type(event) for event in state.receive_data(params())] == [RequestReceived]


def test_records_of_a_request_that_has_ended_are_ignored():
    state = Connection()
    state.receive_data(begin(keep=True) + params())
    state.end_request()
    assert state.receive_data(stream(records.STDIN, b"late")) == []
    assert isinstance(state.receive_data(whole_request())[0], RequestReceived)


def test_application_records_of_other_types_are_ignored():
    state = Connection()
    state.receive_data(begin())
    odd = encode_record(records.STDOUT, 1, b"x") + encode_record(99, 1)
    assert state.receive_data(odd) == []


# Section 3.4


def test_a_pair_may_straddle_records():
    pairs = encode_pairs([("NAME", "value"), ("LONG", "x" * 300)])
    for where in range(1, len(pairs)):
        first = encode_record(records.PARAMS, 1, pairs[:where])
        second = encode_record(records.PARAMS, 1, pairs[where:])
        end = encode_record(records.PARAMS, 1)
        (request,) = Connection().receive_data(begin() + first + second + end)
        assert request.params == {"NAME": "value", "LONG": "x" * 300}


def test_params_that_end_inside_a_pair_fail_the_connection():
    state = Connection()
    (event,) = state.receive_data(begin() + stream(records.PARAMS, b"\x04\x05NAM"))
    assert isinstance(event, ProtocolFailed)
    assert state.receive_data(whole_request()) == []


def test_a_request_without_params_is_a_request():
    (request,) = Connection().receive_data(begin() + stream(records.PARAMS))
    assert request == RequestReceived(1, records.RESPONDER, {})


# Section 4


@pytest.mark.parametrize("before", [b"", begin(), begin() + params()])
def test_get_values_is_answered_at_any_time_and_unknown_names_are_left_out(before):
    state = Connection()
    state.concurrency = 3
    state.receive_data(before)
    asked = encode_pairs([("FCGI_MAX_CONNS", ""), ("OTHER", ""), ("FCGI_MPXS_CONNS", "")])
    ((kind, request_id, content),) = replies(
        state.receive_data(encode_record(records.GET_VALUES, 0, asked))
    )
    assert (kind, request_id) == (records.GET_VALUES_RESULT, 0)
    assert records.decode_pairs(content) == {"FCGI_MAX_CONNS": "3", "FCGI_MPXS_CONNS": "0"}


def test_max_reqs_is_the_number_of_workers():
    asked = encode_record(records.GET_VALUES, 0, encode_pairs([("FCGI_MAX_REQS", "")]))
    state = Connection()
    state.concurrency = 4
    ((_, _, content),) = replies(state.receive_data(asked))
    assert records.decode_pairs(content) == {"FCGI_MAX_REQS": "4"}


@pytest.mark.parametrize("kind", [0, 12, 99, 255])
def test_an_unknown_management_type_is_answered_with_unknown_type(kind):
    answer = replies(Connection().receive_data(encode_record(kind, 0, b"?")))
    assert answer == [(records.UNKNOWN_TYPE, 0, bytes([kind]) + bytes(7))]


# Section 5


@pytest.mark.parametrize("keep", [True, False])
def test_keep_conn_decides_who_closes(keep):
    state = Connection()
    state.receive_data(whole_request(keep=keep))
    state.end_request()
    assert state.keep_connection is keep


def test_a_kept_connection_carries_request_after_request():
    state = Connection()
    for number in (1, 2, 65535):
        request, _ = state.receive_data(whole_request("/x", number, keep=True))
        assert request.request_id == number
        state.end_request()


def test_abort_request_is_an_event():
    state = Connection()
    state.receive_data(begin() + params())
    (event,) = state.receive_data(encode_record(records.ABORT_REQUEST, 1))
    assert isinstance(event, RequestAborted)
    assert state.input_ended


def test_abort_request_before_the_end_of_params_is_answered_at_once():
    state = Connection()
    events = state.receive_data(begin(keep=True) + encode_record(records.ABORT_REQUEST, 1))
    assert end_of(events) == records.REQUEST_COMPLETE
    assert state.request_id == 0


def test_a_second_request_on_a_connection_is_refused_with_cant_mpx_conn():
    state = Connection()
    state.receive_data(begin(1) + params())
    events = state.receive_data(begin(2) + params(request_id=2))
    assert end_of(events) == records.CANT_MPX_CONN
    assert state.receive_data(stream(records.STDIN)) == [END_OF_STDIN]


def test_an_unknown_role_is_refused_with_unknown_role():
    events = Connection().receive_data(begin(role=4) + params())
    assert end_of(events) == records.UNKNOWN_ROLE


def test_too_many_params_are_refused_with_overloaded():
    state = Connection()
    record = encode_record(records.PARAMS, 1, bytes(65535))
    events = state.receive_data(begin(keep=True) + record * 17)
    assert end_of(events) == records.OVERLOADED
    assert state.receive_data(record + encode_record(records.PARAMS, 1)) == []


def test_a_begin_request_of_another_size_fails_the_connection():
    (event,) = Connection().receive_data(encode_record(records.BEGIN_REQUEST, 1, b"\0\1\0"))
    assert isinstance(event, ProtocolFailed)


def test_a_second_begin_request_with_the_active_id_fails_the_connection():
    state = Connection()
    state.receive_data(whole_request())
    (event,) = state.receive_data(whole_request())
    assert "second BEGIN_REQUEST" in event.reason


# Section 6


def test_stdin_may_come_before_the_end_of_params():
    early = stream(records.STDIN, b"body")
    events = Connection().receive_data(begin() + early + params())
    assert [type(event) for event in events] == [RequestReceived, InputReceived, InputReceived]
    assert events[1:] == [InputReceived(records.STDIN, b"body"), END_OF_STDIN]


def test_stdin_that_comes_before_the_end_of_params_is_limited():
    state = Connection()
    events = state.receive_data(begin() + encode_record(records.STDIN, 1, bytes(65535)) * 17)
    assert end_of(events) == records.OVERLOADED


def test_what_follows_the_end_of_a_stream_is_ignored():
    state = Connection()
    state.receive_data(whole_request())
    assert state.receive_data(stream(records.STDIN, b"more") + params()) == []


def test_an_authorizer_has_no_stdin():
    state = Connection()
    (request,) = state.receive_data(begin(role=records.AUTHORIZER) + params())
    assert request.role == records.AUTHORIZER
    assert state.input_ended
    assert state.receive_data(stream(records.STDIN, b"x")) == []


def test_a_filter_has_stdin_and_then_data():
    state = Connection()
    state.receive_data(begin(role=records.FILTER) + params())
    events = state.receive_data(stream(records.STDIN, b"in") + stream(records.DATA, b"file"))
    assert events == [
        InputReceived(records.STDIN, b"in"),
        END_OF_STDIN,
        InputReceived(records.DATA, b"file"),
        InputReceived(records.DATA, b""),
    ]
    assert state.input_ended


def test_data_may_end_before_stdin():
    state = Connection()
    state.receive_data(begin(role=records.FILTER) + params() + stream(records.DATA))
    assert not state.input_ended
    state.receive_data(stream(records.STDIN))
    assert state.input_ended


# The end of the connection


@pytest.mark.parametrize("sent", [begin(), begin() + params()])
def test_a_connection_that_ends_inside_a_request_aborts_it(sent):
    state = Connection()
    state.receive_data(sent)
    (event,) = state.receive_eof()
    assert isinstance(event, RequestAborted)
    assert state.receive_eof() == []


@pytest.mark.parametrize("sent", [b"", whole_request()])
def test_a_connection_may_end_between_requests_and_after_the_input(sent):
    state = Connection()
    state.receive_data(sent)
    assert state.receive_eof() == []


# Properties

_bodies = st.lists(st.binary(min_size=1, max_size=300), max_size=4)
_pairs = st.dictionaries(st.text("ABC_", max_size=6), st.text("xyz", max_size=200), max_size=6)


@st.composite
def conversations(draw):
    """Bytes of one to three requests, with management records and strays between records."""
    found = []
    for request_id in draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)):
        keep = draw(st.booleans())
        role = draw(st.sampled_from([1, 1, 1, 2, 3, 9]))
        pairs = encode_pairs(draw(_pairs).items())
        where = draw(st.integers(0, len(pairs)))
        found.append(begin(request_id, role, keep))
        for part in (pairs[:where], pairs[where:]):
            if part:
                found.append(encode_record(records.PARAMS, request_id, part))
        found.append(encode_record(records.PARAMS, request_id))
        for body in draw(_bodies):
            found.append(encode_record(records.STDIN, request_id, body))
        found.append(encode_record(records.STDIN, request_id))
        if draw(st.booleans()):
            found.append(encode_record(records.GET_VALUES, 0, encode_pairs([("X", "")])))
    if draw(st.booleans()):
        found = draw(st.permutations(found))
    return b"".join(found)


@given(conversations(), cuts)
def test_any_cut_of_the_stream_gives_the_same_events(data, sizes):
    assert events_of(data, sizes) == events_of(data)


@given(st.binary(max_size=200), cuts)
def test_no_bytes_raise_and_any_cut_gives_the_same_events(data, sizes):
    data = records.encode_begin_request(1, 1) + data
    assert events_of(data, sizes) == events_of(data)


@pytest.mark.parametrize("decode", ["c", "python"])
@given(
    _pairs,
    st.integers(0, 9),
    st.sampled_from([0, 0, 0, -8, -1, 1, 8]),
    st.integers(0, 255),
    st.binary(max_size=40),
)
@settings(max_examples=300)
def test_a_whole_request_means_the_same_at_a_glance_and_record_by_record(
    decode, pairs, missing, wrong, padding, tail
):
    if decode == "c":
        glance = pytest.importorskip("fcgiserve._speedups").decode_request
    else:
        glance = connection._decode_request_in_python
    content = encode_pairs(pairs.items())
    content = content[: len(content) - missing]
    length = max(len(content) + wrong, 0)
    header = records.HEADER.pack(1, records.PARAMS, 1, length, padding)
    data = (
        begin() + header + content + bytes(padding) + stream(records.PARAMS) + stream(records.STDIN)
    )
    for request in (data, data + tail, data[: -len(tail) or None]):
        state = Connection()
        with mock.patch.object(connection, "_decode_request", glance):
            params = state.receive_whole(request)
        if params is None:
            assert vars(state) == vars(Connection()), "something was taken"
        else:
            received = RequestReceived(1, records.RESPONDER, params)
            assert events_of(request) == [received, END_OF_STDIN]
            assert seen(state) == state_after(request)


def test_the_glance_is_taken_at_what_mod_fcgid_sends():
    assert Connection().receive_whole(whole_request()) is not None
    assert Connection().receive_whole(begin() + params() + stream(records.STDIN, b"x")) is None


@pytest.mark.parametrize("before", [whole_request(), begin(), b"\x01", b"?" * 8])
def test_the_glance_is_taken_at_the_first_bytes_of_a_connection_only(before):
    state = Connection()
    state.receive_whole(before)
    state.receive_data(b"" if state.request_id else before)
    assert state.receive_whole(whole_request()) is None
