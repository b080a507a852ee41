#!/usr/bin/python
# Copyright fcgid.stack maintainers
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a directory of configuration files that goes live whole, or not at all.

`path` is a symbolic link to one version of the tree. A new version is written beside the live
one, tested there, and goes live by renaming one link over the other, which rename(2) does
atomically. Earlier versions stay for the way back.
"""

from __future__ import annotations

DOCUMENTATION = """
module: config_tree
short_description: Validate a set of configuration files as a whole, then swap it in atomically
description:
  - Compares the files in I(path) with I(files). When they differ, writes a new version beside it,
    runs I(validate) on that, and only then makes I(path) a symbolic link to the new version. A
    version that is not valid is kept as C(rejected) for a look, and nothing live changes.
  - The versions are kept in I(path) with C(.versions) appended, the last five of them.
version_added: 0.1.0
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
author:
  - fcgid.stack maintainers (@fcgid)
attributes:
  check_mode:
    description: Says whether the tree would change; does not validate.
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
"""

RETURN = """
version:
  description: The version that is live, empty in check mode when there is none yet.
  type: str
  returned: success
  sample: 20260102T030405.678901Z
"""

import os
import shlex
import shutil
import stat
from datetime import datetime, timezone

from ansible.module_utils.basic import AnsibleModule

FILE_MODE = 0o644
DIRECTORY_MODE = 0o755
REJECTED = "rejected"
KEPT = 5


def read_tree(path: str) -> dict[str, tuple[str, int]]:
    """Content and mode of every entry of the directory `path`; empty when there is none.

    What is no file, and no part of a tree, has the mode of its type: it counts as a difference.
    """
    tree = {}
    for entry in os.scandir(path) if os.path.isdir(path) else ():
        content = ""
        if entry.is_file(follow_symlinks=False):
            with open(entry.path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                content = file.read()
        tree[entry.name] = (content, entry.stat(follow_symlinks=False).st_mode & ~stat.S_IFREG)
    return tree


def write_tree(path: str, files: dict[str, str]) -> None:
    """Write `files` into the new directory `path`, safe on the disk when this returns."""
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    os.chmod(path, DIRECTORY_MODE)
    for name, content in files.items():
        with open(os.path.join(path, name), "x", encoding="utf-8", newline="") as file:
            file.write(content)
            os.fchmod(file.fileno(), FILE_MODE)
            file.flush()
            os.fsync(file.fileno())


def switch(path: str, version: str) -> None:
    """Make `path` a link to the directory `version`, in one rename(2)."""
    link = path + ".new"
    if os.path.lexists(link):
        os.remove(link)
    os.symlink(os.path.relpath(version, os.path.dirname(path)), link)
    os.replace(link, path)


def prune(versions: str, live: str) -> None:
    """Delete the oldest versions, but never the live one: names sort by age."""
    old = sorted(set(os.listdir(versions)) - {REJECTED, live}, reverse=True)
    for name in old[KEPT - 1 :]:
        shutil.rmtree(os.path.join(versions, name))


def differences(path: str, live: dict[str, str], files: dict[str, str]) -> list[dict[str, str]]:
    """The files that differ, in the form that Ansible prints with --diff."""
    return [
        {
            "before": live.get(name, ""),
            "after": files.get(name, ""),
            "before_header": os.path.join(path, name),
            "after_header": os.path.join(path, name),
        }
        for name in sorted({*live, *files})
        if live.get(name) != files.get(name)
    ]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "files": {"type": "dict", "required": True},
            "validate": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    path = module.params["path"].rstrip("/")
    files = module.params["files"]
    versions = path + ".versions"

    if os.path.lexists(path) and os.path.dirname(os.path.realpath(path)) != versions:
        module.fail_json(
            msg=f"{path} is not a link to one of {versions}: something else put it "
            f"there. Move it away (mv {path} {path}.orig) and run again."
        )
    live = read_tree(path)
    current = os.path.basename(os.path.realpath(path)) if live else ""
    if live == {name: (content, FILE_MODE) for name, content in files.items()}:
        module.exit_json(changed=False, version=current)

    diff = differences(path, {name: content for name, (content, _) in live.items()}, files)
    if module.check_mode:
        module.exit_json(changed=True, version=current, diff=diff)

    rejected = os.path.join(versions, REJECTED)
    write_tree(rejected, files)
    command = [word.replace("%s", rejected) for word in shlex.split(module.params["validate"])]
    status, out, err = module.run_command(command)
    if status:
        module.fail_json(
            msg=f"The new configuration is not valid, so {path} was left as it was. The rejected "
            f"files are in {rejected}.\n{(err or out).strip()}",
            diff=diff,
        )
    version = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
    os.rename(rejected, os.path.join(versions, version))
    switch(path, os.path.join(versions, version))
    prune(versions, version)
    module.exit_json(changed=True, version=version, diff=diff)


if __name__ == "__main__":
    main()
