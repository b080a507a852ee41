"""The configuration goes live whole, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from modules import run_module

VALID = "grep -q valid %s/main.conf"


@pytest.fixture
def live(tmp_path: Path) -> Path:
    return tmp_path / "etc"


def put(live: Path, validate: str = VALID, check: bool = False, **files: str) -> dict[str, Any]:
    named = {f"{name}.conf": content for name, content in files.items()}
    return run_module(
        "config_tree",
        path=str(live),
        files=named,
        validate=validate,
        _ansible_check_mode=check,
        _ansible_diff=True,
    )


def content(live: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in live.iterdir()}


def test_a_tree_that_is_not_there_goes_live(live: Path) -> None:
    result = put(live, main="valid 1", more="more")
    assert result["changed"]
    assert content(live) == {"main.conf": "valid 1", "more.conf": "more"}
    assert live.resolve().name == result["version"]


def test_the_same_tree_again_changes_nothing(live: Path) -> None:
    version = put(live, main="valid 1")["version"]
    again = put(live, main="valid 1")
    assert (again["changed"], again["version"]) == (False, version)


def test_a_tree_that_is_not_valid_leaves_the_live_one(live: Path) -> None:
    put(live, main="valid 1")
    before = live.resolve()
    result = put(live, main="broken")
    assert result["failed"]
    assert "is not valid" in result["msg"] and f"{live}.versions/rejected" in result["msg"]
    assert live.resolve() == before and content(live) == {"main.conf": "valid 1"}


def test_nothing_of_a_rejected_tree_comes_into_the_next(live: Path) -> None:
    put(live, main="broken", more="more")
    put(live, main="valid 1")
    assert content(live) == {"main.conf": "valid 1"}


def test_what_the_validator_says_is_in_the_message(live: Path) -> None:
    result = put(live, validate="sh -c 'echo line 3 is wrong >&2; false'", main="valid")
    assert "line 3 is wrong" in result["msg"]
    assert not live.exists()


def test_the_validator_sees_the_whole_new_tree(live: Path) -> None:
    validate = "sh -c 'test $(cat %s/main.conf %s/more.conf) = valid2 && test ! -e %s/old.conf'"
    put(live, main="valid", old="old")
    assert put(live, validate=validate, main="valid", more="2")["changed"]


def test_a_file_that_is_no_longer_given_goes(live: Path) -> None:
    put(live, main="valid", old="old")
    put(live, main="valid")
    assert content(live) == {"main.conf": "valid"}


def test_a_change_by_hand_is_undone_and_a_broken_live_tree_is_repaired(live: Path) -> None:
    put(live, main="valid 1")
    (live / "main.conf").write_text("broken by hand")
    assert put(live, main="valid 1")["changed"]
    assert content(live) == {"main.conf": "valid 1"}


def test_a_changed_mode_is_undone(live: Path) -> None:
    put(live, main="valid 1")
    (live / "main.conf").chmod(0o666)
    assert put(live, main="valid 1")["changed"]
    assert (live / "main.conf").stat().st_mode & 0o777 == 0o644


def test_check_mode_changes_nothing_and_shows_the_difference(live: Path) -> None:
    put(live, main="valid 1")
    before = live.resolve()
    result = put(live, check=True, main="valid 2")
    assert result["changed"] and live.resolve() == before
    (difference,) = result["diff"]
    assert (difference["before"], difference["after"]) == ("valid 1", "valid 2")


def test_check_mode_works_before_there_is_anything(live: Path) -> None:
    assert put(live, check=True, main="valid 1")["changed"]
    assert list(live.parent.iterdir()) == []


def test_five_versions_are_kept_and_the_live_one_is_the_newest(live: Path) -> None:
    for number in range(8):
        put(live, main=f"valid {number}")
    versions = sorted((live.parent / "etc.versions").iterdir())
    assert [(path / "main.conf").read_text() for path in versions] == [
        f"valid {number}" for number in range(3, 8)
    ]
    assert live.resolve() == versions[-1]


def test_a_directory_put_into_the_live_tree_does_not_stand_in_the_way(live: Path) -> None:
    put(live, main="valid 1")
    (live / "ssl").mkdir()
    assert put(live, check=True, main="valid 1")["changed"]
    assert put(live, main="valid 1")["changed"]
    assert content(live) == {"main.conf": "valid 1"}


def test_a_link_of_someone_else_is_left_alone(live: Path) -> None:
    (live.parent / "elsewhere").mkdir()
    live.symlink_to("elsewhere")
    assert "something else put it there" in put(live, main="valid")["msg"]
    assert live.resolve().name == "elsewhere"


def test_a_directory_of_someone_else_is_left_alone(live: Path) -> None:
    live.mkdir()
    (live / "precious.conf").write_text("precious")
    result = put(live, main="valid")
    assert result["failed"] and f"mv {live} {live}.orig" in result["msg"]
    assert content(live) == {"precious.conf": "precious"}
