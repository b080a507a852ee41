"""Records and name-value pairs (FastCGI 1.0, sections 3.3, 3.4, 4 and 5)."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgiserve import records
from fcgiserve.records import ProtocolError, RecordReader

text = st.text(st.characters(max_codepoint=255), max_size=300)
cuts = st.lists(st.integers(1, 70_000), min_size=1, max_size=30)
whole_records = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([records.STDIN, records.DATA]), st.integers(0, 255)),
        st.one_of(st.just(0), st.integers(0, 65535)),
        st.binary(max_size=600),
        st.integers(0, 255),
    ),
    max_size=20,
)


def cut(data, sizes):
    """Cut data into pieces of the given sizes, over and over."""
    position = 0
    while position < len(data):
        for size in sizes:
            yield data[position : position + size]
            position += size


@given(whole_records, cuts)
def test_any_cut_of_the_stream_gives_the_same_records(items, sizes):
    reader = RecordReader()
    for kind, request_id, content, padding in items:
        header = records.HEADER.pack(1, kind, request_id, len(content), padding)
        data = header + content + bytes(padding)
        found = [record for piece in cut(data, sizes) for record in reader.feed(piece)]
        assert {record[:2] for record in found} == {(kind, request_id)}
        assert b"".join(record[2] for record in found) == content
        in_pieces = request_id and content and kind in (records.STDIN, records.DATA)
        assert all(record[2] for record in found) if in_pieces else len(found) == 1


@pytest.mark.parametrize("kind", [records.STDIN, records.DATA])
def test_input_is_handed_on_as_it_comes(kind):
    reader = RecordReader()
    data = records.HEADER.pack(1, kind, 3, 4, 2) + b"ab"
    assert reader.feed(data[:7]) == []
    assert reader.feed(data[7:]) == [(kind, 3, b"ab")]
    assert reader.feed(b"c") == [(kind, 3, b"c")]
    assert reader.feed(b"d\0") == [(kind, 3, b"d")]
    assert reader.feed(b"\0" + records.encode_record(kind, 3)) == [(kind, 3, b"")]


@given(st.dictionaries(text, text, max_size=20))
def test_pairs_survive_encoding(pairs):
    assert records.decode_pairs(records.encode_pairs(pairs.items())) == pairs


@given(st.binary(max_size=400))
def test_any_bytes_decode_to_pairs_or_raise_protocol_error(data):
    try:
        pairs = records.decode_pairs(data)
    except ProtocolError:
        return
    assert sum(len(name) + len(value) + 2 for name, value in pairs.items()) <= len(data)


@given(st.dictionaries(st.text("ab", max_size=3), st.text("cd", max_size=130), max_size=6), text)
def test_ascii_pairs_mean_the_same_beside_others(pairs, other):
    ours = records.decode_pairs(records.encode_pairs(pairs.items()))
    data = records.encode_pairs([*pairs.items(), ("OTHER", other + "\xff")])
    assert records.decode_pairs(data) == {**ours, "OTHER": other + "\xff"}


@given(st.lists(st.tuples(text, text), max_size=20), st.integers(0, 2000), st.binary(max_size=40))
def test_c_and_python_decode_any_bytes_to_the_same_pairs(pairs, end, other):
    speedups = pytest.importorskip("fcgiserve._speedups")
    for data in (records.encode_pairs(pairs)[:end], records.encode_pairs(pairs) + other):
        expected = records._decode_in_python(data)
        found = speedups.decode(data)
        assert found == expected
        assert found is None or list(found) == list(expected)


@pytest.mark.parametrize("end", range(1, 10))
def test_ascii_pairs_that_end_inside_a_pair_are_refused(end):
    data = records.encode_pairs([("A", "bc"), ("", ""), ("D", "")])
    if end not in (5, 7):
        with pytest.raises(ProtocolError, match="inside a pair"):
            records.decode_pairs(data[:end])


@pytest.mark.parametrize("size", [0, 1, 127, 128, 65535, 70_000])
def test_a_length_has_one_byte_up_to_127_and_four_from_128(size):
    value = "v" * size
    data = records.encode_pairs([("N", value)])
    assert len(data) == (2 if size < 128 else 5) + 1 + size
    assert records.decode_pairs(data) == {"N": value}
    assert records.decode_pairs(records.encode_pairs([(value, "")])) == {value: ""}


@pytest.mark.parametrize("end", range(1, 270))
def test_pairs_that_end_inside_a_pair_are_refused(end):
    data = records.encode_pairs([("NAME", "v" * 300)])
    with pytest.raises(ProtocolError, match="inside a pair"):
        records.decode_pairs(data[:end])


@pytest.mark.parametrize("size", [0, 1, 7, 8, 65528, 65535])
def test_every_record_is_a_multiple_of_8_bytes(size):
    data = records.encode_record(records.STDOUT, 1, bytes(size))
    assert len(data) % 8 == 0
    assert RecordReader().feed(data) == [(records.STDOUT, 1, bytes(size))]


def test_a_record_holds_at_most_65535_bytes():
    with pytest.raises(ValueError, match="encode_stream"):
        records.encode_record(records.STDOUT, 1, bytes(65536))


@pytest.mark.parametrize("size", [1, 65528, 65529, 2_500_000])
def test_a_stream_is_the_same_when_read_back(size):
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    pieces = list(records.encode_stream(records.STDOUT, 1, data))
    assert all(len(piece) % 8 == 0 and len(piece) < 1_100_000 for piece in pieces)
    found = RecordReader().feed(b"".join(pieces))
    assert b"".join(content for _, _, content in found) == data


@pytest.mark.parametrize("padding", [0, 1, 7, 255])
def test_padding_of_up_to_255_bytes_is_skipped(padding):
    record = records.HEADER.pack(1, records.STDIN, 3, 2, padding) + b"ab" + bytes(padding)
    assert RecordReader().feed(record + record) == [(records.STDIN, 3, b"ab")] * 2


def test_another_version_is_a_failure_that_says_so():
    reader = RecordReader()
    good = records.encode_record(records.STDIN, 1, b"x")
    assert reader.feed(good + b"GET / HTTP/1.1\r\n") == [(records.STDIN, 1, b"x")]
    assert "FastCGI version 71" in reader.failure
    assert reader.feed(good) == []


def test_begin_and_end_bodies_survive_encoding():
    ((_, _, begin),) = RecordReader().feed(records.encode_begin_request(7, records.FILTER, 1))
    assert records.decode_begin_request(begin) == (records.FILTER, 1)
    ((_, _, end),) = RecordReader().feed(records.encode_end_request(7, 2**32 + 5, 3))
    assert records.decode_end_request(end) == (5, 3)


@pytest.mark.parametrize("errors", [False, True])
def test_an_answer_ends_with_the_ends_of_its_streams_and_end_request(errors):
    ends = RecordReader().feed(records.encode_end_of_answer(7, 938, errors))
    streams = [records.STDOUT, records.STDERR] if errors else [records.STDOUT]
    *empty, last = [(kind, content) for kind, request_id, content in ends if request_id == 7]
    assert empty == [(kind, b"") for kind in streams]
    assert last == (records.END_REQUEST, struct.pack(">IB3x", 938, 0))


@pytest.mark.parametrize("decode", [records.decode_begin_request, records.decode_end_request])
def test_a_body_of_another_size_is_refused(decode):
    with pytest.raises(ProtocolError, match="it has 8"):
        decode(b"short")
