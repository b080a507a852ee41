"""Measures what a deployment costs by the number of hosts, with Ansible's settings and with ours.

    make scale

The hosts are containers on this machine and share its cores with Ansible: what servers do for
themselves is in the figures of a first deployment. One without a change is Ansible's own work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
COUNTS = (1, 5, 10, 20)

# Ansible as it comes: 5 forks, three round trips a task, all facts of each host.
PLAIN = """\
[defaults]
collections_path = .collections:~/.ansible/collections:/usr/share/ansible/collections
interpreter_python = /usr/bin/python3
"""


def inventory(directory: Path, count: int) -> Path:
    """An inventory of so many hosts, as inventory/local has one."""
    hosts = dict.fromkeys(f"scale-{number:02}" for number in range(1, count + 1))
    path = directory / f"{count}.yml"
    path.write_text(
        json.dumps(
            {
                "web": {"hosts": hosts},
                "containers": {
                    "hosts": hosts,
                    "vars": {
                        "ansible_connection": "community.docker.docker",
                        "ansible_user": "root",
                        "container_release": "bookworm",
                        "container_fresh": True,
                    },
                },
                "balancer": {},
                "swarm": {},
            }
        )
    )
    return path


def play(name: str, inventory: Path, config: Path = ROOT / "ansible.cfg") -> float:
    """Run a playbook, which must work; the seconds that it took."""
    begun = time.monotonic()
    subprocess.run(
        ["ansible-playbook", "--inventory", inventory, f"{name}.yml"],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(config)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.monotonic() - begun


def measure(rounds: int) -> dict[str, dict[int, float]]:
    """Seconds by number of hosts: a first deployment, and the least of those without a change."""
    first: dict[int, float] = {}
    ours: dict[int, float] = {}
    plain: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as name:
        plain_config = Path(name, "ansible.cfg")
        plain_config.write_text(PLAIN.replace(".collections", str(ROOT / ".collections")))
        for count in COUNTS:
            hosts = inventory(Path(name), count)
            play("dev/up", hosts)
            try:
                first[count] = play("playbooks/deploy", hosts)
                pairs = [
                    (play("playbooks/deploy", hosts), play("deploy", hosts, plain_config))
                    for _ in range(rounds)
                ]
            finally:
                play("dev/down", hosts)
            ours[count], plain[count] = map(min, zip(*pairs))
            print(count, first[count], ours[count], plain[count], flush=True)
    return {"first": first, "ours": ours, "plain": plain}


def report(seconds: dict[str, dict[int, float]]) -> None:
    """Write docs/scale.svg, and print the table."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for kind, label in (
        ("plain", "no change, Ansible's own settings"),
        ("ours", "no change, ansible.cfg of this repository"),
        ("first", "first deployment"),
    ):
        axes.plot(COUNTS, list(seconds[kind].values()), marker="o", label=label)
    axes.set(xlabel="hosts", ylabel="seconds", xticks=COUNTS, ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(DOCS / "scale.svg", metadata={"Date": None})
    print(
        "| hosts | first deployment, s | no change, s | a host, s "
        "| no change, Ansible's own settings, s | ratio |"
    )
    print("|---:|---:|---:|---:|---:|---:|")
    for count in COUNTS:
        first, ours, plain = (seconds[kind][count] for kind in ("first", "ours", "plain"))
        print(
            f"| {count} | {first:.0f} | {ours:.1f} | {ours / count:.1f} "
            f"| {plain:.1f} | {ours / plain:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    arguments: Any = parser.parse_args()
    seconds = measure(arguments.rounds)
    (DOCS / "scale.json").write_text(json.dumps(seconds, indent=1) + "\n")
    report(seconds)


if __name__ == "__main__":
    main()
