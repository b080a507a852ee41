"""ASGI applications, through the adapter a2wsgi (the extra `asgi`).

The adapter runs them on an event loop in a thread of its own. Added here is what it leaves out:
the lifespan protocol, a body without CONTENT_LENGTH, and the traceback of a failed request.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import tempfile
import traceback
from collections.abc import Awaitable, Iterable
from typing import Any, Callable, Optional

from .streams import HELD_IN_MEMORY
from .wsgi import Application, Environ, ExcInfo, ImportFailed

Message = dict[str, Any]
ASGIApplication = Callable[[Message, Callable[..., Any], Callable[..., Any]], Awaitable[None]]


def adapt(name: str, application: ASGIApplication) -> Application:
    """Return a WSGI application for an ASGI application that has been started.

    It is shut down when the interpreter ends. Raises ImportFailed when a2wsgi is missing, or when
    the application says that it cannot start.
    """
    try:
        adapter_module: Any = importlib.import_module("a2wsgi")
    except ImportError as error:
        raise ImportFailed(
            f"{name} is an ASGI application: install fcgiserve[asgi] to serve it"
        ) from error
    state: dict[str, Any] = {}

    async def with_state(scope: Message, receive: Any, send: Any) -> None:
        scope["state"] = dict(state)
        await application(scope, receive, send)

    adapter = adapter_module.ASGIMiddleware(with_state)
    lifespan = Lifespan(application, state)
    run = asyncio.run_coroutine_threadsafe
    failure = run(lifespan.start(), adapter.loop).result()
    if failure is not None:
        raise ImportFailed(f"cannot start {name}: {failure}")
    atexit.register(lambda: run(lifespan.stop(), adapter.loop).result())

    def adapted(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(status: str, headers: Any, exc_info: Optional[ExcInfo] = None) -> Any:
            if exc_info is not None:
                environ["wsgi.errors"].write("".join(traceback.format_exception(*exc_info)))
            return start_response(status, headers, exc_info)

        if environ.get("CONTENT_LENGTH"):
            yield from adapter(environ, start)
            return
        with tempfile.SpooledTemporaryFile(max_size=HELD_IN_MEMORY) as body:
            while block := environ["wsgi.input"].read(65536):
                body.write(block)
            environ["CONTENT_LENGTH"] = str(body.tell())
            environ["wsgi.input"] = body
            body.seek(0)
            yield from adapter(environ, start)

    return adapted


class Lifespan:
    """The start and the end of an ASGI application (ASGI, "Lifespan Protocol").

    `state` is what the application keeps for its requests.
    """

    def __init__(self, application: ASGIApplication, state: dict[str, Any]) -> None:
        self._application = application
        self._state = state
        self._task: Optional[asyncio.Task[None]] = None

    async def start(self) -> Optional[str]:
        """Let the application start; return why it cannot, None when it has."""
        self._stopping = asyncio.Event()
        self._started: asyncio.Future[Optional[str]] = asyncio.get_running_loop().create_future()
        self._messages = iter(("lifespan.startup", "lifespan.shutdown"))
        self._task = asyncio.ensure_future(self._run())
        return await self._started

    async def stop(self) -> None:
        """Let the application end, if it has taken part so far."""
        if self._task is not None:
            self._stopping.set()
            await self._task

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        try:
            await self._application(scope, self._receive, self._send)
        except BaseException as error:
            # An application without the protocol raises at the first sight of it.
            if self._started.done():
                traceback.print_exception(type(error), error, error.__traceback__)
        if not self._started.done():
            self._started.set_result(None)

    async def _receive(self) -> Message:
        kind = next(self._messages)
        if kind == "lifespan.shutdown":
            await self._stopping.wait()
        return {"type": kind}

    async def _send(self, message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            self._started.set_result(None)
        elif message["type"] == "lifespan.startup.failed":
            self._started.set_result(message.get("message") or "its startup failed")
