#!/usr/bin/python
# Copyright fcgid.stack maintainers
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a directory of configuration files that goes live whole, or not at all.

`path` is a symbolic link to one version of the tree. A new version is written beside the live
one, tested there, and goes live by renaming one link over the other, which rename(2) does
atomically. Earlier versions stay for the way back: by hand, and at once when the service does not
take the new version, or no longer answers with it.
"""

from __future__ import annotations

DOCUMENTATION = """
module: config_tree
short_description: Validate a set of configuration files as a whole, swap it in, or go back
description:
  - Compares the files in I(path) with I(files). When they differ, writes a new version beside it,
    runs I(validate) on that, and only then makes I(path) a symbolic link to the new version. A
    version that is not valid is kept as C(rejected) for a look, and nothing live changes.
  - With I(apply), the service then takes the new version, and has to answer as well as before at
    each of I(probe). When it does not, the previous version goes live again, is applied, and the
    module fails. The new one is kept as C(rejected).
  - The versions are kept in I(path) with C(.versions) appended, the last five of them.
version_added: 0.1.0
options:
  path:
    description: The live tree. Must not exist, or be a link that this module made.
    type: path
    required: true
  files:
    description: The whole content of the tree, file names to text.
    type: dict
    required: true
  validate:
    description: Command that tests a tree; C(%s) stands for the directory.
    type: str
    required: true
  apply:
    description:
      - Command with which the running service takes the live tree, and which fails if it does not.
        Run when the tree changed. It has to work on a service that a bad tree has ended, too.
    type: str
  force_apply:
    description:
      - Run I(apply) even if the tree did not change, as when the service still runs with what was
        there before. The task is changed then.
    type: bool
    default: false
  undo:
    description: Command that takes back what else I(apply) did, run after it on the way back.
    type: str
  probe:
    description:
      - Where the service has to answer, within I(probe_timeout), after I(apply). Redirects are not
        followed. Asked before the change, too. Afterwards each URL must be answered, and with a
        status below 500 where it was before. One that kept its client waiting before may do so
        again.
    type: list
    elements: dict
    default: []
    suboptions:
      url:
        description: Of http and the loopback address, as in C(http://127.0.0.1:8079/server-status).
        type: str
        required: true
      host:
        description: The C(Host) header, if it is not that of I(url).
        type: str
  probe_timeout:
    description: Seconds for which a probe is repeated until it succeeds.
    type: int
    default: 10
author:
  - fcgid.stack maintainers (@fcgid)
attributes:
  check_mode:
    description: Says whether the task would change something; does not validate, apply or probe.
    support: full
  diff_mode:
    description: Shows each file that differs from the live one.
    support: full
"""

EXAMPLES = """
- name: Put the configuration of httpd live
  fcgid.stack.config_tree:
    path: /etc/httpd
    files:
      httpd.conf: "{{ lookup('ansible.builtin.template', 'httpd.conf.j2') }}"
      vhosts.conf: "{{ lookup('ansible.builtin.template', 'vhosts.conf.j2') }}"
    validate: httpd -t -C 'Define ConfDir %s' -f %s/httpd.conf
    apply: systemctl reload-or-restart httpd
    probe:
      - url: http://127.0.0.1/
        host: www.example.org
"""

RETURN = """
version:
  description: The version that is live, empty in check mode when there is none yet.
  type: str
  returned: success
  sample: 20260102T030405.678901Z
"""

import fcntl
import os
import re
import shlex
import shutil
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from http.client import HTTPConnection, HTTPException

from ansible.module_utils.basic import AnsibleModule

FILE_MODE = 0o644
DIRECTORY_MODE = 0o755
REJECTED = "rejected"
# A link to the version before, as long as the service was not seen to work with the new one.
UNCHECKED = "unchecked"
KEPT = 5
LOOPBACK_URL = re.compile(r"http://((?:127\.0\.0\.1|\[::1\])(?::\d+)?)(/\S*)?")
NO_ANSWER = 0
PROBE_INTERVAL = 0.2  # seconds


def read_tree(path: str) -> dict[str, tuple[str, int]]:
    """Content and mode of every entry of the directory `path`; empty when there is none.

    What is no file, and no part of a tree, has the mode of its type: it counts as a difference.
    """
    tree = {}
    for entry in os.scandir(path) if os.path.isdir(path) else ():
        content = ""
        if entry.is_file(follow_symlinks=False):
            with open(entry.path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                content = file.read()
        tree[entry.name] = (content, entry.stat(follow_symlinks=False).st_mode & ~stat.S_IFREG)
    return tree


def write_tree(path: str, files: dict[str, str]) -> None:
    """Write `files` into the new directory `path`, safe on the disk when this returns."""
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    os.chmod(path, DIRECTORY_MODE)
    for name, content in files.items():
        with open(os.path.join(path, name), "x", encoding="utf-8", newline="") as file:
            file.write(content)
            os.fchmod(file.fileno(), FILE_MODE)
            file.flush()
            os.fsync(file.fileno())


def switch(path: str, version: str) -> None:
    """Make `path` a link to the directory `version`, in one rename(2)."""
    link = path + ".new"
    if os.path.lexists(link):
        os.remove(link)
    os.symlink(os.path.relpath(version, os.path.dirname(path)), link)
    os.replace(link, path)


def prune(versions: str, live: str) -> None:
    """Delete the oldest versions, but never the live one: names sort by age."""
    old = sorted(set(os.listdir(versions)) - {REJECTED, UNCHECKED, live}, reverse=True)
    for name in old[KEPT - 1 :]:
        shutil.rmtree(os.path.join(versions, name))


def differences(path: str, live: dict[str, str], files: dict[str, str]) -> list[dict[str, str]]:
    """The files that differ, in the form that Ansible prints with --diff."""
    return [
        {
            "before": live.get(name, ""),
            "after": files.get(name, ""),
            "before_header": os.path.join(path, name),
            "after_header": os.path.join(path, name),
        }
        for name in sorted({*live, *files})
        if live.get(name) != files.get(name)
    ]


def ask(probe: dict[str, str], timeout: float) -> int | None:
    """The status with which `probe` is answered, NO_ANSWER, or None where nobody listens."""
    address, target = LOOPBACK_URL.fullmatch(probe["url"]).groups()
    connection = HTTPConnection(address, timeout=timeout)
    try:
        headers = {"Host": probe["host"]} if probe["host"] else {}
        connection.request("GET", target or "/", headers=headers)
        return connection.getresponse().status
    except ConnectionRefusedError:
        return None
    except (OSError, HTTPException):
        return NO_ANSWER
    finally:
        connection.close()


def as_good(before: int | None, after: int | None) -> bool:
    """Whether the service answers at least as well as before."""
    if before == NO_ANSWER:
        return after is not None
    return bool(after) and (after < 500 or before is None or before >= 500)


def settle(probe: dict[str, str], before: int | None, timeout: float) -> int | None:
    """The first answer that is as good as the one `before`, or else the last within `timeout`."""
    end = time.monotonic() + timeout
    while True:
        after = ask(probe, max(end - time.monotonic(), PROBE_INTERVAL))
        if as_good(before, after) or time.monotonic() + PROBE_INTERVAL > end:
            return after
        time.sleep(PROBE_INTERVAL)


def in_words(status: int | None) -> str:
    if status is None:
        return "connection refused"
    return f"status {status}" if status else "no answer"


def named(probe: dict[str, str]) -> str:
    return f"{probe['url']} (Host: {probe['host']})" if probe["host"] else probe["url"]


class Service:
    """What runs with the tree, and how it answered when this object was made."""

    def __init__(self, module: AnsibleModule) -> None:
        self.run_command = module.run_command
        self.command = shlex.split(module.params["apply"])
        self.undo = shlex.split(module.params["undo"] or "")
        self.timeout = module.params["probe_timeout"]
        self.probes = module.params["probe"]
        # All at once: one that does not answer takes no time from the others.
        self.pool = ThreadPoolExecutor(max(len(self.probes), 1))
        self.before = list(self.pool.map(lambda probe: ask(probe, self.timeout), self.probes))

    def run(self, command: list[str]) -> str:
        """Run a command. Returns what went wrong, or nothing."""
        try:
            status, out, err = self.run_command(command, handle_exceptions=False)
        except OSError as error:
            status, out, err = error.errno, "", error.strerror
        return (
            f"{shlex.join(command)} ended with {status}: {(err or out).strip()}" if status else ""
        )

    def take(self, back: bool = False) -> str:
        """Have the service take the live tree, and ask whether it still answers.

        What nobody listened for before must be answered by now, too, unless this is the way `back`.
        Returns what went wrong, or nothing.
        """
        problem = self.run(self.command)
        if back and self.undo:
            problem = self.run(self.undo) or problem
        if problem:
            return problem
        asked = [
            (probe, before)
            for probe, before in zip(self.probes, self.before)
            if before is not None or not back
        ]
        answers = self.pool.map(lambda pair: settle(*pair, self.timeout), asked)
        return "; ".join(
            f"{named(probe)}: {in_words(before)} before, {in_words(after)} after"
            for (probe, before), after in zip(asked, answers)
            if not as_good(before, after)
        )


def go_back(path: str, previous: str, service: Service) -> str:
    """Make the version `previous` live again, if there was one. Returns what came of it."""
    if not previous:
        os.remove(path)
        return f"There was none before, so {path} was removed again."
    switch(path, previous)
    problem = service.take(back=True)
    if problem:
        return f"The previous one, {previous}, is live again, but: {problem}"
    answers = " and answers as before" if any(service.before) else ""
    return f"The previous one, {previous}, is live again{answers}."


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "files": {"type": "dict", "required": True},
            "validate": {"type": "str", "required": True},
            "apply": {"type": "str"},
            "force_apply": {"type": "bool", "default": False},
            "undo": {"type": "str"},
            "probe": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "url": {"type": "str", "required": True},
                    "host": {"type": "str"},
                },
            },
            "probe_timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    path = module.params["path"].rstrip("/")
    files = module.params["files"]
    versions = path + ".versions"

    if os.path.lexists(path) and os.path.dirname(os.path.realpath(path)) != versions:
        module.fail_json(
            msg=f"{path} is not a link to one of {versions}: something else put it "
            f"there. Move it away (mv {path} {path}.orig) and run again."
        )
    for probe in module.params["probe"]:
        if not LOOPBACK_URL.fullmatch(probe["url"]):
            module.fail_json(msg=f"probe: {probe['url']} is not like http://127.0.0.1:8079/path.")

    if not module.check_mode:
        # The module of an earlier run, which was killed, may still be running. Only root can open
        # this file, and therefore lock it.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fcntl.flock(os.open(f"{versions}.lock", flags, 0o600), fcntl.LOCK_EX)
    live = read_tree(path)
    unchecked = os.path.join(versions, UNCHECKED)
    interrupted = os.path.islink(unchecked)
    version = os.path.basename(os.path.realpath(path)) if live else ""
    previous = os.path.realpath(unchecked if interrupted else path) if live else ""
    changed = live != {name: (content, FILE_MODE) for name, content in files.items()}
    apply = bool(module.params["apply"]) and (
        changed or interrupted or module.params["force_apply"]
    )
    diff = differences(path, {name: content for name, (content, _) in live.items()}, files)
    if module.check_mode or not (changed or apply):
        module.exit_json(changed=changed or apply, version=version, diff=diff)

    rejected = os.path.join(versions, REJECTED)
    if changed:
        write_tree(rejected, files)
        command = [word.replace("%s", rejected) for word in shlex.split(module.params["validate"])]
        status, out, err = module.run_command(command)
        if status:
            module.fail_json(
                msg=f"The new configuration is not valid, so {path} was left as it was. The "
                f"rejected files are in {rejected}.\n{(err or out).strip()}",
                diff=diff,
            )
    service = Service(module) if apply else None
    if changed:
        version = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        os.rename(rejected, os.path.join(versions, version))
        if service and previous and not interrupted:
            os.symlink(os.path.basename(previous), unchecked)
        switch(path, os.path.join(versions, version))
    problem = service.take() if service else ""
    if problem and not (changed or interrupted):
        module.fail_json(
            msg=f"{path} was applied anew, and did not work. It did not change, so there is "
            f"nothing to go back to.\n{problem}"
        )
    if problem:
        outcome = go_back(path, previous, service)
        shutil.rmtree(rejected, ignore_errors=True)
        os.rename(os.path.join(versions, version), rejected)
    if os.path.islink(unchecked):
        os.remove(unchecked)
    if problem:
        module.fail_json(
            msg=f"The new configuration is valid, but did not work. {outcome} The rejected files "
            f"are in {rejected}.\n{problem}",
            diff=diff,
        )
    prune(versions, version)
    module.exit_json(changed=True, version=version, diff=diff)


if __name__ == "__main__":
    main()
