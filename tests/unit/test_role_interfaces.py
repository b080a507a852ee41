"""A role reads its documented variables and no others; it is entered where it is documented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, meta, nodes
from jinja2.defaults import DEFAULT_NAMESPACE

# Jinja reads the backslashes of regular expressions as Python does.
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")

ROOT = Path(__file__).parents[2]
SPECS = {
    path.parents[1].name: yaml.safe_load(path.read_text())["argument_specs"]
    for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml"))
}
PUBLIC = {
    role: {name for entry_point in spec.values() for name in entry_point["options"]}
    for role, spec in SPECS.items()
}
ALL_PUBLIC = {name for names in PUBLIC.values() for name in names}

# Those of Ansible that do not begin with ansible_, and those of Jinja.
BUILT_IN = {
    *("group_names", "groups", "hostvars", "inventory_dir", "inventory_hostname", "item"),
    *("lookup", "now", "omit", "playbook_dir", "query", "role_path"),
    *DEFAULT_NAMESPACE,
}
# What a role may read of another one, and why.
EXCEPTIONS = {
    ("platform", "fcgi_app_list"): "names.yml refuses a key of it that has an old name",
    ("platform", "balancer_address"): "names.yml knows that name of an input of the playbooks",
}
# The keywords and arguments whose value is an expression without braces.
EXPRESSIONS = {"break_when", "changed_when", "failed_when", "that", "until", "when"}
INCLUDES = {
    f"{prefix}{name}"
    for prefix in ("", "ansible.builtin.")
    for name in ("import_role", "include_role")
}
SET_FACT = {"set_fact", "ansible.builtin.set_fact"}


class AnyName(dict[str, Any]):
    """Filters or tests of any name: to parse a template, those of Ansible are not needed."""

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key, str)


JINJA = Environment(extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"])
JINJA.filters = AnyName(JINJA.filters)
JINJA.tests = AnyName(JINJA.tests)


def variables(template: str) -> set[str]:
    """The variables that a template reads, also by a name in a string, and of another host."""
    tree = JINJA.parse(template)
    named = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    attributes = {node.attr for node in tree.find_all(nodes.Getattr)}
    of_hosts = {
        node.attr
        for node in tree.find_all(nodes.Getattr)
        if isinstance(node.node, nodes.Getitem)
        and isinstance(node.node.node, nodes.Name)
        and node.node.node.name == "hostvars"
    }
    return meta.find_undeclared_variables(tree) | ((named | attributes) & ALL_PUBLIC) | of_hosts


def templates(value: Any, is_expression: bool = False) -> Iterator[str]:
    """The Jinja templates in what YAML holds."""
    if isinstance(value, str):
        yield f"{{{{ {value} }}}}" if is_expression else value
    elif isinstance(value, list):
        for element in value:
            yield from templates(element, is_expression)
    elif isinstance(value, dict):
        for key, element in value.items():
            yield from templates(element, key in EXPRESSIONS)


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Each mapping in what YAML holds: plays, blocks, tasks, arguments."""
    if isinstance(value, dict):
        yield value
    for element in value.values() if isinstance(value, dict) else value:
        if isinstance(element, (dict, list)):
            yield from mappings(element)


def assigned(tasks: Any) -> set[str]:
    """The variables that tasks assign for their own role."""
    names: set[str] = set()
    for task in mappings(tasks):
        if not INCLUDES & set(task):
            names |= set(task.get("vars", {}))
        names |= {name for key in SET_FACT for name in task.get(key, {}) if name != "cacheable"}
        names |= {task["register"]} if isinstance(task.get("register"), str) else set()
        names |= {task["loop_control"].get("loop_var", "item")} if "loop_control" in task else set()
    return names


def yaml_files(role: str, *folders: str) -> dict[str, Any]:
    paths = [path for folder in folders for path in (ROOT / "roles" / role / folder).glob("*.yml")]
    return {
        str(path.relative_to(ROOT)): yaml.safe_load(path.read_text()) or []
        for path in sorted(paths)
    }


def reads(role: str) -> dict[str, set[str]]:
    """The variables that each file of a role reads."""
    found = {
        name: set().union(*map(variables, templates(content)))
        for name, content in yaml_files(role, "defaults", "handlers", "tasks", "vars").items()
    }
    for path in sorted((ROOT / "roles" / role / "templates").rglob("*")):
        if path.is_file():
            found[str(path.relative_to(ROOT))] = variables(path.read_text())
    return found


def assignments(role: str) -> dict[str, set[str]]:
    """The variables that each file of a role assigns."""
    tasks = yaml_files(role, "handlers", "tasks").items()
    data = yaml_files(role, "defaults", "vars").items()
    return {name: assigned(content) for name, content in tasks} | {
        name: set(content) for name, content in data
    }


def belongs_to(name: str, role: str) -> bool:
    return bool(re.match(rf"(__)?{role}_", name))


def is_of_another_role(name: str, role: str) -> bool:
    return not belongs_to(name, role) and any(belongs_to(name, other) for other in SPECS)


@pytest.mark.parametrize("role", SPECS)
def test_a_role_reads_its_documented_variables_and_those_of_no_other_role(role: str) -> None:
    own = {name for names in assignments(role).values() for name in names}
    local = {name for name in own if not any(belongs_to(name, other) for other in SPECS)}
    undocumented = {
        f"{file}: {name}"
        for file, names in reads(role).items()
        for name in names - PUBLIC[role] - BUILT_IN - local
        if not name.startswith(("ansible_", f"__{role}_", "__platform_"))
        and (role, name) not in EXCEPTIONS
    }
    assert not undocumented


@pytest.mark.parametrize("role", SPECS)
def test_a_role_assigns_a_variable_of_another_role_only_where_it_includes_that_role(
    role: str,
) -> None:
    assert not {
        f"{file}: {name}"
        for file, names in assignments(role).items()
        for name in names
        if is_of_another_role(name, role)
    }


def test_every_exception_is_needed() -> None:
    assert all(name in set().union(*reads(role).values()) for role, name in EXCEPTIONS)


def included_roles(arguments: dict[str, Any], loop: Any) -> set[str]:
    """The roles that a task includes; where its loop names them, all that the loop may name."""
    name = arguments["name"].removeprefix("fcgid.stack.")
    if "{{" not in name:
        return {name}
    constants = [
        constant.value
        for template in templates(loop)
        for constant in JINJA.parse(template).find_all(nodes.Const)
    ]
    return set(SPECS) & {*constants, *(loop if isinstance(loop, list) else [])}


def inclusions() -> Iterator[tuple[str, set[str], str, set[str]]]:
    """Each inclusion of a role: the file, the roles, the entry point, the variables it passes."""
    for folder in ("dev", "molecule", "playbooks", "roles"):
        for path in sorted((ROOT / folder).rglob("*.yml")):
            for task in mappings(yaml.safe_load(path.read_text()) or []):
                for include in INCLUDES & set(task):
                    yield (
                        str(path.relative_to(ROOT)),
                        included_roles(task[include], task.get("loop", [])),
                        task[include].get("tasks_from", "main"),
                        set(task.get("vars", {})),
                    )


def test_a_role_is_included_at_documented_entry_points_with_documented_variables() -> None:
    found = list(inclusions())
    assert len(found) > 20
    for file, roles, entry_point, passed in found:
        assert roles and roles <= set(SPECS), f"{file} includes a role that is not there"
        # ansible-core validates the variables of preflight, but not of preflight.yml.
        assert not entry_point.endswith(".yml"), f"{file}: {entry_point}"
        for role in roles:
            assert entry_point in SPECS[role], f"{file}: {role} does not document {entry_point}"
        documented = {name for role in roles for name in SPECS[role][entry_point]["options"]}
        undocumented = {name for name in passed - documented if not name.startswith("ansible_")}
        assert not undocumented, f"{file}: {roles} does not document {undocumented}"


@pytest.mark.parametrize("role", SPECS)
def test_every_documented_entry_point_is_there(role: str) -> None:
    tasks = {path.stem for path in (ROOT / "roles" / role / "tasks").glob("*.yml")}
    assert set(SPECS[role]) <= tasks
