# Copyright fcgid.stack maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible stdout callback: one line a step for people, the details in the log."""

from __future__ import annotations

DOCUMENTATION = """
name: progress
type: stdout
short_description: Print one line a step, and the details to the log
version_added: 1.0.0
description:
  - Prints one line for each include and each role, and for each other task of a playbook that
    changes something. On a terminal the running task and its seconds are shown in place. Elsewhere
    the task is named when nothing was printed for ten seconds.
  - Prints each failure once, as text, unless it is ignored or a C(rescue) section handles it.
    Prints messages of M(ansible.builtin.debug) and the differences of C(--diff) as they are.
  - Writes everything that the default callback would print to the file of C(log_path).
  - With C(display_ok_hosts=false), prints no line for steps and hosts without a change.
extends_documentation_fragment: [default_callback, result_format_callback]
requirements: [ansible-core 2.19 or later, set as stdout in the configuration]
author: fcgid.stack maintainers (@fcgid)
"""

import os
import sys
import textwrap
import threading
import time
from typing import Any

from ansible import constants as C
from ansible import context
from ansible.playbook.handler import Handler
from ansible.playbook.task_include import TaskInclude
from ansible.plugins.callback.default import CallbackModule as DefaultCallback
from ansible.utils.display import Display

QUIET = 10  # seconds without output, after which the running task is named
SLOW = 5  # seconds from which on the duration of a step is printed


class LogDisplay:
    """The display of the default callback: warnings go to screen and log, the rest to the log."""

    banner, _error = Display.banner, Display._error

    def __init__(self, screen: Any) -> None:
        self._screen = screen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._screen, name)

    def display(
        self, msg: str, color: str | None = None, screen_only: bool = False, **options: Any
    ) -> None:
        if not screen_only:
            self._screen.display(msg, color=color, log_only=True)


def ancestry(task: Any) -> list[Any]:
    """List the task and the blocks and includes around it, the innermost first."""
    return [task, *ancestry(task._parent)] if task else []


def step_of(task: Any) -> tuple[str, bool]:
    """Return the name of the step, and whether it may have several tasks."""
    includes = [one for one in ancestry(task) if isinstance(one, TaskInclude)]
    if includes:
        return includes[-1].get_name(), True
    if task._role and not isinstance(task, Handler):
        return task._role.get_name(), True
    return task.name or task.get_name(), False


def rescued(task: Any) -> bool:
    """Tell whether the rescue section of a block handles the failure of the task."""
    line = [(one._uuid, one) for one in ancestry(task)]
    return any(
        getattr(block, "rescue", None) and inner in [one._uuid for one in block.block]
        for (inner, _child), (_outer, block) in zip(line, line[1:])
    )


def printable(text: str) -> str:
    """Return the text without what a terminal would obey: an application may have written it."""
    return "".join(one if one.isprintable() or one in "\n\t" else "?" for one in text)


def as_text(value: Any) -> str:
    return printable("\n".join(map(str, value)) if isinstance(value, list) else str(value).strip())


def explain(result: dict[str, Any]) -> str:
    """Return why a task failed: its message, and what a command wrote."""
    texts = [as_text(result.get(key, "")) for key in ("msg", "censored", "stderr", "module_stderr")]
    if not any(texts[2:]):
        texts += [as_text(result.get(key, "")) for key in ("stdout", "module_stdout")]
    return "\n".join(filter(None, texts))


def items(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results of the items of a loop, or the only result."""
    return result.get("results") or [result]


class CallbackModule(DefaultCallback):  # type: ignore[misc]
    """Prints steps to the screen. What DefaultCallback prints goes to the log."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "fcgid.stack.progress"

    def __init__(self) -> None:
        super().__init__()
        self._screen: Any = self._display
        self._display: Any = LogDisplay(self._screen)
        self._terminal = sys.stdout.isatty()
        self._lock = threading.Lock()
        self._watcher: threading.Thread | None = None
        self._playbooks = 0
        self._hosts: list[str] = []
        self._step: str | None = None
        self._composed = False
        self._task: str | None = None
        # Of the step: the number of changes by host, and the hosts that failed.
        self._results: dict[str, int] = {}
        self._failed: set[str] = set()
        # Of the task: by host, the items of the loop that failed, and why.
        self._failed_items: dict[str, list[str]] = {}
        # Of the task: the hosts by message, and by task and message.
        self._messages: dict[str, list[str]] = {}
        self._failures: dict[tuple[str | None, str], list[str]] = {}
        self._printed = self._step_began = self._task_began = time.monotonic()

    def _say(self, text: str, color: str | None = None) -> None:
        with self._lock:
            self._show("")
            self._screen.display(text, color=color, screen_only=True)
            sys.stdout.flush()
            self._printed = time.monotonic()

    def _show(self, text: str) -> None:
        """Replace the last line of the terminal."""
        if self._terminal:
            sys.stdout.write(f"\r\x1b[K{text}")
            sys.stdout.flush()

    def _show_task(self) -> None:
        task, seconds = self._task, time.monotonic() - self._task_began
        if task:
            with self._lock:
                self._show(f"{f'  {task}'[: self._screen.columns - 10]} ... {seconds:.0f} s")

    def _watch(self) -> None:
        """Show the running task, each second."""
        named = None
        while True:
            task = self._task
            if self._terminal:
                self._show_task()
            elif task not in (None, named) and time.monotonic() - self._printed >= QUIET:
                named = task
                self._say(f"  {task} ...")
            time.sleep(1)

    def _end_task(self) -> None:
        self._task = None
        for text, hosts in self._messages.items():
            separator = "\n" if "\n" in text else " "
            several = len(self._hosts) > 1
            self._say(f"{', '.join(sorted(hosts))}:{separator}{text}" if several else text)
        for (task, text), hosts in self._failures.items():
            self._say(f"{self._step} ... failed", C.COLOR_ERROR)
            for line in f"{', '.join(sorted(hosts))}: {task}\n{text}".splitlines():
                lines = textwrap.wrap(
                    line, self._screen.columns - 2, break_long_words=False, break_on_hyphens=False
                )
                self._say("\n".join(f"  {one}" for one in lines), C.COLOR_ERROR)
        self._messages, self._failures, self._failed_items = {}, {}, {}

    def _end_step(self) -> None:
        self._end_task()
        hosts = self._results.keys() - self._failed
        changed = [host for host in hosts if self._results[host]]
        seconds = time.monotonic() - self._step_began
        if changed or (hosts and self._composed and self.get_option("display_ok_hosts")):
            words = "ok"
            if changed:
                words = "would change" if context.CLIARGS["check"] else "changed"
            if len(self._hosts) == 1:
                words += f" ({sum(self._results.values())})" if changed else ""
            elif len(hosts) == 1:
                words += f" on {', '.join(hosts)}"
            else:
                words += f" on {f'{len(changed)} of ' if changed else ''}{len(hosts)} hosts"
            words += f", {seconds:.0f} s" if seconds >= SLOW else ""
            self._say(f"{self._step} ... {words}", C.COLOR_CHANGED if changed else C.COLOR_OK)
        self._step, self._results, self._failed = None, {}, set()

    def _task_start(self, task: Any, prefix: str | None = None) -> None:
        super()._task_start(task, prefix)
        self._end_task()
        step, composed = step_of(task)
        if step != self._step:
            self._end_step()
            self._step, self._composed, self._step_began = step, composed, time.monotonic()
        self._task, self._task_began = task.name or task.get_name(), time.monotonic()
        self._show_task()

    def _handle_warnings(self, res: Any) -> None:
        if res.get("warnings") or res.get("deprecations"):
            with self._lock:
                self._show("")
        super()._handle_warnings(res)

    def _handle_exception(self, result: Any, use_stderr: bool = False) -> None:
        if "censored" not in result:  # ansible-core shows the message in spite of no_log
            super()._handle_exception(result, use_stderr)

    def _fail(self, result: Any) -> None:
        failed = self._failed_items.pop(result.host.get_name(), None)
        text = "\n".join(failed or [explain(result.result)])
        self._failures.setdefault((self._task, text), []).append(self.host_label(result))
        self._failed.add(result.host.get_name())

    def v2_runner_on_ok(self, result: Any) -> None:
        host, task = result.host.get_name(), result.task
        if not isinstance(task, TaskInclude):
            changed = bool(result.result.get("changed"))
            self._results[host] = self._results.get(host, 0) + changed
        if task.action in C._ACTION_DEBUG:
            for text in [as_text(one["msg"]) for one in items(result.result) if "msg" in one]:
                self._messages.setdefault(text, []).append(host)
        super().v2_runner_on_ok(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if not ignore_errors and not rescued(result.task):
            self._fail(result)
        super().v2_runner_on_failed(result, ignore_errors)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        text = f"{self._get_item_label(result.result)}: {explain(result.result)}"
        self._failed_items.setdefault(result.host.get_name(), []).append(text)
        super().v2_runner_item_on_failed(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        if not result.task.ignore_unreachable:
            self._fail(result)
        super().v2_runner_on_unreachable(result)

    def v2_on_file_diff(self, result: Any) -> None:
        found = [one for one in items(result.result) if one.get("diff") and one.get("changed")]
        diff = "".join(self._get_diff(one["diff"]) for one in found)
        if diff:
            self._say(f"{self._task} [{self.host_label(result)}]\n{diff}")
        super().v2_on_file_diff(result)

    def v2_playbook_on_start(self, playbook: Any) -> None:
        super().v2_playbook_on_start(playbook)
        self._playbooks += 1
        if not self._watcher:
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._end_step()
        super().v2_playbook_on_play_start(play)
        variables = play.get_variable_manager().get_vars(play=play, include_hostvars=False)
        self._hosts = variables["ansible_play_hosts_all"]

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._end_step()
        super().v2_playbook_on_stats(stats)
        totals = {host: stats.summarize(host) for host in sorted(stats.processed)}
        bad = {host for host, of in totals.items() if of["failures"] or of["unreachable"]}
        if not bad and self._playbooks < len(context.CLIARGS["args"]):
            return  # the totals are those of the whole run: another playbook follows
        for host, of in totals.items():
            if host in bad or of["changed"] or self.get_option("display_ok_hosts"):
                line = f"{host}: ok={of['ok']} changed={of['changed']} failed={of['failures']}"
                line += f" unreachable={of['unreachable']}" if of["unreachable"] else ""
                self._say(line, C.COLOR_ERROR if host in bad else None)
        if bad and C.DEFAULT_LOG_PATH:
            self._say(f"The details are in {os.path.relpath(C.DEFAULT_LOG_PATH)}.")
