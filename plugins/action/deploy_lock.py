# Copyright fcgid.stack maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible action: one run at a time changes a host. Documented in plugins/modules/deploy_lock.py.

The lock is a symbolic link whose target names the holder, a process of ansible-playbook: symlink(2)
makes it only where there is none, and with its content. A lock is never replaced. It is removed,
under flock(1) and only while it still names the same holder. Then every run may try to make it.
"""

from __future__ import annotations

import multiprocessing
import os
import pwd
import re
import shlex
import socket
from datetime import datetime, timezone
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

HOLDER = re.compile(
    r"(?P<owner>.+@(?P<controller>[^@:]*)):(?P<pid>\d+):(?P<start>\d*):(?P<system>[^:]*)"
)
# Under flock(1) on a file that only this user can open, and therefore lock.
REMOVE_IF_SAME = (
    'umask 077 && exec 9>>"$1.guard" && flock 9 && { test "$(readlink "$1")" != "$2" || rm "$1"; }'
)
ATTEMPTS = 3  # a lock may be removed between the attempt to make one and the look at its holder


def user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def system() -> str:
    """Return this boot and PID namespace, in which a process id is unique; "" without /proc."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as boot_id:
            return f"{boot_id.read(8)}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def state_and_start(pid: int) -> tuple[str, str]:
    """Return state and start, in clock ticks after boot, of process `pid` (proc(5)); else ""."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]


def runs(pid: int, start: str) -> bool:
    """Return whether process `pid` runs, and is not a later one that has the same id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's, which /proc may hide
        pass
    state, started = state_and_start(pid)
    return state not in ("Z", "X") and started in ("", start)


def this_run() -> str:
    """Return the text that names this run of ansible-playbook."""
    # Each task runs in a process of its own, which Ansible forks.
    parent = multiprocessing.parent_process()
    pid = (parent and parent.pid) or os.getpid()
    return f"{user()}@{socket.gethostname()}:{pid}:{state_and_start(pid)[1]}:{system()}"


def is_dead(holder: str) -> bool:
    """Return whether the holder was a process of this controller, and has ended."""
    named = HOLDER.fullmatch(holder)
    return (
        named is not None
        and (named["controller"], named["system"]) == (socket.gethostname(), system())
        and not runs(int(named["pid"]), named["start"])
    )


def refusal(host: str, path: str, holder: str, since: datetime) -> str:
    named = HOLDER.fullmatch(holder)
    who, process = (named["owner"], f"process {named['pid']}, ") if named else (holder, "")
    return (
        f"{host} is being changed by {who} ({process}since {since:%Y-%m-%d %H:%M:%S} UTC). "
        "Wait until that run has ended. If it was killed, remove its lock on "
        f"{host}: rm {shlex.quote(path)}"
    )


def output(done: dict[str, Any]) -> str:
    # Errors are in stdout where ssh has a terminal.
    return f"{done['stdout']}{done['stderr']}".strip()


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """The action plugin."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        options = self.validate_argument_spec(
            argument_spec={
                "path": {"type": "str", "default": "/run/fcgid.stack.lock"},
                "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            }
        )[1]
        result["changed"] = False  # the lock is of the run, not of the host's state
        if self._task.check_mode:
            return result
        if options["state"] == "absent":
            self._remove(options["path"], this_run())
        else:
            host = (task_vars or {})["inventory_hostname"]
            result["msg"] = self._acquire(options["path"], host)
        return result

    def _acquire(self, path: str, host: str) -> str:
        """Make the lock, or fail with the name of the run that holds it. Returns a message."""
        ours = this_run()
        msg = "This run holds the lock."
        for _attempt in range(ATTEMPTS):
            made = self._execute("ln", "-s", "-T", ours, path)
            if made["rc"] == 0:
                return msg
            holder, since = self._read(path)
            if holder == ours:
                return msg
            if is_dead(holder):
                self._remove(path, holder)
                msg = f"This run holds the lock. It took it over from {holder}, which has ended."
            elif holder:
                raise AnsibleActionFail(refusal(host, path, holder, since))
        raise AnsibleActionFail(f"The lock {path} cannot be made on {host}: {output(made)}")

    def _read(self, path: str) -> tuple[str, datetime]:
        """Return the holder, "" when there is no lock, and when the lock was made."""
        found = self._execute("find", path, "-maxdepth", "0", "-printf", r"%Ts %l\n")
        # sudo may have written lines above it.
        last = found["stdout_lines"][-1] if found["rc"] == 0 else "0"
        fields = last.partition(" ")
        return fields[2], datetime.fromtimestamp(int(fields[0]), timezone.utc)

    def _remove(self, path: str, holder: str) -> None:
        """Remove the lock if that holder has it."""
        removed = self._execute("sh", "-c", REMOVE_IF_SAME, "sh", path, holder)
        if removed["rc"]:
            raise AnsibleActionFail(f"The lock {path} cannot be removed: {output(removed)}")

    def _execute(self, *command: str) -> dict[str, Any]:
        """Run a command on the host."""
        result: dict[str, Any] = self._low_level_execute_command(shlex.join(command))
        return result
