# Copyright fcgid.stack maintainers
# SPDX-License-Identifier: Apache-2.0
"""What proc(5) tells about the processes of a host and the ports that they listen on."""

from __future__ import annotations

import os
from collections.abc import Iterator

TCP_LISTEN = "0A"  # include/net/tcp_states.h
REPLACED = " (deleted)"  # proc(5): a file that is in use but has no name any more


def process_ids() -> Iterator[int]:
    """Yield the id of each process that is visible here."""
    return map(int, filter(str.isdigit, os.listdir("/proc")))


def program(pid: int) -> str:
    """Return the file that process `pid` executes, or did before it was replaced.

    Raises OSError if the process has ended or may not be inspected.
    """
    return os.readlink(f"/proc/{pid}/exe").removesuffix(REPLACED)


def started_below(directory: str) -> set[str]:
    """Return the names in `directory` that a process was started from.

    A process counts by its program and by the paths among its arguments.
    """
    used = set()
    for pid in process_ids():
        try:
            with open(f"/proc/{pid}/cmdline", errors="surrogateescape") as cmdline:
                paths = cmdline.read().split("\0")
            paths.append(os.readlink(f"/proc/{pid}/exe"))
        except OSError:  # it ended meanwhile, or is a thread of the kernel
            continue
        for path in paths:
            if path.startswith(directory + "/"):
                used.add(path[len(directory) + 1 :].split("/")[0])
    return used


def read_pid_file(path: str, binary: str) -> int:
    """Return the process id in the PidFile `path`, or 0 if that process does not run `binary`."""
    try:
        with open(path) as file:
            pid = int(file.read())
        return pid if program(pid) == os.path.realpath(binary) else 0
    except (OSError, ValueError):
        return 0


def runs_replaced_file(pid: int, library: str) -> bool:
    """Return whether the program of process `pid`, or the `library` in it, was replaced since."""
    with open(f"/proc/{pid}/maps") as maps:
        in_use = {line.split(None, 5)[5].strip() for line in maps if "/" in line}
    in_use.add(os.readlink(f"/proc/{pid}/exe"))
    return not in_use.isdisjoint({program(pid) + REPLACED, library + REPLACED})


def listeners(httpd: int) -> list[dict[str, object]]:
    """Return one process for each TCP port on which others than process `httpd` listen."""
    sockets = _listening_sockets()
    held = _holders(set(sockets))
    found = {
        port: min(held[inode], default=0)
        for inode, port in sockets.items()
        if httpd not in held[inode]
    }
    return [
        {"port": port, "pid": pid, "program": _command_name(pid)}
        for port, pid in sorted(found.items())
    ]


def _listening_sockets() -> dict[str, int]:
    """Return the inode of each listening TCP socket, and its port."""
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):
            continue
        with open(table) as lines:
            next(lines)
            for line in lines:
                fields = line.split()
                if fields[3] == TCP_LISTEN:
                    found[fields[9]] = int(fields[1].rpartition(":")[2], 16)
    return found


def _holders(inodes: set[str]) -> dict[str, set[int]]:
    """Return the processes that hold each of these sockets, as far as this user may look."""
    found: dict[str, set[int]] = {inode: set() for inode in inodes}
    for pid in process_ids():
        try:
            links = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        except OSError:  # the process ended meanwhile, or this user may not look into it
            continue
        for inode in inodes:
            if f"socket:[{inode}]" in links:
                found[inode].add(pid)
    return found


def _command_name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as comm:
            return comm.read().strip()
    except OSError:
        return "another program"
