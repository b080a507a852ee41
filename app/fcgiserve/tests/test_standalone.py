"""Several workers under one parent: --bind, --workers, reload, systemd's socket activation."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import (
    TESTS,
    Conversation,
    Program,
    answers,
    ask,
    listens,
    output_of,
    wait_until,
    whole_request,
)

from fcgiserve.client import RequestFailed


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "socket")


def ipv6():
    addresses = Path("/proc/net/if_inet6")
    return addresses.exists() and addresses.read_text() != ""


def started(program, address):
    wait_until(lambda: answers(address), lambda: program.log)


def pids(address, count):
    """The process ids of the workers, asked until `count` different ones have answered."""
    found = set()

    def enough():
        found.add(ask(address).body)
        return len(found) == count

    wait_until(enough, lambda: f"{found} of {count}")
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_workers_share_a_unix_socket_and_the_socket_goes_with_them(path):
    with Program("fixtureapps.plain:pid", "--bind", f"unix:{path}", "--workers", "2") as program:
        started(program, path)
        assert len(pids(path, 2)) == 2
        assert program.end() == 0
    assert not os.path.exists(path)


def test_tcp_is_served_too():
    port = free_port()
    with Program("fixtureapps.plain:hello", "--bind", f"tcp:127.0.0.1:{port}") as program:
        started(program, ("127.0.0.1", port))
        assert ask(("127.0.0.1", port)).body == b"Hello world!"
        assert program.end() == 0


@pytest.mark.skipif(not ipv6(), reason="this host has no IPv6")
def test_ipv6_is_served_too():
    port = free_port()
    with Program("fixtureapps.plain:hello", "--bind", f"tcp:[::1]:{port}") as program:
        started(program, ("::1", port))
        assert program.end(signal.SIGINT) == 0


def test_sigterm_finishes_the_requests_in_flight(path):
    with Program("fixtureapps.plain:sleep", "--bind", f"unix:{path}", "--workers", "2") as program:
        wait_until(lambda: listens(path))
        with Conversation(path) as one, Conversation(path) as two:
            for peer in (one, two):
                peer.send(whole_request("/?0.5"))
            wait_until(lambda: program.log.count("sleeping") == 2)
            program.send_signal(signal.SIGTERM)
            for peer in (one, two):
                assert output_of(peer.until_end()).endswith(b"slept")
        assert program.wait() == 0


def test_a_second_sigint_does_not_wait_for_the_requests_in_flight(path):
    with Program("fixtureapps.plain:sleep", "--bind", f"unix:{path}") as program:
        wait_until(lambda: listens(path))
        with Conversation(path) as peer:
            peer.send(whole_request("/?3600"))
            program.wait_for_log("sleeping")
            program.send_signal(signal.SIGINT)
            wait_until(lambda: not os.path.exists(path))
            assert program.end(signal.SIGINT) == 0
            assert peer.next() is None


def test_a_worker_that_dies_is_replaced(path):
    with Program("fixtureapps.plain:pid", "--bind", f"unix:{path}") as program:
        started(program, path)
        before = ask(path).body
        os.kill(int(before), signal.SIGKILL)
        assert ask(path).body != before
        assert f"worker {before.decode()} was ended by SIGKILL" in program.log


def test_a_worker_that_fails_is_replaced_and_the_failure_logged(path):
    with Program("fixtureapps.misbehaving:application", "--bind", f"unix:{path}") as program:
        started(program, path)
        for _ in range(2):
            with pytest.raises(RequestFailed, match="without END_REQUEST"):
                ask(path, "/dies")
        assert ask(path).status == 200
        assert program.log.count("ended with status 3") == 2


def test_a_worker_that_passes_its_time_limit_is_replaced(path):
    arguments = ("--bind", f"unix:{path}", "--request-timeout", "1")
    with Program("fixtureapps.plain:sleep", *arguments) as program:
        wait_until(lambda: listens(path))
        with pytest.raises(RequestFailed):
            ask(path, "/?60")
        assert ask(path, "/?0").body == b"slept"
        assert "passed its time limit" in program.log


def test_a_worker_is_replaced_after_max_requests(path):
    with Program("fixtureapps.plain:pid", "--bind", f"unix:{path}", "--max-requests", "2") as p:
        started(p, path)
        assert len({ask(path).body for _ in range(5)}) >= 2
        assert "ended with" not in p.log


def test_sighup_brings_new_code_and_finishes_the_old_requests(tmp_path, path):
    code = tmp_path / "changing.py"
    text = (TESTS / "fixtureapps" / "plain.py").read_text()
    code.write_text(text.replace("slept", "old"))
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    with Program("changing:sleep", "--bind", f"unix:{path}", environment=environment) as program:
        wait_until(lambda: listens(path))
        with Conversation(path) as peer:
            peer.send(whole_request("/?0.5"))
            program.wait_for_log("sleeping")
            code.write_text(text.replace("slept", "newer"))
            program.send_signal(signal.SIGHUP)
            wait_until(lambda: ask(path, "/?0").body == b"newer")
            assert output_of(peer.until_end()).endswith(b"old")
        program.send_signal(signal.SIGUSR1)
        # A worker that is ending still answers what it finds in the listen queue.
        wait_until(lambda: ask(path, "/?0").body == b"newer")
        assert program.end() == 0
        assert "ended with" not in program.log


def test_workers_end_when_their_parent_is_killed(path):
    with Program("fixtureapps.plain:pid", "--bind", f"unix:{path}") as program:
        started(program, path)
        worker = int(ask(path).body)
        program.end(signal.SIGKILL)
        wait_until(lambda: has_ended(worker))


def has_ended(process):
    """Whether there is no such process, or nobody has asked yet how it ended."""
    try:
        return "Z" in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_several_workers_can_share_descriptor_0(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        program = Program("fixtureapps.plain:pid", "--workers", "2", stdin=listener)
    with program:
        assert len(pids(path, 2)) == 2
        assert program.end() == 0


# Addresses


def test_a_stale_socket_is_replaced(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(path)
    with Program("fixtureapps.plain:hello", "--bind", f"unix:{path}") as program:
        started(program, path)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("nonsense", "write unix:/path/to/socket or tcp:127.0.0.1:9000"),
        ("tcp:localhost", "is no address"),
        ("tcp:127.0.0.1:99999", "is no address"),
        ("unix:/nonexistent/socket", "No such file or directory"),
        ("tcp:192.0.2.1:9000", "cannot listen on 192.0.2.1:9000"),
        (f"unix:{__file__}", "a file of that name exists"),
    ],
)
def test_an_address_that_cannot_be_had_is_an_error_that_says_why(address, says):
    with Program("fixtureapps.plain:hello", "--bind", address) as program:
        assert program.wait() == 1
        assert says in program.log


def test_an_address_that_is_in_use_is_an_error_that_says_so(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(path)
        other.listen()
        with Program("fixtureapps.plain:hello", "--bind", f"unix:{path}") as program:
            assert program.wait() == 1
            assert "another process listens there" in program.log


# Socket activation

ACTIVATE = """
import os, socket, sys
passed = [socket.socket(fileno=int(n)) for n in sys.argv[1].split(",") if n]
for number, sock in enumerate(passed, 3):
    os.dup2(sock.fileno(), number + 10)
for number in range(len(passed)):
    os.dup2(number + 13, number + 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(passed)))
os.execv(sys.executable, [sys.executable, "-m", "fcgiserve", *sys.argv[2:]])
"""


def activate(application, *sockets):
    numbers = ",".join(str(sock.fileno()) for sock in sockets)
    return subprocess.Popen(
        [sys.executable, "-c", ACTIVATE, numbers, application],
        pass_fds=[sock.fileno() for sock in sockets],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=TESTS,
    )


def test_the_socket_that_systemd_passes_is_served(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        process = activate("fixtureapps.plain:environment", listener)
    try:
        body = ask(path).body.decode()
        assert f"fcgiserve.socket={path}\n" in body
    finally:
        process.terminate()
        process.stderr.close()
        assert process.wait(20) == 0
    assert os.path.exists(path), "the socket is systemd's"


def test_several_sockets_from_systemd_are_an_error_that_says_so(path):
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        process = activate("fixtureapps.plain:hello", one, two)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"systemd passed 2 sockets" in errors


def test_a_connection_from_systemd_is_an_error_that_says_so():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = activate("fixtureapps.plain:hello", theirs)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"use ListenStream= and Accept=no" in errors
