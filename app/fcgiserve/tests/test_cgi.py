"""One CGI request when descriptor 0 is no listening socket (FastCGI 1.0, section 2.2)."""

import os
import socket
import subprocess

from support import Program

from fcgiserve import listen

HELLO = b"Content-type: text/html\r\n\r\nHello world!"


def run(application, *, stdin=subprocess.DEVNULL, **environment):
    """Return what the program wrote, its log and its exit status."""
    with Program(application, stdin=stdin, environment=environment) as program:
        output = program.process.stdout.read()
        return output, program.log, program.wait()


def pipe_of(data):
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return open(reader, "rb")


def test_at_a_prompt_the_answer_is_printed():
    assert run("fixtureapps.plain:hello") == (HELLO, "", 0)


def test_a_pipe_on_descriptor_0_is_cgi():
    with pipe_of(b"hello") as stdin:
        output, _, status = run("fixtureapps.plain:echo", stdin=stdin, CONTENT_LENGTH="5")
    assert output.endswith(b"\r\n\r\nhello")
    assert status == 0


def test_a_connected_socket_on_descriptor_0_is_cgi():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert run("fixtureapps.plain:hello", stdin=theirs)[0] == HELLO


def test_a_socket_that_does_not_listen_is_cgi():
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as idle:
        assert run("fixtureapps.plain:hello", stdin=idle)[0] == HELLO


def test_a_datagram_socket_is_cgi():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        assert listen.inherited(datagrams.fileno()) is None
        assert datagrams.fileno() >= 0


def test_a_closed_descriptor_is_cgi():
    assert listen.inherited(987) is None


def test_the_body_without_content_length_is_read_to_its_end():
    with pipe_of(b"x" * 100) as stdin:
        output, _, _ = run("fixtureapps.plain:digest", stdin=stdin)
    assert b"\r\n\r\n100 " in output


def test_a_body_that_ends_early_is_a_400():
    with pipe_of(b"x") as stdin:
        output, log, _ = run("fixtureapps.plain:digest", stdin=stdin, CONTENT_LENGTH="2")
    assert output.startswith(b"Status: 400")
    assert "after 1 of 2 bytes" in log


def test_a_content_length_that_is_no_number_is_a_400():
    assert run("fixtureapps.plain:digest", CONTENT_LENGTH="x")[0].startswith(b"Status: 400")


def test_what_the_application_prints_is_not_in_the_answer():
    output, log, _ = run("fixtureapps.misbehaving:application", PATH_INFO="/prints")
    assert output.endswith(b"\r\n\r\nprinted")
    assert "on standard output\non descriptor 1\n" in log


def test_an_error_is_a_500_with_a_traceback_and_exit_status_1():
    output, log, status = run("fixtureapps.misbehaving:application", PATH_INFO="/raises_before")
    assert output.startswith(b"Status: 500")
    assert "ValueError: before start_response" in log
    assert status == 1


def test_a_failing_import_is_a_500_that_says_why():
    output, log, status = run("fixtureapps.failing:application")
    assert output.startswith(b"Status: 500")
    assert "LookupError: no such configuration" in log
    assert status == 1


def test_a_reader_that_leaves_ends_the_answer():
    with Program("fixtureapps.misbehaving:application", environment={"PATH_INFO": "/endless"}) as p:
        p.process.stdout.read(10)
        p.process.stdout.close()
        assert p.wait() == 0
        assert "endless was closed" in p.log


def test_the_environment_is_that_of_cgi():
    output, _, _ = run("fixtureapps.plain:environment", X="gr\u00fc\u00df")
    for line in ("wsgi.run_once=True", "wsgi.multiprocess=True", "X=gr\u00fc\u00df"):
        assert f"{line}\n" in output.decode()
