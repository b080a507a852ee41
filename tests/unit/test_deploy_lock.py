"""One run at a time changes a host, and a run that was killed keeps no other out."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOREIGN = "alice@elsewhere:4711:815:3f2a1b9c-4026531836"
PLAYBOOK = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - block:
        - fcgid.stack.deploy_lock:
            path: "{{ lock }}"
        - fcgid.stack.deploy_lock:  # as a later play of the same run
            path: "{{ lock }}"
          when: again is defined
        - ansible.builtin.wait_for:
            path: "{{ wait_for }}"
            timeout: 20
          when: wait_for is defined
        - ansible.builtin.fail:
          when: broken is defined
      always:
        - fcgid.stack.deploy_lock:
            path: "{{ lock }}"
            state: absent
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "it's a lock"


def start(lock: Path, *options: str, **variables: str) -> subprocess.Popen[str]:
    playbook = lock.parent / "playbook.yml"
    playbook.write_text(PLAYBOOK)
    extra = json.dumps({"lock": str(lock), **variables})
    return subprocess.Popen(
        ["ansible-playbook", *options, "-i", "localhost,", "--extra-vars", extra, str(playbook)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"},
    )


def finish(run: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output of a run, which has changed nothing."""
    output = " ".join(run.communicate(timeout=30)[0].split())
    assert "changed=0" in output, output
    return run.returncode, output


def run(lock: Path, *options: str, **variables: str) -> tuple[int, str]:
    return finish(start(lock, *options, **variables))


@pytest.fixture
def holder(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that holds the lock, until there is a file beside it: `done`."""
    done = lock.parent / "done"
    with start(lock, wait_for=str(done)) as holder:
        while not lock.is_symlink():
            assert holder.poll() is None, holder.communicate()
            time.sleep(0.05)
        yield holder
        done.touch()


def test_a_second_run_is_refused_and_told_who_holds_the_lock(
    lock: Path, holder: subprocess.Popen[str]
) -> None:
    held = os.readlink(lock)
    status, output = run(lock)
    assert status == 2
    me = f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}"
    assert f"localhost is being changed by {me} (process {holder.pid}, since 20" in output
    assert f"rm {shlex.quote(str(lock))}" in output
    assert os.readlink(lock) == held


def test_a_run_releases_the_lock_at_its_end(lock: Path, holder: subprocess.Popen[str]) -> None:
    (lock.parent / "done").touch()
    status, output = finish(holder)
    assert status == 0, output
    assert not lock.is_symlink()


def test_a_run_that_fails_releases_the_lock(lock: Path) -> None:
    status, output = run(lock, broken="yes")
    assert status == 2 and "Failed as requested" in output
    assert not lock.is_symlink()


def test_a_run_may_take_its_own_lock_again(lock: Path) -> None:
    status, output = run(lock, again="yes")
    assert status == 0, output


@pytest.mark.parametrize("reaped", [False, True], ids=["zombie", "gone"])
def test_the_lock_of_a_run_that_was_killed_is_taken_over(
    lock: Path, holder: subprocess.Popen[str], reaped: bool
) -> None:
    holder.kill()
    if reaped:
        holder.wait()
    status, output = run(lock, "-v")
    assert status == 0 and "It took it over from" in output, output
    assert not lock.is_symlink()


def test_a_process_id_that_was_given_again_is_not_taken_for_the_holder(
    lock: Path, holder: subprocess.Popen[str]
) -> None:
    recycled = os.readlink(lock).replace(f":{holder.pid}:", f":{os.getpid()}:")
    lock.unlink()
    lock.symlink_to(recycled)
    status, output = run(lock)
    assert status == 0, output


@pytest.mark.parametrize("part", ["controller", "boot"])
def test_the_process_of_another_controller_is_not_taken_for_dead(
    lock: Path, holder: subprocess.Popen[str], part: str
) -> None:
    holder.kill()
    holder.wait()
    here, there = {
        "controller": (f"@{socket.gethostname()}:", "@elsewhere:"),
        "boot": (os.readlink(lock).rpartition(":")[2], "3f2a1b9c-4026531836"),
    }[part]
    foreign = os.readlink(lock).replace(here, there)
    lock.unlink()
    lock.symlink_to(foreign)
    status, output = run(lock)
    assert status == 2 and f"process {holder.pid}" in output, output
    assert os.readlink(lock) == foreign


def test_the_lock_of_another_controller_is_respected_and_left(lock: Path) -> None:
    lock.symlink_to(FOREIGN)
    status, output = run(lock)
    assert status == 2 and "alice@elsewhere (process 4711, since 20" in output, output
    assert os.readlink(lock) == FOREIGN


def test_a_link_made_by_hand_is_respected_and_left(lock: Path) -> None:
    lock.symlink_to("maintenance until noon")
    status, output = run(lock)
    assert status == 2 and "by maintenance until noon (since 20" in output, output
    assert os.readlink(lock) == "maintenance until noon"


def test_a_file_in_the_place_of_the_lock_is_respected_and_left(lock: Path) -> None:
    lock.write_text("precious")
    status, output = run(lock)
    assert status == 2 and "cannot be made on localhost: ln:" in output, output
    assert lock.read_text() == "precious"


def test_check_mode_takes_no_lock(lock: Path) -> None:
    checked = start(lock, "--check")
    before = lock.parent.stat().st_mtime_ns  # changes when a lock is made or removed
    status, output = finish(checked)
    assert status == 0, output
    assert lock.parent.stat().st_mtime_ns == before


def test_check_mode_is_not_refused(lock: Path) -> None:
    lock.symlink_to(FOREIGN)
    status, output = run(lock, "--check")
    assert status == 0, output
    assert os.readlink(lock) == FOREIGN
