# Copyright fcgid.stack maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible lookup: variables with almost the name of a variable of this collection."""

from __future__ import annotations

DOCUMENTATION = """
name: misspelled_variables
short_description: Variables with almost the name of a variable of this collection
description:
  - Compares the names of the host's variables with those in the argument specs of the roles of
    this collection. A name that begins as they do, is none of them, and is like one of them, is
    taken for a slip. A name that is like none of them may belong to something else, and is left
    alone.
version_added: 1.1.0
author:
  - fcgid.stack maintainers (@fcgid)
options:
  _terms:
    description: Names that no role has, but that are known, such as inputs of a playbook.
"""

EXAMPLES = """
- name: Refuse a slip, such as httpd_extra_module for httpd_extra_modules
  ansible.builtin.assert:
    that: query('fcgid.stack.misspelled_variables') | length == 0
"""

RETURN = """
_raw:
  description: Pairs of a name that was found and the name that it is like.
  type: list
  elements: list
"""

import difflib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.yaml import SafeLoader
from ansible.plugins.lookup import LookupBase

ROLES = Path(__file__).parents[2] / "roles"
# The similarity (difflib.SequenceMatcher.ratio) from which a name is taken for a slip. One letter
# that is wrong, missing or added leaves 0.9 in the shortest names of this collection.
ALIKE = 0.85


def role_variables(roles: Path) -> dict[str, set[str]]:
    """The documented variables of each role, by its name."""
    found = {}
    for path in roles.glob("*/meta/argument_specs.yml"):
        specs = yaml.load(path.read_text(), Loader=SafeLoader)["argument_specs"].values()
        found[path.parents[1].name] = {name for spec in specs for name in spec["options"]}
    return found


def slips(
    names: Iterable[str], known: Collection[str], prefixes: tuple[str, ...]
) -> list[list[str]]:
    """Pairs of a name that is not known and the known name that it is like."""
    found = []
    for name in sorted(names):
        if name.startswith(prefixes) and name not in known:
            found += [[name, near] for near in difflib.get_close_matches(name, known, 1, ALIKE)]
    return found


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible has no types
    """The lookup plugin."""

    def run(
        self, terms: list[str], variables: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[list[str]]:
        roles = role_variables(ROLES)
        known = set().union(terms, *roles.values())
        return slips(variables or {}, known, tuple(f"{role}_" for role in roles))
