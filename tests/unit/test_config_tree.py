"""The configuration goes live whole, or not at all."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modules import run_module

VALID = "grep -q valid %s/main.conf"


@pytest.fixture
def live(tmp_path: Path) -> Path:
    return tmp_path / "etc"


def put(
    live: Path,
    validate: str = VALID,
    check: bool = False,
    service: dict[str, Any] | None = None,
    **files: str,
) -> dict[str, Any]:
    named = {f"{name}.conf": content for name, content in files.items()}
    return run_module(
        "config_tree",
        path=str(live),
        files=named,
        validate=validate,
        **(service or {}),
        _ansible_check_mode=check,
        _ansible_diff=True,
    )


def content(live: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in live.iterdir()}


def test_a_tree_that_is_not_there_goes_live(live: Path) -> None:
    result = put(live, main="valid 1", more="more")
    assert result["changed"]
    assert content(live) == {"main.conf": "valid 1", "more.conf": "more"}
    assert live.resolve().name == result["version"]


def test_the_same_tree_again_changes_nothing(live: Path) -> None:
    version = put(live, main="valid 1")["version"]
    again = put(live, main="valid 1")
    assert (again["changed"], again["version"]) == (False, version)


def test_a_tree_that_is_not_valid_leaves_the_live_one(live: Path) -> None:
    put(live, main="valid 1")
    before = live.resolve()
    result = put(live, main="broken")
    assert result["failed"]
    assert "is not valid" in result["msg"] and f"{live}.versions/rejected" in result["msg"]
    assert live.resolve() == before and content(live) == {"main.conf": "valid 1"}


def test_nothing_of_a_rejected_tree_comes_into_the_next(live: Path) -> None:
    put(live, main="broken", more="more")
    put(live, main="valid 1")
    assert content(live) == {"main.conf": "valid 1"}


def test_what_the_validator_says_is_in_the_message(live: Path) -> None:
    result = put(live, validate="sh -c 'echo line 3 is wrong >&2; false'", main="valid")
    assert "line 3 is wrong" in result["msg"]
    assert not live.exists()


def test_the_validator_sees_the_whole_new_tree(live: Path) -> None:
    validate = "sh -c 'test $(cat %s/main.conf %s/more.conf) = valid2 && test ! -e %s/old.conf'"
    put(live, main="valid", old="old")
    assert put(live, validate=validate, main="valid", more="2")["changed"]


def test_a_file_that_is_no_longer_given_goes(live: Path) -> None:
    put(live, main="valid", old="old")
    put(live, main="valid")
    assert content(live) == {"main.conf": "valid"}


def test_a_change_by_hand_is_undone_and_a_broken_live_tree_is_repaired(live: Path) -> None:
    put(live, main="valid 1")
    (live / "main.conf").write_text("broken by hand")
    assert put(live, main="valid 1")["changed"]
    assert content(live) == {"main.conf": "valid 1"}


def test_a_changed_mode_is_undone(live: Path) -> None:
    put(live, main="valid 1")
    (live / "main.conf").chmod(0o666)
    assert put(live, main="valid 1")["changed"]
    assert (live / "main.conf").stat().st_mode & 0o777 == 0o644


def test_check_mode_changes_nothing_and_shows_the_difference(live: Path) -> None:
    put(live, main="valid 1")
    before = live.resolve()
    result = put(live, check=True, main="valid 2")
    assert result["changed"] and live.resolve() == before
    (difference,) = result["diff"]
    assert (difference["before"], difference["after"]) == ("valid 1", "valid 2")


def test_check_mode_works_before_there_is_anything(live: Path) -> None:
    assert put(live, check=True, main="valid 1")["changed"]
    assert list(live.parent.iterdir()) == []


def test_five_versions_are_kept_and_the_live_one_is_the_newest(live: Path) -> None:
    for number in range(8):
        put(live, main=f"valid {number}")
    versions = sorted((live.parent / "etc.versions").iterdir())
    assert [(path / "main.conf").read_text() for path in versions] == [
        f"valid {number}" for number in range(3, 8)
    ]
    assert live.resolve() == versions[-1]


def test_a_directory_put_into_the_live_tree_does_not_stand_in_the_way(live: Path) -> None:
    put(live, main="valid 1")
    (live / "ssl").mkdir()
    assert put(live, check=True, main="valid 1")["changed"]
    assert put(live, main="valid 1")["changed"]
    assert content(live) == {"main.conf": "valid 1"}


def test_a_link_of_someone_else_is_left_alone(live: Path) -> None:
    (live.parent / "elsewhere").mkdir()
    live.symlink_to("elsewhere")
    assert "something else put it there" in put(live, main="valid")["msg"]
    assert live.resolve().name == "elsewhere"


def test_a_directory_of_someone_else_is_left_alone(live: Path) -> None:
    live.mkdir()
    (live / "precious.conf").write_text("precious")
    result = put(live, main="valid")
    assert result["failed"] and f"mv {live} {live}.orig" in result["msg"]
    assert content(live) == {"precious.conf": "precious"}


# --- the service ------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """A service that answers with the statuses in `main.conf`, one a request; 0 is silence.

    It reads a copy, which the command that applies the tree makes. That command notes what it was
    run with, and refuses what has the word "refuse" in it.
    """

    daemon_threads = True

    def __init__(self, live: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self.server_bind()  # the port is this one's, but nobody listens yet
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.requests: list[tuple[str, str]] = []
        self.running = live.parent / "running"
        self.running.write_text("200")
        self.journal = live.parent / "journal"
        self.journal.touch()
        main = live / "main.conf"
        self.service: dict[str, Any] = {
            "apply": f"sh -c 'cp {main} {self.running}; cat {main} >> {self.journal}; "
            f"! grep refuse {main} >&2'",
            "probe": [self.probe()],
            "probe_timeout": 1,
        }

    def probe(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.server_port}/path?query"
        return {"url": url, "host": "www.example.org"}

    def listen(self) -> None:
        self.server_activate()
        self.thread.start()

    def listen_once_applied(self) -> None:
        while not self.journal.read_text():
            time.sleep(0.01)
        self.listen()

    def close(self) -> None:
        if self.thread.is_alive():
            self.shutdown()
            self.thread.join()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers["Host"]))
        status, *rest = re.findall(r"\d+", self.server.running.read_text())
        self.server.running.write_text(" ".join(rest or [status]))
        if status == "0":
            time.sleep(2)  # longer than a probe waits
            return
        self.send_response(int(status))
        self.send_header("Location", "http://127.0.0.1:9/")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def down(live: Path) -> Iterator[Server]:
    with contextlib.closing(Server(live)) as server:
        yield server


@pytest.fixture
def server(down: Server) -> Server:
    down.listen()
    return down


def test_the_service_loads_the_tree_that_went_live(live: Path, server: Server) -> None:
    assert put(live, service=server.service, main="valid 204")["changed"]
    assert server.journal.read_text() == "valid 204"
    assert set(server.requests) == {("/path?query", "www.example.org")}


def test_the_same_tree_again_is_not_applied(live: Path, server: Server) -> None:
    put(live, main="valid")
    assert not put(live, service=server.service, main="valid")["changed"]
    assert (server.journal.read_text(), server.requests) == ("", [])


def test_the_same_tree_is_applied_again_on_request(live: Path, server: Server) -> None:
    version = put(live, main="valid 200")["version"]
    result = put(live, service=server.service | {"force_apply": True}, main="valid 200")
    assert (result["changed"], result["version"]) == (True, version)
    assert server.journal.read_text() == "valid 200"


@pytest.mark.parametrize("text", ["valid 1", "valid 2"])
def test_check_mode_neither_applies_nor_probes(live: Path, server: Server, text: str) -> None:
    put(live, main="valid 1")
    service = server.service | {"force_apply": True}
    assert put(live, check=True, service=service, main=text)["changed"]
    assert (server.journal.read_text(), server.requests) == ("", [])


def test_a_tree_that_is_not_valid_is_not_applied(live: Path, server: Server) -> None:
    assert put(live, service=server.service, main="broken")["failed"]
    assert server.journal.read_text() == ""


def falls_back(live: Path, server: Server, new: str) -> str:
    """The message of the failure when the tree `new` is replaced by the former one."""
    put(live, service=server.service, main="valid 200;")
    before = live.resolve()
    result = put(live, service=server.service, main=new)
    assert result["failed"]
    assert live.resolve() == before and content(live) == {"main.conf": "valid 200;"}
    assert server.journal.read_text() == f"valid 200;{new}valid 200;"
    rejected = live.parent / "etc.versions" / "rejected"
    assert (rejected / "main.conf").read_text() == new
    assert sorted(rejected.parent.iterdir()) == [before, rejected]
    message: str = result["msg"]
    assert f"{before}, is live again and answers as before" in message
    assert str(rejected) in message
    return message


def test_a_tree_that_the_service_does_not_load_is_replaced_by_the_former_one(
    live: Path, server: Server
) -> None:
    message = falls_back(live, server, "valid 200: refuse this")
    assert "ended with 1: valid 200: refuse this" in message


def test_a_tree_with_which_the_service_fails_is_replaced_by_the_former_one(
    live: Path, server: Server
) -> None:
    message = falls_back(live, server, "valid 503")
    url = server.probe()["url"]
    assert f"{url} (Host: www.example.org): status 200 before, status 503 after" in message


def test_a_tree_with_which_the_service_is_silent_is_replaced_by_the_former_one(
    live: Path, server: Server
) -> None:
    assert "status 200 before, no answer after" in falls_back(live, server, "valid 0")


def test_a_former_tree_that_does_not_work_either_is_reported(live: Path, server: Server) -> None:
    put(live, main="valid 1")
    before = live.resolve()
    result = put(live, service={"apply": "/no/such/program --reload"}, main="valid 2")
    assert f"{before}, is live again, but: /no/such/program" in result["msg"]
    assert live.resolve() == before


def test_without_a_previous_tree_there_is_none_again(live: Path, server: Server) -> None:
    result = put(live, service=server.service, main="valid 503")
    assert f"There was none before, so {live} was removed again" in result["msg"]
    assert not live.is_symlink()
    assert (live.parent / "etc.versions" / "rejected" / "main.conf").read_text() == "valid 503"


def test_a_tree_that_did_not_change_stays(live: Path, server: Server) -> None:
    put(live, main="valid 503")
    before = live.resolve()
    result = put(live, service=server.service | {"force_apply": True}, main="valid 503")
    assert "nothing to go back to" in result["msg"] and "status 503 after" in result["msg"]
    assert live.resolve() == before and content(live) == {"main.conf": "valid 503"}


def killed_before_the_check(live: Path, server: Server, text: str) -> Path:
    """The version before, as if the module had been killed when `text` had just gone live."""
    put(live, service=server.service, main="valid 200;")
    before = live.resolve()
    put(live, main=text)
    (before.parent / "unchecked").symlink_to(before.name)
    return before


def test_what_was_not_checked_is_checked_by_the_next_run(live: Path, server: Server) -> None:
    before = killed_before_the_check(live, server, "valid 204")
    assert put(live, service=server.service, main="valid 204")["changed"]
    assert content(live) == {"main.conf": "valid 204"}
    assert not (before.parent / "unchecked").is_symlink()
    assert not put(live, service=server.service, main="valid 204")["changed"]


@pytest.mark.parametrize("text", ["valid 503", "valid 500"])  # the same again, another one
def test_what_was_not_checked_and_fails_is_replaced_by_the_former_tree(
    live: Path, server: Server, text: str
) -> None:
    before = killed_before_the_check(live, server, "valid 503")
    result = put(live, service=server.service, main=text)
    assert f"{before}, is live again" in result["msg"]
    assert live.resolve() == before
    assert not (before.parent / "unchecked").is_symlink()


def test_what_else_was_done_is_undone_too(live: Path, server: Server) -> None:
    put(live, service=server.service, main="valid 200;")
    service = server.service | {"undo": f"sh -c 'echo -n undone >> {server.journal}'"}
    assert put(live, service=service, main="valid 503")["failed"]
    assert server.journal.read_text() == "valid 200;valid 503valid 200;undone"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("200", "503 0 200"),  # it needs a moment
        ("200", "301"),  # leads to where nobody listens
        ("200", "404"),
        ("503", "500"),
        ("0", "0"),
    ],
)
def test_a_service_that_answers_as_well_as_before_keeps_the_tree(
    live: Path, server: Server, before: str, after: str
) -> None:
    server.running.write_text(before)
    service = server.service | {"probe_timeout": 4 if " " in after else 1}
    assert put(live, service=service, main=f"valid {after}").get("changed")


def test_an_error_may_not_become_silence(live: Path, server: Server) -> None:
    server.running.write_text("500")
    result = put(live, service=server.service, main="valid 0")
    assert "status 500 before, no answer after" in result["msg"]


def test_where_nobody_listened_an_answer_must_come(live: Path, down: Server) -> None:
    result = put(live, service=down.service, main="valid 500")
    assert "connection refused before, connection refused after" in result["msg"]

    down.journal.write_text("")
    threading.Thread(target=down.listen_once_applied).start()
    assert put(live, service=down.service, main="valid 500").get("changed")


def test_a_service_that_moves_to_another_port_must_answer_there(live: Path, server: Server) -> None:
    put(live, main="valid 200")
    with contextlib.closing(Server(live)) as moved:
        service = server.service | {"probe": [server.probe(), moved.probe()]}
        result = put(live, service=service, main="valid 200 200")
    assert "connection refused before, connection refused after" in result["msg"]
    assert "is live again and answers as before" in result["msg"]


def test_only_this_host_is_probed(live: Path, server: Server) -> None:
    probe = {"url": "http://192.0.2.1/"}
    assert "http://192.0.2.1/" in put(live, service={"probe": [probe]}, main="valid")["msg"]
    assert not live.exists()
