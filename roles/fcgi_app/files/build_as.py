"""Runs a command as another user, and ends all that it leaves running.

    build_as.py USER COMMAND [ARGUMENT ...]

The command gets none of root's environment, and setuid programs give it no other rights. A process
whose parent has ended becomes a child of this program (PR_SET_CHILD_SUBREAPER, prctl(2)). So all
that the command leaves running is found and killed, and no other process of that user.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 30  # seconds until the processes that are left must have ended


def children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(child) for child in file.read().split()]


def end_children() -> bool:
    """Kill the children of this process, and theirs; return whether all ended in time."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for child in children():  # not reaped yet, so no other process has its id
            os.kill(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return True
        time.sleep(0.01)
    return False


def main() -> int:
    user, *command = sys.argv[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    owner = pwd.getpwnam(user)
    as_user = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    status = subprocess.run(
        ["setpriv", *as_user, "--no-new-privs", "--reset-env", "--", *command], check=False
    ).returncode
    if not end_children():
        print(f"Processes of the build are still running: pgrep -l -u {user}", file=sys.stderr)
        return 1
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
