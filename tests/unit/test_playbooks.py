"""A variable of a role that the inventory sets wins over what a playbook passes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run(playbook: str, directory: Path, **variables: Any) -> tuple[int, str]:
    """Run a playbook for a host with these variables in its inventory; the status and output."""
    hosts = {"hosts": {"nobody.invalid": None}, "vars": variables}
    inventory = directory / "hosts.json"
    groups: dict[str, Any] = {"web": hosts, "swarm": hosts, "containers": hosts, "balancer": {}}
    inventory.write_text(json.dumps(groups))
    command: list[str | Path] = [
        Path(sys.executable).with_name("ansible-playbook"),
        "-i",
        inventory,
    ]
    environment = {
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
        "DOCKER_HOST": "tcp://nobody.invalid:1",  # no engine, whatever a playbook does
    }
    done = subprocess.run(
        [*command, ROOT / "playbooks" / f"{playbook}.yml"],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, " ".join(done.stdout.split())


def test_the_manifests_are_for_what_the_inventory_says(tmp_path: Path) -> None:
    status, printed = run(
        "kubernetes",
        tmp_path,
        kubernetes_directory=str(tmp_path),
        kubernetes_image="registry.example.org/shop:1.2",
        kubernetes_port=9090,
        kubernetes_health_path="/up",
        httpd_port=8080,
        httpd_vhosts=[{"name": "shop.example.org"}],
    )
    assert status == 0, printed
    manifests = (tmp_path / "kubernetes.yml").read_text()
    assert 'image: "registry.example.org/shop:1.2"' in manifests
    assert "containerPort: 9090" in manifests
    assert 'path: "/up"' in manifests
    assert "value: shop.example.org" in manifests  # what it does not say follows from httpd


@pytest.mark.parametrize("role", ["image", "swarm"])
def test_a_port_of_the_inventory_is_what_is_checked(role: str, tmp_path: Path) -> None:
    status, printed = run(role, tmp_path, httpd_port=8080, **{f"{role}_port": 80})
    assert status == 2
    assert f"{role}_port 80 needs root" in printed
