# Copyright fcgid.stack maintainers
# SPDX-License-Identifier: Apache-2.0
"""The releases of an application on a host.

A release is a directory with a program in it. It is live when the program in the virtual host's
directory is a link to it. mod_fcgid identifies an application by the inode of its program, so when
the link is replaced, with one rename(2), new requests get workers of the new release, and requests
in flight end in the old ones.
"""

from __future__ import annotations

import contextlib
import os
import shutil

from ansible_collections.fcgid.stack.plugins.module_utils._processes import started_below

# A file in a release that passed its checks when it went live last. It holds the health path.
CHECKED = ".checked"


class Application:
    """The releases of one application, and the link that says which of them is live."""

    def __init__(self, directory: str, script: str, live: str) -> None:
        self.releases = os.path.join(directory, "releases")
        self.script = script
        self.link = live

    def program(self, release: str) -> str:
        """Return the path of the program of `release`."""
        return os.path.join(self.releases, release, self.script)

    def live_program(self) -> str:
        """Return the target of the link, which may be another application's; "" without a link."""
        return os.readlink(self.link) if os.path.islink(self.link) else ""

    def live(self) -> str:
        """Return the name of the live release; "" when there is none."""
        program = self.live_program()
        release = os.path.basename(os.path.dirname(program))
        return release if program == self.program(release) else ""

    def built(self) -> list[str]:
        """Return the releases whose program, which is written last, exists; last used first."""
        names = os.listdir(self.releases) if os.path.isdir(self.releases) else []
        found = [name for name in names if os.path.exists(self.program(name))]
        return sorted(found, key=self.used_last, reverse=True)

    def used_last(self, release: str) -> float:
        """Return when the release went live last, or else was built, in seconds since the epoch."""
        directory = os.path.join(self.releases, release)
        path = self._checked_file(release) if self.is_checked(release) else directory
        return os.stat(path).st_mtime

    def _checked_file(self, release: str) -> str:
        return os.path.join(self.releases, release, CHECKED)

    def is_checked(self, release: str) -> bool:
        """Return whether the release passed its checks when it went live last."""
        return os.path.exists(self._checked_file(release))

    def health_path(self, release: str) -> str:
        """Return the health path that the release was checked with; "" if it was not."""
        if not self.is_checked(release):
            return ""
        with open(self._checked_file(release)) as file:
            return file.read()

    def set_checked(self, release: str, health_path: str) -> None:
        """Record that the release was checked with this path, or, if that is "", was not."""
        if health_path:
            with open(self._checked_file(release), "w") as file:
                file.write(health_path)
        elif self.is_checked(release):
            os.remove(self._checked_file(release))

    def fallback(self) -> str:
        """Return the program to go live if a new release fails; "" for none.

        The live one, or the last checked release, if the live one was not checked.
        """
        program, live = self.live_program(), self.live()
        checked = [name for name in self.built() if self.is_checked(name)]
        if live and live not in checked:
            return self.program(checked[0]) if checked else program
        return program

    def put_live(self, program: str) -> None:
        """Make the link point to `program`, or remove the link if that is ""."""
        if not program:
            os.remove(self.link)
            return
        new = self.link + ".new"
        with contextlib.suppress(FileNotFoundError):
            os.remove(new)
        os.symlink(program, new)
        os.replace(new, self.link)

    def renew_inode(self, release: str) -> None:
        """Give the program of `release` another inode, so that mod_fcgid starts new workers.

        The former file stays, under another name: its inode must not be used again while there may
        be workers of it.
        """
        program = self.program(release)
        with contextlib.suppress(FileExistsError):
            os.link(program, f"{program}.{os.stat(program).st_ino}")
        shutil.copy2(program, program + ".new")
        os.replace(program + ".new", program)

    def prune(self, keep: int) -> list[str]:
        """Delete all but `keep` releases and those that are in use; return the deleted names.

        Releases that were never live are deleted first.
        """
        names = set(os.listdir(self.releases)) - {self.live()}
        last = sorted(
            names, key=lambda name: (self.is_checked(name), self.used_last(name)), reverse=True
        )
        old = last[max(0, keep - 1) :]
        deleted = sorted(set(old) - started_below(self.releases))
        for name in deleted:
            shutil.rmtree(os.path.join(self.releases, name))
        return deleted
