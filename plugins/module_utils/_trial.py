# Copyright fcgid.stack maintainers
# SPDX-License-Identifier: Apache-2.0
"""A trial of a release: one worker, started as mod_fcgid starts it, and one request to it."""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import signal
import subprocess
import tempfile
from collections.abc import Mapping

from ansible_collections.fcgid.stack.plugins.module_utils._excerpt import quote, read_excerpt
from ansible_collections.fcgid.stack.plugins.module_utils._probe import CheckFailed, HealthCheck
from ansible_collections.fcgid.stack.plugins.module_utils.fcgiserve import client, listen

# What mod_fcgid gives its workers (httpd.h, DEFAULT_PATH).
PATH = "/bin:/usr/bin:/usr/ucb:/usr/bsd:/usr/local/bin"


def try_program(
    program: str, check: HealthCheck, user: str, directory: str, environment: Mapping[str, str]
) -> None:
    """Start `program` as a worker of `user` on a socket of its own, and send it the health check.

    It gets PATH and `environment`, and works in `directory`. Raises CheckFailed, with what the
    worker wrote. A worker that does not answer in time is told to abort: fcgiserve then writes
    where it hangs.
    """
    owner = pwd.getpwnam(user)
    with contextlib.ExitStack() as stack:
        private = stack.enter_context(tempfile.TemporaryDirectory())
        output = stack.enter_context(tempfile.TemporaryFile())
        address = os.path.join(private, "socket")
        with listen.bind(address) as listener:
            try:
                worker = subprocess.Popen(
                    [program],
                    stdin=listener.fileno(),
                    stdout=output,
                    stderr=output,
                    cwd=directory,
                    env={"PATH": PATH, **environment},
                    user=owner.pw_uid,
                    group=owner.pw_gid,
                    extra_groups=os.getgrouplist(owner.pw_name, owner.pw_gid),
                    start_new_session=True,
                )
            except OSError as error:
                raise CheckFailed(f"it cannot be started: {error}") from error
        # From here on the worker alone holds the socket: if it ends, the request fails at once.
        params = client.request_params(check.health_path, headers=[("Host", check.host)])
        params["SCRIPT_NAME"] = check.mount
        params["REQUEST_URI"] = check.path
        reason, written, ended = "", "", False
        try:
            answer = client.request(address, params, timeout=check.timeout)
            reason = check.status_error(answer.status)
            written = answer.errors.decode(errors="replace")
        except client.RequestFailed as error:
            reason = str(error)
            ended = has_ended(worker, 1)
            os.kill(worker.pid, signal.SIGABRT)
        finally:
            stop(worker)
        if ended:
            reason = f"it ended with status {worker.returncode} and did not answer."
        if reason:
            raise CheckFailed(f"{reason}\n{quote(read_excerpt(output) + written)}")


def has_ended(worker: subprocess.Popen[bytes], seconds: float) -> bool:
    """Return whether the worker ends within this time.

    The worker is not reaped: until then no other process gets its process id or its group's.
    """
    descriptor = os.pidfd_open(worker.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def stop(worker: subprocess.Popen[bytes]) -> None:
    """End the worker and all that it started, with SIGKILL if SIGTERM does not in 5 seconds."""
    os.kill(worker.pid, signal.SIGTERM)
    has_ended(worker, 5)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
