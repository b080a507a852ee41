"""The pages of the reference application, called as a WSGI server calls it."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

import fcgi_reference
from fcgi_reference import application


@pytest.fixture(autouse=True)
def development(monkeypatch):
    """All pages are there, as in the demonstration."""
    monkeypatch.setenv("FCGI_REFERENCE_DEVELOPMENT", "1")


def call(path="/", method="GET", body=b"", **variables):
    """Return status, headers and body of the answer, checked by wsgiref.validate."""
    path, _, query = path.partition("?")
    environ = {"SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": query, **variables}
    environ["REQUEST_METHOD"] = method
    environ["wsgi.input"] = io.BytesIO(body)
    environ["CONTENT_LENGTH"] = str(len(body))
    setup_testing_defaults(environ)
    seen = []

    def start_response(status, headers, exc_info=None):
        seen.extend((status, headers))
        return lambda data: None

    iterable = validator(application)(environ, start_response)
    try:
        content = b"".join(iterable)
    finally:
        iterable.close()
    return seen[0], seen[1], content


def test_the_greeting_counts_from_0_in_each_process():
    program = (
        "import sys; from fcgi_reference import application as a\n"
        "for path in ('/', '', '/healthz', '/'):\n"
        "    print(a({'PATH_INFO': path}, lambda *x: print(x)))\n"
    )
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    header = "('200 OK', [('Content-type', 'text/html')])\n"
    assert output.count(header) == 3
    found = re.findall(r"\[b'Hello world!<br>\\r\\nRequest number (\d+)\.'\]", output)
    assert found == ["0", "1", "2"]


@pytest.mark.parametrize("variables", [{"SCRIPT_NAME": "/app.fcgi"}, {"SCRIPT_NAME": ""}])
@pytest.mark.parametrize("path", ["", "/"])
def test_the_greeting_is_at_the_root_wherever_that_is_mounted(path, variables):
    if not path and not variables["SCRIPT_NAME"]:
        path = "/"
    status, headers, body = call(path, **variables)
    assert (status, headers) == ("200 OK", [("Content-type", "text/html")])
    assert body.startswith(b"Hello world!<br>\r\nRequest number ")


def test_healthz_is_ok():
    status, _, body = call("/healthz")
    assert (status, body) == ("200 OK", b"ok\n")


def test_another_page_is_a_404():
    assert call("/nothing")[0] == "404 Not Found"


@pytest.mark.parametrize("setting", [None, "", "0"])
@pytest.mark.parametrize("page", ["info", "echo", "upload", "stream", "sleep"])
def test_a_page_for_development_is_a_404_that_says_so_elsewhere(page, setting, monkeypatch):
    monkeypatch.delenv("FCGI_REFERENCE_DEVELOPMENT")
    if setting is not None:
        monkeypatch.setenv("FCGI_REFERENCE_DEVELOPMENT", setting)
    status, _, body = call(f"/{page}")
    assert status == "404 Not Found"
    assert f"/{page} is for development. Set FCGI_REFERENCE_DEVELOPMENT=1".encode() in body
    assert call("/healthz")[0] == call("/")[0] == "200 OK"


def test_info_is_json_when_json_is_accepted():
    _, headers, body = call("/info", HTTP_ACCEPT="application/json", **{"fcgiserve.socket": "/s"})
    found = json.loads(body)
    assert ("Content-Type", "application/json") in headers
    assert found["pid"] == os.getpid()
    assert found["role"] == "RESPONDER"
    assert found["socket"] == "/s"
    assert found["uptime_s"] >= 0
    before = found["requests"]
    again = json.loads(call("/info", HTTP_ACCEPT="application/json")[2])
    assert again["requests"] == before + 1


def test_info_is_a_page_without_outside_assets():
    _, headers, body = call("/info", HTTP_ACCEPT="text/html", HTTP_X="<script>")
    assert ("Content-Type", "text/html; charset=utf-8") in headers
    assert b"&lt;script&gt;" in body
    assert not re.search(rb"<script>|(src|href)=\"?(https?:)?//|@import|url\(", body)


def test_info_masks_secrets(monkeypatch):
    monkeypatch.setenv("DATABASE_PASSWORD", "sesame")
    monkeypatch.setenv("DATABASE_URL", "db://user:sesame@host/name")
    cookies = {"HTTP_COOKIE": "id=sesame", "HTTP_AUTHORIZATION": "sesame"}
    for accept in ("application/json", "text/html"):
        body = call("/info", HTTP_ACCEPT=accept, **cookies)[2]
        assert b"sesame" not in body
        assert b"db://(masked)@host/name" in body


def test_echo_says_what_arrived():
    _, _, body = call("/echo?a=1", "PUT", b"body", HTTP_X_OWN="1", CONTENT_TYPE="a/b")
    found = json.loads(body)
    assert (found["method"], found["path"], found["query"]) == ("PUT", "/echo", "a=1")
    assert found["headers"]["X-Own"] == "1"
    assert found["headers"]["Content-Type"] == "a/b"
    assert found["length"] == 4
    assert found["sha256"] == hashlib.sha256(b"body").hexdigest()


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_echo_returns_the_body(size):
    body = os.urandom(size)
    _, headers, back = call("/echo?body=1", "POST", body)
    assert headers == [("Content-Type", "application/octet-stream")]
    assert back == body


def test_upload_is_a_form_and_says_what_was_sent():
    assert b'type="file"' in call("/upload")[2]
    found = json.loads(call("/upload", "POST", b"x" * 100_000)[2])
    assert (found["length"], found["sha256"]) == (
        100_000,
        hashlib.sha256(b"x" * 100_000).hexdigest(),
    )


def test_stream_makes_lines_one_by_one():
    assert call("/stream?n=2&interval=0")[2] == b"line 1 of 2\nline 2 of 2\n"
    assert call("/stream?n=0")[2] == b""
    query = {"PATH_INFO": "/stream", "QUERY_STRING": "n=1e6&interval=0"}
    long = application(query, lambda *x: None)
    assert next(iter(long)) == b"line 1 of 1000000\n"


def test_sleep_answers_after_its_time():
    assert call("/sleep?ms=1")[2] == b"slept 1 ms\n"


@pytest.mark.parametrize(
    "query",
    [
        *("sleep?ms=x", "sleep?ms=-1", "sleep?ms=1e99", "sleep?ms=60001"),
        *("stream?n=nan", "stream?n=1000001&interval=0"),
        # Together they would take 61 seconds.
        *("stream?n=62&interval=1", "stream?n=2&interval=61"),
    ],
)
def test_a_number_that_is_none_is_a_400_that_says_so(query):
    status, _, body = call(f"/{query}")
    assert status == "400 Bad Request"
    assert b"give a number from 0 to" in body


@pytest.mark.parametrize("page", ["echo", "echo?body=1", "upload"])
def test_a_body_over_the_limit_is_a_413_that_says_so(page, monkeypatch):
    monkeypatch.setattr(fcgi_reference, "LARGEST", 100_000)
    assert call(f"/{page}", "POST", bytes(100_000))[0] == "200 OK"
    status, _, body = call(f"/{page}", "POST", bytes(100_001))
    assert status == "413 Content Too Large"
    assert b"larger than 100000 bytes" in body
