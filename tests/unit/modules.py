"""Runs a module of this collection as Ansible would: as a program of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
MODULES = CHECKOUT / "plugins" / "modules"
# Where a module finds what it imports from this collection.
COLLECTIONS = CHECKOUT / ".collections"

RUN = """
import runpy, sys
from ansible.module_utils.testing import patch_module_args
with patch_module_args({arguments!r}):
    runpy.run_path({path!r}, run_name="__main__")
"""


def run_module(name: str, **arguments: Any) -> dict[str, Any]:
    """The result of the module `name`, with the given arguments."""
    program = RUN.format(arguments=arguments, path=str(MODULES / f"{name}.py"))
    environment = {**os.environ, "PYTHONPATH": str(COLLECTIONS)}
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert run.stdout, run.stderr
    result: dict[str, Any] = json.loads(run.stdout)
    return result
