"""A release goes live only if it works; if it does not, what was live stays, or is live again."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from modules import CHECKOUT, run_module

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="the module gives a process a user and groups, which only root can"
)

# The program of a release: serves `application` of app.py, which is beside it, on descriptor 0.
LAUNCHER = f"""#!{sys.executable} -IS
import sys
sys.path[:0] = [{str(CHECKOUT / "app" / "fcgiserve" / "src")!r}, {{release!r}}]
from fcgiserve.cli import main
sys.exit(main(["app:application"]))
"""

WORKS = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"works"]
"""
RAISES = "import missing_module"
ANSWERS_500 = "def application(environ, start_response): raise ValueError('in the answer')"
HANGS = "import time; time.sleep(60)  # waits for what never comes"
EXITS = "import os; os.write(2, b'no database'); os._exit(3)"
WRITES_MUCH = r"import os; os.write(2, b'line\n' * 50 + b'middle' + b'\nline' * 50); os._exit(3)"


class Deployment:
    """One application on this host: where its releases are, and what is said to the module."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "shop"
        self.releases = self.directory / "releases"
        self.secrets = self.directory / "secrets"
        self.link = directory / "htdocs" / "app.fcgi"
        self.link.parent.mkdir()
        self.options: dict[str, Any] = {"timeout": 10}

    def program(self, release: str) -> Path:
        return self.releases / release / "app.fcgi"

    def add(self, release: str, application: str = WORKS) -> None:
        program = self.program(release)
        program.parent.mkdir(parents=True)
        (program.parent / "app.py").write_text(application)
        self.replace_program(release, LAUNCHER.format(release=str(program.parent)))

    def replace_program(self, release: str, content: str) -> None:
        program = self.program(release)
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(content)
        program.chmod(0o755)

    def put(self, release: Optional[str] = None, **options: Any) -> dict[str, Any]:
        return run_module(
            "fcgi_release",
            **{
                "directory": str(self.directory),
                "script": "app.fcgi",
                "live": str(self.link),
                "user": "root",
                **({"release": release} if release else {}),
                **self.options,
                **options,
            },
        )

    def release(self, name: str, application: str = WORKS, **options: Any) -> dict[str, Any]:
        self.add(name, application)
        return self.put(name, **options)

    @property
    def live(self) -> str:
        return self.link.resolve().parent.name if self.link.is_symlink() else ""

    @property
    def inode(self) -> int:
        """What mod_fcgid knows the application by."""
        return self.link.stat().st_ino

    def built(self) -> set[str]:
        return {path.name for path in self.releases.iterdir()}

    def written_secrets(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.secrets.iterdir()}


@pytest.fixture
def shop(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


class Site:
    """A web server that logs, and answers what it is told; it keeps what it was asked."""

    def __init__(self, directory: Path) -> None:
        log = directory / "error_log"
        self.status = 200
        self.asked: list[tuple[str, str]] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append((self.headers["Host"], self.path))
                with log.open("a") as file:
                    file.write(f"status {site.status} it is\n")
                self.send_response(site.status)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        log.write_text("from before\n")
        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.config = directory / "httpd.conf"
        self.mount("/")
        self.options: dict[str, Any] = {"config": str(self.config), "error_log": str(log)}

    def mount(self, url: str, port: Optional[int] = None, more: str = "") -> None:
        """Configure that the application is at this URL."""
        program = self.config.parent / "htdocs" / "app.fcgi"
        slash = "/" if url.endswith("/") else ""
        self.config.write_text(
            f"<VirtualHost *:{port or self.server.server_port}>\n"
            f'Alias {url} "{program}{slash}"\n{more}\n</VirtualHost>\n'
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    with site.server as server:
        threading.Thread(target=server.serve_forever, args=[0.01]).start()
        yield site
        server.shutdown()


@contextlib.contextmanager
def running(*command: Any, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def outcome(result: dict[str, Any]) -> tuple[bool, str, str]:
    assert "msg" not in result, result["msg"]
    return result["changed"], result["release"], result["replaced"]


def test_the_first_release_goes_live_and_then_nothing_changes(shop: Deployment) -> None:
    assert outcome(shop.release("a")) == (True, "a", "")
    assert shop.link.readlink() == shop.program("a")
    inode = shop.inode
    assert outcome(shop.put("a")) == (False, "a", "a")
    assert shop.inode == inode


def test_another_release_replaces_it(shop: Deployment) -> None:
    shop.release("a")
    assert outcome(shop.release("b")) == (True, "b", "a")
    assert shop.live == "b"


@pytest.mark.parametrize(
    ("application", "says"),
    [
        (
            RAISES,
            [
                "answered http://localhost/ with status 500",
                "Traceback",
                "No module named 'missing_module'",
            ],
        ),
        (
            ANSWERS_500,
            [
                "answered http://localhost/ with status 500",
                "Traceback",
                "ValueError: in the answer",
            ],
        ),
        (HANGS, ["no complete answer", "in 1 s", 'a/app.py", line 1 in <module>']),
        (EXITS, ["ended with status 3", "no database"]),
        (WRITES_MUCH, ["line\n[61 lines are left out here]\nline"]),
    ],
)
def test_a_release_that_does_not_work_is_refused(
    shop: Deployment, application: str, says: list[str]
) -> None:
    result = shop.release("bad-a", application, timeout=1)
    assert result["failed"] and not shop.live
    message = "Release bad-a of shop was tried and does not work, so none is live: "
    assert result["msg"].startswith(message)
    assert [text for text in says if text not in result["msg"]] == []


def test_a_release_that_is_refused_leaves_the_live_one_alone(shop: Deployment) -> None:
    shop.release("a")
    inode = shop.inode
    result = shop.release("b", RAISES)
    assert "Release b of shop was tried and does not work, so a stays live" in result["msg"]
    assert (shop.live, shop.inode) == ("a", inode)
    assert not shop.put("a")["changed"]


@pytest.mark.parametrize("program", ["#!/nonexistent/python\n", "not a program"])
def test_a_program_that_cannot_be_started_is_refused(shop: Deployment, program: str) -> None:
    shop.replace_program("a", program)
    result = shop.put("a", secrets={"key": "new"})
    assert "so none is live: it cannot be started" in result["msg"]
    assert not shop.live and not shop.secrets.exists()


def test_nothing_that_a_trial_started_is_left(shop: Deployment, tmp_path: Path) -> None:
    child = tmp_path / "child"
    starts_a_child = (
        "import subprocess, sys\n"
        f"open({str(child)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))\n"
    )
    shop.release("a", starts_a_child + WORKS)
    state = Path("/proc", child.read_text(), "stat")
    # One that ended and that nobody has waited for yet is in state Z.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        assert state.read_text().rpartition(") ")[2][0] == "Z"


def test_a_trial_is_what_mod_fcgid_does(shop: Deployment, site: Site, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    tells = (
        "import json, os\n"
        "def application(environ, start_response):\n"
        "    names = ['SCRIPT_NAME', 'PATH_INFO', 'QUERY_STRING', 'REQUEST_URI', 'HTTP_HOST']\n"
        "    request = {name: environ[name] for name in names}\n"
        f"    with open({str(seen)!r}, 'w') as file:\n"
        "        json.dump([request, dict(os.environ), os.getcwd()], file)\n"
        "    start_response('303 See Other', [('Location', '/login')])\n"
        "    return []\n"
    )
    site.mount("/shop", more='FcgidInitialEnv THREADS "4"')
    result = shop.release(
        "a", tells, health_path="/healthz?deep=1", host="www.example.org", **site.options
    )
    assert result["changed"]
    request, environment, directory = json.loads(seen.read_text())
    assert request == {
        "SCRIPT_NAME": "/shop",
        "PATH_INFO": "/healthz",
        "QUERY_STRING": "deep=1",
        "REQUEST_URI": "/shop/healthz?deep=1",
        "HTTP_HOST": "www.example.org",
    }
    environment.pop("LC_CTYPE", None)  # of Python itself
    assert environment == {
        "PATH": "/bin:/usr/bin:/usr/ucb:/usr/bsd:/usr/local/bin",
        "THREADS": "4",
    }
    assert directory == str(shop.link.parent)


def test_the_site_gets_the_same_request(shop: Deployment, site: Site) -> None:
    site.mount("/shop")
    shop.options.update(site.options, health_path="/healthz", host="www.example.org")
    assert shop.release("a")["changed"]
    assert site.asked == [("www.example.org", "/shop/healthz")]


def test_when_the_site_fails_the_one_before_is_live_again(shop: Deployment, site: Site) -> None:
    shop.options.update(site.options, host="www.example.org")
    shop.release("a")
    site.status = 503
    message = shop.release("b")["msg"]
    assert "Release b of shop was put live and does not work, so a is live again" in message
    assert "answered http://www.example.org/ with status 503" in message
    assert message.endswith("It wrote:\nstatus 503 it is")
    assert shop.live == "a"
    assert not shop.put("a")["changed"]


def test_when_the_site_fails_at_the_first_release_there_is_no_link(
    shop: Deployment, site: Site
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        site.mount("/", port=closed.getsockname()[1])
        message = shop.release("a", **site.options)["msg"]
    assert "was put live and does not work, so none is live: no answer to http://" in message
    assert "Connection refused" in message
    assert not shop.link.is_symlink()


def test_without_a_configuration_of_httpd_there_is_a_trial_alone(
    shop: Deployment, site: Site
) -> None:
    shop.options.update(site.options)
    assert shop.release("a", config=str(site.config.parent / "missing"))["changed"]
    site.config.write_text("FcgidInitialEnv A b")
    assert shop.release("b")["changed"]
    assert site.asked == []


def test_what_another_application_had_live_there_is_put_back(shop: Deployment, site: Site) -> None:
    other = shop.link.parent / "other.fcgi"
    shop.link.symlink_to(other)
    site.status = 503
    assert f"so {other} is live again" in shop.release("a", **site.options)["msg"]
    assert shop.link.readlink() == other


def test_a_run_that_was_killed_before_the_check_is_completed_by_the_next(
    shop: Deployment, site: Site
) -> None:
    shop.options.update(site.options)
    shop.release("a")
    (shop.releases / "a" / ".checked").unlink()
    assert outcome(shop.put("a")) == (True, "a", "a")
    assert len(site.asked) == 2
    assert not shop.put("a")["changed"]
    assert len(site.asked) == 2


def test_a_rollback_goes_to_the_one_before_and_another_returns(shop: Deployment) -> None:
    for release in ("a", "b", "c"):
        shop.release(release)
    assert outcome(shop.put()) == (True, "b", "c")
    assert outcome(shop.put()) == (True, "c", "b")
    assert outcome(shop.put("a")) == (True, "a", "c")
    assert outcome(shop.put()) == (True, "c", "a")
    assert outcome(shop.put()) == (True, "a", "c")
    assert shop.live == "a"


def test_a_rollback_goes_to_none_that_was_not_live_or_failed_then(
    shop: Deployment, site: Site
) -> None:
    shop.release("worked-once")
    shop.release("a")
    shop.add("built")
    shop.release("refused", RAISES)
    site.status = 503
    shop.put("worked-once", **site.options)
    message = shop.put()["msg"]
    assert f"There is no earlier release that was live in {shop.releases}" in message
    assert shop.live == "a"


def test_an_unknown_release_is_answered_with_those_that_are_there(shop: Deployment) -> None:
    assert "no release x in" in shop.put("x")["msg"]
    assert shop.put("x")["msg"].endswith("first: none.")
    shop.release("a")
    shop.release("b")
    (shop.releases / "half-built").mkdir()
    assert shop.put("x")["msg"].endswith("the last used first: b (live), a.")


def test_as_many_as_asked_for_are_kept_those_used_last(shop: Deployment) -> None:
    for release in ("a", "b", "c"):
        assert shop.release(release, keep=3)["deleted"] == []
    shop.put("a")
    assert shop.release("d", keep=3)["deleted"] == ["b"]
    assert shop.built() == {"a", "c", "d"}


def test_one_that_a_process_runs_from_is_kept(shop: Deployment) -> None:
    shop.release("a")
    not_utf_8 = [sys.executable, "-c", "input()", b"\xff"]
    with socket.socket() as listener:
        listener.listen()
        with (
            running(shop.program("a"), stdin=listener),
            running(*not_utf_8, stdin=subprocess.PIPE),
        ):
            shop.release("b", keep=1)
            assert shop.release("c", keep=1)["deleted"] == ["b"]
    assert shop.put("c", secrets={"key": "new"}, keep=1)["deleted"] == ["a"]


@pytest.fixture
def another_group() -> Iterator[None]:
    """One that this process has and that a worker must not get."""
    before = os.getgroups()
    os.setgroups([0])
    yield
    os.setgroups(before)


@pytest.mark.usefixtures("another_group")
def test_the_worker_runs_as_the_user_whose_group_alone_reads_the_secrets() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # tmp_path is for root only
        shop = Deployment(Path(directory))
        look = f"cd {shop.secrets}; cat key; echo; stat -c '%n %U %G %a' . key"
        shop.replace_program("a", f"#!/bin/sh\nid -un; id -Gn; {look}\n")
        message = shop.put("a", user="nobody", secrets={"key": "open sesame"})["msg"]
    group = subprocess.run(["id", "-Gn", "nobody"], capture_output=True, text=True).stdout.strip()
    wrote = ["nobody", group, "********", ". root nogroup 750", "key root nogroup 440"]
    assert message.splitlines()[-5:] == wrote


def test_secrets_are_what_is_wanted_and_a_change_starts_new_workers(shop: Deployment) -> None:
    shop.release("a", secrets={"key": "old", "certificate": "that goes"})
    inode = shop.inode
    assert shop.written_secrets() == {"key": "old", "certificate": "that goes"}
    assert not shop.put("a", secrets={"key": "old", "certificate": "that goes"})["changed"]
    assert shop.inode == inode
    assert outcome(shop.put("a", secrets={"key": "new"})) == (True, "a", "a")
    assert shop.written_secrets() == {"key": "new"}
    assert shop.inode != inode and os.access(shop.link, os.X_OK)
    assert shop.put("a")["changed"]
    assert not shop.secrets.exists()


READS = """
import pathlib
key = pathlib.Path(__file__).parents[2].joinpath("secrets", "key").read_text().strip()
if key != "works":
    raise ValueError(f"{key} does not work")
"""


def test_a_secret_that_does_not_work_is_replaced_by_the_former_one_and_not_shown(
    shop: Deployment,
) -> None:
    shop.release("a", READS + WORKS, secrets={"key": "works"})
    inode = shop.inode
    result = shop.put("a", secrets={"key": "sesame\n", "more": "more"})
    assert "Release a of shop was tried and does not work, so a stays live" in result["msg"]
    assert "ValueError: ******** does not work" in result["msg"]
    assert "sesame" not in json.dumps(result)
    if "invocation" in result:  # ansible-core 2.21 and later give it when asked for alone
        told = result["invocation"]["module_args"]["secrets"].values()
        assert set(told) == {"VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"}
    assert shop.written_secrets() == {"key": "works"}
    # A worker that started during the trial has read what did not work.
    assert shop.inode != inode


def test_the_secrets_of_a_release_that_is_refused_go_with_it(shop: Deployment) -> None:
    assert shop.release("a", READS, secrets={"key": "sesame"})["failed"]
    assert not shop.secrets.exists()


def test_a_run_that_was_killed_after_it_wrote_secrets_is_completed_by_the_next(
    shop: Deployment,
) -> None:
    shop.release("a", secrets={"key": "old"})
    inode = shop.inode
    (shop.secrets / "key").unlink()
    (shop.secrets / "key").write_text("new")
    assert shop.put("a", secrets={"key": "new"})["changed"]
    assert shop.inode != inode
    assert not shop.put("a", secrets={"key": "new"})["changed"]


def test_check_mode_changes_nothing_and_says_what_would(shop: Deployment, site: Site) -> None:
    shop.options.update(site.options, _ansible_check_mode=True)
    assert outcome(shop.put("not-built")) == (True, "not-built", "")
    assert not shop.directory.exists()
    shop.add("a")
    assert outcome(shop.put("a", secrets={"key": "new"})) == (True, "a", "")
    assert not shop.link.is_symlink() and not shop.secrets.exists()
    shop.put("a", _ansible_check_mode=False, config=None)
    assert outcome(shop.put("a")) == (False, "a", "a")
    shop.release("b", RAISES)
    assert outcome(shop.put("b", keep=1)) == (True, "b", "a")
    assert (shop.live, shop.built(), site.asked) == ("a", {"a", "b"}, [])


def test_an_inode_is_never_used_again(shop: Deployment) -> None:
    """A worker of before, which holds an old secret, is never taken for one of now."""
    shop.release("one", secrets={"token": "0"})
    inodes = {shop.inode}
    for number in range(1, 4):
        assert shop.put("one", secrets={"token": str(number)})["changed"]
        inodes.add(shop.inode)
    assert len(inodes) == 4


def test_after_a_kill_before_the_check_the_last_good_release_comes_back(
    shop: Deployment, site: Site
) -> None:
    shop.options.update(site.options)
    shop.release("one")
    shop.release("two")
    (shop.program("two").parent / ".checked").unlink()
    site.status = 503
    assert "so one is live again" in shop.put("two")["msg"]
    assert shop.live == "one"


def test_releases_that_never_worked_go_before_one_that_did(shop: Deployment) -> None:
    shop.release("good")
    for number in range(3):
        shop.release(f"bad{number}", RAISES, timeout=3)
    shop.release("new", keep=2)
    assert shop.built() == {"good", "new"}


def test_a_file_of_someone_else_is_left_alone(shop: Deployment) -> None:
    shop.link.write_text("precious")
    assert "is not a link to a release: move it away" in shop.release("one")["msg"]
    assert shop.link.read_text() == "precious"


def test_a_rollback_requests_what_the_release_was_checked_with(shop: Deployment) -> None:
    for name, path in (("one", "/old"), ("two", "/new")):
        code = WORKS.replace(
            '"200 OK"', f'"200 OK" if environ["PATH_INFO"] == "{path}" else "404 No"'
        )
        assert shop.release(name, code, health_path=path)["changed"]
    assert shop.put()["release"] == "one"


# What an application does to the directory of its secrets, which was its own up to version 0.1.

PYTHON = "/usr/bin/python3"  # that nobody may run
NOBODY = pwd.getpwnam("nobody")
AS_NOBODY: Any = {"user": "nobody", "group": NOBODY.pw_gid, "extra_groups": []}
ROOTS = "the content of a file that root alone may read"

# Turns each temporary file of root's in the directory into a link to the file that it is told.
SWAPS = """
import os, sys, time
first = os.open(sys.argv[1], os.O_RDONLY)
print(flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    for directory in (first, sys.argv[1]):
        try:
            at = directory if directory == first else os.open(directory, os.O_RDONLY)
            for name in os.listdir(at):
                if name.startswith("tmp"):
                    os.unlink(name, dir_fd=at)
                    os.symlink(sys.argv[2], name, dir_fd=at)
            if at != first:
                os.close(at)
        except OSError:
            pass
"""


class Victim:
    """An application, what it may do as its user, and a file that it must not get."""

    def __init__(self, directory: Path) -> None:
        self.shop = Deployment(directory)
        self.shop.options["user"] = "nobody"
        # What a user may run who may not look into the checkout, nor at the Python that runs this.
        package = CHECKOUT / "app" / "fcgiserve" / "src" / "fcgiserve"
        shutil.copytree(package, directory / "fcgiserve")
        self.shop.add("a")
        launcher = LAUNCHER.replace(sys.executable, PYTHON)
        launcher = launcher.replace(str(package.parent), str(directory))
        program = self.shop.program("a")
        self.shop.replace_program("a", launcher.format(release=str(program.parent)))
        assert self.shop.put("a")["changed"]
        self.root_file = directory / "root"
        self.root_file.write_text(ROOTS)
        self.root_file.chmod(0o600)
        secrets = self.shop.secrets
        secrets.mkdir()
        (secrets / "key").write_text("from before")
        for path in (secrets, secrets / "key"):
            os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
        secrets.chmod(0o700)
        (secrets / "key").chmod(0o400)

    def run(self, *command: str) -> None:
        """Run the command, which must work, as the application's user."""
        subprocess.run(command, check=True, **AS_NOBODY)

    def finds(self, text: str) -> bool:
        """Whether that user reads the text anywhere below the application's directory."""
        search = ("grep", "-RFqs", text, str(self.shop.directory))
        return subprocess.run(search, **AS_NOBODY).returncode == 0

    def is_mended(self) -> bool:
        """Whether the secrets are root's, as they should be, with nothing besides."""
        found = {
            path.name: (path.lstat().st_uid, path.lstat().st_gid, oct(path.lstat().st_mode))
            for path in [self.shop.secrets, *self.shop.secrets.iterdir()]
        }
        group = NOBODY.pw_gid
        others = [path.name for path in self.shop.directory.iterdir()]
        return sorted(others) == [".lock", "releases", "secrets"] and found == {
            "secrets": (0, group, "0o40750"),
            "key": (0, group, "0o100440"),
        }


@pytest.fixture
def victim() -> Iterator[Victim]:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # tmp_path is for root only
        yield Victim(Path(directory))


def test_an_application_gets_no_file_of_root_through_a_link_among_its_secrets(
    victim: Victim,
) -> None:
    victim.run("ln", "-s", str(victim.root_file), str(victim.shop.secrets / "link"))
    assert victim.shop.release("b", RAISES, secrets={"key": "new"})["failed"]
    assert not victim.finds(ROOTS)
    assert victim.shop.written_secrets() == {"key": "from before"}
    assert victim.is_mended()


@pytest.mark.parametrize("owner", ["nobody", "root"])
def test_an_application_gets_no_file_of_root_that_it_links_to_among_its_secrets(
    victim: Victim, owner: str
) -> None:
    """A hard link, which a system that does not protect them lets it make."""
    shutil.chown(victim.shop.secrets, owner)
    victim.shop.secrets.chmod(0o770)
    os.link(victim.root_file, victim.shop.secrets / "link")
    assert victim.shop.release("b", RAISES, secrets={"key": "new"})["failed"]
    assert not victim.finds(ROOTS)
    # Where it is not sure whose they were, none is put back.
    assert victim.is_mended() if owner == "nobody" else not victim.shop.secrets.exists()


def test_an_application_gives_itself_no_file_of_root_while_secrets_are_written(
    victim: Victim,
) -> None:
    swaps = [PYTHON, "-c", SWAPS, str(victim.shop.secrets), str(victim.root_file)]
    with running(*swaps, stdout=subprocess.PIPE, **AS_NOBODY) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for number in range(5):
            victim.shop.put("a", secrets={"key": f"number {number}"})
            status = victim.root_file.stat()
            assert (status.st_uid, status.st_mode & 0o777) == (0, 0o600)
    assert victim.is_mended()


def test_a_fifo_or_a_socket_among_the_secrets_holds_nobody_up(victim: Victim) -> None:
    victim.run("mkfifo", str(victim.shop.secrets / "fifo"))
    bind = f"import socket; socket.socket(socket.AF_UNIX).bind('{victim.shop.secrets}/socket')"
    victim.run(PYTHON, "-c", bind)
    assert victim.shop.put("a", secrets={"key": "from before"})["changed"]
    assert victim.is_mended()


def test_what_belonged_to_the_application_is_mended_without_a_change_of_the_secrets(
    victim: Victim,
) -> None:
    assert victim.shop.put("a", secrets={"key": "from before"})["changed"]
    assert victim.is_mended()
    assert not victim.shop.put("a", secrets={"key": "from before"})["changed"]
    for path, mode in ((victim.shop.secrets, 0o770), (victim.shop.secrets / "key", 0o444)):
        path.chmod(mode)
        assert victim.shop.put("a", secrets={"key": "from before"})["changed"]
        assert victim.is_mended()


def test_a_directory_of_secrets_goes_with_the_last_one(victim: Victim) -> None:
    victim.shop.secrets.joinpath("key").unlink()
    victim.run("mkfifo", str(victim.shop.secrets / "fifo"))
    assert victim.shop.put("a")["changed"]
    assert not victim.shop.secrets.exists()
    assert not victim.shop.put("a")["changed"]


def test_no_depth_of_directories_holds_up_what_replaces_them(victim: Victim) -> None:
    deep = (
        "import os, sys; os.chdir(sys.argv[1])\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')"
    )
    victim.run(PYTHON, "-c", deep, str(victim.shop.secrets))
    assert victim.shop.put("a", secrets={"key": "new"})["changed"]
    assert victim.is_mended()
    assert victim.shop.put("a")["changed"]
    assert not victim.shop.secrets.exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_directory_of_secrets_is_replaced_by_one(victim: Victim, kind: str) -> None:
    shutil.rmtree(victim.shop.secrets)
    if kind == "file":
        victim.shop.secrets.write_text("in the way")
    else:
        victim.shop.secrets.symlink_to(victim.root_file)
    assert victim.shop.put("a", secrets={"key": "new"})["changed"]
    assert victim.is_mended()
    assert victim.root_file.read_text() == ROOTS


def test_an_application_holds_up_no_deploy_with_a_lock(victim: Victim) -> None:
    victim.shop.secrets.parent.joinpath(".lock").stat()
    lock = (
        "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), 2); print(flush=True); input()"
    )
    command = [PYTHON, "-c", lock, str(victim.shop.directory)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running(*command, **pipes, **AS_NOBODY) as process:
        assert process.stdout is not None and process.stdout.readline()
        assert victim.shop.put("a", secrets={"key": "new"})["changed"]
    refused = subprocess.run([*command[:-1], f"{victim.shop.directory}/.lock"], **AS_NOBODY)
    assert refused.returncode != 0


@pytest.mark.parametrize("where", ["releases", "htdocs"])
def test_root_does_not_work_where_an_application_can_write(victim: Victim, where: str) -> None:
    directory = victim.shop.releases if where == "releases" else victim.shop.link.parent
    os.chown(directory, NOBODY.pw_uid, -1)
    message = victim.shop.release("b", WORKS)["msg"]
    assert f"{directory} is writable by others than root" in message
    assert f"chown root:root {directory} && chmod go-w {directory}" in message
    assert victim.shop.live == "a"
    os.chown(directory, 0, -1)
    directory.chmod(0o1777)
    assert "is writable by others" in victim.shop.put("b")["msg"]


def test_a_log_that_is_a_link_is_not_read(shop: Deployment, site: Site, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(site.options["error_log"])
    site.status = 503
    options = site.options | {"error_log": str(tmp_path / "link")}
    assert shop.release("a", **options)["msg"].endswith("It wrote nothing.")


def test_of_a_log_that_grows_without_end_little_is_read(shop: Deployment, tmp_path: Path) -> None:
    grows = "import os; os.ftruncate(2, 1 << 40); os.write(2, b'begins'); os._exit(3)"
    message = shop.release("a", grows)["msg"]
    assert "begins" in message and len(message) < 200_000
