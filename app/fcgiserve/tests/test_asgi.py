"""ASGI applications, through the extra `asgi`."""

import pytest
from support import (
    Program,
    Worker,
    answers,
    begin,
    listens,
    output_of,
    params,
    stream,
    wait_until,
)

from fcgiserve import records


@pytest.mark.parametrize("name", ["application", "framework", "fails_at_the_end"])
def test_an_asgi_application_is_served_like_any_other(name):
    with Worker(f"fixtureapps.asynchronous:{name}") as worker:
        for _ in range(2):
            answer = worker.get("/path", method="POST", body=b"body and ")
            assert (answer.status, answer.body) == (201, b"body and /path")
        assert worker.end() == 0


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
def test_a_body_without_content_length_arrives(size):
    with Worker("fixtureapps.asynchronous:application") as worker, worker.connect() as peer:
        peer.send(begin(), params("/path"), stream(records.STDIN, b"x" * size))
        output = output_of(peer.until_end())
    assert output.partition(b"\r\n\r\n")[2] == b"x" * size + b"/path"


def test_an_error_is_a_500_with_a_traceback_in_the_log():
    with Worker("fixtureapps.asynchronous:application") as worker:
        answer = worker.get("/raises")
        assert answer.status == 500
        assert b'raise ValueError("in the application")' in answer.errors
        assert worker.get("/path").status == 201


def test_an_application_is_started_once_and_shut_down_at_the_end():
    with Worker("fixtureapps.asynchronous:framework") as worker:
        worker.get()
        worker.get()
        assert worker.end() == 0
        assert worker.log == "started\nrequest with state\nrequest with state\nshut down\n"


def test_under_a_parent_it_is_shut_down_too(tmp_path):
    path = str(tmp_path / "socket")
    with Program("fixtureapps.asynchronous:framework", "--bind", f"unix:{path}") as program:
        wait_until(lambda: listens(path))
        assert not answers(path)  # 201, not 200
        assert program.end() == 0
        assert program.log == "started\nrequest with state\nshut down\n"


def test_an_application_that_cannot_start_answers_500_and_says_why():
    with Worker("fixtureapps.asynchronous:cannot_start") as worker:
        assert worker.get().status == 500
        assert "cannot start fixtureapps.asynchronous:cannot_start: no database" in worker.log


def test_an_error_at_the_end_is_logged():
    with Worker("fixtureapps.asynchronous:fails_at_the_end") as worker:
        worker.get()
        assert worker.end() == 0
        assert "ValueError: at the end" in worker.log


def test_without_the_adapter_the_error_names_the_extra(tmp_path):
    (tmp_path / "a2wsgi.py").write_text("raise ImportError('not installed')")
    environment = {"PYTHONPATH": str(tmp_path)}
    with Worker("fixtureapps.asynchronous:application", environment=environment) as worker:
        assert worker.get().status == 500
        assert "install fcgiserve[asgi]" in worker.log
