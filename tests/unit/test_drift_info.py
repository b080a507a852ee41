"""One look tells which of many paths are not as expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from modules import run_module


def differing(*expected: dict[str, Any]) -> list[str]:
    result: list[str] = run_module("drift_info", expected=list(expected))["differing"]
    return result


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("as it should be\n")
    path.chmod(0o640)
    return path


def test_what_is_as_expected_does_not_differ(file: Path, tmp_path: Path) -> None:
    assert not differing(
        {"path": str(file), "content": "as it should be\n", "mode": "0640"},
        {"path": str(tmp_path)},
    )


def test_only_what_differs_is_named(file: Path, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert differing({"path": str(file)}, {"path": missing}) == [missing]


def test_a_path_that_need_only_be_there_is(file: Path, tmp_path: Path) -> None:
    present = [str(file), str(tmp_path), str(tmp_path / "missing")]
    assert run_module("drift_info", present=present)["differing"] == present[2:]


@pytest.mark.parametrize("wrong", [{"content": "other"}, {"mode": "0644"}])
def test_each_thing_said_of_a_path_counts(file: Path, wrong: dict[str, str]) -> None:
    assert differing({"path": str(file), **wrong}) == [str(file)]


def test_a_link_is_no_file_even_with_the_right_content(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    assert differing({"path": str(link), "content": "as it should be\n"}) == [str(link)]
