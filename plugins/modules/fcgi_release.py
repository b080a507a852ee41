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
    description:
      - Directory of the application. The releases are in C(releases) below it. Root alone may write
        there and in the directory of I(live).
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
      - Files in C(secrets) below I(directory), name to content. They belong to root, and the group
        of I(user) alone can read them. Others there are removed. When one changes, the release gets
        new workers, and if these do not work, the file has its old content again.
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
import select
import shutil
import signal
import stat
import subprocess
import tempfile
from typing import BinaryIO

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fcgid.stack.plugins.module_utils.fcgiserve import client, listen

# In a release, a file with the path that it was asked for when it had gone live, and answered.
MARK = ".live"
# What mod_fcgid gives its workers (httpd.h, DEFAULT_PATH).
PATH = "/bin:/usr/bin:/usr/ucb:/usr/bsd:/usr/local/bin"
# How much of what a worker or httpd wrote is quoted, in lines, and read for that, in bytes.
QUOTED = 40
QUOTED_FROM = 1 << 16
# Files of secrets: root's, to be read by the group of the workers' user.
SECRET_MODE = 0o440
SECRETS_MODE = 0o750
# What is kept of a directory of secrets that belonged to an application, in bytes.
FOREIGN_SECRETS = 1 << 20


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


def open_regular(path: str, directory: int | None = None) -> BinaryIO | None:
    """Open the regular file `path`, relative to the descriptor `directory`; None if it is none.

    A symbolic link is not followed, and a FIFO does not block.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, dir_fd=directory)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    return None


def written_by_others(path: str) -> str:
    """The directory of the absolute `path`, or above it, that others than root can write to.

    Empty if there is none. Root works below `path` by name: whoever can write there could make it
    work elsewhere. A sticky directory above, such as /tmp, is safe: nobody but root can rename or
    remove root's entries in it.
    """
    for part in (path, os.path.realpath(path)):
        below = False
        while True:
            status = os.stat(part)
            others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if status.st_uid or (others and not (below and status.st_mode & stat.S_ISVTX)):
                return part
            if part == os.path.dirname(part):
                break
            part, below = os.path.dirname(part), True
    return ""


def discard(path: str) -> None:
    """Remove `path`, if it exists, from a directory that root owns.

    `path` may be a directory of another user, who may still write to it: root takes it over first.
    What that user adds in the meantime may stay.
    """
    if os.path.isdir(path) and not os.path.islink(path):
        os.chown(path, 0, 0)
        os.chmod(path, 0o700)
    # It follows no link, and no depth is too much for it, as it is for shutil.rmtree.
    subprocess.run(["rm", "-rf", "--", path], capture_output=True)


class Secrets:
    """Files that root owns and one group can read, and their former content.

    Root owns the directory, so that nobody else can change the entries that root works with. A
    directory of another user, as earlier versions left it, is replaced and never written to.
    """

    def __init__(self, directory: str, user: str, wanted: dict[str, str]) -> None:
        self.directory = os.path.join(directory, "secrets")
        self.group = pwd.getpwnam(user).pw_gid
        self.wanted = {name: str(content).encode() for name, content in wanted.items()}
        self.before = self._read()[1]

    def _read(self) -> tuple[bool, dict[str, bytes]]:
        """Whether owners and modes are as `write` sets them, and the content of each file.

        In a directory that others than root can write to, only files of the directory's owner
        count: any other may be a hard link to a file that this owner cannot read.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            directory = os.open(self.directory, flags)
        except FileNotFoundError:
            return True, {}
        except OSError:  # no directory
            return False, {}
        found = {}
        room = FOREIGN_SECRETS
        try:
            owner = os.fstat(directory)
            private = self._is_private(owner, SECRETS_MODE)
            alone = not owner.st_uid and not owner.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            for name in os.listdir(directory):
                file = open_regular(name, directory)
                if file is None:
                    private = False
                    continue
                with file:
                    status = os.fstat(file.fileno())
                    private = private and self._is_private(status, SECRET_MODE)
                    if alone:
                        found[name] = file.read()
                    elif status.st_uid == owner.st_uid != 0 and status.st_size <= room:
                        found[name] = file.read(room)
                        room -= len(found[name])
        finally:
            os.close(directory)
        return private, found

    def _is_private(self, status: os.stat_result, mode: int) -> bool:
        found = status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
        return found == (0, self.group, mode)

    def changed_last(self) -> float:
        """When a file came or went here last, in seconds since the epoch; 0 without any."""
        return os.stat(self.directory).st_mtime if self.before else 0.0

    def differ(self) -> bool:
        """Whether a file has another content, owner, group or mode, or the directory has."""
        there = os.path.lexists(self.directory)
        return self._read() != (True, self.wanted) or there != bool(self.wanted)

    def write(self, files: dict[str, bytes]) -> None:
        """Make the directory hold `files` and nothing else, each replaced by a rename."""
        above = os.path.dirname(self.directory)
        prefix = ".secrets-"
        for left in os.listdir(above):
            if left.startswith(prefix):  # of a run that was killed, or still written to then
                discard(os.path.join(above, left))
        there = os.path.lexists(self.directory)
        if files and there and self._is_private(os.lstat(self.directory), SECRETS_MODE):
            self._fill(self.directory, files)
            return
        work = tempfile.mkdtemp(prefix=prefix, dir=above)  # mode 0700
        new, old = os.path.join(work, "new"), os.path.join(work, "old")
        os.mkdir(new, 0o700)
        self._fill(new, files)
        os.chown(new, 0, self.group)
        os.chmod(new, SECRETS_MODE)
        if there:
            os.rename(self.directory, old)
        if files:
            os.rename(new, self.directory)
        discard(old)
        discard(work)

    def _fill(self, directory: str, files: dict[str, bytes]) -> None:
        """Put `files` in place of what is in a directory of root's."""
        for name in set(os.listdir(directory)) - set(files):
            discard(os.path.join(directory, name))
        for name, content in files.items():
            with tempfile.NamedTemporaryFile(dir=directory, delete=False) as new:  # mode 0600
                new.write(content)
                os.fchown(new.fileno(), 0, self.group)
                os.fchmod(new.fileno(), SECRET_MODE)
            os.replace(new.name, os.path.join(directory, name))


def excerpt(file: BinaryIO, begin: int = 0) -> str:
    """What was written to `file` from `begin` on; of much, how it begins and ends.

    Whoever writes there may still be at it, and may cut it or make it as large as they like.
    """
    end = os.fstat(file.fileno()).st_size
    half = QUOTED_FROM // 2
    if end - begin <= QUOTED_FROM:
        text = os.pread(file.fileno(), max(end - begin, 0), begin)
    else:
        pieces = [os.pread(file.fileno(), half, at) for at in (begin, end - half)]
        text = b"\n".join(pieces)
    return text.decode(errors="replace")


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
        output = stack.enter_context(tempfile.TemporaryFile())
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
        reason, written, ended = "", "", False
        try:
            answer = client.request(address, params, timeout=options["timeout"])
            reason = trouble(answer.status, url_of(options))
            written = answer.errors.decode(errors="replace")
        except client.RequestFailed as error:
            reason = str(error)
            ended = has_ended(worker, 1)
            os.kill(worker.pid, signal.SIGABRT)
        finally:
            end(worker)
        if ended:
            reason = f"it ended with status {worker.returncode} and did not answer."
        if reason:
            raise Failed(f"{reason}\n{quote(excerpt(output) + written)}")


def has_ended(worker: subprocess.Popen, seconds: float) -> bool:
    """Whether the worker ends within this time.

    It is not waited for: until then its process id, and that of its group, are no other's.
    """
    descriptor = os.pidfd_open(worker.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def end(worker: subprocess.Popen) -> None:
    """End the worker and all that it started, with SIGKILL if SIGTERM does not in 5 seconds."""
    os.kill(worker.pid, signal.SIGTERM)
    has_ended(worker, 5)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def check_site(options: dict) -> None:
    """Ask the web server for the same. Raises Failed, with what it wrote to its log meanwhile."""
    path = options["mount"] + options["health"]
    connection = http.client.HTTPConnection(
        "127.0.0.1", options["port"], timeout=options["timeout"]
    )
    with open_regular(options["error_log"] or "") or contextlib.nullcontext() as log:
        begin = os.fstat(log.fileno()).st_size if log else 0
        try:
            connection.request("GET", path, headers={"Host": options["host"]})
            reason = trouble(connection.getresponse().status, url_of(options))
        except (OSError, http.client.HTTPException) as error:
            reason = f"no answer to {url_of(options)} from port {options['port']}: {error}"
        finally:
            connection.close()
        if reason:
            raise Failed(f"{reason}\n{quote(excerpt(log, begin) if log else '')}")


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
    for path in (application.releases, os.path.dirname(application.link)):
        changeable = os.path.isdir(path) and written_by_others(path)
        if changeable:
            module.fail_json(
                msg=f"{changeable} is writable by others than root, and root works in it. Run "
                f"chown root:root {changeable} && chmod go-w {changeable}, then deploy again."
            )
    if os.path.isdir(options["directory"]) and not module.check_mode:
        # The module of an earlier run, which was killed, may still be running. Only root can open
        # this file, and therefore lock it.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(os.path.join(options["directory"], ".lock"), flags, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
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
    except Exception as error:  # whatever it is, there is a way back from it
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
