"""Attacks of an application, of a dependency and of a client, none of which succeeds.

Where an attack needs a bug in httpd first, to run code in one of its children, root does in its
place what that code could do, and nothing else.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import zipfile
from pathlib import Path

from engine import address_of
from load import greets
from playbooks import (
    C_APPLICATION,
    ROOT,
    application,
    applications,
    deploy,
    failures,
    refusal,
    variant,
)
from poll import eventually
from testinfra.host import Host

SECRETS = "/srv/fcgi/python/secrets"
SECRET = {"python": {"token": "correct horse battery staple"}}
ROOTS = "the content of a file that root alone may read"


def as_application(host: Host, command: str) -> str:
    """What the command prints that the workers' user runs."""
    return str(host.check_output(f"runuser --user www-data -- sh -c {shlex.quote(command)}"))


def workers(host: Host) -> dict[int, str]:
    """Process ids and states of the processes that mod_fcgid knows."""
    status = host.check_output("curl --silent 'http://127.0.0.1:8079/server-status?auto'")
    found = re.findall(r"^FcgidProcess: pid=(\d+) state=(\w+)", status, re.MULTILINE)
    return {int(pid): state for pid, state in found}


# --- The files of an application ------------------------------------------------------------------


def test_an_application_writes_in_no_directory_in_which_root_works_by_name(host: Host) -> None:
    prune = "find / -path /proc -prune -o -path /sys -prune -o"
    reasons = {
        "/dev/mqueue": "sticky: nobody's files are another's",
        "/dev/shm": "sticky",
        "/run/lock": "sticky",
        "/tmp": "sticky; root's files there have names that nobody can foresee",
        "/var/tmp": "sticky, as /tmp",
        "/run/fcgidsock": "of the process manager, which is not root; root removes it whole",
    }
    writable = as_application(host, f"{prune} -type d -writable -print 2>/dev/null; true").split()
    assert {path for path in writable if not path.startswith("/tmp/.")} == set(reasons)
    owned = host.check_output(f"{prune} -user www-data -print").split()
    assert [path for path in owned if not path.startswith("/run/fcgidsock")] == []


def plant(host: Host) -> None:
    """The secrets as version 0.1 left them, and what an application can then put beside them."""
    host.check_output(
        f"umask 077; printf '{ROOTS}' > /root/private; cd {SECRETS} && "
        "chown -R www-data:www-data . && chmod 500 . && chmod 400 token"
    )
    as_application(host, f"chmod 700 {SECRETS} && ln -s /root/private {SECRETS}/link")


def is_mended(host: Host) -> bool:
    found: str = host.check_output(f"cd {SECRETS} && find . -printf '%p %u:%g %m\\n'")
    return found == ". root:www-data 750\n./token root:www-data 440"


def test_secrets_are_read_by_the_application_and_changed_by_root_alone(host: Host) -> None:
    assert is_mended(host)
    assert as_application(host, f"cat {SECRETS}/token") == SECRET["python"]["token"]
    for attempt in ("touch new", "rm token", "mv token other", "echo >token", "chmod 777 ."):
        run = host.run(f"cd {SECRETS} && runuser --user www-data -- sh -c '{attempt}'")
        assert run.rc != 0, attempt
    assert is_mended(host)


def test_a_deploy_that_changes_nothing_mends_what_an_earlier_version_left(host: Host) -> None:
    plant(host)
    as_application(host, f"mkfifo {SECRETS}/fifo")  # who opens it to read waits for a writer
    assert "changed=1 " in deploy()
    assert is_mended(host)
    assert "changed=0 " in deploy()
    assert as_application(host, f"cat {SECRETS}/token") == SECRET["python"]["token"]


def test_a_release_that_fails_hands_out_no_file_of_root(host: Host, tmp_path: Path) -> None:
    plant(host)
    broken = variant(tmp_path, "raise RuntimeError('no luck')\n_counts =", "_counts =")
    refusal(
        fcgi_app_list=applications(broken), fcgi_app_secrets={"python": {"token": "another one"}}
    )
    found = as_application(host, f"grep -rsF '{ROOTS}' /srv /var/www; true")
    assert found == ""
    assert is_mended(host)
    assert as_application(host, f"cat {SECRETS}/token") == SECRET["python"]["token"]


# --- Requests -------------------------------------------------------------------------------------


def status_of(address: str, request: str) -> int:
    with socket.create_connection((address, 80), timeout=60) as client:
        client.sendall(request.encode())
        with client.makefile("rb") as answer:
            return int(answer.readline().split()[1])


def test_a_length_of_thousands_of_digits_ends_no_worker(host: Host) -> None:
    address = address_of(host)
    before = workers(host)
    request = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n"
    answers = [status_of(address, request.format("0" * 4301)) for _ in range(100)]
    assert {status for status in answers if status != 400 and status >= 500} == set(), answers
    assert before and before.keys() <= workers(host).keys()
    assert greets(address, "/app.fcgi") == ""


# --- Shared memory --------------------------------------------------------------------------------

# Puts one process id in the place of another in what a child of httpd shares with its parent.
OVERWRITE = """
import re, struct, sys
child, worker, victim = map(int, sys.argv[1:])
overwritten = 0
with open(f"/proc/{child}/maps") as maps, open(f"/proc/{child}/mem", "r+b", 0) as memory:
    for begin, end in re.findall(r"^(\\w+)-(\\w+) rw-s", maps.read(), re.MULTILINE):
        begin, end = int(begin, 16), int(end, 16)
        memory.seek(begin)
        words = memoryview(memory.read(end - begin)).cast("i")
        for index, word in enumerate(words):
            if word == worker:
                memory.seek(begin + 4 * index)
                memory.write(struct.pack("i", victim))
                overwritten += 1
print(overwritten)
"""


def test_root_ends_no_process_that_a_child_of_httpd_names_to_it(host: Host) -> None:
    # Which would let the process manager keep the rights of root.
    host.check_output("apt-get -qy install --no-install-recommends apache2-suexec-pristine")
    host.check_output("systemctl restart httpd; systemd-run --unit victim sleep 600")
    assert greets(address_of(host), "/app.fcgi") == ""
    victim = host.check_output("systemctl show --property MainPID --value victim")
    parent = host.file("/run/httpd/httpd.pid").content_string.strip()
    rows = [
        row.split() for row in host.check_output(f"ps --ppid {parent} -o pid=,nlwp=").split("\n")
    ]
    (manager,) = (pid for pid, threads in rows if threads == "1")
    assert host.check_output(f"ps -o ruser= -o user= -p {manager}").split() == ["www-data"] * 2
    child = next(pid for pid, threads in rows if threads != "1")
    known = workers(host)
    overwrite = shlex.join(["python3", "-c", OVERWRITE, child, str(min(known)), victim])
    assert int(host.check_output(overwrite)) > 0
    assert int(victim) in workers(host)
    host.check_output(f"kill -KILL {manager}")
    assert eventually(lambda: workers(host).keys().isdisjoint(known), 60)
    assert greets(address_of(host), "/app.fcgi") == ""
    assert host.check_output("systemctl is-active victim; systemctl stop victim") == "active"
    left = host.run(f"ps -o args= -p {','.join(map(str, known))}").stdout
    assert left == "", "workers of the process manager that has died"


# --- What comes with an application ---------------------------------------------------------------

# Says as whom it is run, and by what.
TELLS = """
import os
with open("/var/tmp/ran-as-%d" % os.getuid(), "a") as file:
    file.write(open("/proc/self/cmdline").read().replace("\\0", " ") + "\\n")
"""


def hostile_wheel(directory: Path) -> Path:
    """A dependency that is run whenever Python starts."""
    wheel = directory / "hostile-1.0-py3-none-any.whl"
    files = {
        "hostile.pth": f"import os; exec({TELLS!r})\n",
        "hostile-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n",
        "hostile-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, "hostile-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in (files | {"hostile-1.0.dist-info/RECORD": record}).items():
            archive.writestr(name, content)
    return wheel


def test_root_runs_nothing_that_a_dependency_brings(host: Host, tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    source = variant(tmp_path / "sources", "with a dependency")
    project = source / "pyproject.toml"
    needed = f'dependencies = ["hostile @ {hostile_wheel(tmp_path).as_uri()}"]'
    text = project.read_text()
    assert "dependencies =" not in text
    project.write_text(text.replace("[project]\n", f"[project]\n{needed}\n"))
    host.check_output("rm --force /var/tmp/ran-as-*")
    deploy(fcgi_app_list=applications(source))
    # The worker that was tried ran it, and nobody else.
    worker = host.check_output("id --user www-data")
    assert host.run("cat /var/tmp/ran-as-0").stdout == ""
    assert host.check_output("ls /var/tmp/ran-as-*") == f"/var/tmp/ran-as-{worker}"


# Says as whom it builds a project, instead of building it.
BACKEND = """
import os
def build_wheel(*arguments):
    raise SystemExit("built as %d" % os.getuid())
"""


def test_root_builds_no_wheel(tmp_path: Path) -> None:
    """On the machine that runs Ansible, and here that is root's."""
    source = variant(tmp_path, "with another backend")
    (source / "backend.py").write_text(BACKEND)
    project = source / "pyproject.toml"
    backend = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n\n'
    project.write_text(backend + project.read_text().partition("\n\n")[2])
    *_, message = failures("deploy", fcgi_app_list=applications(source))
    assert re.findall(r"built as (\d+)", message) == [str(os.getuid() or 65534)]


# In the place of what a compiler or an installer could be made to run.
COMPILER = """#!/bin/sh
id -un >/var/tmp/compiled-as
cp /bin/sh bin/shell && chmod 6777 bin/shell
ln -s /root/private bin/link
mkfifo bin/fifo
setsid sleep 600 >/dev/null 2>&1 </dev/null &
exec /usr/bin/cc "$@"
"""


def test_of_what_a_build_does_nothing_is_left_but_files_without_rights(
    host: Host, tmp_path: Path
) -> None:
    source = tmp_path / "fcgi_app.c"
    source.write_text("/* another */\n" + (ROOT / "app/fcgi_app.c").read_text())
    compiler = "/usr/local/bin/cc"
    host.check_output(f"printf %s {shlex.quote(COMPILER)} >{compiler}; chmod 755 {compiler}")
    try:
        deploy(fcgi_app_list=[application(), C_APPLICATION | {"source": str(source)}])
    finally:
        host.check_output(f"rm {compiler}")
    assert host.file("/var/tmp/compiled-as").content_string == "fcgi_app-build\n"
    assert greets(address_of(host), "/x.fcgi") == ""
    assert host.run("pgrep --list-full --uid fcgi_app-build").stdout == ""
    found = host.check_output("find /srv/fcgi/c -name shell -printf '%u %m\n'")
    assert found == "root 755"
    assert host.check_output("find /srv -not -user root -o -not -type l -perm /7022") == ""
    assert host.check_output("find / -xdev -user fcgi_app-build") == "/var/tmp/compiled-as"


def test_no_source_has_a_file_of_root_compiled_into_it(host: Host, tmp_path: Path) -> None:
    host.check_output(f"umask 077; printf '{ROOTS}' > /root/private")
    source = tmp_path / "fcgi_app.c"
    include = 'extern const char stolen[]; __asm__("stolen: .incbin \\"/root/private\\"");\n'
    source.write_text(include + (ROOT / "app/fcgi_app.c").read_text())
    apps = [application(), C_APPLICATION | {"source": str(source)}]
    *_, message = failures("deploy", fcgi_app_list=apps)
    assert "was not built, and nothing live was changed" in message
    assert "/root/private" in message
    assert as_application(host, f"grep -rsF '{ROOTS}' /srv; true") == ""
