"""The client and `fcgiserve get`, against workers and against peers that misbehave."""

import json
import socket
import threading

import pytest
from support import Worker, ask

from fcgiserve import records
from fcgiserve.cli import main
from fcgiserve.client import RequestFailed, request, request_params


@pytest.fixture(scope="module")
def reference():
    with Worker("fcgi_reference:application") as worker:
        yield worker


@pytest.fixture
def peer_that_answers(tmp_path):
    """A function: its argument is what a false application sends before it closes."""
    threads = []
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "peer"))
    listener.listen()

    def answering(data):
        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65536)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return str(tmp_path / "peer")

    with listener:
        yield answering
        for thread in threads:
            thread.join()


def get(*arguments):
    return main(["get", *map(str, arguments)])


def test_get_prints_the_body(reference, capfdbinary):
    assert get(reference.address, "/healthz") == 0
    assert capfdbinary.readouterr().out == b"ok\n"


def test_get_prints_the_headers_when_asked(reference, capfd):
    assert get("-i", reference.address, "/") == 0
    assert capfd.readouterr().out.startswith("Status: 200\nContent-type: text/html\n\nHello")


def test_get_sends_what_it_is_told(reference, capfd, tmp_path):
    (tmp_path / "body").write_bytes(b"from a file")
    file = f"@{tmp_path}/body"
    headers = ("-H", "X-A: 1", "-H", "Content-Type:a/b")
    options = ("-X", "PUT", *headers, "-d", file, "-p", "SCRIPT_NAME=/s")
    assert get(reference.address, "/echo?q=1", *options) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["method"], found["path"], found["query"]) == ("PUT", "/s/echo", "q=1")
    assert (found["headers"]["X-A"], found["headers"]["Content-Type"]) == ("1", "a/b")
    assert found["length"] == len(b"from a file")


@pytest.mark.parametrize(("path", "status"), [("/healthz", 0), ("/nothing", 1), ("/sleep?ms=x", 1)])
def test_the_exit_status_is_0_for_2xx_and_3xx_only(reference, path, status):
    assert get(reference.address, path) == status


def test_what_the_application_logs_goes_to_standard_error(capfd):
    with Worker("fixtureapps.misbehaving:application") as worker:
        assert get(worker.address, "/raises_before") == 1
    assert "ValueError: before start_response" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("/nonexistent/socket", "is the application running?"),
        ("127.0.0.1:1", "is the application running?"),
        ("nonsense", "is no address"),
    ],
)
def test_an_address_where_nobody_listens_is_an_error_that_says_so(capfd, address, says):
    assert get(address, "/") == 1
    assert says in capfd.readouterr().err


def test_no_answer_in_time_is_an_error_that_says_so(reference, capfd):
    assert get("-t", "0.2", reference.address, "/sleep?ms=1000") == 1
    assert "no complete answer" in capfd.readouterr().err


def test_a_full_listen_queue_is_waited_for_until_the_time_is_over(tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(path)
            with pytest.raises(RequestFailed, match="no complete answer"):
                request(path, request_params("/"), timeout=0.2)


@pytest.mark.parametrize(
    ("status", "says"),
    [(1, "one request a connection"), (2, "out of some resource"), (3, "know the role"), (9, "9")],
)
def test_a_refused_request_is_an_error_that_says_why(peer_that_answers, status, says):
    path = peer_that_answers(records.encode_end_request(1, 0, status))
    with pytest.raises(RequestFailed, match=says):
        ask(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "without END_REQUEST"),
        (records.encode_record(records.STDOUT, 1, b"Status: 200"), "without END_REQUEST"),
        (records.encode_end_request(1), "has no headers"),
        (records.encode_record(records.END_REQUEST, 1, b"short"), "it has 8"),
        (
            records.encode_record(records.STDOUT, 1, b"Status: fine\r\n\r\n")
            + records.encode_end_request(1),
            "without a number: 'fine'",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "FastCGI version 72"),
    ],
)
def test_what_is_no_answer_is_an_error_that_says_so(peer_that_answers, data, says):
    with pytest.raises(RequestFailed, match=says):
        ask(peer_that_answers(data))


def test_a_peer_that_does_not_read_the_body_may_still_answer(peer_that_answers):
    answer = records.encode_record(records.STDOUT, 1, b"Location: /there\r\n\r\n")
    path = peer_that_answers(answer + records.encode_end_request(1))
    found = ask(path, method="POST", body=bytes(5_000_000))
    assert (found.status, found.header("location"), found.header("x")) == (302, "/there", None)


def test_usage_is_explained(capsys):
    for arguments in (["--help"], ["get", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    for arguments in ([], ["a:b", "--workers", "0"], ["a:b", "--request-timeout", "-1"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "is less than" in capsys.readouterr().err
