"""A host of the tests confines a service as a server does, with two more capabilities."""

from __future__ import annotations

import re

from testinfra.host import Host


def test_dockers_seccomp_profile_applies(host: Host) -> None:
    assert "Seccomp:\t2\n" in host.file("/proc/1/status").content_string


def test_the_container_has_two_more_capabilities_than_the_defaults_of_docker(host: Host) -> None:
    defaults = 0x00000000A80425FB
    sys_ptrace, sys_admin = 1 << 19, 1 << 21
    (allowed,) = re.findall(r"CapBnd:\t(\w+)", host.file("/proc/1/status").content_string)
    assert int(allowed, 16) & ~defaults == sys_ptrace | sys_admin


def test_systemd_confines_a_service(host: Host) -> None:
    options = "-p ProtectSystem=strict -p RestrictRealtime=yes"
    written = host.run(f"systemd-run --quiet --wait --pipe {options} touch /usr/written")
    assert written.rc != 0
    assert "Read-only file system" in written.stderr
    status = host.check_output(f"systemd-run --quiet --wait --pipe {options} cat /proc/self/status")
    # As on a server: programs such as suexec keep their setuid bit.
    assert "NoNewPrivs:\t0\n" in status


def test_the_memory_limit_of_a_service_has_an_effect(host: Host) -> None:
    program = "python3 -c 'print(len(b\"x\" * (200 << 20)))'"
    limited = "systemd-run --quiet --wait --pipe -p MemoryMax={} " + program
    assert host.run(limited.format("infinity")).stdout == f"{200 << 20}\n"
    assert host.run(limited.format("50M")).rc != 0
