#!/usr/bin/python
# Copyright fcgid.stack maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the state of httpd on a host, in one round trip."""

from __future__ import annotations

DOCUMENTATION = """
module: httpd_info
short_description: Read the state of httpd and mod_fcgid on a host
description:
  - Reads the number of processors, the size of the memory, which httpd is installed, whether it
    runs, whether files that it runs or has read were replaced since, which mod_fcgid module is
    installed, which other processes listen on TCP ports, who owns the directory of the FastCGI
    sockets, and which of the given packages are missing. Changes nothing.
version_added: 1.0.0
options:
  binary:
    description: The httpd program.
    type: path
    required: true
  pid_file:
    description: The C(PidFile) of httpd, which writes it at every start and every reload.
    type: path
    default: /run/httpd/httpd.pid
  config:
    description: The configuration tree, a symbolic link that is replaced at every change.
    type: path
    default: /etc/httpd
  module:
    description: The mod_fcgid module.
    type: path
    required: true
  record:
    description: The build record of O(module) (JSON).
    type: path
    required: true
  ipc_dir:
    description: The directory of the FastCGI sockets (C(FcgidIPCDir)).
    type: path
    default: /run/fcgidsock
  packages:
    description: Debian packages that should be installed.
    type: list
    elements: str
    default: []
  unit:
    description: The systemd unit of the distribution's own httpd.
    type: str
    required: true
author:
  - fcgid.stack maintainers (@fcgid)
attributes:
  check_mode:
    description: Reads only.
    support: full
"""

EXAMPLES = """
- name: Read the state of httpd
  fcgid.stack.httpd_info:
    binary: /usr/sbin/apache2
    module: /usr/lib/httpd/modules/mod_fcgid.so
    record: /var/lib/mod_fcgid/build.json
    packages: [apache2-bin]
    unit: apache2.service
  register: httpd
"""

RETURN = """
cores:
  description: Processors that this host's processes may use.
  type: int
  returned: always
memory:
  description: Physical memory, or the limit of the host's control group if that is lower, in bytes.
  type: int
  returned: always
version:
  description: Version of the installed httpd, empty when there is none.
  type: str
  returned: always
  sample: 2.4.71
magic:
  description: Module magic number of the installed httpd, empty when there is none.
  type: str
  returned: always
  sample: "20120211:142"
pid:
  description: Process id of the running httpd, 0 when none runs.
  type: int
  returned: always
stale_binary:
  description: The program of the running httpd, or O(module) in it, was replaced on the disk since.
  type: bool
  returned: always
stale_config:
  description: The configuration tree was replaced after httpd last read it.
  type: bool
  returned: always
module_sha256:
  description: SHA-256 of the installed module, empty when there is none.
  type: str
  returned: always
record:
  description: The build record, empty when there is none.
  type: dict
  returned: always
ipc_dir_owner:
  description: Name of the owner of O(ipc_dir), empty when there is no such directory.
  type: str
  returned: always
listeners:
  description: The TCP ports on which a process other than this httpd listens, with that process.
  type: list
  elements: dict
  returned: always
  sample: [{"port": 80, "pid": 4711, "program": "nginx"}]
unit_waits:
  description: O(unit) does not run, but will at the next boot.
  type: bool
  returned: always
packages_missing:
  description: Those of O(packages) that are not installed.
  type: list
  elements: str
  returned: always
"""

import json
import os
import pwd
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fcgid.stack.plugins.module_utils._processes import (
    listeners,
    read_pid_file,
    runs_replaced_file,
)


def memory() -> int:
    """Return the memory of the machine or the limit of a container (cgroups(7)), in bytes."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max") as limit:
            return min(installed, int(limit.read()))
    except (OSError, ValueError):  # no such limit, or "max"
        return installed


def owner(path: str) -> str:
    try:
        uid = os.stat(path).st_uid
    except FileNotFoundError:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def read_record(path: str) -> dict[str, object]:
    try:
        with open(path) as file:
            record = json.load(file)
    except (OSError, ValueError):  # an unreadable record counts as none: the module is rebuilt
        return {}
    return record if isinstance(record, dict) else {}


def unit_waits(module: AnsibleModule) -> bool:
    """Return whether the unit is enabled but does not run."""
    if not module.get_bin_path("systemctl"):
        return False
    enabled, active = (
        module.run_command(["systemctl", verb, "--quiet", module.params["unit"]])[0] == 0
        for verb in ("is-enabled", "is-active")
    )
    return enabled and not active


def installed_packages(module: AnsibleModule) -> set[str]:
    """Return which of the packages are installed."""
    packages = module.params["packages"]
    form = "${Package} ${db:Status-Status}\\n"
    listing = module.run_command(["dpkg-query", "--show", "--showformat", form, *packages])[1]
    rows = [line.split() for line in listing.splitlines()]
    return {package for package, *status in rows if status == ["installed"]}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "binary": {"type": "path", "required": True},
            "pid_file": {"type": "path", "default": "/run/httpd/httpd.pid"},
            "config": {"type": "path", "default": "/etc/httpd"},
            "module": {"type": "path", "required": True},
            "record": {"type": "path", "required": True},
            "ipc_dir": {"type": "path", "default": "/run/fcgidsock"},
            "unit": {"type": "str", "required": True},
            "packages": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    options = module.params
    about = ""
    if os.path.exists(options["binary"]):
        # -f: without it httpd looks for the distribution's configuration and complains.
        about = module.run_command([options["binary"], "-f", "/dev/null", "-V"])[1]
    version = re.search(r"Apache/(\S+)", about)
    magic = re.search(r"Magic Number: (\S+)", about)
    pid = read_pid_file(options["pid_file"], options["binary"])
    built = os.path.exists(options["module"])
    module.exit_json(
        changed=False,
        cores=len(os.sched_getaffinity(0)),
        memory=memory(),
        version=version.group(1) if version else "",
        magic=magic.group(1) if magic else "",
        pid=pid,
        stale_binary=bool(pid) and runs_replaced_file(pid, options["module"]),
        stale_config=bool(pid)
        and os.path.lexists(options["config"])
        and os.lstat(options["config"]).st_mtime > os.stat(options["pid_file"]).st_mtime,
        module_sha256=module.sha256(options["module"]) if built else "",
        record=read_record(options["record"]),
        ipc_dir_owner=owner(options["ipc_dir"]),
        listeners=listeners(pid),
        unit_waits=unit_waits(module),
        packages_missing=sorted(set(options["packages"]) - installed_packages(module)),
    )


if __name__ == "__main__":
    main()
