"""The parent of several workers on one listening socket.

The parent never imports the application, so SIGHUP brings new code: new workers start, the old
ones finish what they are at. It waits for signals with sigwait(2) and handles none, so no signal
can arrive at the wrong moment. A worker notices that the parent is gone by the end of a pipe.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import sys
import time
from typing import Optional

from .log import log
from .server import SIGNALS, Settings, run_worker

# A worker that failed within this time, in seconds, is replaced only after as long a pause.
SHORT_LIFE = 1.0


def run_parent(listener: socket.socket, settings: Settings, path: Optional[str] = None) -> int:
    """Keep `settings.workers` workers until SIGTERM or SIGINT; return the exit status.

    `path` is the Unix socket to remove at the end, if this program made it.
    """
    parent = Parent(listener, settings)
    parent.run()
    if path is not None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    parent.stop()
    return 0


class Parent:
    """The pool of workers."""

    def __init__(self, listener: socket.socket, settings: Settings) -> None:
        self._listener = listener
        self._settings = settings
        self._started: dict[int, float] = {}  # process id of a worker: when, monotonic
        self._leaving: set[int] = set()
        self._not_before = 0.0
        self._alive = os.pipe()
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def run(self) -> None:
        """Start and replace workers until told to end."""
        while True:
            wait = self._fill()
            info = signal.sigtimedwait(SIGNALS, wait)
            number = 0 if info is None else info.si_signo
            if number in (signal.SIGTERM, signal.SIGINT):
                return
            if number == signal.SIGHUP:
                leaving = list(self._started)
                self._leaving.update(leaving)
                self._started.clear()
                self._not_before = 0.0
                self._fill()
                _send(signal.SIGTERM, leaving)
            self._reap()

    def stop(self) -> None:
        """End all workers after the requests that they are at, and wait for them.

        A person who does not want to wait sends SIGINT again.
        """
        _send(signal.SIGTERM, [*self._started, *self._leaving])
        while self._started or self._leaving:
            if signal.sigwaitinfo(SIGNALS).si_signo == signal.SIGINT:
                _send(signal.SIGKILL, [*self._started, *self._leaving])
            self._reap()
        for descriptor in self._alive:
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _fill(self) -> float:
        """Start the workers that are missing; return the seconds until this must be repeated."""
        missing = self._settings.workers - len(self._started)
        pause = self._not_before - time.monotonic()
        if missing > 0 and pause > 0:
            return pause
        for _worker in range(missing):
            self._start()
        return 3600.0

    def _start(self) -> None:
        process = os.fork()
        if process:
            self._started[process] = time.monotonic()
            return
        status = 1
        try:
            os.close(self._alive[1])
            status = run_worker(self._listener, self._settings, self._alive[0])
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        while self._started or self._leaving:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                return
            self._leaving.discard(process)
            started = self._started.pop(process, None)
            if not status:
                continue
            log(f"worker {process} {_describe(status)}")
            if started is not None and time.monotonic() - started < SHORT_LIFE:
                self._not_before = time.monotonic() + SHORT_LIFE


def _describe(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGALRM:
            return "passed its time limit for a request; its traceback is above"
        return f"was ended by {signal.Signals(number).name}"
    return f"ended with status {os.WEXITSTATUS(status)}"


def _send(number: int, processes: list[int]) -> None:
    for process in processes:
        os.kill(process, number)
