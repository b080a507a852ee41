#!/usr/bin/python
# Copyright fcgid.stack maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a directory of configuration files that goes live as a whole, or not at all.

`path` is a symbolic link to one version of the tree. A new version is written beside the live one,
tested there, and goes live when the link is replaced, with one rename(2). The former version goes
live again when the service does not come up with the new one, or answers worse than before.
"""

from __future__ import annotations

DOCUMENTATION = """
module: config_tree
short_description: Validate a set of configuration files as a whole, and put it live
description:
  - Compares the files in O(path) with O(files). When they differ, writes a new version beside it,
    runs O(validate) on that, and only then makes O(path) a symbolic link to the new version. A
    version that is not valid is kept as C(rejected) for inspection, and nothing live changes.
  - With O(apply), the service then loads the new version, and must answer no worse than before at
    each of O(probe). If it does not, the former version goes live again and is applied, and the
    module fails. The new one is kept as C(rejected).
  - The last five versions are kept in O(path) with C(.versions) appended.
version_added: 1.0.0
options:
  path:
    description: The live tree. Must not exist, or be a link that this module made.
    type: path
    required: true
  files:
    description: The whole content of the tree, file names to text.
    type: dict
    required: true
  validate:
    description: Command that tests a tree; C(%s) stands for the directory.
    type: str
    required: true
  apply:
    description:
      - Command with which the running service loads the live tree. Must fail if the service does
        not load it. Runs when the tree changed. Must also work when a bad tree made the service
        end.
    type: str
  force_apply:
    description:
      - Run O(apply) even if the tree did not change, for example when the service still runs with
        a former tree. The task then reports a change.
    type: bool
    default: false
  undo:
    description:
      - Command that reverts what else O(apply) did. Runs after O(apply) when the former version is
        live again.
    type: str
  probe:
    description:
      - Where the service must answer within O(probe_timeout) after O(apply). It is requested before
        the change, too. Afterwards each URL must be answered, and with a status below 500 if it was
        so before. A URL that was not answered in time before need not be answered in time
        afterwards. Redirects are not followed.
    type: list
    elements: dict
    default: []
    suboptions:
      url:
        description: Of http and the loopback address, such as C(http://127.0.0.1:8079/server-status).
        type: str
        required: true
      host:
        description: The C(Host) header, if it is not that of O(probe[].url).
        type: str
  probe_timeout:
    description: Seconds for which a probe is repeated until it succeeds.
    type: int
    default: 10
author:
  - fcgid.stack maintainers (@fcgid)
attributes:
  check_mode:
    description: Reports whether the task would change something; does not validate, apply or probe.
    support: full
  diff_mode:
    description: Shows each file that differs from the live one.
    support: full
"""

EXAMPLES = """
- name: Put the configuration of httpd live
  fcgid.stack.config_tree:
    path: /etc/httpd
    files:
      httpd.conf: "{{ lookup('ansible.builtin.template', 'httpd.conf.j2') }}"
      vhosts.conf: "{{ lookup('ansible.builtin.template', 'vhosts.conf.j2') }}"
    validate: httpd -t -C 'Define ConfDir %s' -f %s/httpd.conf
    apply: systemctl reload-or-restart httpd
    probe:
      - url: http://127.0.0.1/
        host: www.example.org
"""

RETURN = """
version:
  description: The version that is live, empty in check mode when there is none yet.
  type: str
  returned: success
  sample: 20260102T030405.678901Z
"""

import shlex

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fcgid.stack.plugins.module_utils._files import lock_until_exit
from ansible_collections.fcgid.stack.plugins.module_utils._service import Probe, Service
from ansible_collections.fcgid.stack.plugins.module_utils._tree import Tree


def validate(module: AnsibleModule, tree: Tree) -> str:
    """Run the validator on the rejected version. Returns what is wrong with that, or ""."""
    command = [word.replace("%s", tree.rejected) for word in shlex.split(module.params["validate"])]
    status, out, err = module.run_command(command)
    return str(err or out).strip() or f"status {status}" if status else ""


def restore_fallback(tree: Tree, service: Service) -> str:
    """Put the former version live again, if there was one. Returns the outcome, in words."""
    tree.restore_fallback()
    if not tree.fallback:
        return f"There was none before, so {tree.path} was removed again."
    problem = service.apply_fallback()
    if problem:
        return f"The previous one, {tree.fallback}, is live again, but: {problem}"
    answers = " and answers as before" if service.answered_before() else ""
    return f"The previous one, {tree.fallback}, is live again{answers}."


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "files": {"type": "dict", "required": True},
            "validate": {"type": "str", "required": True},
            "apply": {"type": "str"},
            "force_apply": {"type": "bool", "default": False},
            "undo": {"type": "str"},
            "probe": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "url": {"type": "str", "required": True},
                    "host": {"type": "str"},
                },
            },
            "probe_timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    options = module.params
    path = options["path"].rstrip("/")
    files = options["files"]
    if Tree.is_foreign(path):
        module.fail_json(
            msg=f"{path} is not a link to one of {path}.versions: something else put it "
            f"there. Move it away (mv {path} {path}.orig) and run again."
        )
    probes = [Probe(**probe) for probe in options["probe"]]
    for probe in probes:
        if not probe.is_local():
            module.fail_json(
                msg=f"probe: {probe.url} is not a URL of this host: write it like "
                "http://127.0.0.1:8079/path."
            )
    if not module.check_mode:
        lock_until_exit(f"{path}.versions.lock")
    tree = Tree(path)
    changed = tree.differs(files)
    diff = tree.diff(files)
    apply = bool(options["apply"]) and (changed or tree.interrupted or options["force_apply"])
    if module.check_mode or not (changed or apply):
        module.exit_json(changed=changed or apply, version=tree.version, diff=diff)

    if changed:
        tree.write_rejected(files)
        problem = validate(module, tree)
        if problem:
            module.fail_json(
                msg=f"The new configuration is not valid, so {path} was left as it was. The "
                f"rejected files are in {tree.rejected}.\n{problem}",
                diff=diff,
            )
    service = None
    if apply:
        service = Service(
            module.run_command,
            options["apply"],
            options["undo"] or "",
            probes,
            options["probe_timeout"],
        )
    if changed:
        tree.put_live(to_be_checked=service is not None)
    problem = service.apply() if service else ""
    if service and problem:
        if not (changed or tree.interrupted):
            module.fail_json(
                msg=f"{path} was applied again and does not work. It did not change, so there is "
                f"nothing to go back to.\n{problem}"
            )
        outcome = restore_fallback(tree, service)
        tree.reject()
        tree.set_checked()
        module.fail_json(
            msg=f"The new configuration is valid, but did not work. {outcome} The rejected files "
            f"are in {tree.rejected}.\n{problem}",
            diff=diff,
        )
    tree.set_checked()
    tree.prune()
    module.exit_json(changed=True, version=tree.version, diff=diff)


if __name__ == "__main__":
    main()
