# Copyright fcgid.stack maintainers
# SPDX-License-Identifier: Apache-2.0
"""One HTTP request to httpd on this host, and the judgement of its answer."""

from __future__ import annotations

import contextlib
import http.client
import os
from typing import NamedTuple

from ansible_collections.fcgid.stack.plugins.module_utils._excerpt import quote, read_excerpt
from ansible_collections.fcgid.stack.plugins.module_utils._files import open_regular


class NoAnswer(Exception):
    """No complete answer came; the message says why."""


class ConnectionRefused(NoAnswer):
    """Nobody listens at that address."""


class CheckFailed(Exception):
    """The release does not work; the message says why and quotes what was written."""


class HealthCheck(NamedTuple):
    """The request that tells whether an application works.

    `mount` is the SCRIPT_NAME of the application, without a slash at the end. `timeout` is in
    seconds.
    """

    host: str
    mount: str
    health_path: str
    timeout: float

    @property
    def path(self) -> str:
        """The path of the URL, with its query."""
        return self.mount + self.health_path

    def status_error(self, status: int) -> str:
        """Return what is wrong with this status of the answer; "" if nothing is."""
        if 200 <= status < 400:
            return ""
        return (
            f"it answered http://{self.host}{self.path} with status {status}. If that is no error, "
            "set health_path to a path that it answers with a status from 200 to 399."
        )


def get_status(address: str, path: str, host: str | None, timeout: float) -> int:
    """Send GET `path` to `address` (host:port) and return the status of the answer.

    `host` is the Host header, if it is not `address`; `timeout` is in seconds. Redirects are not
    followed. Raises NoAnswer.
    """
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Host": host} if host else {})
        return connection.getresponse().status
    except ConnectionRefusedError as error:
        raise ConnectionRefused(str(error)) from error
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(str(error)) from error
    finally:
        connection.close()


def check_httpd(check: HealthCheck, address: str, error_log: str) -> None:
    """Send the health check to httpd at `address` (host:port).

    Raises CheckFailed, with what was written to `error_log` meanwhile.
    """
    with open_regular(error_log) or contextlib.nullcontext() as log:
        begin = os.fstat(log.fileno()).st_size if log else 0
        try:
            status = get_status(address, check.path, check.host, check.timeout)
            reason = check.status_error(status)
        except NoAnswer as error:
            reason = f"no answer to http://{check.host}{check.path} from {address}: {error}"
        if reason:
            raise CheckFailed(f"{reason}\n{quote(read_excerpt(log, begin) if log else '')}")
