"""The command `fcgiserve`."""

from __future__ import annotations

import argparse
import faulthandler
import sys
from collections.abc import Sequence
from typing import Callable, Optional, TypeVar

from . import client, listen
from .cgi import run_cgi
from .prefork import run_parent
from .server import Settings, run_worker

_Number = TypeVar("_Number", int, float)

_DESCRIPTION = """
Serve a WSGI (or, with fcgiserve[asgi], an ASGI) application over FastCGI. Without --bind the
listening socket on descriptor 0 is served, as mod_fcgid passes it, or the one that systemd
passes; without either, one CGI request is answered. `fcgiserve get --help` explains the client.
"""


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command with `argv`, by default the process's; return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["get"]:
        return client.main(arguments[1:])
    parser = argparse.ArgumentParser(prog="fcgiserve", description=_DESCRIPTION)
    parser.add_argument("application", help="module:callable")
    parser.add_argument("--bind", metavar="ADDRESS", help="unix:/path or tcp:127.0.0.1:9000")
    parser.add_argument("--workers", type=_at_least(1, int), default=1, metavar="N")
    parser.add_argument(
        "--script-name",
        metavar="PATH",
        help="where the application is mounted ('' for /), if the web server does not say",
    )
    parser.add_argument(
        "--max-requests",
        type=_at_least(0, int),
        default=0,
        metavar="N",
        help="end a worker after N requests",
    )
    parser.add_argument(
        "--max-rss",
        type=_at_least(0, int),
        default=0,
        metavar="MIB",
        help="end a worker, between requests, that has more resident memory",
    )
    parser.add_argument(
        "--request-timeout",
        type=_at_least(0, float),
        default=0.0,
        metavar="SECONDS",
        help="end a worker, with a traceback, that takes longer for a request",
    )
    parser.add_argument(
        "--access-log", action="store_true", help="write a line of JSON for each request"
    )
    options = parser.parse_args(arguments)
    settings = Settings(
        application=options.application,
        script_name=options.script_name,
        access_log=options.access_log,
        workers=options.workers,
        max_requests=options.max_requests,
        max_rss=options.max_rss << 20,
        request_timeout=options.request_timeout,
    )
    # A crash, or SIGABRT to a process that hangs, leaves a traceback.
    faulthandler.enable()
    try:
        if options.bind is not None:
            address = listen.parse_address(options.bind)
            with listen.bind(address) as listener:
                path = address if isinstance(address, str) else None
                return run_parent(listener, settings, path)
        passed = listen.activated()
    except listen.ListenError as error:
        print(f"fcgiserve: {error}", file=sys.stderr)
        return 1
    if passed is not None:
        return run_parent(passed, settings)
    inherited = listen.inherited()
    if inherited is None:
        return run_cgi(settings)
    if settings.workers > 1:
        return run_parent(inherited, settings)
    return run_worker(inherited, settings)


def _at_least(lowest: int, kind: type[_Number]) -> Callable[[str], _Number]:
    def number(text: str) -> _Number:
        value = kind(text)
        if value < lowest:
            raise argparse.ArgumentTypeError(f"{text} is less than {lowest}")
        return value

    return number
