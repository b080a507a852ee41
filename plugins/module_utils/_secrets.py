# Copyright fcgid.stack maintainers
# SPDX-License-Identifier: Apache-2.0
"""The secrets of an application: files that root owns and that one group can read."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile

from ansible_collections.fcgid.stack.plugins.module_utils._files import (
    WRITABLE_BY_OTHERS,
    open_regular,
    remove_tree,
)

FILE_MODE = 0o440
DIRECTORY_MODE = 0o750
# How much is read from a directory that belongs to an application, in bytes.
FOREIGN_LIMIT = 1 << 20
WORK_PREFIX = ".secrets-"


class Secrets:
    """The secrets on the host, their former content, and the content that is wanted.

    Root owns the directory, so that nobody else can change the entries that root works with. A
    directory of another user is replaced and never written to.
    """

    def __init__(self, directory: str, user: str, wanted: dict[str, object]) -> None:
        self.directory = os.path.join(directory, "secrets")
        self.group = pwd.getpwnam(user).pw_gid
        self.wanted = {name: str(content).encode() for name, content in wanted.items()}
        self.before = self._read()[1]

    def _read(self) -> tuple[bool, dict[str, bytes]]:
        """Return whether owners and modes are as `write` sets them, and the content of each file.

        In a directory that users other than root can write to, only files of the directory's owner
        count: any other may be a hard link to a file that this owner cannot read.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            directory = os.open(self.directory, flags)
        except FileNotFoundError:
            return True, {}
        except OSError:  # not a directory
            return False, {}
        found = {}
        room = FOREIGN_LIMIT
        try:
            owner = os.fstat(directory)
            private = self._is_private(owner, DIRECTORY_MODE)
            root_only = not owner.st_uid and not owner.st_mode & WRITABLE_BY_OTHERS
            for name in os.listdir(directory):
                file = open_regular(name, directory)
                if file is None:
                    private = False
                    continue
                with file:
                    status = os.fstat(file.fileno())
                    private = private and self._is_private(status, FILE_MODE)
                    if root_only:
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
        """Return when a file was added or removed last, in seconds since the epoch; else 0."""
        return os.stat(self.directory).st_mtime if self.before else 0.0

    def differ(self) -> bool:
        """Return whether the directory or a file has another content, owner, group or mode."""
        exists = os.path.lexists(self.directory)
        return self._read() != (True, self.wanted) or exists != bool(self.wanted)

    def write(self, files: dict[str, bytes]) -> None:
        """Make the directory hold `files` and nothing else, each replaced by a rename."""
        above = os.path.dirname(self.directory)
        for name in os.listdir(above):
            if name.startswith(WORK_PREFIX):  # of a run that was killed
                remove_tree(os.path.join(above, name))
        exists = os.path.lexists(self.directory)
        if files and exists and self._is_private(os.lstat(self.directory), DIRECTORY_MODE):
            self._fill(self.directory, files)
            return
        work = tempfile.mkdtemp(prefix=WORK_PREFIX, dir=above)  # mode 0700
        new, old = os.path.join(work, "new"), os.path.join(work, "old")
        os.mkdir(new, 0o700)
        self._fill(new, files)
        os.chown(new, 0, self.group)
        os.chmod(new, DIRECTORY_MODE)
        if exists:
            os.rename(self.directory, old)
        if files:
            os.rename(new, self.directory)
        remove_tree(old)
        remove_tree(work)

    def _fill(self, directory: str, files: dict[str, bytes]) -> None:
        """Replace the content of `directory`, which root owns, by `files`."""
        for name in set(os.listdir(directory)) - set(files):
            remove_tree(os.path.join(directory, name))
        for name, content in files.items():
            with tempfile.NamedTemporaryFile(dir=directory, delete=False) as new:  # mode 0600
                new.write(content)
                os.fchown(new.fileno(), 0, self.group)
                os.fchmod(new.fileno(), FILE_MODE)
            os.replace(new.name, os.path.join(directory, name))
