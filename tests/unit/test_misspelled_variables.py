"""A slip in the name of a variable is found, and no other name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.fcgid.stack.plugins.lookup.misspelled_variables import (
    ROLES,
    role_variables,
    slips,
)

ROOT = Path(__file__).parents[2]
VARIABLES = role_variables(ROLES)
KNOWN = set().union(["balancer_address"], *VARIABLES.values())
PREFIXES = tuple(f"{role}_" for role in VARIABLES)


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("httpd_extra_module", "httpd_extra_modules"),
        ("httpd_vhost", "httpd_vhosts"),
        ("httpd_fgcid_idle_timeout", "httpd_fcgid_idle_timeout"),
        ("fcgi_app_secret", "fcgi_app_secrets"),
        ("mod_fcgid_patch", "mod_fcgid_patches"),
        ("swarm_replica", "swarm_replicas"),
    ],
)
def test_a_slip_is_found_with_what_was_meant(slip: str, meant: str) -> None:
    assert slips([slip, "httpd_port"], KNOWN, PREFIXES) == [[slip, meant]]


@pytest.mark.parametrize("letter", ["", "x"])
def test_a_letter_too_many_or_too_few_is_found_in_every_name(letter: str) -> None:
    wrong = {f"{name[:-1]}{letter}" for name in KNOWN if name.startswith(PREFIXES)} - KNOWN
    assert {name for name, _ in slips(wrong, KNOWN, PREFIXES)} == {
        name for name in wrong if name.startswith(PREFIXES)
    }


def test_a_name_of_something_else_is_left_alone() -> None:
    others = ["httpd_exporter_listen", "image_registry_user", "container_of_mine", "nginx_port"]
    assert slips(others, KNOWN, PREFIXES) == []


def test_no_name_in_the_inventories_and_playbooks_is_taken_for_a_slip() -> None:
    files = [*ROOT.glob("inventory/**/*.yml"), *ROOT.glob("molecule/*/*.yml")]
    files += [*ROOT.glob("playbooks/*.yml"), *ROOT.glob("dev/**/*.yml")]
    names = {
        name
        for path in files
        for name in re.findall(r"^ *([a-z_]+):", path.read_text(), re.MULTILINE)
    }
    assert "httpd_vhosts" in names
    assert slips(names, KNOWN, PREFIXES) == []
