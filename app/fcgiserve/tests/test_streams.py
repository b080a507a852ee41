"""What an application reads: as a file would be, in whatever pieces it arrived."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgiserve import streams
from fcgiserve.streams import ErrorStream, IncompleteBody, InputStream

pieces_of_text = st.lists(st.text("ab\n", min_size=1, max_size=9).map(str.encode), max_size=12)
sizes = st.one_of(st.none(), st.integers(-1, 12))
calls = st.lists(
    st.one_of(
        st.tuples(st.just("read"), sizes),
        st.tuples(st.just("readline"), sizes),
        st.tuples(st.just("readlines"), sizes),
    ),
    max_size=12,
)


def stream_of(pieces, length=None):
    """A stream into which one piece arrives each time that it must wait."""
    coming = iter(pieces)

    def receive():
        piece = next(coming, None)
        if piece is None:
            stream.finish()
        else:
            stream.feed(piece)

    stream = InputStream(receive, length)
    return stream


@given(pieces_of_text, calls, st.booleans())
def test_every_call_returns_what_a_file_returns(pieces, wanted, announced):
    data = b"".join(pieces)
    stream = stream_of(pieces, len(data) if announced else None)
    file = io.BytesIO(data)
    for name, size in wanted:
        assert getattr(stream, name)(size) == getattr(file, name)(size)
    assert list(stream) == list(file)


@given(pieces_of_text.filter(bool), calls, st.data())
def test_a_body_that_ends_early_is_never_taken_as_complete(pieces, wanted, data):
    missing = data.draw(st.integers(1, 5))
    stream = stream_of(pieces, len(b"".join(pieces)) + missing)
    with pytest.raises(IncompleteBody, match="the body ended after"):
        for name, size in wanted:
            getattr(stream, name)(size)
        stream.read()


def test_a_read_of_the_announced_length_raises_when_the_body_ends_early():
    with pytest.raises(IncompleteBody, match="after 3 of 10 bytes"):
        stream_of([b"abc"], 10).read(10)


def test_a_body_of_unknown_length_is_read_to_its_end():
    assert stream_of([b"ab", b"cd"]).read(100) == b"abcd"


@pytest.mark.parametrize("length", [0, 3, 4])
def test_the_end_of_file_is_at_the_announced_length(length):
    stream = stream_of([b"ab", b"cdef", b"gh"], length)
    assert stream.read() == b"abcdefgh"[:length]
    assert stream.read() == b""


def test_a_stream_that_failed_gives_what_came_before_and_then_raises():
    stream = stream_of([])
    stream.feed(b"abc")
    stream.fail("the web server left")
    assert stream.read(3) == b"abc"
    for _ in range(2):
        with pytest.raises(IncompleteBody, match="the web server left"):
            stream.read(1)


def test_a_complete_body_does_not_fail_any_more():
    stream = stream_of([b"abc"], 3)
    stream.feed(b"abc")
    stream.fail("the web server left")
    assert stream.read() == b"abc"


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=30), st.lists(st.integers(0, 3)))
def test_what_is_held_back_on_disk_comes_in_order(pieces, steps):
    held_in_memory = streams.HELD_IN_MEMORY
    streams.HELD_IN_MEMORY = 20
    try:
        stream = InputStream(lambda: stream.finish(), None)
        found = []
        steps = iter(steps)
        for piece in pieces:
            stream.feed(piece)
            if next(steps, 0) == 3 and stream._held:
                found.append(stream.read(1))
        found.append(stream.read())
        assert b"".join(found) == b"".join(pieces)
        assert stream._spool is None
    finally:
        streams.HELD_IN_MEMORY = held_in_memory


@pytest.mark.parametrize("written", [OSError("no space left on device"), 5])
def test_a_body_that_cannot_be_kept_is_not_taken_as_complete(monkeypatch, written):
    class FullDisk(io.BytesIO):
        def write(self, data):
            if isinstance(written, OSError):
                raise written
            return written

    monkeypatch.setattr(streams.tempfile, "TemporaryFile", lambda **options: FullDisk())
    stream = InputStream(lambda: stream.finish(), None)
    stream.feed(bytes(streams.HELD_IN_MEMORY))
    stream.feed(b"x" * 100_000)
    stream.finish()
    with pytest.raises(IncompleteBody, match="could not be kept in"):
        stream.read()


def test_closing_drops_what_was_not_read():
    stream = InputStream(lambda: pytest.fail("it waits"), None)
    stream.feed(bytes(streams.HELD_IN_MEMORY))
    stream.feed(b"on disk")
    stream.close()
    stream.feed(b"late")
    stream.finish()
    assert stream.read() == b""


def test_errors_are_sent_as_utf_8_when_flushed():
    sent = []
    errors = ErrorStream(sent.append)
    assert errors.write("gr\u00fc\u00df") == 4
    errors.writelines(["a\n", "\udc80\n"])
    assert sent == []
    errors.flush()
    errors.flush()
    assert sent == ["gr\u00fc\u00dfa\n\\udc80\n".encode()]


def test_errors_take_text_only():
    with pytest.raises(TypeError, match="takes str, not bytes"):
        ErrorStream(print).write(b"bytes")
