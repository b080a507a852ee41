"""The gateway, rule by rule of PEP 3333; the exchange with the web server is recorded."""

import io
import sys
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest
from support import wsgi_params

from fcgiserve.channel import PeerGone
from fcgiserve.streams import IncompleteBody, InputStream
from fcgiserve.wsgi import Gateway


class Recorded:
    """An exchange that keeps what is sent, piece by piece."""

    role = "RESPONDER"
    request_id = 1
    refusal = None
    data = None

    def __init__(self, body=b"", leaves_after=None, **more):
        self.params = {**wsgi_params(), **more}
        self.input = InputStream(lambda: self.input.finish(), None)
        self.input.feed(body)
        self.errors = io.StringIO()
        self.pieces = []
        self.app_status = None
        self._leaves_after = leaves_after

    def send(self, data):
        self.pieces.append(data)
        if self._leaves_after is not None and len(self.pieces) >= self._leaves_after:
            raise PeerGone("gone")

    def finish(self, data, app_status):
        assert self.app_status is None, "finished twice"
        self.app_status = app_status
        if data:
            self.send(data)

    @property
    def raw(self):
        return b"".join(self.pieces)

    @property
    def log(self):
        return self.errors.getvalue()


def run(application, exchange=None, **options):
    exchange = exchange or Recorded()
    Gateway(application, **options).answer(exchange)
    return exchange


def failed(exchange):
    """Whether the answer is the 500 that replaces the application's."""
    assert exchange.raw.startswith(b"Status: 500 Internal Server Error\r\n")
    assert exchange.app_status == 1
    return True


def environ_of(script_name=None, **more):
    seen = {}

    def application(environ, start_response):
        seen.update(environ)
        start_response("200 OK", [])
        return []

    run(application, Recorded(**more), script_name=script_name)
    return seen


OK = [("Content-Type", "text/plain")]


# The answer


def test_headers_leave_as_the_application_gave_them():
    def application(environ, start_response):
        start_response("200 OK", [("content-TYPE", "a/b"), ("X-Twice", "1"), ("X-Twice", "2")])
        return [b"body"]

    assert run(application).raw == b"content-TYPE: a/b\r\nX-Twice: 1\r\nX-Twice: 2\r\n\r\nbody"


@pytest.mark.parametrize("status", ["404 Not Found", "200 Fine", "299 "])
def test_a_status_other_than_200_ok_is_a_status_line(status):
    def application(environ, start_response):
        start_response(status, [])
        return []

    assert run(application).raw == f"Status: {status}\r\n\r\n".encode()


def test_a_list_leaves_in_one_piece_with_its_headers():
    def application(environ, start_response):
        start_response("200 OK", [])
        return [b"a", b"", b"b"]

    assert run(application).pieces == [b"\r\nab"]


def test_each_piece_of_an_iterable_leaves_before_the_next_is_asked_for():
    exchange = Recorded()
    sent_before = []

    def application(environ, start_response):
        start_response("200 OK", [])
        for piece in (b"", b"a", b"b"):
            sent_before.append(len(exchange.pieces))
            yield piece

    assert run(application, exchange).pieces == [b"\r\na", b"b"]
    assert sent_before == [0, 0, 1]


def test_write_sends_at_once_and_before_the_iterable():
    exchange = Recorded()

    def application(environ, start_response):
        write = start_response("200 OK", [])
        write(b"a")
        assert exchange.pieces == [b"\r\na"]
        write(b"b")
        return [b"c"]

    assert run(application, exchange).pieces == [b"\r\na", b"b", b"c"]


def test_write_of_anything_but_bytes_is_a_500_when_nothing_was_sent():
    def application(environ, start_response):
        start_response("200 OK", [])(bytearray(b"a"))
        return []

    assert run(application).raw.startswith(b"Status: 500 ")


def test_start_response_may_come_with_the_first_piece():
    def application(environ, start_response):
        yield b""
        start_response("200 OK", [])
        yield b"late"

    assert run(application).raw == b"\r\nlate"


def test_an_empty_iterable_is_an_answer_without_body():
    def application(environ, start_response):
        start_response("200 OK", OK)
        return iter(())

    assert run(application).raw == b"Content-Type: text/plain\r\n\r\n"


@pytest.mark.parametrize("body", [[b"body"], (b"bo", b"dy")])
@pytest.mark.parametrize("as_iterable", [list, iter])
def test_head_has_the_headers_and_no_body(body, as_iterable):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "4")])
        return as_iterable(body)

    exchange = run(application, Recorded(REQUEST_METHOD="HEAD"))
    assert exchange.raw == b"Content-Length: 4\r\n\r\n"
    assert exchange.log == ""


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_a_status_without_body_has_none(status):
    def application(environ, start_response):
        start_response(status, [])
        return [b"body"]

    assert run(application).raw.endswith(b"\r\n\r\n")


def test_an_endless_body_is_not_run_through_for_head():
    def application(environ, start_response):
        start_response("200 OK", [])
        while True:
            yield b"more"

    assert run(application, Recorded(REQUEST_METHOD="HEAD")).raw == b"\r\n"


def test_file_wrapper_sends_the_file_and_closes_it():
    file = io.BytesIO(b"x" * 20_000)

    def application(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file)

    assert run(application).raw == b"\r\n" + b"x" * 20_000
    assert file.closed


# close()


class Closing:
    def __init__(self, pieces, error=None):
        self._pieces = iter(pieces)
        self._error = error
        self.closed = 0

    def __iter__(self):
        return self

    def __next__(self):
        piece = next(self._pieces, None)
        if piece is None:
            if self._error:
                raise self._error
            raise StopIteration
        return piece

    def close(self):
        self.closed += 1


@pytest.mark.parametrize(
    ("body", "exchange"),
    [
        (Closing([b"a", b"b"]), Recorded()),
        (Closing([b"a"], ValueError("in the middle")), Recorded()),
        (Closing([b"a", b"b", b"c"]), Recorded(leaves_after=2)),
        (Closing([b"a", "text"]), Recorded()),
        (Closing([b"a", b"b"]), Recorded(REQUEST_METHOD="HEAD")),
    ],
    ids=["complete", "raises", "client leaves", "wrong type", "HEAD"],
)
def test_close_is_called_once(body, exchange):
    def application(environ, start_response):
        start_response("200 OK", [])
        return body

    run(application, exchange)
    assert body.closed == 1
    assert exchange.app_status is not None


def test_an_error_in_close_is_logged():
    class Body(Closing):
        def close(self):
            raise ValueError("in close")

    def application(environ, start_response):
        start_response("200 OK", [])
        return Body([b"a"])

    exchange = run(application)
    assert exchange.raw == b"\r\na"
    assert "ValueError: in close" in exchange.log


# Errors


def test_an_error_before_the_body_is_a_500_with_a_traceback_in_the_log():
    def application(environ, start_response):
        start_response("200 OK", OK)
        raise ValueError("before the body")

    exchange = run(application)
    assert failed(exchange)
    assert "request 1 (GET /)" in exchange.log
    assert 'raise ValueError("before the body")' in exchange.log


def test_an_error_inside_the_body_ends_it_with_a_traceback_in_the_log():
    def application(environ, start_response):
        start_response("200 OK", OK)
        yield b"begun"
        raise ValueError("inside the body")

    exchange = run(application)
    assert exchange.raw == b"Content-Type: text/plain\r\n\r\nbegun"
    assert exchange.app_status == 1
    assert "ValueError: inside the body" in exchange.log


@pytest.mark.parametrize("body", [[b"body"], [], iter([b"body"]), iter([])])
def test_a_missing_start_response_is_a_500_and_a_log_line(body):
    exchange = run(lambda environ, start_response: body)
    assert failed(exchange)
    assert "did not call start_response" in exchange.log


def test_start_response_twice_is_a_500_and_a_log_line():
    def application(environ, start_response):
        start_response("200 OK", OK)
        start_response("200 OK", OK)
        return [b"body"]

    exchange = run(application)
    assert failed(exchange)
    assert "start_response was called twice" in exchange.log


def test_exc_info_replaces_headers_that_were_not_sent():
    def application(environ, start_response):
        start_response("204 No Content", [])
        try:
            raise ValueError("changed my mind")
        except ValueError:
            start_response("503 Service Unavailable", [], sys.exc_info())
        return [b"sorry"]

    assert run(application).raw == b"Status: 503 Service Unavailable\r\n\r\nsorry"


def test_exc_info_raises_the_error_again_when_headers_were_sent():
    def application(environ, start_response):
        start_response("200 OK", [])(b"begun")
        try:
            raise ValueError("too late")
        except ValueError:
            start_response("500 Sorry", [], sys.exc_info())
        return [b"not reached"]

    exchange = run(application)
    assert exchange.raw == b"\r\nbegun"
    assert "ValueError: too late" in exchange.log


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        ("200 OK", [("X-A", "1\r\nSet-Cookie: x=1")], "control character"),
        ("200 OK", [("X-A", "1\n")], "control character"),
        ("200 OK", [("X-A", "\0")], "control character"),
        ("200 OK", [("X-A\r\nX-B", "1")], "no header name"),
        ("200 OK", [("", "1")], "no header name"),
        ("200 OK", [("X A", "1")], "no header name"),
        ("200 OK\r\nX-A: 1", [], "is not like"),
        ("200", [], "is not like"),
        ("OK", [], "is not like"),
        ("200 OK", [("Status", "404")], "leave it out"),
        ("200 OK", [("Transfer-Encoding", "chunked")], "leave it out"),
        ("200 OK", [("Content-Length", "ten")], "not a number"),
        ("200 OK", [("Content-Length", "-1")], "not a number"),
        ("200 OK", [("X-A", "\u20ac")], "UnicodeEncodeError"),
        ("200 OK", [("X-A", 1)], "TypeError"),
        ("200 OK", [(b"X-A", "1")], "TypeError"),
        ("200 OK", [("X-A", "1", "2")], "ValueError"),
        ("200 OK", (("X-A", "1"),), "must be a list"),
        ("200 OK", [["X-A", "1"]], "must be a tuple, not list"),
        ("200 OK", ["X-A"], "must be a tuple, not str"),
        (b"200 OK", [], "must be str"),
    ],
)
def test_what_is_no_header_is_refused_and_logged(status, headers, says):
    def application(environ, start_response):
        start_response(status, headers)
        return [b"body"]

    exchange = run(application)
    assert failed(exchange)
    assert says in exchange.log


@pytest.mark.parametrize("path", [None, b"/", 5])
def test_an_application_may_change_its_environment_and_fail(path):
    def application(environ, start_response):
        environ["SCRIPT_NAME"] = environ["PATH_INFO"] = path
        raise LookupError("and fail")

    exchange = run(application, access_log=True)
    assert failed(exchange)
    assert "LookupError: and fail" in exchange.log


@pytest.mark.parametrize("body", [["text"], iter(["text"]), [bytearray(b"x")], 5])
def test_a_body_that_is_no_bytes_is_a_500_and_a_log_line(body):
    def application(environ, start_response):
        start_response("200 OK", OK)
        return body

    exchange = run(application)
    assert failed(exchange)
    assert "TypeError" in exchange.log


@pytest.mark.parametrize("as_iterable", [list, iter])
def test_a_body_longer_than_content_length_is_cut_and_logged_once(as_iterable):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "3")])
        return as_iterable([b"ab", b"cd", b"ef"])

    exchange = run(application)
    assert exchange.raw == b"Content-Length: 3\r\n\r\nabc"
    assert exchange.log.count("longer than its Content-Length of 3") == 1


@pytest.mark.parametrize("as_iterable", [list, iter])
def test_a_body_shorter_than_content_length_is_logged(as_iterable):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "3")])
        return as_iterable([b"ab"])

    assert "has 2 bytes, its Content-Length says 3" in run(application).log


@pytest.mark.parametrize(
    ("code", "app_status"), [(None, 0), (0, 0), (3, 3), ("a message", 1)], ids=str
)
def test_system_exit_is_a_500_and_its_code_the_app_status(code, app_status):
    def application(environ, start_response):
        raise SystemExit(code)

    exchange = run(application)
    assert exchange.raw.startswith(b"Status: 500")
    assert exchange.app_status == app_status
    assert "SystemExit" in exchange.log


def test_an_incomplete_body_that_the_application_lets_through_is_a_400():
    def application(environ, start_response):
        raise IncompleteBody("the body ended after 1 of 2 bytes")

    exchange = run(application)
    assert exchange.raw.startswith(b"Status: 400")
    assert "after 1 of 2 bytes; answered 400" in exchange.log
    assert "Traceback" not in exchange.log


def test_parameters_that_contradict_themselves_are_a_400():
    exchange = Recorded()
    exchange.refusal = "CONTENT_LENGTH is 'x', not a number of bytes"
    run(lambda environ, start_response: pytest.fail("it was called"), exchange)
    assert exchange.raw.startswith(b"Status: 400")


def test_a_client_that_left_is_no_error_in_the_log():
    def application(environ, start_response):
        start_response("200 OK", [])
        while True:
            yield b"more"

    exchange = run(application, Recorded(leaves_after=3))
    assert len(exchange.pieces) == 3
    assert exchange.log == ""


# The environment


def test_wsgi_variables_are_those_of_a_process_of_several():
    environ = environ_of()
    wanted = {
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "FCGI_ROLE": "RESPONDER",
    }
    assert {name: environ[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("https", "scheme"),
    [("on", "https"), ("ON", "https"), ("1", "https"), ("off", "http"), ("", "http")],
)
def test_the_scheme_follows_https(https, scheme):
    assert environ_of(HTTPS=https)["wsgi.url_scheme"] == scheme


def test_variables_that_every_application_may_rely_on_are_there():
    seen = {}

    def application(environ, start_response):
        seen.update(environ)
        start_response("200 OK", [])
        return []

    exchange = Recorded()
    exchange.params = {}
    run(application, exchange)
    for name in ("REQUEST_METHOD", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL"):
        assert seen[name]
    assert seen["SCRIPT_NAME"] == seen["PATH_INFO"] == seen["QUERY_STRING"] == ""


def test_content_headers_come_without_http():
    environ = environ_of(
        CONTENT_TYPE="a/b", HTTP_CONTENT_TYPE="a/b", HTTP_CONTENT_LENGTH="0", HTTP_X="1"
    )
    assert environ["CONTENT_TYPE"] == "a/b"
    assert environ["HTTP_X"] == "1"
    assert not {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"} & environ.keys()


@pytest.mark.parametrize(
    ("option", "given", "wanted"),
    [
        (None, ("", "/foo"), ("", "/foo")),
        (None, ("/app.fcgi", ""), ("/app.fcgi", "")),
        (None, ("/app.fcgi", "/foo"), ("/app.fcgi", "/foo")),
        (None, ("/", ""), ("", "/")),
        (None, ("/", "foo"), ("", "/foo")),
        (None, ("/", "/foo"), ("", "/foo")),
        ("", ("/foo", ""), ("", "/foo")),
        ("", ("/foo", "/bar"), ("", "/foo/bar")),
        ("", ("", "/foo"), ("", "/foo")),
        ("/app", ("/app/foo", ""), ("/app", "/foo")),
        ("/app", ("/app", ""), ("/app", "")),
        ("/app", ("/apple", ""), ("/apple", "")),
        ("/app", ("/other", "/x"), ("/other", "/x")),
    ],
)
def test_script_name_and_path_info_split_the_path_where_the_application_is_mounted(
    option, given, wanted
):
    environ = environ_of(option, SCRIPT_NAME=given[0], PATH_INFO=given[1])
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == wanted


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_wsgiref_validate_finds_nothing(method):
    @validator
    def application(environ, start_response):
        environ["wsgi.input"].read(10)
        environ["wsgi.errors"].write("")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"valid"]

    exchange = run(application, Recorded(REQUEST_METHOD=method, body=b"x" * 10))
    assert exchange.raw.startswith(b"Content-Type: text/plain\r\n\r\n")
    assert exchange.log == ""
