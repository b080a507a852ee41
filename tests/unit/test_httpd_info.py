"""What the roles learn of a host, from real processes, files and sockets."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from modules import run_module


@pytest.fixture
def info(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs the module on a host that is as empty as can be, but for what a test gives."""

    def run(**given: Any) -> dict[str, Any]:
        names = ("binary", "module", "record", "pid_file", "config", "ipc_dir")
        paths = {name: str(tmp_path / name) for name in names}
        return run_module("httpd_info", **{**paths, "unit": "no-such.service", **given})

    return run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs a program of its own, with its PidFile, as httpd would."""
    shutil.copy("/bin/sleep", tmp_path / "binary")
    with subprocess.Popen([tmp_path / "binary", "60"]) as process:
        (tmp_path / "pid_file").write_text(f"{process.pid}\n")
        while os.readlink(f"/proc/{process.pid}/exe") != str(tmp_path / "binary"):
            time.sleep(0.01)
        yield process
        process.kill()


def test_a_bare_host_has_nothing(info: Any) -> None:
    found = info()
    found.pop("invocation", None)  # ansible-core 2.21 and later give it when asked for alone
    assert found == {
        "changed": False,
        "version": "",
        "magic": "",
        "pid": 0,
        "stale_binary": False,
        "stale_config": False,
        "module_sha256": "",
        "record": {},
        "ipc_dir_owner": "",
        "packages_missing": [],
        "unit_waits": False,
    } | {name: found[name] for name in ("listeners", "cores", "memory")}


def test_a_running_httpd_is_found_by_its_pid_file(info: Any, server: Any) -> None:
    assert info()["pid"] == server.pid


def test_a_pid_file_of_a_process_that_is_gone_counts_for_nothing(info: Any, tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    (tmp_path / "pid_file").write_text(str(process.pid))
    assert info()["pid"] == 0


def test_a_pid_that_another_program_has_by_now_counts_for_nothing(
    info: Any, tmp_path: Path
) -> None:
    (tmp_path / "pid_file").write_text(str(os.getpid()))
    assert info()["pid"] == 0


def test_a_replaced_program_is_stale(info: Any, server: Any, tmp_path: Path) -> None:
    assert not info()["stale_binary"]
    shutil.copy("/bin/sleep", tmp_path / "httpd.new")
    (tmp_path / "httpd.new").replace(tmp_path / "binary")
    assert info()["stale_binary"]


def test_a_tree_replaced_after_the_last_reload_is_stale(
    info: Any, server: Any, tmp_path: Path
) -> None:
    (tmp_path / "config").symlink_to(tmp_path)
    os.utime(tmp_path / "pid_file", (time.time() + 9, time.time() + 9))
    assert not info()["stale_config"]
    os.utime(tmp_path / "pid_file", (1, 1))
    assert info()["stale_config"]


def test_the_holder_of_a_port_is_named(info: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = info()["listeners"]
    program = Path("/proc/self/comm").read_text().strip()
    assert {"port": port, "pid": os.getpid(), "program": program} in found


def test_a_port_that_httpd_itself_holds_is_not_taken(info: Any, tmp_path: Path) -> None:
    (tmp_path / "pid_file").write_text(str(os.getpid()))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = info(binary=str(Path("/proc/self/exe").resolve()))
        assert found["pid"] == os.getpid()
        assert listener.getsockname()[1] not in [entry["port"] for entry in found["listeners"]]


def test_a_port_on_ipv6_counts_too(info: Any) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"this host has no IPv6: {error}")
    with listener:
        port = listener.getsockname()[1]
        assert port in [found["port"] for found in info()["listeners"]]


def test_the_module_and_its_record_are_read(info: Any, tmp_path: Path) -> None:
    (tmp_path / "module").write_bytes(b"")
    (tmp_path / "record").write_text(json.dumps({"inputs": {"version": "2.3.9"}}))
    found = info()
    assert found["module_sha256"].startswith("e3b0c44298fc1c149afbf4c8996fb924")
    assert found["record"] == {"inputs": {"version": "2.3.9"}}


@pytest.mark.parametrize("record", ["", "{", "[]", "null"])
def test_a_broken_record_is_no_record(info: Any, tmp_path: Path, record: str) -> None:
    (tmp_path / "record").write_text(record)
    assert info()["record"] == {}


def test_the_owner_of_the_socket_directory_is_named(info: Any, tmp_path: Path) -> None:
    (tmp_path / "ipc_dir").mkdir()
    assert info()["ipc_dir_owner"] == (tmp_path / "ipc_dir").owner()


def test_a_package_that_is_not_installed_is_missing(info: Any) -> None:
    assert info(packages=["dpkg", "no-such-package"])["packages_missing"] == ["no-such-package"]
