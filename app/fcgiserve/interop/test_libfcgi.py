"""libfcgi on the other side: its bridge `cgi-fcgi` as web server, its library as application."""

import os
import subprocess
from pathlib import Path

import pytest
from support import Worker, ask

SOURCE = Path(__file__).parents[2] / "fcgi_app.c"


def bridge(program, address, body=b"", **variables):
    """Let cgi-fcgi send one request; return what it prints, a CGI answer."""
    environment = {"PATH": os.environ["PATH"], "REQUEST_METHOD": "GET", **variables}
    command = [program("cgi-fcgi"), "-bind", "-connect", address]
    return subprocess.run(
        command, input=body, env=environment, stdout=subprocess.PIPE, check=True, timeout=20
    ).stdout


@pytest.fixture(scope="module")
def reference():
    with Worker("fcgi_reference:application") as worker:
        yield worker


@pytest.fixture(scope="module")
def c_application(program, tmp_path_factory):
    """The program fcgi_app.c, compiled as its first lines say."""
    path = tmp_path_factory.mktemp("c") / "fcgi_app"
    flags = ["-Wall", "-Wextra", "-Werror", "-O2"]
    subprocess.run([program("cc"), *flags, str(SOURCE), "-o", str(path), "-lfcgi"], check=True)
    return path


def test_cgi_fcgi_gets_an_answer(program, reference):
    answer = bridge(program, reference.address, PATH_INFO="/healthz")
    assert answer.endswith(b"\r\n\r\nok\n")


def test_cgi_fcgi_sends_a_body(program, reference):
    body = os.urandom(1_000_000)
    answer = bridge(
        program,
        reference.address,
        body,
        REQUEST_METHOD="POST",
        PATH_INFO="/echo",
        QUERY_STRING="body=1",
        CONTENT_LENGTH=str(len(body)),
    )
    assert answer.partition(b"\r\n\r\n")[2] == body


def test_cgi_fcgi_sends_long_variables(program, reference):
    answer = bridge(program, reference.address, PATH_INFO="/echo", HTTP_LONG="x" * 70_000)
    assert b"x" * 70_000 in answer


def test_the_c_application_answers_the_client_byte_for_byte_as_the_reference(c_application):
    class CWorker(Worker):
        command = (str(c_application),)

    with CWorker("c") as c, Worker("fcgi_reference:application") as python:
        for method, body in (("GET", None), ("POST", bytes(100_000)), ("GET", None)):
            theirs = ask(c.address, method=method, body=body)
            assert theirs.raw == python.get(method=method, body=body).raw


def test_the_c_application_answers_one_cgi_request_at_a_prompt(c_application):
    ended = subprocess.run(
        [str(c_application)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=20
    )
    assert ended.stdout.endswith(b"Hello world!<br>\r\nRequest number 0.")
    assert ended.returncode == 0
