#!/usr/bin/python
# Copyright fcgid.stack maintainers
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: which of many paths are not as expected, in one round trip."""

from __future__ import annotations

DOCUMENTATION = """
module: drift_info
short_description: Tell which files, directories and links are not as expected
description:
  - Compares paths on the host with what they should be, all in one round trip, so that the tasks
    that would put them right run only where there is something to do. Changes nothing.
version_added: 0.1.0
options:
  expected:
    description: The paths. Each must exist, and be what else is said of it.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: The path. A link is not followed.
        type: path
        required: true
      content:
        description: The content of the file.
        type: str
      mode:
        description: The permissions, in octal.
        type: str
      target:
        description: The target of the link.
        type: path
author:
  - fcgid.stack maintainers (@fcgid)
attributes:
  check_mode:
    description: Reads only.
    support: full
"""

EXAMPLES = """
- name: See whether the unit is as the template has it
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


def differs(path: str, content: str | None, mode: str | None, target: str | None) -> bool:
    """Whether the path is missing, or not what is said of it."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return True
    if mode is not None and stat.S_IMODE(status.st_mode) != int(mode, 8):
        return True
    if target is not None and not (stat.S_ISLNK(status.st_mode) and os.readlink(path) == target):
        return True
    return content is not None and not (stat.S_ISREG(status.st_mode) and is_file(path, content))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "expected": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str"},
                    "mode": {"type": "str"},
                    "target": {"type": "path"},
                },
            },
        },
        supports_check_mode=True,
    )
    entries = module.params["expected"]
    module.exit_json(
        changed=False,
        differing=[entry["path"] for entry in entries if differs(**entry)],
    )


if __name__ == "__main__":
    main()
