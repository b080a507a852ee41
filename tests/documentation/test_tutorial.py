"""The tutorial works by copy and paste: its commands run in their order, and print what it says.

They deploy to fcgid-local at port 8080.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

BLOCK = re.compile(r"^```(bash|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def pattern(line: str) -> re.Pattern[str]:
    """The line with any numbers, releases and blanks in the place of its own."""
    escaped = re.escape(line.strip())
    escaped = re.sub(r"\b[0-9a-f]{12}\b", r"[0-9a-f]{12}", escaped)
    escaped = re.sub(r"(?<![{\[0-9a-f-])\d+(?!-9a-f|\})", r"\\d+", escaped)
    return re.compile(re.sub(r"(\\ )+", r" +", escaped))


def test_the_commands_of_the_tutorial_work_in_their_order(
    checkout: Path, run: Callable[[list[str]], list[str]]
) -> None:
    running = subprocess.run(["docker", "inspect", "fcgid-local"], capture_output=True)
    assert running.returncode, "the tutorial deploys to fcgid-local, which exists: make down"
    blocks = BLOCK.findall((checkout / "docs/tutorial.md").read_text())
    try:
        printed = iter(run([code for language, code in blocks if language == "bash"]))
    finally:
        subprocess.run(["docker", "rm", "--force", "fcgid-local"], capture_output=True)
    output = ""
    for (language, code), (after, expected) in pairwise([*blocks, ("", "")]):
        if language == "bash":
            output = next(printed)
            if after == "text":
                for line in filter(str.strip, expected.splitlines()):
                    assert pattern(line).search(output), f"{line!r} is not in what {code!r} prints"
