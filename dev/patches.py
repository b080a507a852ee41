#!/usr/bin/env python3
"""Apply the patches of mod_fcgid one by one, compile after each, and print each with its functions.

Usage: dev/patches.py [TARBALL]. Needs apxs, git, make, patch and a C compiler.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROLE = Path(__file__).parents[1] / "roles/mod_fcgid"
PATCHES = ROLE / "files/patches"
CACHED = Path("~/.cache/fcgid.stack/mod_fcgid-2.3.9.tar.gz").expanduser()
# The release itself has one warning: unused-result.
CFLAGS = "-Wall -Werror -Wno-unused-result"


def run(tree: Path, *command: str) -> str:
    """Run a command in the tree and return its output; exit with that output if it fails."""
    done = subprocess.run(
        command, cwd=tree, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{' '.join(command)}: exit status {done.returncode}")
    return done.stdout


def git(tree: Path, *arguments: str) -> str:
    return run(tree, "git", "-c", "user.name=-", "-c", "user.email=-", *arguments)


def commit(tree: Path, message: str) -> None:
    git(tree, "add", "--all", "--force")
    git(tree, "commit", "--quiet", "--no-verify", f"--message={message}")


def compile_module(tree: Path) -> None:
    """Compile as a host does, and remove what was compiled."""
    run(tree, "./configure.apxs")
    run(tree, "make", f"NOTEST_CFLAGS={CFLAGS}")
    git(tree, "clean", "-dxq", "--force")


def unpack(tarball: Path, directory: Path) -> Path:
    """Unpack the verified tarball into the directory and return the source tree."""
    match = re.search(r"^mod_fcgid_sha256: (\w+)$", (ROLE / "defaults/main.yml").read_text(), re.M)
    if not tarball.is_file():
        sys.exit(f"{tarball}: no such file. Give the path of the tarball.")
    if not match or hashlib.sha256(tarball.read_bytes()).hexdigest() != match[1]:
        sys.exit(f"{tarball}: its SHA-256 is not mod_fcgid_sha256 of {ROLE}/defaults/main.yml.")
    with tarfile.open(tarball) as archive:
        archive.extractall(directory, filter="data")
    return next(directory.iterdir())


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        tree = unpack(Path(sys.argv[1]) if sys.argv[1:] else CACHED, Path(directory))
        git(tree, "init", "--quiet")
        commit(tree, "mod_fcgid as released")
        for name in (PATCHES / "series").read_text().split():
            print(f"{name}: apply and compile", file=sys.stderr)
            patch = PATCHES / name
            if patch.with_suffix("").is_dir():
                shutil.copytree(patch.with_suffix(""), tree / "modules/fcgid", dirs_exist_ok=True)
            run(tree, "patch", "-p1", "--fuzz=0", "--no-backup-if-mismatch", f"--input={patch}")
            commit(tree, patch.read_text().partition("\n---\n")[0])
            compile_module(tree)
            print(git(tree, "show", "--function-context", "--format=%B"))


if __name__ == "__main__":
    main()
