"""What the checks share: the deployment as it is seen from outside.

The checks run against any inventory: `make verify INVENTORY=...`. Those marked `molecule` kill
workers and restart hosts, so they run only where molecule made the host.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from testinfra.host import Host

ROLES = Path(__file__).parents[2] / "roles"
IPC_DIR = "/var/run/fcgidsock"
HTDOCS = "/var/www/htdocs"
USER = "www-data"
PID_FILE = "/run/httpd/httpd.pid"
HTTPD = "/usr/local/sbin/httpd"
MODULE = "/usr/lib/httpd/modules/mod_fcgid.so"
RECORD = "/var/lib/mod_fcgid/build.json"

LISTENING = 0x10000  # __SO_ACCEPTCON, the flags column of /proc/net/unix (proc(5))


@dataclass(frozen=True)
class Response:
    """An HTTP response: the status, the header lines as they came, and the body."""

    status: int
    headers: tuple[str, ...]
    body: bytes

    def header(self, name: str) -> str | None:
        for line in self.headers:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None


@dataclass(frozen=True)
class Worker:
    """A process whose descriptor 0 is a listening FastCGI socket."""

    pid: int
    parent: int
    user: str
    program: str
    command_line: str
    inode: int
    socket: str


@dataclass
class Deployment:
    """One host as the deployment left it, and what can be seen of it from outside."""

    host: Host
    settings: dict[str, Any]
    url: str | None = None
    commands: dict[str, str] = field(default_factory=dict)

    @property
    def scripts(self) -> dict[tuple[str, str], str]:
        """The URL path of each application, by virtual host and script name."""
        return {
            (vhost["name"], mount["script"]): mount["url"]
            for vhost in self.settings["httpd_vhosts"]
            for mount in sorted(vhost.get("mounts", []), key=lambda mount: mount["url"])
        }

    def get(self, path: str, *options: str, vhost: str | None = None) -> Response:
        """Request `path` on the host itself, with curl and its options."""
        quoted = " ".join(f"'{option}'" for option in options)
        name = vhost or self.settings["httpd_vhosts"][0]["name"]
        port = self.settings["httpd_port"]
        result = self.host.run(
            f"curl --silent --show-error --include --max-time 120 --header 'Host: {name}' "
            f"--header 'Expect:' {quoted} 'http://127.0.0.1:{port}{path}'"
        )
        assert result.rc == 0, result.stderr
        head, _, body = result.stdout_bytes.partition(b"\r\n\r\n")
        status, *headers = head.decode("latin-1").split("\r\n")
        return Response(int(status.split()[1]), tuple(headers), body)

    def as_user(self, command: str) -> str:
        """What `command` prints, run as the workers' user.

        In a container that may not trace, even root cannot look into processes of other users.
        """
        return str(self.host.run(f"runuser --user {USER} -- {command}").stdout)

    def directive(self, name: str) -> int:
        """The number that httpd.conf gives a directive."""
        config = self.host.file("/etc/httpd/httpd.conf").content_string
        (value,) = re.findall(rf"^\s*{name} (\d+)", config, re.MULTILINE)
        return int(value)

    def httpd_pid(self) -> int:
        return int(self.host.file(PID_FILE).content_string)

    def sockets(self) -> dict[int, str]:
        """Inode and path of each listening stream socket of mod_fcgid."""
        found = {}
        for line in self.host.check_output("cat /proc/net/unix").splitlines()[1:]:
            # Num RefCount Protocol Flags Type St Inode Path
            fields = line.split()
            if len(fields) == 8 and fields[7].startswith(IPC_DIR + "/"):
                assert fields[4] == "0001", f"{fields[7]} is no stream socket"
                if int(fields[3], 16) & LISTENING:
                    found[int(fields[6])] = fields[7]
        return found

    def workers(self, script: str = "") -> list[Worker]:
        """The processes whose descriptor 0 is one of those sockets, inode to inode.

        With `script`, such as localhostfcgi/app.fcgi, only those of its live release.
        """
        sockets = self.sockets()
        links = self.as_user(
            "find /proc -mindepth 3 -maxdepth 3 -path '/proc/[0-9]*/fd/0' "
            "-lname 'socket:*' -printf '%p %l\\n'"
        )
        standing_on = {
            int(pid): int(inode)
            for pid, inode in re.findall(r"/proc/(\d+)/\S+ socket:\[(\d+)\]", links)
        }
        found = [
            Worker(
                process.pid,
                process.ppid,
                process.user,
                process.comm,
                process.args,
                standing_on[process.pid],
                sockets[standing_on[process.pid]],
            )
            for process in self.host.process.filter()
            if standing_on.get(process.pid) in sockets
        ]
        if not script:
            return found
        release = self.host.file(f"{HTDOCS}/{script}").linked_to.rpartition("/")[0]
        return [worker for worker in found if worker.command_line.startswith(f"{release}/")]

    def requests_answered(self) -> dict[int, int]:
        """Requests answered by each worker, by its pid, as mod_status tells it."""
        port = self.settings["httpd_status_port"]
        page = self.host.check_output(f"curl --silent --fail http://127.0.0.1:{port}/server-status")
        _, _, table = page.partition("mod_fcgid status:")
        rows = re.findall(r"<tr><td>(\d+)</td><td>\d+</td><td>\d+</td><td>(\d+)</td>", table)
        return {int(pid): int(accesses) for pid, accesses in rows}


def defaults() -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for path in sorted(ROLES.glob("*/defaults/main.yml")):
        merged |= yaml.safe_load(path.read_text())
    return merged


DEFAULTS = defaults()
NAMES = "q('ansible.builtin.varnames', '^(httpd_|fcgi_app|mod_fcgid_|public_url)')"
seen: dict[str, Deployment] = {}


@pytest.fixture(scope="module")
def deployment(host: Host) -> Deployment:
    name = host.backend.get_pytest_id()
    if name not in seen:
        given = host.ansible(
            "ansible.builtin.debug",
            f"msg={{{{ dict({NAMES} | zip(q('ansible.builtin.vars', *{NAMES}))) }}}}",
            become=False,
        )["msg"]
        seen[name] = Deployment(host, DEFAULTS | given, given.get("public_url"))
    return seen[name]


def eventually(claim: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether `claim` comes true within the time; for what another process does in its own time."""
    until = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Put httpd's log beside the failure of a check."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    deployment = getattr(item, "funcargs", {}).get("deployment")
    if report.failed and deployment:
        log = deployment.host.run("tail -n 30 /var/log/httpd/error_log").stdout
        report.sections.append(("the last lines of /var/log/httpd/error_log", log))
