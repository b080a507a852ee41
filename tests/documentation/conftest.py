"""A copy of this checkout and a home, in which the commands of the documentation run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST = 1200  # seconds for the commands of a test
MARK = "=== block"

Run = Callable[[list[str]], list[str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def checkout(home: Path) -> Path:
    """A copy of the files that git knows, with the tools of this checkout."""
    copy = home / "fcgid.stack"
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    (copy / ".venv").symlink_to(ROOT / ".venv")
    os.utime(copy / "requirements.txt", (0, 0))  # the tools are as new as it
    return copy


@pytest.fixture(scope="module")
def run(checkout: Path, home: Path) -> Run:
    """Runs blocks of commands in the checkout, one after the other in a shell; what each prints."""

    def outputs(blocks: list[str]) -> list[str]:
        script = "".join(f"echo '{MARK}'\n{block}\n" for block in blocks)
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=checkout,
            env=os.environ | {"HOME": str(home), "PORT": "8080"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout.split(f"{MARK}\n")[1:]

    return outputs


@pytest.fixture(scope="module", autouse=True)
def busy_engine() -> Iterator[None]:
    """A container, so that `make down` does not stop the engine, which other tests may use."""
    name = "fcgid-documentation"
    keep = ["docker", "run", "--detach", "--name", name, "fcgid-stack/debian:bookworm"]
    subprocess.run([*keep, "sleep", str(2 * LONGEST)], check=True, capture_output=True)
    yield
    subprocess.run(["docker", "rm", "--force", name], capture_output=True)
