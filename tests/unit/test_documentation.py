"""Links lead somewhere, and commands can be copied, also outside the site that Sphinx checks."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "docs/reference/collection"
PAGES = [
    path
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("[!.]*/**/*.md")])
    if path.name != "CHANGELOG.md"
    and not {"build", "inventory"} & set(path.relative_to(ROOT).parts)
]
FENCE = re.compile(r"^( *)```([\w{}]*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|<(https?://[^>]+)>")


def text(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).replace(" ", "-")
        for heading in headings
    }


def ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_every_link_leads_somewhere(page: Path) -> None:
    for match in LINK.finditer(text(page)):
        link = urlsplit(match.group(1) or match.group(2))
        if link.scheme:
            assert link.scheme in ("http", "https") and link.hostname, match.group(0)
            continue
        target = page.parent / link.path if link.path else page
        if GENERATED in target.resolve().parents:  # not there before make docs, which checks it
            continue
        assert target.exists(), f"{match.group(0)} leads nowhere"
        if link.fragment:
            assert link.fragment in anchors(target), f"{match.group(0)} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_a_script_can_be_copied(page: Path) -> None:
    for _, language, code in FENCE.findall(page.read_text()):
        if language == "bash":
            checked = subprocess.run(
                ["bash", "-n"], input=code, text=True, capture_output=True, check=False
            )
            assert checked.returncode == 0, checked.stderr
            assert not re.search(r"^ *[$#] ", code, re.MULTILINE), f"a prompt in {code}"


def test_the_workflow_runs_every_scenario() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    ran = workflow["jobs"]["molecule"]["strategy"]["matrix"]["scenario"]
    scenarios = [path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")]
    assert ran == sorted([*scenarios, "documentation"])
