"""What make status knows of a host, from real processes, sockets and a status page over HTTP."""

from __future__ import annotations

import contextlib
import http.server
import os
import pwd
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from modules import run_module

# As the pristine module writes it: a table for each process class.
PAGE = """<html><body><h1>Apache Server Status</h1>
<table><tr><td>4711</td><td>1</td><td>2</td><td>9</td></tr></table>
<h1>mod_fcgid status:</h1>
<b>Process: app.fcgi</b>
<table border="0"><tr><th>Pid</th><th>Active</th><th>Idle</th><th>Accesses</th><th>State</th></tr>
<tr><td>{pid}</td><td>1483</td><td>1479</td><td>17</td><td>Ready</td></tr></table>
</body></html>"""

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def info(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs the module on a host whose directories are in tmp_path."""
    (tmp_path / "ipc").mkdir()

    def run(**given: Any) -> dict[str, Any]:
        paths = {
            "apps_dir": str(tmp_path / "apps"),
            "htdocs": str(tmp_path / "htdocs"),
            "ipc_dir": str(tmp_path / "ipc"),
            "pid_file": str(tmp_path / "httpd.pid"),
        }
        return run_module("worker_info", **{**paths, **given})

    return run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a worker of the application shop, on a socket at the given path."""
    program = tmp_path / "apps" / "shop" / "releases" / "41fb1852807b" / "shop"
    program.parent.mkdir(parents=True)
    shutil.copy("/bin/sleep", program)
    with contextlib.ExitStack() as stack:

        def run(
            path: Path,
            listening: bool = True,
            kind: int = socket.SOCK_STREAM,
            program: Path = program,
            arguments: list[str] | None = None,
        ) -> subprocess.Popen[bytes]:
            with socket.socket(socket.AF_UNIX, kind) as endpoint:
                endpoint.bind(str(path))
                if listening:
                    endpoint.listen()
                process = subprocess.Popen(
                    arguments or [str(program), "60"], executable=program, stdin=endpoint.fileno()
                )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield run


@contextlib.contextmanager
def status_page(text: str, status: int = 200) -> Iterator[int]:
    """The port of a server whose every answer is this page."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_bare_host_has_nothing_and_httpd_is_not_running(info: Any) -> None:
    found = info()
    assert (found["applications"], found["workers"]) == ([], [])
    assert found["problem"] == "httpd is not running"
    assert not found["changed"]


def test_a_worker_is_found_by_its_listening_socket(info: Any, start: Start, tmp_path: Path) -> None:
    process = start(tmp_path / "ipc" / "4711.0")
    assert info()["workers"] == [
        {
            "pid": process.pid,
            "parent": os.getpid(),
            "user": pwd.getpwuid(os.getuid()).pw_name,
            "application": "shop",
            "release": "41fb1852807b",
            "socket": str(tmp_path / "ipc" / "4711.0"),
            "requests": -1,
        }
    ]


def test_other_sockets_make_no_worker(info: Any, start: Start, tmp_path: Path) -> None:
    start(tmp_path / "elsewhere")
    (tmp_path / "ipc" / "below").mkdir()
    start(tmp_path / "ipc" / "below" / "socket")
    start(tmp_path / "ipc" / "connected", listening=False)
    start(tmp_path / "ipc" / "datagrams", listening=False, kind=socket.SOCK_DGRAM)
    start(tmp_path / "ipc" / "packets", kind=socket.SOCK_SEQPACKET)
    assert info()["workers"] == []


def test_the_release_of_an_interpreted_worker_is_in_its_command_line(
    info: Any, start: Start, tmp_path: Path
) -> None:
    python = f"{tmp_path}/apps/blog/releases/33717fdc82e1/venv/bin/python"
    start(tmp_path / "ipc" / "1", program=Path("/bin/sleep"), arguments=[python, "60"])
    (worker,) = info()["workers"]
    assert (worker["application"], worker["release"]) == ("blog", "33717fdc82e1")


def test_what_a_worker_says_of_itself_is_shown_only_if_it_is_harmless(
    info: Any, start: Start, tmp_path: Path
) -> None:
    forged = f"{tmp_path}/apps/\x1b[31mblog/releases/1/python"
    start(tmp_path / "ipc" / "a\x1b[2Jb\nc", program=Path("/bin/sleep"), arguments=[forged, "60"])
    start(tmp_path / "ipc" / "a\x1b[2Jb", program=Path("/bin/sleep"), arguments=[forged, "60"])
    for worker in info()["workers"]:
        assert (worker["application"], worker["release"]) == ("", "")
        assert worker["socket"] == f"{tmp_path}/ipc/a?[2Jb"


def test_the_live_release_is_the_one_that_the_link_names(info: Any, tmp_path: Path) -> None:
    vhost = tmp_path / "htdocs" / "www.example.org"
    vhost.mkdir(parents=True)
    (vhost / "public").mkdir()
    (vhost / "app.fcgi").symlink_to(tmp_path / "apps/shop/releases/41fb1852807b/app.fcgi")
    (vhost / "elsewhere.fcgi").symlink_to("/opt/shop/app.fcgi")
    (vhost / "above.fcgi").symlink_to(tmp_path / "apps/shop/releases/../../etc/passwd")
    assert info()["applications"] == [
        {
            "vhost": "www.example.org",
            "script": "app.fcgi",
            "name": "shop",
            "release": "41fb1852807b",
        }
    ]


def test_requests_are_counted_by_mod_fcgid_alone(info: Any, start: Start, tmp_path: Path) -> None:
    process = start(tmp_path / "ipc" / "1")
    (tmp_path / "httpd.pid").write_text(f"{os.getpid()}\n")
    with status_page(PAGE.format(pid=process.pid)) as port:
        found = info(status_port=port)
    assert found["problem"] == ""
    assert [worker["requests"] for worker in found["workers"]] == [17]


def test_an_httpd_that_does_not_answer_is_a_problem(info: Any, tmp_path: Path) -> None:
    (tmp_path / "httpd.pid").write_text(f"{os.getpid()}\n")
    with status_page("Not here", status=404) as port:
        problem = info(status_port=port)["problem"]
        where = f"http://127.0.0.1:{port}/server-status"
        assert problem == f"httpd does not answer at {where}: status 404"
    assert (
        info(status_port=port)["problem"] == f"httpd does not answer at {where}: Connection refused"
    )


def test_a_page_without_an_httpd_is_not_believed(info: Any, start: Start, tmp_path: Path) -> None:
    process = start(tmp_path / "ipc" / "1")
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / "httpd.pid").write_text(f"{ended.pid}\n")
    with status_page(PAGE.format(pid=process.pid)) as port:
        found = info(status_port=port)
    assert found["problem"] == "httpd is not running"
    assert [worker["requests"] for worker in found["workers"]] == [-1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees other users' sockets")
def test_workers_of_another_user_are_found(info: Any, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(str(tmp_path / "ipc" / "1"))
        endpoint.listen()
        process = subprocess.Popen(
            ["/bin/sleep", "60"],
            stdin=endpoint.fileno(),
            user="nobody",
            group="nogroup",
            extra_groups=[],
        )
    with process:
        (worker,) = info()["workers"]
        process.kill()
    assert (worker["pid"], worker["user"]) == (process.pid, "nobody")


def test_a_page_that_trickles_is_given_up(info: Any, tmp_path: Path) -> None:
    (tmp_path / "httpd.pid").write_text(f"{os.getpid()}\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = info(status_port=server.getsockname()[1])
    assert found["problem"].endswith("no answer in 10 seconds")
