#!/usr/bin/env python3
"""Prints the molecule scenarios that a change touches, for `make test-changed`.

    changed_scenarios.py [BASE]

The change is what differs from the commit BASE (default: HEAD), untracked files included.
"""

from __future__ import annotations

import subprocess
import sys
from fnmatch import fnmatch

# The first pattern that a path matches says what it touches. No match: see ALL.
TOUCHES = {
    "molecule/*/*": [],  # the scenario itself, see below
    "app/fcgiserve/*": ["fcgiserve", "default", "releases"],
    "app/*": ["default", "fcgiserve"],
    "roles/mod_fcgid/*": ["default", "patches", "no_systemd", "upgrades"],
    "roles/httpd/*": ["default", "preflight", "no_systemd", "upgrades", "faults"],
    "roles/fcgi_app/*": ["default", "preflight", "releases", "hostile"],
    "roles/balancer/*": ["fleet"],
    "roles/image/*": ["image"],
    "roles/swarm/*": ["image"],
    "roles/kubernetes/*": ["image"],
    "plugins/*fcgi_release*": ["releases", "hostile"],
    "plugins/*/_release*": ["releases", "hostile"],
    "plugins/*/_deployment*": ["releases", "hostile"],
    "plugins/*/_secrets*": ["releases", "hostile"],
    "plugins/*/_trial*": ["releases", "hostile"],
    "plugins/*config_tree*": ["preflight", "faults", "upgrades"],
    "plugins/*/_tree*": ["preflight", "faults", "upgrades"],
    "plugins/*/_service*": ["preflight", "faults", "upgrades"],
    "plugins/*/_*": ["default", "preflight", "releases", "hostile", "faults"],
    "plugins/*deploy_lock*": ["releases", "faults"],
    "plugins/*/worker_info*": ["documentation"],
    "plugins/callback/*": ["documentation"],
    "playbooks/status*": ["documentation"],
    "playbooks/deploy*": ["default", "preflight", "releases", "fleet", "faults"],
    "playbooks/rollback*": ["releases"],
    "playbooks/uninstall*": ["no_systemd", "documentation"],
    "playbooks/image*": ["image"],
    "playbooks/swarm*": ["image"],
    "playbooks/kubernetes*": ["image"],
    "dev/bench*": [],
    "docs/tutorial.md": ["documentation"],
    "docs/howto/*": ["documentation"],
    "docs/*": [],
    "changelogs/*": [],
    "tests/unit/*": [],
    "tests/documentation/*": ["documentation"],
    "tests/acceptance/*": ["default", "no_systemd", "image"],
    "*.md": [],
}
ALL = ["default", "preflight", "releases"]  # a change of everything: these first; CI runs all


def lines(*command: str) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def touched(path: str) -> list[str]:
    """The scenarios that a changed file touches."""
    for pattern, scenarios in TOUCHES.items():
        if fnmatch(path, pattern):
            return scenarios or ([path.split("/")[1]] if path.startswith("molecule/") else [])
    return ALL


def main() -> None:
    base = sys.argv[1] if len(sys.argv) > 1 else "HEAD"
    paths = lines("git", "diff", "--name-only", base)
    paths += lines("git", "ls-files", "--others", "--exclude-standard")
    print(*sorted({scenario for path in paths for scenario in touched(path)}))


if __name__ == "__main__":
    main()
