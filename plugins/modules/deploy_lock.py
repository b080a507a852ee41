#!/usr/bin/python
# Copyright fcgid.stack maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of an action: the code is plugins/action/deploy_lock.py."""

from __future__ import annotations

DOCUMENTATION = """
module: deploy_lock
short_description: Let one run at a time change a host
description:
  - Takes a lock on the host, or fails with the name of the run that holds it. A run may take its
    own lock again.
  - The lock is a symbolic link. Its target is the user, the controller, the process id and the
    start of C(ansible-playbook), and the boot of the controller.
  - The lock of a run that was killed is taken over by the next run from the same controller. A lock
    in C(/run) is gone after a reboot of the host. Remove the lock of a killed run on another
    controller by hand.
version_added: 1.0.0
options:
  path:
    description: The lock. Its directory must exist.
    type: str
    default: /run/fcgid.stack.lock
  state:
    description: >-
      V(present) takes the lock. V(absent) releases it, and does nothing when another run holds it.
    type: str
    choices: [present, absent]
    default: present
notes:
  - A task that was running when a run was killed may still be running on the host.
  - The host needs GNU C(ln) and C(find), and C(flock) of util-linux. Every Debian has them.
author:
  - fcgid.stack maintainers (@fcgid)
attributes:
  action:
    description: Runs on the controller, and runs commands on the host.
    support: full
  check_mode:
    description: Neither takes the lock, nor fails when another run holds it.
    support: full
"""

EXAMPLES = """
- name: Deploy
  block:
    - name: Take the lock
      fcgid.stack.deploy_lock:

    - name: Change the host
      ansible.builtin.include_role:
        name: fcgid.stack.httpd
  always:
    - name: Release the lock
      fcgid.stack.deploy_lock:
        state: absent
"""

RETURN = """
msg:
  description: That this run holds the lock, and whose lock it took over, if it did.
  type: str
  returned: when O(state=present), except in check mode
"""
