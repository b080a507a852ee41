#!/usr/bin/python
# Copyright fcgid.stack maintainers
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: puts a release of a FastCGI application live, if it works.

A release is a directory with a program in it. It is live when the program in the virtual host's
directory is a link to it. mod_fcgid knows an application by the inode of its program, so when the
link is replaced, with one rename(2), new requests get workers of the new release, and requests in
flight end in the old ones.
"""

from __future__ import annotations

DOCUMENTATION = """
module: fcgi_release
short_description: Put a release of a FastCGI application live, if it works
description:
  - Tries the release first. It is started as mod_fcgid would start it (FastCGI 1.0, section 2.2),
    but on a socket of its own, and asked for I(health). Only if it answers is it put live, by one
    rename.
    Then the web server at I(port) is asked for the same; if that fails, what was live before is put
    back.
  - Old releases are deleted, but never one that a process runs from.
version_added: 0.1.0
options:
  directory:
    description: Directory of the application. The releases are in C(releases) below it.
    type: path
    required: true
  release:
    description: Name of the release. Without it, the one that was live before the present one.
    type: str
  script:
    description: File name of the program in the release.
    type: str
    required: true
  live:
    description: The link in the virtual host's directory.
    type: path
    required: true
  user:
    description: The user that workers run as.
    type: str
    required: true
  environment:
    description: What a worker's environment has besides C(PATH).
    type: dict
    default: {}
  secrets:
    description:
      - Files in C(secrets) below I(directory), name to content, that this user alone can read.
        Others there are removed. When one changes, the release gets new workers, and if these do
        not work, the file has its old content again.
    type: dict
    default: {}
  mount:
    description: Where the application is mounted, its C(SCRIPT_NAME), without a slash at the end.
    type: str
    default: ""
  health:
    description:
      - Path, below the mount, that is asked for. The answer must have a status from 200 to 399.
    type: str
    default: /
  timeout:
    description: Seconds that the start and the answer may take together.
    type: int
    default: 30
  port:
    description: Port of the web server on this host. Without it only the release itself is asked.
    type: int
  host:
    description: Host name of the virtual host.
    type: str
    default: localhost
  error_log:
    description: The web server's log, which is quoted if its answer is wrong.
    type: path
  keep:
    description: How many releases are kept, the live one included.
    type: int
    default: 5
author:
  - fcgid.stack maintainers (@fcgid)
attributes:
  check_mode:
    description: Says whether another release would go live.
    support: full
"""

EXAMPLES = """
- name: Back to the release that was live before
  fcgid.stack.fcgi_release:
    directory: /srv/fcgi/shop
    script: app.fcgi
    live: /var/www/htdocs/www.example.org/app.fcgi
    user: www-data
    health: /healthz
    port: 80
    host: www.example.org
"""

RETURN = """
release:
  description: The release that is live.
  type: str
  returned: success
  sample: 41fb1852807b
replaced:
  description: The release that was live before, empty when there was none.
  type: str
  returned: success
  sample: 8c1e40909fb2
deleted:
  description: Releases that were deleted.
  type: list
  elements: str
  returned: success
"""

import contextlib
import fcntl
import http.client
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fcgid.stack.plugins.module_utils.fcgiserve import client, listen

# In a release, a file with the path that it was asked for when it had gone live, and answered.
MARK = ".live"
# What mod_fcgid gives its workers (httpd.h, DEFAULT_PATH).
PATH = "/bin:/usr/bin:/usr/ucb:/usr/bsd:/usr/local/bin"
# How much of what a worker or httpd wrote is quoted, in lines.
QUOTED = 40


class Failed(Exception):
    """The release does not work; the message says in what way, and what was written."""


class Application:
    """The releases of one application on this host, and the link that says which is live."""

    def __init__(self, directory: str, script: str, live: str) -> None:
        self.releases = os.path.join(directory, "releases")
        self.script = script
        self.link = live

    def program(self, release: str) -> str:
        return os.path.join(self.releases, release, self.script)

    def live_program(self) -> str:
        """Where the link leads, which may be another application's; empty when there is none."""
        return os.readlink(self.link) if os.path.islink(self.link) else ""

    def live(self) -> str:
        """Name of the live release, empty when there is none."""
        program = self.live_program()
        release = os.path.basename(os.path.dirname(program))
        return release if program == self.program(release) else ""

    def built(self) -> list[str]:
        """Releases whose program is there, which is written last; those used last come first."""
        names = os.listdir(self.releases) if os.path.isdir(self.releases) else []
        found = [name for name in names if os.path.exists(self.program(name))]
        return sorted(found, key=self.used_last, reverse=True)

    def used_last(self, release: str) -> float:
        """When the release went live last, or else was built, in seconds since the epoch."""
        directory = os.path.join(self.releases, release)
        return os.stat(self.mark(release) if self.works(release) else directory).st_mtime

    def mark(self, release: str) -> str:
        return os.path.join(self.releases, release, MARK)

    def works(self, release: str) -> bool:
        """Whether the release, the last time that it went live, passed the check."""
        return os.path.exists(self.mark(release))

    def health(self, release: str) -> str:
        """The path with which the release was checked; empty if it was not."""
        if not self.works(release):
            return ""
        with open(self.mark(release)) as mark:
            return mark.read()

    def set_health(self, release: str, path: str) -> None:
        """Mark the release as checked with this path, or, if that is empty, as not checked."""
        if path:
            with open(self.mark(release), "w") as mark:
                mark.write(path)
        elif self.works(release):
            os.remove(self.mark(release))

    def way_back(self) -> str:
        """What the link leads to, or the last checked release, if the live one was not checked."""
        program, live = self.live_program(), self.live()
        checked = [name for name in self.built() if self.works(name)]
        if live and live not in checked:
            return self.program(checked[0]) if checked else program
        return program

    def put_live(self, program: str) -> None:
        """Make the link lead to `program`, or remove it if that is empty."""
        if not program:
            os.remove(self.link)
            return
        new = self.link + ".new"
        with contextlib.suppress(FileNotFoundError):
            os.remove(new)
        os.symlink(program, new)
        os.replace(new, self.link)

    def renew(self, release: str) -> None:
        """Give the program of `release` another inode, so that mod_fcgid starts new workers.

        The file before stays, under another name: its inode must not come again while there may be
        workers of it.
        """
        program = self.program(release)
        with contextlib.suppress(FileExistsError):
            os.link(program, f"{program}.{os.stat(program).st_ino}")
        shutil.copy2(program, program + ".new")
        os.replace(program + ".new", program)

    def prune(self, keep: int) -> list[str]:
        """Delete all but `keep` releases and those that are in use; return their names.

        Those that were never live go first.
        """
        names = set(os.listdir(self.releases)) - {self.live()}
        last = sorted(
            names, key=lambda name: (self.works(name), self.used_last(name)), reverse=True
        )
        old = last[max(0, keep - 1) :]
        deleted = sorted(set(old) - in_use(self.releases))
        for name in deleted:
            shutil.rmtree(os.path.join(self.releases, name))
        return deleted


def in_use(releases: str) -> set[str]:
    """Names of the releases that a process was started from: by its program or its arguments."""
    used = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", errors="surrogateescape") as cmdline:
                paths = cmdline.read().split("\0")
            paths.append(os.readlink(f"/proc/{pid}/exe"))
        except OSError:  # it ended meanwhile, or is a thread of the kernel
            continue
        for path in paths:
            if path.startswith(releases + "/"):
                used.add(path[len(releases) + 1 :].split("/")[0])
    return used


class Secrets:
    """Files that one user alone can read, and their way back."""

    def __init__(self, directory: str, user: str, wanted: dict[str, str]) -> None:
        self.directory = os.path.join(directory, "secrets")
        self.owner = pwd.getpwnam(user)
        self.wanted = {name: str(content).encode() for name, content in wanted.items()}
        self.before = self._read()

    def _read(self) -> dict[str, bytes]:
        found = {}
        for entry in os.scandir(self.directory) if os.path.isdir(self.directory) else ():
            with open(entry.path, "rb") as file:
                found[entry.name] = file.read()
        return found

    def changed_last(self) -> float:
        """When a file came or went here last, in seconds since the epoch; 0 without any."""
        return os.stat(self.directory).st_mtime if self.before else 0.0

    def differ(self) -> bool:
        """Whether a file has another content, owner or mode."""
        return self._read() != self.wanted or not all(map(self._is_private, self.wanted))

    def _is_private(self, name: str) -> bool:
        status = os.stat(os.path.join(self.directory, name))
        return (status.st_uid, stat.S_IMODE(status.st_mode)) == (self.owner.pw_uid, 0o400)

    def write(self, files: dict[str, bytes]) -> None:
        """Make the directory hold `files` and nothing else, each replaced by a rename."""
        if not files:
            if os.path.isdir(self.directory):
                shutil.rmtree(self.directory)
            return
        os.makedirs(self.directory, mode=0o500, exist_ok=True)
        os.chown(self.directory, self.owner.pw_uid, self.owner.pw_gid)
        for name in set(os.listdir(self.directory)) - set(files):
            os.remove(os.path.join(self.directory, name))
        for name, content in files.items():
            path = os.path.join(self.directory, name)
            with tempfile.NamedTemporaryFile(dir=self.directory, delete=False) as new:  # mode 0600
                new.write(content)
            os.chown(new.name, self.owner.pw_uid, self.owner.pw_gid)
            os.chmod(new.name, 0o400)
            os.replace(new.name, path)


def quote(text: str) -> str:
    """What was written; of much, how it begins and ends: the first exception is often the cause."""
    lines = text.strip().splitlines()
    if len(lines) > QUOTED:
        half = QUOTED // 2
        lines[half:-half] = [f"[{len(lines) - 2 * half} lines are left out here]"]
    return "It wrote:\n" + "\n".join(lines) if lines else "It wrote nothing."


def url_of(options: dict) -> str:
    """What an application is asked for, directly or through the web server."""
    return f"http://{options['host']}{options['mount']}{options['health']}"


def trouble(status: int, url: str) -> str:
    """What is wrong with this status of an answer; empty if nothing is."""
    if 200 <= status < 400:
        return ""
    return (
        f"it answered {url} with status {status}. If that is no sign of trouble, set health to a "
        "path that it answers with a status from 200 to 399."
    )


def try_release(program: str, options: dict) -> None:
    """Start a worker as mod_fcgid does, but on a socket of its own, and send it one request.

    Raises Failed, with what the worker wrote. A worker that does not answer in time is told to
    abort: fcgiserve then writes where it hangs.
    """
    owner = pwd.getpwnam(options["user"])
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        output = stack.enter_context(tempfile.TemporaryFile(mode="w+", errors="replace"))
        address = os.path.join(directory, "socket")
        with listen.bind(address) as listener:
            try:
                worker = subprocess.Popen(
                    [program],
                    stdin=listener,
                    stdout=output,
                    stderr=output,
                    cwd=os.path.dirname(options["live"]),
                    env={"PATH": PATH, **{k: str(v) for k, v in options["environment"].items()}},
                    user=owner.pw_uid,
                    group=owner.pw_gid,
                    extra_groups=os.getgrouplist(owner.pw_name, owner.pw_gid),
                    start_new_session=True,
                )
            except OSError as error:
                raise Failed(f"it cannot be started: {error}") from error
        # From here on the worker alone holds the socket: if it ends, the request fails at once.
        params = client.request_params(options["health"], headers=[("Host", options["host"])])
        params["SCRIPT_NAME"] = options["mount"]
        params["REQUEST_URI"] = options["mount"] + options["health"]
        reason, written = None, ""
        try:
            answer = client.request(address, params, timeout=options["timeout"])
            reason = trouble(answer.status, url_of(options))
            written = answer.errors.decode(errors="replace")
        except client.RequestFailed as error:
            reason = str(error)
            with contextlib.suppress(subprocess.TimeoutExpired):
                reason = f"it ended with status {worker.wait(1)} and did not answer."
            worker.send_signal(signal.SIGABRT)
        finally:
            end(worker)
        output.seek(0)
        if reason:
            raise Failed(f"{reason}\n{quote(output.read() + written)}")


def end(worker: subprocess.Popen) -> None:
    """End the worker and all that it started, with SIGKILL if SIGTERM does not in 5 seconds."""
    worker.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.wait(5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def check_site(options: dict) -> None:
    """Ask the web server for the same. Raises Failed, with what it wrote to its log meanwhile."""
    path = options["mount"] + options["health"]
    log = options["error_log"]
    begin = os.path.getsize(log) if log and os.path.exists(log) else 0
    connection = http.client.HTTPConnection(
        "127.0.0.1", options["port"], timeout=options["timeout"]
    )
    try:
        connection.request("GET", path, headers={"Host": options["host"]})
        reason = trouble(connection.getresponse().status, url_of(options))
    except (OSError, http.client.HTTPException) as error:
        reason = f"no answer to {url_of(options)} from port {options['port']}: {error}"
    finally:
        connection.close()
    if reason:
        written = ""
        if log and os.path.exists(log):
            with open(log, errors="replace") as file:
                file.seek(begin)
                written = file.read()
        raise Failed(f"{reason}\n{quote(written)}")


def choose(module: AnsibleModule, application: Application) -> str:
    """Name of the release that is to be live."""
    live, wanted = application.live(), module.params["release"]
    built = application.built()
    earlier = [name for name in built if name != live and application.works(name)]
    if wanted in built:
        return wanted
    if not wanted and earlier:
        return earlier[0]
    names = ", ".join(f"{name} (live)" if name == live else name for name in built) or "none"
    missing = f"no release {wanted}" if wanted else "no earlier release that was live"
    module.fail_json(
        msg=f"There is {missing} in {application.releases}. "
        f"Built are, the one used last first: {names}."
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "release": {"type": "str"},
            "script": {"type": "str", "required": True},
            "live": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "environment": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "mount": {"type": "str", "default": ""},
            "health": {"type": "str"},
            "timeout": {"type": "int", "default": 30},
            "port": {"type": "int"},
            "host": {"type": "str", "default": "localhost"},
            "error_log": {"type": "path"},
            "keep": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    options = module.params
    for secret in map(str, options["secrets"].values()):
        # What an application reads, and may log, is often one line, without its end.
        lines = [line.strip() for line in secret.splitlines()]
        module.no_log_values.update(line for line in [secret.strip(), *lines] if len(line) > 3)
    application = Application(options["directory"], options["script"], options["live"])
    if os.path.lexists(application.link) and not os.path.islink(application.link):
        module.fail_json(
            msg=f"{application.link} is not a link to a release: move it away and run again."
        )
    if os.path.isdir(options["directory"]):
        # The module of an earlier run, which was killed, may still be at it.
        fcntl.flock(os.open(options["directory"], os.O_RDONLY), fcntl.LOCK_EX)
    before = application.live()
    if module.check_mode and options["release"] and options["release"] not in application.built():
        module.exit_json(changed=True, release=options["release"], replaced=before, deleted=[])
    release = choose(module, application)
    secrets = Secrets(options["directory"], options["user"], options["secrets"])
    # An earlier run may have been killed before it had renewed the workers, or checked the release.
    changed = (
        release != before
        or not application.works(release)
        or secrets.differ()
        or secrets.changed_last() > application.used_last(release)
    )
    if module.check_mode or not changed:
        module.exit_json(changed=changed, release=release, replaced=before, deleted=[])

    health = application.health(release)
    options["health"] = options["health"] or health or "/"
    way_back = application.way_back()
    is_live = False
    try:
        if secrets.differ():
            secrets.write(secrets.wanted)
        try_release(application.program(release), options)
        application.set_health(release, "")
        application.renew(release)
        application.put_live(application.program(release))
        is_live = True
        if options["port"]:
            check_site(options)
    except (Failed, OSError, ValueError) as error:
        if secrets.before != secrets.wanted:
            secrets.write(secrets.before)
            if before:  # a worker of it may have read the new ones
                application.renew(before)
        if release == before:
            application.set_health(release, health)
        if application.live_program() != way_back:
            application.put_live(way_back)
        back = application.live() or way_back
        stays = f"{back} {'is live again' if is_live else 'stays live'}" if back else "none is live"
        module.fail_json(
            msg=f"Release {release} of {os.path.basename(options['directory'])} was "
            f"{'put live' if is_live else 'tried'} and does not work, so {stays}: {error}"
        )
    application.set_health(release, options["health"])
    module.exit_json(
        changed=True, release=release, replaced=before, deleted=application.prune(options["keep"])
    )


if __name__ == "__main__":
    main()
