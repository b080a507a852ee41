"""Import an application by name, and stand in for one that cannot be imported.

A worker whose application does not import stays and answers 500: if it exited, the web server
would start the next one at once, and that for ever.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterable
from typing import Any, Callable

from .log import log
from .wsgi import Application, ImportFailed


def import_application(name: str) -> Application:
    """Return the application called `name`, as `package.module:callable`.

    An ASGI application is wrapped with a2wsgi. Unless Python runs isolated (-I), modules are
    also found in the working directory. Raises ImportFailed with the fix or the cause.
    """
    module_name, colon, attributes = name.partition(":")
    if not (module_name and colon and attributes):
        raise ImportFailed(f"{name!r} names no application: write it as module:callable")
    if not sys.flags.isolated and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ImportFailed(f"cannot import {name}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ImportFailed(f"cannot import {name}: it is a {type(found).__name__}, not callable")
    if _is_asgi(found):
        from .asgi import adapt

        return adapt(name, found)
    application: Application = found
    return application


def import_or_stand_in(name: str) -> Application:
    """Return the application called `name`, or one that answers every request with 500.

    The failure is logged here with its traceback, and with one line at each request.
    """
    try:
        return import_application(name)
    except ImportFailed as error:
        cause = error.__cause__
        detail = ""
        if cause is not None:
            lines = traceback.format_exception(type(cause), cause, cause.__traceback__)
            detail = "\n" + "".join(lines).rstrip()
        log(f"{error}; every request is answered with 500{detail}")
        message = str(error)

    def stand_in(environ: object, start_response: object) -> Iterable[bytes]:
        raise ImportFailed(message)

    return stand_in


def _is_asgi(application: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(
        getattr(application, "__call__", None)  # noqa: B004
    )
