"""Settings of the documentation site: make docs builds it into build/site."""

from pathlib import Path

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

html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
html_show_sphinx = False
