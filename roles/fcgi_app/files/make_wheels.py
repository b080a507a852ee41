"""Makes an archive (tar) of the wheels that a Python application needs on a host.

The archive holds the wheel of the application, that of fcgiserve, and those of their dependencies
for the Python of the host; and in the directory `pip` the wheel of the pip that installs them. The
two projects are built here, from copies of their sources. The dependencies come as wheels from the
package index that pip is configured to use. The archive appears when it is complete.

A build runs code of the project and of its build backend. If root starts this program, the user
nobody runs that code, and has copies of all that a build needs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, Optional

PROGRAM = Path(__file__).name
NOBODY = 65534  # user and group
BUILDS = Path("/var/tmp")  # every user reaches it, whatever TMPDIR is
GLIBC = ("2_5", "2_12", "2_17", "2_24", "2_26", "2_27", "2_28", "2_31", "2_34", "2_35", "2_36")
# A zip archive holds no earlier time. The same source gives the same wheel.
SOURCE_DATE_EPOCH = "315532800"
# What earlier builds leave in a project.
NOT_COPIED = ("./build", "./dist", "./.venv", "*.egg-info")
PIP_SETTINGS = (".config/pip/pip.conf", ".pip/pip.conf", ".netrc")
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class StepError(Exception):
    """A step has failed; the message says which one and what to do, in one line."""


@dataclass(frozen=True)
class Command:
    """A program with its arguments, and where and with which environment it runs."""

    arguments: Sequence[str]
    directory: Optional[Path] = None
    environment: Optional[Mapping[str, str]] = None


@dataclass(frozen=True)
class Builder:
    """Who builds: `prefix` runs a command as that user, who writes in `home` only."""

    directory: Path
    pip: Path
    python: str
    prefix: Sequence[str]
    environment: Mapping[str, str]

    @property
    def home(self) -> Path:
        return self.directory / "home"

    def command(self, *arguments: str) -> Command:
        return Command([*self.prefix, *arguments], self.directory, self.environment)


def run(failure: str, *pipeline: Command) -> None:
    """Run the commands, the output of each being the input of the next.

    Raises StepError(failure) unless all of them succeed. None of them is left running.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for command in pipeline:
            is_last = command is pipeline[-1]
            processes.append(
                subprocess.Popen(
                    command.arguments,
                    cwd=command.directory,
                    env=command.environment,
                    stdin=processes[-1].stdout if processes else subprocess.DEVNULL,
                    stdout=None if is_last else subprocess.PIPE,
                    start_new_session=True,
                )
            )
        for process in processes:
            if process.stdout:
                process.stdout.close()  # so that a command whose reader has ended, ends
        statuses = [process.wait() for process in processes]
    except OSError as error:
        raise StepError(f"{failure} ({error})") from error
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if any(statuses):
        raise StepError(failure)


@contextlib.contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A new directory that is removed in the end, whatever a build has put there."""
    directory = Path(tempfile.mkdtemp(dir=parent, prefix="make_wheels-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def download(wheels: Path, failure: str, *arguments: str) -> None:
    """Take wheels, and no source distributions, from the package index."""
    options = ("--disable-pip-version-check", "--only-binary", ":all:", "--dest", str(wheels))
    run(failure, Command([sys.executable, "-m", "pip", "download", *options, *arguments]))


def prepare_builder(directory: Path, pip: Path) -> Builder:
    """Give the user who builds a home and the wheel `pip`; both are in `directory`.

    Raises StepError when root runs this program and nobody cannot run a python3.
    """
    home = directory / "home"
    home.mkdir()
    copy = Path(shutil.copy(pip, directory))
    if os.geteuid() != 0:
        return Builder(directory, copy, sys.executable, (), os.environ)
    for setting in PIP_SETTINGS:
        if (Path.home() / setting).is_file():
            (home / setting).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path.home() / setting, home / setting)
            (home / setting).chmod(0o600)
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    directory.chmod(0o755)
    copy.chmod(0o644)
    own = {"TMPDIR", "PIP_REQUIRE_VIRTUALENV"}
    environment = {name: value for name, value in os.environ.items() if name not in own}
    environment["HOME"] = str(home)
    user = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs")
    builder = Builder(directory, copy, "python3", ("setpriv", *user), environment)
    return replace(builder, python=find_python(builder))


def find_python(builder: Builder) -> str:
    """The first python3 in PATH that the builder can run."""
    search = builder.command("sh", "-c", "command -v python3")
    try:
        found = subprocess.run(
            search.arguments,
            cwd=search.directory,
            env=search.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    except OSError as error:
        raise StepError(f"setpriv cannot be run: {error}. Install util-linux.") from error
    if found.returncode != 0:
        raise StepError(
            "The user nobody, who builds wheels when root runs Ansible, cannot run a python3 of "
            f"PATH, {os.environ.get('PATH')}. Install one in a directory that every user can read."
        )
    return found.stdout.strip()


def build(builder: Builder, project: Path, wheels: Path) -> None:
    """Build the wheel of a project into `wheels`, a directory that this creates."""
    source, result = builder.home / "project", builder.home / "wheel"
    failure = f"The project {project} was not copied. Make its files readable, and try again."
    run(failure, builder.command("mkdir", str(source), str(result)))
    excluded = [f"--exclude={pattern}" for pattern in NOT_COPIED]
    run(
        failure,
        Command(["tar", "-C", str(project), *excluded, "-cf", "-", "."]),
        builder.command("tar", "-C", str(source), "--no-same-owner", "-xf", "-"),
    )
    run(failure, builder.command("chmod", "-R", "u+rwX", str(source)))

    pip = [builder.python, "-I", f"{builder.pip.name}/pip", "wheel", "--disable-pip-version-check"]
    options = ["--no-deps", "--ignore-requires-python", "--wheel-dir", "home/wheel"]
    run(
        f"The wheel of {project} was not built. Correct the error that pip reports above.",
        builder.command(*pip, *options, "./home/project"),
    )

    failure = f"The wheel of {project} was not copied from {result}. Look for a full file system."
    wheels.mkdir()
    run(
        failure,
        builder.command("tar", "-C", str(result), "-cf", "-", "."),
        Command(["tar", "-C", str(wheels), "--no-same-owner", "--no-same-permissions", "-xf", "-"]),
    )
    for path in list(wheels.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            path.unlink()
    run(failure, builder.command("rm", "-r", str(source), str(result)))


def copy_wheels(source: Path, destination: Path) -> None:
    """Copy the wheels of one project. Raises StepError if there is none."""
    wheels = sorted(source.glob("*.whl"))
    if not wheels:
        raise StepError(f"No wheel is in {source}. Remove that directory and run this again.")
    for wheel in wheels:
        shutil.copyfile(wheel, destination / wheel.name)


def make_archive(options: argparse.Namespace, work: Path, builds: Path) -> None:
    """Make the archive in the directory `work`, building in `builds`, and move it to its place."""
    wheels = work / "wheels"
    (wheels / "pip").mkdir(parents=True)
    download(
        wheels / "pip",
        f"The pip that {options.pip} pins was not downloaded. Make the package index of this "
        "machine offer it: python3 -m pip config list",
        *("--no-deps", "--require-hashes", "--requirement", str(options.pip)),
    )
    (pip,) = (wheels / "pip").glob("pip-*.whl")
    builder = prepare_builder(builds, pip)

    kept = options.archive.with_name(f"fcgiserve-{options.fcgiserve_digest}")
    if not kept.is_dir():
        build(builder, options.fcgiserve, work / "fcgiserve")
        try:
            (work / "fcgiserve").rename(kept)
        except OSError:
            if not kept.is_dir():  # else another run has built it meanwhile
                raise
    build(builder, options.source, work / "application")
    copy_wheels(kept, wheels)
    copy_wheels(work / "application", wheels)

    host = ["--python-version", options.python_version, "--implementation", "cp"]
    for glibc in GLIBC:
        host += ["--platform", f"manylinux_{glibc}_{options.architecture}"]
    download(
        wheels,
        f"The dependencies of {options.source} were not downloaded. Each needs a wheel in the "
        f"package index for Python {options.python_version} on {options.architecture}: add what "
        "pip names above, or require another version.",
        *host,
        *(str(wheel) for wheel in sorted(wheels.glob("*.whl"))),
    )
    with tarfile.open(work / "archive", "w") as archive:
        archive.add(wheels, arcname=".")
    (work / "archive").replace(options.archive)


def stop(number: int, frame: object) -> NoReturn:
    """Handle a signal: end, and clean up without being interrupted again."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def absolute(path: str) -> Path:
    return Path(path).absolute()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=absolute, help="the project of the application")
    parser.add_argument("--archive", type=absolute, required=True, help="the file to make")
    parser.add_argument("--python-version", required=True, help="of the host, such as 3.11")
    parser.add_argument("--architecture", required=True, help="of the host, such as x86_64")
    parser.add_argument("--fcgiserve", type=absolute, required=True, help="its project")
    parser.add_argument("--fcgiserve-digest", required=True, help="of its content: names the wheel")
    parser.add_argument("--pip", type=absolute, required=True, help="the file that pins pip")
    options = parser.parse_args()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, stop)
    os.environ["SOURCE_DATE_EPOCH"] = SOURCE_DATE_EPOCH
    try:
        if not importlib.util.find_spec("pip"):
            raise StepError(f"{sys.executable}, which runs Ansible, has no pip. Install it there.")
        options.archive.parent.mkdir(parents=True, exist_ok=True)
        with scratch_directory(options.archive.parent) as work, scratch_directory(BUILDS) as builds:
            make_archive(options, work, builds)
    except (OSError, StepError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
