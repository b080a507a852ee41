"""A worker as mod_fcgid runs it: one listening socket on descriptor 0, signals, limits."""

import signal

import pytest
from support import Worker, begin, output_of, params, stream, whole_request

from fcgiserve import records


@pytest.fixture(scope="module")
def reference():
    with Worker("fcgi_reference:application") as worker:
        yield worker


def test_the_answer_is_the_c_programs_byte_for_byte():
    with Worker("fcgi_reference:application") as worker:
        raw = [worker.get().raw for _ in range(3)]
    assert raw == [
        b"Content-type: text/html\r\n\r\nHello world!<br>\r\nRequest number %d." % number
        for number in range(3)
    ]


def test_a_body_comes_back_unchanged(reference):
    body = bytes(range(256)) * 40_000  # far more than the socket holds, in both directions
    answer = reference.get("/echo?body=1", method="POST", body=body)
    assert answer.body == body


def test_a_web_server_that_reads_only_after_writing_gets_its_answer():
    body = bytes(range(256)) * 40_000
    with Worker("fixtureapps.plain:echo") as worker, worker.connect() as peer:
        peer.send(begin(), params(), stream(records.STDIN, body))
        output = output_of(peer.until_end())
    assert output.partition(b"\r\n\r\n")[2] == body


def test_sigterm_finishes_the_request_in_flight():
    with Worker("fixtureapps.plain:sleep") as worker, worker.connect() as peer:
        peer.send(whole_request("/?1"))
        worker.wait_for_log("sleeping")
        worker.send_signal(signal.SIGTERM)
        output = output_of(peer.until_end())
        assert output.endswith(b"slept")
        assert worker.wait() == 0


def test_sigterm_ends_a_worker_that_is_blocked_in_accept():
    with Worker("fixtureapps.plain:hello") as worker:
        worker.get()
        assert worker.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_reload_signal_of_httpd_does_not_end_a_worker(number):
    with Worker("fixtureapps.plain:pid") as worker:
        before = worker.get().body
        worker.send_signal(number)
        assert worker.get().body == before
