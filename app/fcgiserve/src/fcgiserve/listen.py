"""Listening sockets: inherited, from systemd, or bound here; and the addresses of them."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Optional, Union

# Connections that wait for a worker before the kernel refuses or delays more.
BACKLOG = 1024

FCGI_LISTENSOCK_FILENO = 0
_FIRST_ACTIVATED = 3

Address = Union[str, tuple[str, int]]


class ListenError(Exception):
    """A socket cannot be used; the message names the fix."""


def parse_address(text: str) -> Address:
    """Return a path for `unix:/path` or `/path`, host and port for `tcp:host:port` or `host:port`.

    An IPv6 host stands in brackets. Raises ListenError for anything else.
    """
    kind, colon, rest = text.partition(":")
    if colon and kind == "unix" and rest:
        return rest
    if "/" in text:
        return text
    host, _colon, port = (rest if kind == "tcp" else text).rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ListenError(
            f"{text!r} is no address: write unix:/path/to/socket or tcp:127.0.0.1:9000"
        )
    return host, int(port)


def address_name(address: object) -> str:
    """Return an address of the socket module as text for people."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(address, bytes):
        return os.fsdecode(address).replace("\0", "@", 1)
    return str(address)


def inherited(descriptor: int = FCGI_LISTENSOCK_FILENO) -> Optional[socket.socket]:
    """Return the listening socket that `descriptor` is, or None when it is none.

    Section 2.2 of the specification asks getpeername(2), which says ENOTCONN for a listening
    socket. It says so too for a socket that neither listens nor is connected, hence the second
    question. None means that the program was started as CGI, or by a person.
    """
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:  # ENOTSOCK, or EBADF when the descriptor is closed
        return None
    try:
        sock.getpeername()
    except OSError as error:
        if error.errno == errno.ENOTCONN and _is_listening(sock):
            return sock
    sock.detach()
    return None


def _is_listening(sock: socket.socket) -> bool:
    return sock.type == socket.SOCK_STREAM and bool(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    )


def activated() -> Optional[socket.socket]:
    """Return the socket that systemd passed (sd_listen_fds(3)), None when it passed none.

    Raises ListenError when it passed several, or one that does not listen.
    """
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit():
        return None
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if int(count) != 1:
        raise ListenError(f"systemd passed {count} sockets: one is served, one unit for each")
    os.set_inheritable(_FIRST_ACTIVATED, False)
    sock = inherited(_FIRST_ACTIVATED)
    if sock is None:
        raise ListenError("systemd passed something else: use ListenStream= and Accept=no")
    return sock


def bind(address: Address) -> socket.socket:
    """Return a new listening socket; a stale Unix socket of the same path is replaced.

    Raises ListenError when the address cannot be had.
    """
    try:
        if isinstance(address, str):
            _remove_stale(address)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise ListenError(
            f"cannot listen on {address_name(address)}: {error.strerror or error}"
        ) from error
    return sock


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ListenError(f"cannot listen on {path}: a file of that name exists, remove it")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise ListenError(f"cannot listen on {path}: another process listens there, stop it first")
