#!/usr/bin/python
# Copyright fcgid.stack maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: compares many paths with what is expected of them, in one round trip."""

from __future__ import annotations

DOCUMENTATION = """
module: drift_info
short_description: Report which files and directories are not as expected
description:
  - Compares paths on the host with the expected content and mode, all in one round trip, so that
    the tasks that would correct them run only where something differs. Changes nothing.
version_added: 1.0.0
options:
  expected:
    description: Paths that must exist, with the expected content and mode.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The path. A symbolic link is not followed.
        type: path
        required: true
      content:
        description: The content of the file.
        type: str
      mode:
        description: The permissions, in octal.
        type: str
  present:
    description: Paths that must exist.
    type: list
    elements: path
    default: []
author:
  - fcgid.stack maintainers (@fcgid)
attributes:
  check_mode:
    description: Reads only.
    support: full
"""

EXAMPLES = """
- name: Compare the unit with its template
  fcgid.stack.drift_info:
    expected:
      - path: /etc/systemd/system/httpd.service
        content: "{{ lookup('ansible.builtin.template', 'httpd.service.j2') }}"
        mode: "0644"
  register: drift
"""

RETURN = """
differing:
  description: The paths that are missing, or are not as expected.
  type: list
  elements: str
  returned: always
"""

import os
import stat

from ansible.module_utils.basic import AnsibleModule


def is_file(path: str, content: str) -> bool:
    with open(path, "rb") as file:
        return file.read() == content.encode()


def differs(path: str, content: str | None = None, mode: str | None = None) -> bool:
    """Return whether the path is missing, or has other content or another mode."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return True
    if mode is not None and stat.S_IMODE(status.st_mode) != int(mode, 8):
        return True
    return content is not None and not (stat.S_ISREG(status.st_mode) and is_file(path, content))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "expected": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str"},
                    "mode": {"type": "str"},
                },
            },
            "present": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    missing = [path for path in module.params["present"] if differs(path)]
    changed = [entry["path"] for entry in module.params["expected"] if differs(**entry)]
    module.exit_json(changed=False, differing=missing + changed)


if __name__ == "__main__":
    main()
