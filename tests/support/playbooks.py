"""Runs the playbooks as an operator would, against the hosts of the scenario."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(playbook: str, **variables: object) -> list[str]:
    """The command that runs playbooks/`playbook`.yml with these variables."""
    return [
        *("ansible-playbook", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"]),
        *("--extra-vars", json.dumps(variables), f"playbooks/{playbook}.yml"),
    ]


def start(playbook: str, **variables: object) -> subprocess.Popen[str]:
    """Start the playbook, in a process group of its own; the caller waits for it."""
    return subprocess.Popen(
        command(playbook, **variables),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"},
    )


def run(playbook: str, **variables: object) -> tuple[int, str]:
    """Run the playbook; its exit status and what it printed."""
    process = start(playbook, **variables)
    printed = process.communicate()[0]
    return process.returncode, printed


def deploy(**variables: object) -> str:
    """Deploy, which must work; what was printed."""
    status, printed = run("deploy", **variables)
    assert status == 0, printed
    return printed


def failures(playbook: str, **variables: object) -> list[str]:
    """The messages with which the playbook fails, when it is run with these variables."""
    status, printed = run(playbook, **variables)
    assert status == 2, printed
    fatal = re.findall(r"^(?:fatal|failed): .*\n(?:(?:    .*)?\n)+", printed, re.MULTILINE)
    assert fatal, printed
    return [" ".join(message.split()) for message in fatal]


def refusal(playbook: str = "deploy", **variables: object) -> str:
    """The one message with which the playbook refuses these variables."""
    (message,) = failures(playbook, **variables)
    return message


DEVELOPMENT = {"FCGI_REFERENCE_DEVELOPMENT": "1"}


def application(**other: object) -> dict[str, object]:
    """The reference application, as the default has it, but for what is `other`."""
    return {
        "name": "python",
        "kind": "python",
        "source": str(ROOT / "app/reference"),
        "callable": "fcgi_reference:application",
        "vhost": "localhostfcgi",
        "script": "app.fcgi",
        "environment": DEVELOPMENT,
        "health_path": "/healthz",
    } | other


C_APPLICATION: dict[str, object] = {
    "name": "c",
    "kind": "c",
    "source": str(ROOT / "app/fcgi_app.c"),
    "vhost": "localhostfcgi",
    "script": "x.fcgi",
}


def applications(source: Path | None = None, **other: object) -> list[dict[str, object]]:
    """Both reference applications, the one in Python from `source`."""
    if source:
        other["source"] = str(source)
    return [application(**other), C_APPLICATION]


def variant(directory: Path, text: str, replaced: str = "") -> Path:
    """A copy of the reference application, below `directory`, in which `replaced` became `text`.

    Without `replaced`, the text is added as a comment. The same text gives the same release.
    """
    source = directory / f"release-{len(list(directory.iterdir()))}"
    shutil.copytree(ROOT / "app/reference", source, ignore=shutil.ignore_patterns("*.egg-info"))
    module = source / "src/fcgi_reference/__init__.py"
    code = module.read_text()
    assert replaced in code
    module.write_text(code.replace(replaced, text, 1) if replaced else f"{code}\n# {text}\n")
    return source
