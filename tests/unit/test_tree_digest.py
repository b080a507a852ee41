"""A release is named after its content, and after nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible.errors import AnsibleLookupError
from ansible.parsing.dataloader import DataLoader
from ansible_collections.fcgid.stack.plugins.lookup.tree_digest import LookupModule


def digest(*paths: Path) -> str:
    (value,) = LookupModule(loader=DataLoader()).run([str(path) for path in paths])
    return value


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "a" / "package").mkdir(parents=True)
    (tmp_path / "a" / "package" / "app.py").write_text("app")
    (tmp_path / "a" / "pyproject.toml").write_text("name")
    return tmp_path / "a"


def test_the_same_content_elsewhere_and_at_another_time_is_the_same(
    tree: Path, tmp_path: Path
) -> None:
    before = digest(tree)
    os.utime(tree / "pyproject.toml", (1, 1))
    assert digest(tree.rename(tmp_path / "b")) == before


def test_a_changed_byte_a_changed_name_and_a_changed_mode_all_differ(tree: Path) -> None:
    seen = {digest(tree)}
    (tree / "pyproject.toml").write_text("Name")
    seen.add(digest(tree))
    (tree / "pyproject.toml").rename(tree / "setup.cfg")
    seen.add(digest(tree))
    (tree / "setup.cfg").chmod(0o755)
    seen.add(digest(tree))
    assert len(seen) == 4


@pytest.mark.parametrize("leftover", [".git/HEAD", "package/__pycache__/a.pyc", "build/lib/a.py"])
def test_what_tools_leave_behind_does_not_count(tree: Path, leftover: str) -> None:
    before = digest(tree)
    (tree / leftover).parent.mkdir(parents=True)
    (tree / leftover).write_text("leftover")
    assert digest(tree) == before


def test_a_bundle_in_a_directory_called_dist_counts(tree: Path) -> None:
    before = digest(tree)
    (tree / "package" / "dist").mkdir()
    (tree / "package" / "dist" / "bundle.js").write_text("bundle")
    assert digest(tree) != before


def test_a_link_that_leads_nowhere_is_named(tree: Path) -> None:
    (tree / "link").symlink_to("nowhere")
    with pytest.raises(AnsibleLookupError, match="link"):
        digest(tree)


def test_a_single_file_counts_by_its_content(tree: Path) -> None:
    one = digest(tree / "pyproject.toml")
    (tree / "pyproject.toml").write_text("other")
    assert digest(tree / "pyproject.toml") != one


def test_content_that_moves_between_files_differs(tree: Path) -> None:
    before = digest(tree)
    (tree / "package" / "app.py").write_text("appn")
    (tree / "pyproject.toml").write_text("ame")
    assert digest(tree) != before


def test_a_path_that_is_not_there_is_named(tree: Path) -> None:
    with pytest.raises(AnsibleLookupError, match="nowhere does not exist"):
        digest(tree / "nowhere")
