# Copyright fcgid.stack maintainers
# SPDX-License-Identifier: Apache-2.0
"""Versions of a tree of configuration files, and the link that says which of them is live.

The link is replaced with one rename(2). Former versions stay, to return to.
"""

from __future__ import annotations

import os
import shutil
import stat
from datetime import datetime, timezone

FILE_MODE = 0o644
DIRECTORY_MODE = 0o755
KEPT = 5


class Tree:
    """The files and versions of the tree `path`, as they were when this object was made."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.versions = path + ".versions"
        self.rejected = os.path.join(self.versions, "rejected")
        # A link to the former version, until the service was seen to work with the live one.
        self._unchecked = os.path.join(self.versions, "unchecked")
        self._entries = _read_entries(path)
        self.interrupted = os.path.islink(self._unchecked)
        self.version = os.path.basename(os.path.realpath(path)) if self._entries else ""
        former = self._unchecked if self.interrupted else path
        self.fallback = os.path.realpath(former) if self._entries else ""

    @staticmethod
    def is_foreign(path: str) -> bool:
        """Return whether there is something at `path` that is not a link to a version."""
        return (
            os.path.lexists(path) and os.path.dirname(os.path.realpath(path)) != path + ".versions"
        )

    def differs(self, files: dict[str, str]) -> bool:
        """Return whether the live tree is not exactly `files`, with the right modes."""
        return self._entries != {name: (content, FILE_MODE) for name, content in files.items()}

    def diff(self, files: dict[str, str]) -> list[dict[str, str]]:
        """Return the files that differ from `files`, as Ansible prints them with --diff."""
        live = {name: content for name, (content, _mode) in self._entries.items()}
        return [
            {
                "before": live.get(name, ""),
                "after": files.get(name, ""),
                "before_header": os.path.join(self.path, name),
                "after_header": os.path.join(self.path, name),
            }
            for name in sorted({*live, *files})
            if live.get(name) != files.get(name)
        ]

    def write_rejected(self, files: dict[str, str]) -> None:
        """Write `files` as the rejected version, which they are until they are valid.

        They are on the disk when this returns.
        """
        shutil.rmtree(self.rejected, ignore_errors=True)
        os.makedirs(self.rejected)
        os.chmod(self.rejected, DIRECTORY_MODE)
        for name, content in files.items():
            path = os.path.join(self.rejected, name)
            with open(path, "x", encoding="utf-8", newline="") as file:
                file.write(content)
                os.fchmod(file.fileno(), FILE_MODE)
                file.flush()
                os.fsync(file.fileno())

    def put_live(self, to_be_checked: bool) -> None:
        """Make the rejected version a new version, and put it live.

        If it is `to_be_checked`, a later run knows the version to return to when this one is killed
        before `set_checked`.
        """
        self.version = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        version = os.path.join(self.versions, self.version)
        os.rename(self.rejected, version)
        if to_be_checked and self.fallback and not self.interrupted:
            os.symlink(os.path.basename(self.fallback), self._unchecked)
        self._link(version)

    def restore_fallback(self) -> None:
        """Put the fallback live again, or remove the link if there is none."""
        if self.fallback:
            self._link(self.fallback)
        else:
            os.remove(self.path)

    def _link(self, version: str) -> None:
        link = self.path + ".new"
        if os.path.lexists(link):
            os.remove(link)
        os.symlink(os.path.relpath(version, os.path.dirname(self.path)), link)
        os.replace(link, self.path)

    def reject(self) -> None:
        """Keep the version that was live as the rejected one."""
        shutil.rmtree(self.rejected, ignore_errors=True)
        os.rename(os.path.join(self.versions, self.version), self.rejected)

    def set_checked(self) -> None:
        """Record that the live version needs no further check."""
        if os.path.islink(self._unchecked):
            os.remove(self._unchecked)

    def prune(self) -> None:
        """Delete the oldest versions, but never the live one: names sort by age."""
        kept = {os.path.basename(self.rejected), os.path.basename(self._unchecked), self.version}
        old = sorted(set(os.listdir(self.versions)) - kept, reverse=True)
        for name in old[KEPT - 1 :]:
            shutil.rmtree(os.path.join(self.versions, name))


def _read_entries(path: str) -> dict[str, tuple[str, int]]:
    """Return content and mode of every entry of the directory `path`; empty when there is none.

    An entry that is no file, and no part of a tree, has the mode of its type: it is a difference.
    """
    entries = {}
    for entry in os.scandir(path) if os.path.isdir(path) else ():
        content = ""
        if entry.is_file(follow_symlinks=False):
            with open(entry.path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                content = file.read()
        entries[entry.name] = (content, entry.stat(follow_symlinks=False).st_mode & ~stat.S_IFREG)
    return entries
