# Copyright fcgid.stack maintainers
# SPDX-License-Identifier: Apache-2.0
"""Files that root reads, writes and locks on a host where other users have processes."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
from typing import BinaryIO

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def open_regular(path: str, directory: int | None = None) -> BinaryIO | None:
    """Open the regular file `path`, relative to the descriptor `directory`.

    Returns None if there is no such file or it cannot be opened. A symbolic link is not followed,
    and a FIFO does not block.
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
    """Return the first directory, `path` or one above it, that users other than root can write to.

    Returns "" if there is none; `path` is absolute. Root works below `path` by name: whoever can
    write there could redirect root's work. A sticky directory above `path`, such as /tmp, is safe:
    nobody but root can rename or remove root's entries in it.
    """
    for part in (path, os.path.realpath(path)):
        below = False
        while True:
            status = os.stat(part)
            others = status.st_mode & WRITABLE_BY_OTHERS
            if status.st_uid or (others and not (below and status.st_mode & stat.S_ISVTX)):
                return part
            if part == os.path.dirname(part):
                break
            part, below = os.path.dirname(part), True
    return ""


def remove_tree(path: str) -> None:
    """Remove `path`, if it exists, from a directory that root owns.

    `path` may be a directory of another user, who may still write to it: root takes ownership of it
    first. What that user adds in the meantime may stay.
    """
    if os.path.isdir(path) and not os.path.islink(path):
        os.chown(path, 0, 0)
        os.chmod(path, 0o700)
    # rm follows no link and has no limit on depth, unlike shutil.rmtree.
    subprocess.run(["rm", "-rf", "--", path], capture_output=True, check=False)


def lock_until_exit(path: str) -> None:
    """Wait for the lock on the file `path`, and hold it until this process ends.

    The module of an earlier run that was killed may still be running. Only root can open the file,
    and therefore lock it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fcntl.flock(os.open(path, flags, 0o600), fcntl.LOCK_EX)
