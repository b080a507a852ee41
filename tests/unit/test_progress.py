"""What an operator reads while a playbook runs, from real runs."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PLAY = """
- name: Deploy
  hosts: all
  connection: local
  gather_facts: false
  serial: "{{ batch | default('100%') }}"
  tasks:
"""
INNER = """
- name: Inner | Look
  ansible.builtin.command: "true"
  changed_when: false
- name: Inner | Write
  ansible.builtin.copy:
    content: "{{ content | default('new') }}\\n"
    dest: "{{ playbook_dir }}/{{ inventory_hostname }}"
    mode: "0600"
"""
INCLUDE = """
    - name: Write the files
      ansible.builtin.include_tasks: inner.yml
"""


@pytest.fixture
def play(tmp_path: Path) -> Any:
    """Runs these tasks on hosts that are all this machine; returns status and output."""

    def run(tasks: str, *options: str, hosts: str = "web1,", terminal: bool = False) -> Any:
        (tmp_path / "play.yml").write_text(PLAY + tasks)
        (tmp_path / "inner.yml").write_text(INNER)
        command = ["ansible-playbook", "-i", hosts, *options, str(tmp_path / "play.yml")]
        environment = os.environ | {
            "ANSIBLE_STDOUT_CALLBACK": "fcgid.stack.progress",
            "ANSIBLE_LOG_PATH": str(tmp_path / "log"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
        }
        if not terminal:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True
            )
            # A step says how long it took, from 5 s on: on a busy machine any may.
            printed = re.sub(r", \d s$", "", done.stdout + done.stderr, flags=re.MULTILINE)
            return done.returncode, printed
        leader, follower = pty.openpty()
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=follower) as process:
            os.close(follower)
            output = b""
            while chunk := read(leader):
                output += chunk
        os.close(leader)
        return process.returncode, output.decode()

    return run


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed: pty(7)
        return b""


def test_a_step_is_a_line_and_a_run_without_changes_says_so(play: Any) -> None:
    assert play(INCLUDE) == (
        0,
        "Write the files ... changed (1)\nweb1: ok=3 changed=1 failed=0\n",
    )
    assert play(INCLUDE) == (0, "Write the files ... ok\nweb1: ok=3 changed=0 failed=0\n")


def test_what_changes_nothing_can_be_left_out(play: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("ANSIBLE_DISPLAY_OK_HOSTS", "no")
    play(INCLUDE)
    assert play(INCLUDE) == (0, "")


def test_several_hosts_are_summarized(play: Any, tmp_path: Path) -> None:
    (tmp_path / "web2").write_text("new\n")
    (tmp_path / "web2").chmod(0o600)
    _, output = play(INCLUDE, hosts="web1,web2,web3")
    assert output.startswith("Write the files ... changed on 2 of 3 hosts\nweb1: "), output
    _, output = play(INCLUDE, hosts="web1,web2,web3")
    assert output.startswith("Write the files ... ok on 3 hosts\nweb1: "), output
    _, output = play(INCLUDE, "--extra-vars", "batch=1", hosts="web1,web2")
    assert output.startswith(
        "Write the files ... ok on web1\nWrite the files ... ok on web2\nweb1: "
    ), output


def test_the_log_has_what_the_default_callback_prints(play: Any, tmp_path: Path) -> None:
    play(INCLUDE)
    log = (tmp_path / "log").read_text()
    for line in ("TASK [Inner | Look] ***", "ok: [web1]", "changed: [web1]", "ok=3    changed=1 "):
        assert line in log


def test_check_mode_tells_what_would_change_and_diff_how(play: Any) -> None:
    play(INCLUDE)
    _, output = play(INCLUDE, "--check", "--diff", "--extra-vars", "content=newer")
    assert "Inner | Write [web1]\n--- before" in output, output
    assert "-new\n+newer\n" in output, output
    assert "Write the files ... would change (1)\n" in output, output


def test_a_failure_is_printed_once_as_text(play: Any, tmp_path: Path) -> None:
    status, output = play(
        """
    - name: Check the port
      ansible.builtin.assert:
        that: false
        fail_msg: httpd_port 99999 is not a port. Choose one from 1 to 65535.
"""
    )
    assert status == 2
    assert output == (
        "Check the port ... failed\n"
        "  web1: Check the port\n"
        "  httpd_port 99999 is not a port. Choose one from 1 to 65535.\n"
        "web1: ok=0 changed=0 failed=1\n"
        f"The details are in {os.path.relpath(tmp_path / 'log', ROOT)}.\n"
    )
    assert "fatal: [web1]: FAILED!" in (tmp_path / "log").read_text()


def test_the_same_failure_on_several_hosts_is_printed_once(play: Any) -> None:
    _, output = play(
        "    - {name: Refuse, ansible.builtin.fail: {msg: 'No.'}}\n", hosts="web1,web2,web3"
    )
    assert output.startswith("Refuse ... failed\n  web1, web2, web3: Refuse\n  No.\nweb1: "), output


def test_a_failed_command_shows_what_it_wrote(play: Any) -> None:
    _, output = play("    - {name: Run, ansible.builtin.shell: 'echo out; echo err >&2; exit 3'}\n")
    assert "  web1: Run\n" in output and "  err\n" in output and "  out\n" not in output, output
    _, output = play("    - {name: Run, ansible.builtin.shell: 'echo out; exit 3'}\n")
    assert "  out\n" in output, output


def test_of_a_loop_the_items_that_failed_are_named(play: Any) -> None:
    _, output = play(
        """
    - name: Check each
      ansible.builtin.assert:
        that: item != 'shop'
        fail_msg: has no source
        quiet: true
      loop: [blog, shop]
"""
    )
    assert "  web1: Check each\n  shop: has no source\n" in output, output
    assert "blog" not in output


def test_a_handled_failure_is_no_failure(play: Any) -> None:
    for tasks in (
        "    - {name: Try, ansible.builtin.command: 'false', ignore_errors: true}\n",
        """
    - block:
        - name: Write the files
          ansible.builtin.include_tasks: inner.yml
          vars: {content: "{{ nothing }}"}
      rescue:
        - {name: Clean up, ansible.builtin.command: "true", changed_when: false}
""",
    ):
        status, output = play(tasks)
        assert status == 0 and "failed=0" in output, output
        assert "... failed" not in output and "ERROR" not in output, output


def test_a_failure_in_a_rescue_section_is_printed(play: Any) -> None:
    status, output = play(
        """
    - block:
        - {name: Build, ansible.builtin.command: "false"}
      rescue:
        - {name: Give up, ansible.builtin.fail: {msg: The release was not built.}}
"""
    )
    assert status == 2
    assert output.startswith(
        "Give up ... failed\n  web1: Give up\n  The release was not built.\n"
    ), output


@pytest.mark.skipif(not shutil.which("ssh"), reason="needs an ssh client")
def test_an_unreachable_host_is_a_failure(play: Any) -> None:
    status, output = play(
        INCLUDE, "--extra-vars", "ansible_connection=ssh ansible_host=127.0.0.1 ansible_port=1"
    )
    assert status == 4
    assert "Write the files ... failed\n  web1: Inner | Look\n" in output, output
    assert "web1: ok=1 changed=0 failed=0 unreachable=1\n" in output, output


def test_a_secret_stays_hidden(play: Any, tmp_path: Path) -> None:
    _, output = play(
        """
    - name: Log out
      ansible.builtin.fail:
        msg: hunter2
      no_log: true
      loop: [hunter2]
      ignore_errors: true
    - name: Log in
      ansible.builtin.fail:
        msg: hunter2
      no_log: true
"""
    )
    assert "  web1: Log in\n" in output
    assert "hunter2" not in output + (tmp_path / "log").read_text()


def test_control_characters_of_an_application_do_not_reach_the_terminal(play: Any) -> None:
    """Such as those that set the title of the terminal, in what a failed command wrote."""
    status, output = play("""
    - name: Say
      ansible.builtin.debug:
        msg: "\\e[31mred"
    - name: Build
      ansible.builtin.shell: printf '\\033]0;owned\\007' >&2; false
""")
    assert status == 2
    assert "\x1b" not in output and "\x07" not in output
    assert "?[31mred" in output and "?]0;owned?" in output


def test_messages_are_printed_as_they_are(play: Any) -> None:
    tasks = """
    - ansible.builtin.debug:
        msg: "shop: 41fb1852807b is live"
    - ansible.builtin.debug:
        msg: [one, two]
"""
    _, output = play(tasks)
    assert output.startswith("shop: 41fb1852807b is live\none\ntwo\nweb1: ok=2 "), output
    _, output = play(tasks, hosts="web1,web2")
    assert output.startswith(
        "web1, web2: shop: 41fb1852807b is live\nweb1, web2:\none\ntwo\nweb1: ok=2 "
    ), output


def test_a_terminal_shows_the_running_task_and_then_the_step(play: Any) -> None:
    status, output = play(INCLUDE, terminal=True)
    assert status == 0
    assert re.search(r"\r\x1b\[K  [^\n]+ \.\.\. \d+ s\r", output), output
    assert "\r\x1b[KWrite the files ... changed (1)\r\n" in output, output


def test_elsewhere_a_slow_task_is_named_once(play: Any) -> None:
    _, output = play("    - name: Make wheels\n      ansible.builtin.command: sleep 12\n")
    assert re.match(
        r"  Make wheels \.\.\.\nMake wheels \.\.\. changed \(1\), 1\d s\nweb1: ", output
    ), output
