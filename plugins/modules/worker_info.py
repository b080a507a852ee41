#!/usr/bin/python
# Copyright fcgid.stack maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: which applications are live on a host, and which processes answer for them."""

from __future__ import annotations

DOCUMENTATION = """
module: worker_info
short_description: Read the live releases and the worker processes of a host
description:
  - Reads whether httpd runs, which release of each application is live, and which processes are
    workers of mod_fcgid. A worker is a process whose descriptor 0 is a listening stream socket in
    the directory of the FastCGI sockets. Changes nothing.
  - Application and release of a worker are taken from its program or its command line, which the
    worker can change. Use them for display only.
version_added: 1.0.0
options:
  apps_dir:
    description: The directory of the applications and their releases.
    type: path
    default: /srv/fcgi
  htdocs:
    description:
      - The directory of the virtual hosts. Each has a directory in it, with a link to the live
        release for each application.
    type: path
    default: /var/www/htdocs
  ipc_dir:
    description: The directory of the FastCGI sockets, as C(FcgidIPCDir) has it.
    type: path
    default: /var/run/fcgidsock
  pid_file:
    description: The C(PidFile) of httpd.
    type: path
    default: /run/httpd/httpd.pid
  status_port:
    description: TCP port of C(/server-status) on the loopback address.
    type: int
    default: 8079
author:
  - fcgid.stack maintainers (@fcgid)
attributes:
  check_mode:
    description: Reads only.
    support: full
"""

EXAMPLES = """
- name: Read the workers
  fcgid.stack.worker_info:
  register: status
  become: true

- name: Show their process ids
  ansible.builtin.debug:
    msg: "{{ status.workers | map(attribute='pid') }}"
"""

RETURN = """
problem:
  description: Why httpd cannot answer, empty when it does.
  type: str
  returned: always
  sample: httpd is not running
applications:
  description: The live applications, by virtual host and script.
  type: list
  elements: dict
  returned: always
  sample:
    - name: shop
      release: 41fb1852807b
      script: app.fcgi
      vhost: www.example.org
workers:
  description:
    - The worker processes, by application and process id. C(application) and C(release) are empty
      where the process does not show them. C(requests) is the number of requests answered, V(-1)
      for a process that mod_fcgid does not know.
  type: list
  elements: dict
  returned: always
  sample:
    - application: shop
      parent: 5446
      pid: 7314
      release: 41fb1852807b
      requests: 17
      socket: /var/run/fcgidsock/5445.0
      user: www-data
"""

import http.client
import os
import pwd
import re
import signal

from ansible.module_utils.basic import AnsibleModule

LISTENING = 0x10000  # __SO_ACCEPTCON, the flags column of /proc/net/unix (proc(5))
STREAM = 1  # SOCK_STREAM, the type column
TABLE_BYTES = 16 * 1024 * 1024  # of /proc/net/unix and of the status page, at most
PATIENCE = 10  # seconds for the status page
NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"  # of an application and of a release


def read(path: str, size: int = 4096) -> str:
    """The first `size` bytes of a file; empty where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(size).decode(errors="replace")
    except OSError:
        return ""


def printable(text: str) -> str:
    """At most 200 characters of the text, with a question mark for each that is not printable."""
    return "".join(one if one.isprintable() else "?" for one in text[:200])


def sockets(ipc_dir: str) -> dict[str, str]:
    """Inode and path of each listening stream socket in the directory.

    The kernel writes paths as they are: one with a line break makes a line that looks like any
    other. So a line claims no more than an inode and a path to show.
    """
    found = {}
    for line in read("/proc/net/unix", TABLE_BYTES).split("\n")[1:]:
        # Num RefCount Protocol Flags Type St Inode Path
        row = re.fullmatch(r"[0-9a-f]+: \w+ \w+ ([0-9A-F]+) ([0-9A-F]+) \w+ +(\d+) (.+)", line)
        if not row or os.path.dirname(row[4]) != ipc_dir.rstrip("/"):
            continue
        if int(row[1], 16) & LISTENING and int(row[2], 16) == STREAM:
            found[row[3]] = row[4]
    return found


def link(pid: str, name: str) -> str:
    """Where a link of the process leads; empty where that cannot be read.

    In a container that may not trace, root may not look either, but the process's own user may.
    """
    path = f"/proc/{pid}/{name}"
    try:
        return os.readlink(path)
    except PermissionError:
        pass
    except OSError:
        return ""
    if os.geteuid() != 0:
        return ""
    try:
        owner = os.stat(f"/proc/{pid}")
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
        return os.readlink(path)
    except OSError:
        return ""
    finally:
        os.seteuid(0)
        os.setegid(0)


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def worker(pid: str, socket: str, apps_dir: str, requests: dict[int, int]) -> dict[str, object]:
    """What is shown of a worker process. Raises OSError if it has ended."""
    released = re.compile(rf"{re.escape(apps_dir.rstrip('/'))}/({NAME})/releases/({NAME})/")
    arguments = read(f"/proc/{pid}/cmdline").split("\0")
    places = map(released.match, [link(pid, "exe"), *arguments])
    place = next(filter(None, places), None)
    # The name of the program stands in brackets, and may have brackets of its own.
    after_name = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return {
        "pid": int(pid),
        "parent": int(after_name[1]) if len(after_name) > 1 else 0,
        "user": user_name(os.stat(f"/proc/{pid}").st_uid),
        "application": place[1][:200] if place else "",
        "release": place[2][:200] if place else "",
        "socket": printable(socket),
        "requests": requests.get(int(pid), -1),
    }


def workers(ipc_dir: str, apps_dir: str, requests: dict[int, int]) -> list[dict[str, object]]:
    """The processes whose descriptor 0 is a listening socket in `ipc_dir`."""
    listening = sockets(ipc_dir)
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        held = re.fullmatch(r"socket:\[(\d+)\]", link(pid, "fd/0"))
        if held and held[1] in listening:
            try:
                found.append(worker(pid, listening[held[1]], apps_dir, requests))
            except OSError:  # it has ended meanwhile
                continue
    return sorted(found, key=lambda one: (one["application"], one["pid"]))


def applications(htdocs: str, apps_dir: str) -> list[dict[str, str]]:
    """The applications whose live release a link in a virtual host's directory names."""
    target = re.compile(rf"{re.escape(apps_dir.rstrip('/'))}/({NAME})/releases/({NAME})/[^/]+")
    found = []
    for vhost in sorted(os.listdir(htdocs)) if os.path.isdir(htdocs) else []:
        directory = os.path.join(htdocs, vhost)
        if os.path.islink(directory) or not os.path.isdir(directory):
            continue
        for script in sorted(os.listdir(directory)):
            path = os.path.join(directory, script)
            live = target.fullmatch(os.readlink(path)) if os.path.islink(path) else None
            if live:
                place = {"vhost": printable(vhost), "script": printable(script)}
                found.append({**place, "name": live[1], "release": live[2]})
    return found


def runs(pid_file: str) -> bool:
    """Whether the process in the PidFile exists, and belongs to the user who wrote the file."""
    try:
        owner = os.stat(pid_file).st_uid
        return os.stat(f"/proc/{int(read(pid_file, 32))}").st_uid == owner
    except (OSError, ValueError):
        return False


def status_page(port: int) -> str:
    """The page of mod_status. Raises OSError or HTTPException if there is none in time."""

    def time_out(*_: object) -> None:
        raise TimeoutError(f"no answer in {PATIENCE} seconds")

    signal.signal(signal.SIGALRM, time_out)
    signal.alarm(PATIENCE)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("GET", "/server-status")
        response = connection.getresponse()
        if response.status != 200:
            raise http.client.HTTPException(f"status {response.status}")
        return response.read(TABLE_BYTES).decode(errors="replace")
    finally:
        signal.alarm(0)
        connection.close()


def answered(page: str) -> dict[int, int]:
    """Requests answered, by process id, from mod_fcgid's part of the page."""
    table = page.partition("mod_fcgid status:")[2]
    number = r"<td>(\d{1,18})</td>"
    rows = re.findall(rf"<tr>{number}{number}{number}{number}", table)
    return {int(pid): int(accesses) for pid, _active, _idle, accesses in rows}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "apps_dir": {"type": "path", "default": "/srv/fcgi"},
            "htdocs": {"type": "path", "default": "/var/www/htdocs"},
            "ipc_dir": {"type": "path", "default": "/var/run/fcgidsock"},
            "pid_file": {"type": "path", "default": "/run/httpd/httpd.pid"},
            "status_port": {"type": "int", "default": 8079},
        },
        supports_check_mode=True,
    )
    options = module.params
    page = problem = ""
    if runs(options["pid_file"]):
        try:
            page = status_page(options["status_port"])
        except (OSError, http.client.HTTPException) as error:
            where = f"http://127.0.0.1:{options['status_port']}/server-status"
            reason = getattr(error, "strerror", None) or str(error)
            problem = f"httpd does not answer at {where}: {printable(reason)}"
    else:
        problem = "httpd is not running"
    module.exit_json(
        changed=False,
        problem=problem,
        applications=applications(options["htdocs"], options["apps_dir"]),
        workers=workers(options["ipc_dir"], options["apps_dir"], answered(page)),
    )


if __name__ == "__main__":
    main()
