# Copyright fcgid.stack maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible lookup: a digest of the content of files and directories on the controller."""

from __future__ import annotations

DOCUMENTATION = """
name: tree_digest
short_description: One digest of the content of files and directories on the controller
description:
  - SHA-256 over the relative names, the executable bits and the contents of all files below the
    given paths. The digest does not depend on dates or on where the files are.
  - Hidden entries and what Python tools leave behind (C(__pycache__), C(*.egg-info), and C(build)
    and C(dist) at the top) do not count.
version_added: 1.0.0
author:
  - fcgid.stack maintainers (@fcgid)
options:
  _terms:
    description: Files or directories. The digest covers all of them, in this order.
    required: true
"""

EXAMPLES = """
- name: Name a release after its content
  ansible.builtin.set_fact:
    release: "{{ lookup('fcgid.stack.tree_digest', '/path/to/app')[:12] }}"
"""

RETURN = """
_raw:
  description: The digest, 64 hexadecimal digits.
  type: list
  elements: str
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase


def counts(name: str) -> bool:
    """Return whether a file or directory of this name belongs to the source."""
    return not (name.startswith(".") or name == "__pycache__" or name.endswith(".egg-info"))


def files_below(top: Path) -> list[Path]:
    """Return the files below the directory `top`, or `top` if it is a file, in a fixed order."""
    found = [top] if top.is_file() else []
    for directory, names, files in os.walk(top):
        left_behind = {"build", "dist"} if Path(directory) == top else set()
        names[:] = filter(counts, set(names) - left_behind)
        found.extend(Path(directory, file) for file in filter(counts, files))
    return sorted(found)


def tree_digest(tops: list[Path]) -> str:
    """Return the digest of these files and directories. Raises OSError."""
    digest = hashlib.sha256()
    for top in tops:
        for path in files_below(top):
            content = path.read_bytes()
            executable = os.access(path, os.X_OK)
            digest.update(f"{path.relative_to(top)}\0{executable}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible has no types
    """The lookup plugin."""

    def run(self, terms: list[str], variables: object = None, **kwargs: Any) -> list[str]:
        tops = [Path(self._loader.path_dwim(term)) for term in terms]
        for top in tops:
            if not top.exists():
                raise AnsibleLookupError(f"{top} does not exist on the controller.")
        try:
            return [tree_digest(tops)]
        except OSError as error:
            raise AnsibleLookupError(f"A source cannot be read: {error}") from error
