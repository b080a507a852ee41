"""What a role documents is what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted(
    path.parents[1].name for path in Path(__file__).parents[2].glob("roles/*/defaults/main.yml")
)


def load(role: str, path: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(
        (Path(__file__).parents[2] / "roles" / role / path).read_text()
    )
    return loaded


def is_computed(value: object) -> bool:
    return isinstance(value, str) and value.startswith("{{")


@pytest.mark.parametrize("role", ROLES)
def test_every_default_is_documented_and_nothing_else(role: str) -> None:
    defaults = load(role, "defaults/main.yml")
    entry_points = load(role, "meta/argument_specs.yml")["argument_specs"]
    # An option of another entry point is an argument: its default need not be one of the role.
    options = entry_points["main"]["options"]
    arguments = {name for entry_point in entry_points.values() for name in entry_point["options"]}
    # Where the default follows from the host, its description says how.
    documented = {
        name: option["default"]
        for name, option in options.items()
        if "default" in option and not is_computed(defaults.get(name))
    }
    given = {name: value for name, value in defaults.items() if not is_computed(value)}
    assert documented == {name: value for name, value in given.items() if name in options}
    assert set(defaults) <= arguments
