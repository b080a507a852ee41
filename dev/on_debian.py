#!/usr/bin/env python3
"""Runs make targets on this checkout in a fresh container of a Debian release.

    on_debian.py RELEASE TARGET...

The image fcgid-stack/debian:RELEASE exists: `make molecule` makes it. The container gets the files
that git knows, and pip's settings of this machine with the directories that they name.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

MOUNT = "/controller"
PACKAGES = (
    "apache2-bin ca-certificates gcc git libc6-dev libfcgi-bin libfcgi-dev libpython3-dev lighttpd "
    "make nginx-light python3 python3-venv strace"
)
IN_CONTAINER = f"""
mkdir /checkout && cd /checkout && tar --extract --no-same-owner
apt-get -qq update
export DEBIAN_FRONTEND=noninteractive
install -m 755 /dev/stdin /usr/sbin/policy-rc.d <<<'exit 101'  # no service starts
apt-get -qq install --yes --no-install-recommends {PACKAGES} >/dev/null
exec make "$@"
"""


def pip_settings() -> dict[str, str]:
    """The variables of the environment that give another pip the settings of this one."""
    listed = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True)
    settings = {}
    # The environment, :env:, is listed first, and overrides the files.
    for line in reversed(listed.splitlines()):
        name, value = line.split("=", 1)
        _, _, option = name.rpartition(".")
        settings["PIP_" + option.upper().replace("-", "_")] = ast.literal_eval(value)
    return settings


def mounted(settings: dict[str, str]) -> tuple[set[str], dict[str, str]]:
    """The paths of this machine that the settings name, and the settings with them in MOUNT."""
    path = re.compile(r"(?<!\S)(file://)?(/\S+)")
    found = {match[2] for value in settings.values() for match in path.finditer(value)}
    # An index is mounted with the files beside it, to which its pages link.
    paths = {os.path.dirname(name) if name.endswith("/simple") else name for name in found}
    moved = {name: path.sub(rf"\g<1>{MOUNT}\2", value) for name, value in settings.items()}
    return paths, moved


def main(release: str, *targets: str) -> int:
    paths, settings = mounted(pip_settings())
    command = ["docker", "run", "--rm", "--interactive", "--entrypoint", "bash"]
    for path in filter(os.path.exists, sorted(paths)):
        command += ["--volume", f"{path}:{MOUNT}{path}:ro"]
    for name in settings:
        command += ["--env", name]
    command += [f"fcgid-stack/debian:{release}", "-ec", IN_CONTAINER, "bash", *targets]
    known = subprocess.check_output(["git", "ls-files", "-z"])
    files = subprocess.Popen(
        ["tar", "--create", "--null", "--files-from", "-", ".git"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert files.stdin and files.stdout
    # The settings may hold a password, which a command line would show to all users.
    running = subprocess.Popen(command, stdin=files.stdout, env=os.environ | settings)
    files.stdout.close()  # so that tar ends if the container does not read
    files.stdin.write(known)
    files.stdin.close()
    return running.wait() or files.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
