"""The tutorial works by copy and paste: its commands run in their order, and print what it says.

They run in a copy of this checkout, with a home of its own, and deploy to fcgid-local at port
8080.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(bash|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LONGEST = 1200  # seconds for all commands
MARK = "=== block"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files that git knows, with the tools of this checkout."""
    copy = tmp_path / "stack"
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    (copy / ".venv").symlink_to(ROOT / ".venv")
    os.utime(copy / "requirements.txt", (0, 0))  # the tools are as new as it
    return copy


def outputs(blocks: list[str], checkout: Path, home: Path) -> list[str]:
    """What each block of commands prints, when a shell runs one after the other."""
    script = "".join(f"echo '{MARK}'\n{block}" for block in blocks)
    home.mkdir()
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=checkout,
        env=os.environ | {"HOME": str(home), "PORT": "8080"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.split(f"{MARK}\n")[1:]


def pattern(line: str) -> re.Pattern[str]:
    """The line with any numbers, releases and blanks in the place of its own."""
    escaped = re.escape(line.strip())
    escaped = re.sub(r"\b[0-9a-f]{12}\b", r"[0-9a-f]{12}", escaped)
    escaped = re.sub(r"(?<![{\[0-9a-f-])\d+(?!-9a-f|\})", r"\\d+", escaped)
    return re.compile(re.sub(r"(\\ )+", r" +", escaped))


def test_the_commands_of_the_tutorial_work_in_their_order(checkout: Path, tmp_path: Path) -> None:
    running = subprocess.run(["docker", "inspect", "fcgid-local"], capture_output=True)
    assert running.returncode, "the tutorial deploys to fcgid-local, which exists: make down"
    blocks = BLOCK.findall((checkout / "docs/tutorial.md").read_text())
    commands = [code for language, code in blocks if language == "bash"]
    # `make down` would stop the engine, which other tests may be about to use.
    keep = ["docker", "run", "--detach", "--name", "fcgid-tutorial", "fcgid-stack/debian:bookworm"]
    subprocess.run([*keep, "sleep", str(LONGEST)], check=True, capture_output=True)
    try:
        printed = iter(outputs(commands, checkout, tmp_path / "home"))
    finally:
        names = ["fcgid-local", "fcgid-tutorial"]
        subprocess.run(["docker", "rm", "--force", *names], capture_output=True)
    output = ""
    for (language, code), (after, expected) in pairwise([*blocks, ("", "")]):
        if language == "bash":
            output = next(printed)
            if after == "text":
                for line in filter(str.strip, expected.splitlines()):
                    assert pattern(line).search(output), f"{line!r} is not in what {code!r} prints"
