"""make_wheels.py builds real projects: as the user who runs it, and as nobody where that is root.

pip is downloaded from the package index that this machine is configured to use.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import pytest
from modules import CHECKOUT
from poll import eventually

FILES = CHECKOUT / "roles/fcgi_app/files"
NOBODY = 65534

# A build backend without dependencies. It writes what it sees to the file that build.json names.
BACKEND = """
import json, os, time, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    with open("build.json") as file:
        project = json.load(file)
    files = sorted(set(os.listdir()) - {"__pycache__"})  # of this file itself
    seen = {"user": os.getuid(), "directory": os.getcwd(), "files": files}
    with open(project["seen"] + ".new", "w") as file:
        json.dump(seen, file)
    os.rename(project["seen"] + ".new", project["seen"])
    time.sleep(project["seconds"])
    if project["fails"]:
        raise SystemExit("the backend does not like this project")
    name = project["name"]
    files = {
        "METADATA": f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n",
        "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(f"{directory}/{name}-1.0-py3-none-any.whl", "w") as wheel:
        for file, content in files.items():
            wheel.writestr(f"{name}-1.0.dist-info/{file}", content)
    os.symlink("/etc/passwd", f"{directory}/link-1.0-py3-none-any.whl")
    os.mkfifo(f"{directory}/fifo-1.0-py3-none-any.whl")
    return f"{name}-1.0-py3-none-any.whl"
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


@dataclass
class Maker:
    """Runs make_wheels.py as some user; the archive is to be the only file of its directory."""

    directory: Path
    python: str
    prefix: list[str]

    def __post_init__(self) -> None:
        self.cache = self.directory / "cache"
        self.cache.mkdir()
        self.archive = self.cache / "shop.tar"
        self.sources = self.directory / "sources"
        self.seen = self.directory / "seen"
        self.seen.mkdir()
        self.seen.chmod(0o777)
        self.directory.chmod(0o755)
        self.fcgiserve = self.project("fcgiserve")
        for file in ("make_wheels.py", "pip.txt"):
            shutil.copy(FILES / file, self.directory)
        if self.prefix:
            for path in (self.directory, *self.directory.rglob("*")):
                os.chown(path, NOBODY, NOBODY)

    def project(self, name: str, fails: bool = False, seconds: int = 0) -> Path:
        """A project whose build takes so many seconds."""
        project = self.sources / name
        (project / "build").mkdir(parents=True)
        (project / "pyproject.toml").write_text(PYPROJECT)
        (project / "backend.py").write_text(BACKEND)
        seen = str(self.seen / name)
        settings = {"name": name, "seen": seen, "fails": fails, "seconds": seconds}
        (project / "build.json").write_text(json.dumps(settings))
        return project

    def keep_fcgiserve(self) -> None:
        """Leave what an earlier run keeps, for a run that does not come to use it."""
        (self.cache / "fcgiserve-0123").mkdir()

    def start(self, source: Path) -> subprocess.Popen[str]:
        arguments: list[Union[str, Path]] = [
            *("--archive", self.archive, "--python-version", "3.11", "--architecture", "x86_64"),
            *("--fcgiserve", self.fcgiserve, "--fcgiserve-digest", "0123"),
            *("--pip", self.directory / "pip.txt", source),
        ]
        return subprocess.Popen(
            [*self.prefix, self.python, self.directory / "make_wheels.py", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            # In the background of a shell, SIGINT is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            env=os.environ | ({"HOME": str(self.directory)} if self.prefix else {}),
        )

    def run(self, source: Path) -> tuple[int, str]:
        """Exit status and output."""
        process = self.start(source)
        printed = process.communicate(timeout=300)[0]
        return process.returncode, printed

    def seen_by(self, name: str) -> dict[str, Any]:
        """What the backend of a project saw."""
        seen: dict[str, Any] = json.loads((self.seen / name).read_text())
        return seen

    def left(self) -> list[str]:
        """What is in the directory of the archive."""
        return sorted(path.name for path in self.cache.iterdir())

    def is_clean(self, name: str) -> bool:
        """Whether the directory in which a project was built is gone, with its parents."""
        built = Path(self.seen_by(name)["directory"])
        assert built.parent.name == "home"
        return not built.parents[1].exists()


def python_of_everybody() -> Optional[str]:
    """A Python with pip that the user nobody can run."""
    for python in ("/usr/bin/python3", "/usr/local/bin/python3"):
        has_pip = [python, "-c", "import pip"]
        if Path(python).exists() and subprocess.run(has_pip, capture_output=True).returncode == 0:
            return python
    return None


@pytest.fixture(params=["its own user", "root"])
def maker(request: pytest.FixtureRequest) -> Iterator[Maker]:
    """As root, and as an ordinary user, who is nobody where root runs the tests."""
    is_root = os.geteuid() == 0
    if request.param == "root" and not is_root:
        pytest.skip("root does not run these tests")
    python, prefix = sys.executable, []
    if request.param != "root" and is_root:
        user = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        prefix = ["setpriv", *user]
        if not (found := python_of_everybody()):
            pytest.skip("root runs these tests, and no other user has a Python with pip")
        python = found
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        yield Maker(Path(directory), python, prefix)


def test_an_ordinary_user_builds_both_wheels_from_copies(maker: Maker) -> None:
    status, printed = maker.run(maker.project("shop"))
    assert status == 0, printed
    assert maker.left() == ["fcgiserve-0123", "shop.tar"]
    with tarfile.open(maker.archive) as archive:
        names = [member.name for member in archive if member.isfile()]
        assert all(member.isfile() or member.isdir() for member in archive)
    (pip,) = (name for name in names if name.startswith("./pip/pip-"))
    wheels = {f"./{name}-1.0-py3-none-any.whl" for name in ("fcgiserve", "shop")}
    assert set(names) == {pip, *wheels}
    for name in ("fcgiserve", "shop"):
        seen = maker.seen_by(name)
        assert seen["user"] == (os.geteuid() or NOBODY)
        assert seen["directory"] != str(maker.sources / name)
        assert seen["files"] == ["backend.py", "build.json", "pyproject.toml"]
        assert maker.is_clean(name)


def test_the_wheel_of_fcgiserve_is_kept_for_the_next_application(maker: Maker) -> None:
    for name in ("shop", "blog"):
        maker.archive = maker.cache / f"{name}.tar"
        status, printed = maker.run(maker.project(name))
        assert status == 0, printed
        (maker.fcgiserve / "build.json").unlink(missing_ok=True)  # it cannot be built again
    assert maker.left() == ["blog.tar", "fcgiserve-0123", "shop.tar"]


def test_a_build_that_fails_leaves_nothing_and_says_what_to_do(maker: Maker) -> None:
    maker.keep_fcgiserve()
    source = maker.project("shop", fails=True)
    status, printed = maker.run(source)
    assert status == 1
    assert "the backend does not like this project" in printed
    message = f"make_wheels.py: The wheel of {source} was not built. Correct the error"
    assert printed.splitlines()[-1].startswith(message)
    assert maker.left() == ["fcgiserve-0123"]
    assert maker.is_clean("shop")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_build_and_leaves_nothing(maker: Maker, number: signal.Signals) -> None:
    maker.keep_fcgiserve()
    process = maker.start(maker.project("shop", seconds=300))
    assert eventually(lambda: (maker.seen / "shop").exists(), 60)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert maker.left() == ["fcgiserve-0123"]
    assert maker.is_clean("shop")


def test_what_is_not_the_pinned_pip_is_refused(maker: Maker) -> None:
    pins = maker.directory / "pip.txt"
    pins.write_text(f"pip==26.3 --hash=sha256:{'0' * 64}\n")
    status, printed = maker.run(maker.project("shop"))
    assert status == 1
    assert f"make_wheels.py: The pip that {pins} pins was not downloaded." in printed
    assert maker.left() == []
