"""Settings of the documentation site: make docs builds it into build/site."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]

project = "fcgid.stack"
author = "fcgid.stack maintainers"
copyright = author
version = release = str(yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"])

extensions = ["myst_parser", "sphinx_antsibull_ext"]
myst_enable_extensions = ["deflist", "fieldlist"]
myst_heading_anchors = 3
# The page that lists the environment variables of plugins has none to list.
exclude_patterns = ["reference/collection/environment_variables.rst"]
# Every reference within the site has a target, or the build fails.
nitpicky = True
# Targets in Ansible's documentation, and the variables of its callback, whose options progress has.
nitpick_ignore_regex = [
    ("envvar", "ANSIBLE_.*"),
    ("ref", r"callback_plugins|ansible_collections\.ansible\.builtin\..*"),
]

html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
html_show_sphinx = False


def leave_out_empty_links(app: Any, page: str, source: list[str]) -> None:
    """Remove the empty link to the repository: galaxy.yml has no address of it yet."""
    source[0] = re.sub(
        r'^\.\. ansible-links::\n\n  - title: "[^"]*"\n    url: ""\n    external: true\n',
        "",
        source[0],
        flags=re.MULTILINE,
    )


def setup(app: Any) -> None:
    """Connect the function above to Sphinx."""
    app.connect("source-read", leave_out_empty_links)
