"""A worker as mod_fcgid runs it: one listening socket on descriptor 0, signals, limits."""

import gc
import json
import os
import resource
import signal
import socket
import time

import pytest
from support import (
    Program,
    Worker,
    ask,
    begin,
    output_of,
    params,
    stream,
    whole_request,
)

from fcgiserve import records
from fcgiserve.channel import Channel
from fcgiserve.client import RequestFailed, request, request_params
from fcgiserve.wsgi import Gateway


@pytest.fixture(scope="module")
def reference():
    with Worker("fcgi_reference:application") as worker:
        yield worker


@pytest.fixture(scope="module")
def misbehaving():
    with Worker("fixtureapps.misbehaving:application") as worker:
        worker.pid = worker.get().body
        yield worker


# Answers


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


def test_a_body_without_content_length_is_read_to_its_end(reference):
    with reference.connect() as peer:
        peer.send(begin(), params("/echo?body=1"), stream(records.STDIN, b"chunked" * 9999))
        assert output_of(peer.until_end()).endswith(b"\r\n\r\n" + b"chunked" * 9999)


def test_a_body_that_is_not_read_does_not_break_the_answer(reference):
    answer = reference.get("/healthz", method="POST", body=bytes(3_000_000))
    assert answer.body == b"ok\n"


def test_a_body_shorter_than_content_length_is_a_400(reference):
    with reference.connect() as peer:
        peer.send(begin(), params("/echo", CONTENT_LENGTH="10"), stream(records.STDIN, b"12345"))
        found = peer.until_end()
    assert output_of(found).startswith(b"Status: 400 Bad Request")
    assert b"after 5 of 10 bytes" in output_of(found, records.STDERR)


@pytest.mark.parametrize("length", ["ten", "-1", "1_0", "\u00b2"])
def test_a_content_length_that_is_no_number_is_a_400(reference, length):
    answer = reference.get("/echo", params={"CONTENT_LENGTH": length})
    assert answer.status == 400
    assert b"not a number of bytes" in answer.errors


# More than 4300 digits: int() raises another exception than for a text that is no number.
@pytest.mark.parametrize("length", ["0" * 4301, "9" * 4301, "9" * 60_000, "1" * 19])
@pytest.mark.parametrize(
    ("name", "role"),
    [("CONTENT_LENGTH", records.RESPONDER), ("FCGI_DATA_LENGTH", records.FILTER)],
)
def test_a_length_of_any_number_of_digits_is_a_400_and_ends_no_worker(
    misbehaving, name, role, length
):
    answer = misbehaving.get(params={name: length}, role=role)
    assert answer.status == 400
    assert f"{name} has {len(length)} digits" in answer.errors.decode()
    assert len(answer.errors) < 200
    assert misbehaving.get().body == misbehaving.pid


def test_an_exception_that_nobody_expects_ends_its_connection_and_no_worker(misbehaving):
    with pytest.raises(RequestFailed, match="closed the connection"):
        misbehaving.get("/breaks_the_log")
    misbehaving.wait_for_log("closed a connection: Traceback")
    assert misbehaving.get().body == misbehaving.pid


def test_a_time_limit_does_not_outlast_such_an_exception():
    options = ("--request-timeout", "0.5")
    with Worker("fixtureapps.misbehaving:application", *options) as worker:
        pid = worker.get().body
        with pytest.raises(RequestFailed):
            worker.get("/breaks_the_log")
        time.sleep(1)
        assert worker.get().body == pid


def test_a_request_leaves_nothing_for_the_garbage_collector():
    def application(environ, start_response):
        environ["wsgi.errors"].write("logged")
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    gateway = Gateway(application)
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            ours, theirs = socket.socketpair()
            with theirs:
                channel = Channel(ours)
                theirs.sendall(whole_request())
                channel.look()
                gateway.answer(channel.exchange)
                channel.close()
        del channel, ours, theirs
        assert gc.collect() == 0
    finally:
        gc.enable()


# The protocol on a real connection


def test_without_keep_conn_the_worker_closes_the_connection(reference):
    with reference.connect() as peer:
        peer.send(whole_request())
        peer.until_end()
        assert peer.next() is None


def test_with_keep_conn_the_connection_stays_open_for_the_next_request(reference):
    with reference.connect() as peer:
        for request_id in (1, 2, 300):
            peer.send(whole_request("/healthz", request_id, keep=True))
            found = peer.until_end()
            assert {record.request_id for record in found} == {request_id}
            assert output_of(found).endswith(b"ok\n")


def test_idle_kept_connections_do_not_keep_others_from_being_answered(reference):
    peers = [reference.connect() for _ in range(5)]
    for peer in peers:
        peer.send(whole_request("/healthz", keep=True))
        peer.until_end()
    silent = reference.connect()
    assert reference.get("/healthz").body == b"ok\n"
    peers[0].send(whole_request("/healthz", keep=True))
    assert output_of(peers[0].until_end()).endswith(b"ok\n")
    for peer in (*peers, silent):
        peer.socket.close()
    assert reference.get("/healthz").body == b"ok\n"


def test_beyond_the_limit_the_connection_that_was_idle_longest_is_closed(reference):
    peers = []
    try:
        for _ in range(258):
            peers.append(reference.connect())
            peers[-1].send(whole_request("/healthz", keep=True))
            peers[-1].until_end()
        assert peers[0].next() is None
        assert peers[-1].is_quiet()
    finally:
        for peer in peers:
            peer.socket.close()


def test_requests_may_come_in_pieces_of_any_size(reference):
    data = begin() + params("/echo?body=1") + stream(records.STDIN, b"body")
    with reference.connect() as peer:
        for byte in data:
            peer.send(bytes([byte]))
        assert output_of(peer.until_end()).endswith(b"body")


def test_stdout_ends_with_its_empty_record_and_end_request(reference):
    with reference.connect() as peer:
        peer.send(whole_request("/healthz"))
        found = peer.until_end()
    kinds = [record.type for record in found]
    assert kinds == [records.STDOUT, records.STDOUT, records.END_REQUEST]
    assert found[1].content == b""
    assert found[2].content == bytes(8)


def test_stderr_ends_with_its_empty_record_when_something_was_logged(misbehaving):
    with misbehaving.connect() as peer:
        peer.send(whole_request("/raises_before"))
        found = peer.until_end()
    errors = [record.content for record in found if record.type == records.STDERR]
    assert b"ValueError" in b"".join(errors)
    assert [content for content in errors if not content] == [errors[-1]]


def test_errors_are_sent_before_the_answer_goes_on():
    with Worker("fixtureapps.plain:logs") as worker, worker.connect() as peer:
        peer.send(whole_request())
        found = [(record.type, record.content) for record in peer.until_end()]
    order = [content for _, content in found if content in (b"one", b"two", b"three", b"four")]
    assert order == [b"two", b"three", b"four"]
    assert (records.STDERR, b"two") in found


def test_app_status_is_0_for_success_and_the_exit_status_otherwise(misbehaving):
    acts = {"/": 0, "/raises_before": 1, "/raises_after": 1, "/exits": 3}
    assert {act: misbehaving.get(act).app_status for act in acts} == acts


def test_every_answer_is_a_multiple_of_8_bytes(reference):
    with reference.connect() as peer:
        peer.send(whole_request("/info"))
        data = b""
        while piece := peer.socket.recv(65536):
            data += piece
    assert len(data) % 8 == 0


def test_get_values_is_answered_before_and_between_requests(reference):
    asked = records.encode_pairs([("FCGI_MPXS_CONNS", ""), ("FCGI_MAX_CONNS", "")])
    with reference.connect() as peer:
        for _ in range(2):
            peer.send(records.encode_record(records.GET_VALUES, 0, asked))
            answer = peer.next()
            assert answer.type == records.GET_VALUES_RESULT
            assert records.decode_pairs(answer.content) == {
                "FCGI_MPXS_CONNS": "0",
                "FCGI_MAX_CONNS": "1",
            }
            peer.send(whole_request(keep=True))
            peer.until_end()


def test_get_values_is_answered_while_a_body_is_read_and_while_an_answer_is_sent():
    with Worker("fixtureapps.plain:echo") as worker, worker.connect() as peer:
        peer.send(begin(), params())
        assert peer.is_quiet()  # the application waits for the body
        peer.send(records.encode_record(records.GET_VALUES, 0))
        assert peer.next().type == records.GET_VALUES_RESULT
        peer.send(records.encode_record(records.STDIN, 1, bytes(60_000)))
        body = records.encode_record(records.STDIN, 1, bytes(60_000)) * 20
        peer.send(body, records.encode_record(records.GET_VALUES, 0), stream(records.STDIN))
        kinds = [record.type for record in peer.until_end()]
    assert kinds.count(records.GET_VALUES_RESULT) == 1


def test_a_second_request_is_refused_while_one_is_active(reference):
    with reference.connect() as peer:
        peer.send(begin(keep=True), params("/echo"), whole_request("/", 2))
        refused = peer.next()
        assert (refused.type, refused.request_id) == (records.END_REQUEST, 2)
        assert records.decode_end_request(refused.content)[1] == records.CANT_MPX_CONN
        peer.send(stream(records.STDIN))
        assert peer.until_end()[-1].request_id == 1


def test_an_unknown_role_is_refused_and_the_connection_closed(reference):
    with reference.connect() as peer:
        peer.send(begin(role=9), params())
        refused = peer.next()
        assert records.decode_end_request(refused.content)[1] == records.UNKNOWN_ROLE
        assert peer.next() is None


def test_abort_request_ends_a_body_that_is_being_read():
    with Worker("fixtureapps.plain:digest") as worker, worker.connect() as peer:
        peer.send(begin(keep=True), params(), records.encode_record(records.STDIN, 1, b"x"))
        peer.send(records.encode_record(records.ABORT_REQUEST, 1))
        assert output_of(peer.until_end()) == b""
        peer.send(whole_request(keep=True))
        assert output_of(peer.until_end()).endswith(b"b855")


@pytest.mark.parametrize("keep", [True, False])
def test_abort_request_ends_an_answer_that_is_being_sent(misbehaving, keep):
    with misbehaving.connect() as peer:
        peer.send(whole_request("/endless", keep=keep))
        assert peer.next().type == records.STDOUT
        peer.send(records.encode_record(records.GET_VALUES, 0))
        peer.send(records.encode_record(records.ABORT_REQUEST, 1))
        found = peer.until_end()
        assert found[-1].content == bytes(8)
        assert [record.type for record in found].count(records.GET_VALUES_RESULT) == 1
        if keep:
            peer.send(whole_request(keep=True))
            assert output_of(peer.until_end()).endswith(misbehaving.pid)
        else:
            assert peer.next() is None


def test_abort_request_that_comes_with_the_request_ends_it(reference):
    with reference.connect() as peer:
        peer.send(begin(), params(), records.encode_record(records.ABORT_REQUEST, 1))
        assert [record.type for record in peer.until_end()] == [
            records.STDOUT,
            records.END_REQUEST,
        ]


def test_what_is_no_fastcgi_closes_the_connection_and_is_logged():
    with Worker("fixtureapps.plain:hello") as worker:
        with worker.connect() as peer:
            peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert peer.next() is None
        worker.wait_for_log("does the peer speak FastCGI")
        assert worker.get().status == 200


def test_a_peer_that_leaves_inside_a_request_is_no_harm(reference):
    for data in (b"", begin(), begin() + params("/echo"), whole_request("/stream?interval=0")):
        with reference.connect() as peer:
            peer.send(data)
    assert reference.get("/healthz").body == b"ok\n"


def test_a_peer_that_has_closed_its_sending_half_gets_its_answer(reference):
    with reference.connect() as peer:
        peer.send(whole_request("/stream?n=3&interval=0"))
        peer.socket.shutdown(socket.SHUT_WR)
        assert output_of(peer.until_end()).endswith(b"line 3 of 3\n")


def test_a_web_server_that_closes_at_once_after_a_location_is_no_harm(reference):
    with reference.connect() as peer:
        peer.send(whole_request("/stream?n=100000&interval=0"))
        peer.next()
    assert reference.get("/healthz").body == b"ok\n"


def test_an_authorizer_allows_with_variables_and_denies_with_an_answer():
    with Worker("fixtureapps.roles:authorizer") as worker:
        allowed = worker.get("/allowed", role=records.AUTHORIZER)
        denied = worker.get("/denied", role=records.AUTHORIZER)
    assert allowed.raw == b"Variable-AUTH_METHOD: database lookup\r\n\r\n"
    assert (denied.status, denied.body) == (403, b"denied")


def test_a_filter_reads_the_body_and_then_the_file():
    file = b"some text " * 20_000
    with Worker("fixtureapps.roles:filter") as worker:
        answer = worker.get(
            role=records.FILTER,
            method="POST",
            body=b"form",
            data=file,
            params={"FCGI_DATA_LENGTH": str(len(file)), "FCGI_DATA_LAST_MOD": "0"},
        )
        wrong = worker.get(role=records.FILTER, params={"FCGI_DATA_LENGTH": "x"})
    assert answer.body == b"form|" + file.upper()
    assert wrong.status == 400


# Applications that misbehave


@pytest.mark.parametrize(
    ("act", "status", "body", "log"),
    [
        ("raises_before", 500, b"Internal Server Error\n", "ValueError: before start_response"),
        ("raises_after", 200, b"begun", "ValueError: after the body began"),
        ("too_long", 200, b"long", "longer than its Content-Length of 4"),
        ("too_short", 200, b"short", "has 5 bytes, its Content-Length says 400"),
        ("no_length", 200, b"something", ""),
        ("exits", 500, b"Internal Server Error\n", "SystemExit: 3"),
        ("exits_inside", 200, b"begun", "SystemExit: enough"),
        ("forks", 200, b"forked", ""),
        ("forks_and_leaves_the_child", 200, b"forked", ""),
        ("prints", 200, b"printed", ""),
        ("reads_descriptor_0", 500, b"Internal Server Error\n", "OSError"),
        ("starts_a_thread", 200, b"started", ""),
        ("keeps_the_input", 200, b"kept", ""),
        ("uses_the_kept_input", 200, b"read 0", ""),
        ("writes_errors_in_bulk", 200, b"logged", "e" * 300_000),
    ],
)
def test_after_a_misbehaving_application_the_next_request_is_answered(
    misbehaving, act, status, body, log
):
    answer = misbehaving.get(f"/{act}", params={"CONTENT_LENGTH": "0"})
    assert (answer.status, answer.body) == (status, body)
    assert log in answer.errors.decode()
    assert misbehaving.get().body == misbehaving.pid


def test_a_client_that_leaves_ends_an_endless_answer(misbehaving):
    with misbehaving.connect() as peer:
        peer.send(whole_request("/endless"))
        peer.next()
    misbehaving.wait_for_log("endless was closed")
    assert misbehaving.get().body == misbehaving.pid


@pytest.mark.parametrize("size", [65528, 65529, 5_000_000])
def test_a_body_in_one_piece_may_have_any_size(misbehaving, size):
    answer = misbehaving.get(f"/one_piece?{size}")
    assert answer.body == b"x" * size


def test_an_application_that_catches_everything_cannot_answer_a_client_that_left(misbehaving):
    with misbehaving.connect() as peer:
        peer.send(whole_request("/catches_everything"))
        peer.next()
    misbehaving.wait_for_log("caught")
    assert misbehaving.get().body == misbehaving.pid


def test_a_worker_whose_log_is_gone_goes_on():
    reader, writer = os.pipe()
    with Worker("fixtureapps.plain:hello", "--access-log", stderr=writer) as worker:
        os.close(writer)
        os.close(reader)
        assert [worker.get().status for _ in range(2)] == [200, 200]
        assert worker.end() == 0


def test_what_is_written_to_the_log_of_an_ended_request_goes_to_standard_error(misbehaving):
    misbehaving.get("/keeps_the_input")
    misbehaving.get("/uses_the_kept_input")
    misbehaving.wait_for_log("after the end\n")


def test_a_child_that_lives_on_does_not_keep_the_connection_open(misbehaving):
    with misbehaving.connect() as peer:
        peer.send(whole_request("/forks_and_leaves_the_child"))
        peer.until_end()
        assert peer.next() is None


# The life of a worker


def test_sigterm_finishes_the_request_in_flight():
    with Worker("fixtureapps.plain:sleep") as worker, worker.connect() as peer:
        peer.send(whole_request("/?0.5"))
        worker.wait_for_log("sleeping")
        worker.send_signal(signal.SIGTERM)
        assert output_of(peer.until_end()).endswith(b"slept")
        assert worker.wait() == 0


def test_sigterm_answers_what_waits_in_the_listen_queue():
    with Worker("fixtureapps.plain:sleep") as worker:
        peers = [worker.connect() for _ in range(4)]
        peers[0].send(whole_request("/?0.5"))
        worker.wait_for_log("sleeping")
        for peer in peers[1:]:
            peer.send(whole_request("/?0"))
        worker.send_signal(signal.SIGTERM)
        for peer in peers:
            assert output_of(peer.until_end()).endswith(b"slept")
            peer.socket.close()
        assert worker.wait() == 0


def test_sigterm_waits_for_the_request_of_a_connection_that_is_open():
    with Worker("fixtureapps.plain:sleep") as worker, worker.connect() as busy:
        busy.send(whole_request("/?0.5"))
        worker.wait_for_log("sleeping")
        with worker.connect() as waiting, worker.connect() as partial:
            partial.send(whole_request("/?0")[:100])
            worker.send_signal(signal.SIGTERM)
            busy.until_end()
            waiting.send(whole_request("/?0"))
            partial.send(whole_request("/?0")[100:])
            for peer in (waiting, partial):
                assert output_of(peer.until_end()).endswith(b"slept")
        assert worker.wait() == 0


def test_sigterm_does_not_wait_for_ever_for_a_silent_connection():
    with Worker("fixtureapps.plain:hello") as worker, worker.connect() as silent:
        worker.get()
        assert worker.end() == 0
        assert silent.next() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_ends_a_worker_that_waits_for_a_connection(number):
    with Worker("fixtureapps.plain:hello") as worker:
        worker.get()
        assert worker.end(number) == 0
        assert worker.log == ""


def test_sigterm_ends_a_worker_that_other_signals_keep_waking():
    with Worker("fixtureapps.plain:ticking") as worker:
        worker.get()
        assert worker.end() == 0


def test_sigterm_ends_a_worker_that_was_started_with_it_blocked():
    def block():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    with Worker("fixtureapps.plain:hello", preexec_fn=block) as worker:
        worker.get()
        assert worker.end() == 0


def test_sigterm_closes_idle_kept_connections():
    with Worker("fixtureapps.plain:hello") as worker, worker.connect() as peer:
        peer.send(whole_request(keep=True))
        peer.until_end()
        assert worker.end() == 0
        assert peer.next() is None


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_reload_signal_of_httpd_does_not_end_a_worker(number):
    with Worker("fixtureapps.plain:pid") as worker:
        before = worker.get().body
        for _ in range(3):
            worker.send_signal(number)
            assert worker.get().body == before


def test_a_worker_ends_after_max_requests():
    with Worker("fixtureapps.plain:hello", "--max-requests", "3") as worker:
        assert [worker.get().status for _ in range(3)] == [200] * 3
        assert worker.wait() == 0


def test_a_worker_ends_when_its_resident_memory_passes_the_limit():
    with Worker("fixtureapps.growing:application", "--max-rss", "100") as worker:
        assert worker.get("/?0").status == 200
        assert worker.get("/?0").status == 200
        assert worker.get("/?150").status == 200
        assert worker.wait() == 0
        assert "MiB of memory are resident" in worker.log


def test_a_worker_that_passes_the_time_limit_ends_with_a_traceback():
    with Worker("fixtureapps.plain:sleep", "--request-timeout", "1") as worker:
        assert worker.get("/?0").status == 200
        with pytest.raises(RequestFailed, match="without END_REQUEST"):
            worker.get("/?60")
        assert worker.wait() == -signal.SIGALRM
        assert "fixtureapps/plain.py" in worker.log
        assert "in sleep" in worker.log


def test_the_time_limit_does_not_run_between_requests():
    with Worker("fixtureapps.plain:hello", "--request-timeout", "1") as worker:
        assert worker.get().status == 200
        time.sleep(1.5)
        assert worker.get().status == 200


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fixtureapps.failing:application", "LookupError: no such configuration"),
        ("fixtureapps.exiting:application", "SystemExit: not today"),
        ("fixtureapps.absent:application", "No module named 'fixtureapps.absent'"),
        ("fixtureapps.plain:absent", "AttributeError"),
        ("fixtureapps.plain:os.name", "it is a str, not callable"),
        ("fixtureapps.plain", "write it as module:callable"),
    ],
)
def test_a_failing_import_answers_500_and_says_why(name, says):
    with Worker(name) as worker:
        for _ in range(2):
            answer = worker.get()
            assert answer.status == 500
            assert says.encode() in answer.errors
            assert b"Traceback" not in answer.errors
        assert worker.log.count("every request is answered with 500") == 1
        assert name in worker.log
        assert says in worker.log
        assert worker.end() == 0


def test_one_line_of_json_is_logged_for_each_request():
    with Worker("fixtureapps.misbehaving:application", "--access-log") as worker:
        worker.get("/no_length?a=b")
        worker.get("/raises_before", method="POST", body=b"")
        with worker.connect() as peer:
            peer.send(whole_request("/endless"))
            peer.next()
        worker.wait_for_log("aborted")
        lines = [json.loads(line) for line in worker.log.splitlines() if line.startswith("{")]
    keys = ("method", "path", "status", "bytes", "outcome", "role", "request_id")
    assert [[line[key] for key in keys] for line in lines[:2]] == [
        ["GET", "/no_length", 200, 9, "complete", "RESPONDER", 1],
        ["POST", "/raises_before", 500, 22, "failed", "RESPONDER", 1],
    ]
    assert lines[2]["outcome"] == "aborted"


def test_a_worker_that_is_out_of_descriptors_recovers():
    with Worker("fixtureapps.plain:hello") as worker:
        with worker.connect() as peer:
            peer.send(whole_request())
            peer.until_end()
            assert peer.next() is None  # the descriptor is free again
        used = len(os.listdir(f"/proc/{worker.process.pid}/fd"))
        limits = resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (used, limits[1]))
        with worker.connect() as peer:
            peer.send(whole_request())
            worker.wait_for_log("cannot accept a connection")
            resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, limits)
            assert output_of(peer.until_end()).endswith(b"Hello world!")


# FCGI_WEB_SERVER_ADDRS


@pytest.mark.parametrize(("allowed", "answered"), [("127.0.0.1", True), ("10.0.0.1, ::1", False)])
def test_web_server_addrs_says_who_may_connect(allowed, answered):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        environment = {"FCGI_WEB_SERVER_ADDRS": allowed}
        program = Program("fixtureapps.plain:hello", stdin=listener, environment=environment)
    with program as worker:
        if answered:
            assert ask(address).status == 200
        else:
            with pytest.raises(RequestFailed):
                request(address, request_params("/"), timeout=20)
            worker.wait_for_log("not in FCGI_WEB_SERVER_ADDRS")
