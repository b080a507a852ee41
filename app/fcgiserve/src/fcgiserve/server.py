"""The worker: accepts connections on one listening socket and answers them one at a time.

Theory of operation: the worker waits in poll(2) for the listening socket, for connections whose
next request is not complete, and for a pipe into which the interpreter writes at each signal.
The pipe closes the gap between looking at a flag and going to sleep, in which a SIGTERM would
otherwise be lost until the next connection. The listening socket does not block, because
another worker may take the connection that poll has seen.

A worker without siblings, as mod_fcgid starts them, saves that poll(2) when it has no connection to
wait for: it waits in accept(2), for so short a time that a SIGTERM lost in the gap does not matter.

SIGTERM and SIGINT let the request in flight finish, then what waits in the listen queue is
answered, then the worker ends with status 0 (FastCGI 1.0, section 7). SIGHUP and SIGUSR1, which
httpd sends to its process group at a reload, are ignored.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import socket
import struct
import time
import traceback
from typing import NamedTuple, Optional

from .channel import Channel, Exchange, PeerGone, forks
from .listen import address_name
from .loader import import_or_stand_in
from .log import log
from .wsgi import Gateway

# Connections without a complete request that a worker holds; beyond it the oldest is closed.
IDLE_CONNECTIONS = 256

# Connections that are still answered when the worker is told to end: what a listen queue holds.
DRAINED_CONNECTIONS = 1024

# How long a worker that is told to end waits for a request on a connection that is open, in
# milliseconds: the web server has connected but may not have written yet.
DRAIN_PATIENCE = 1000

# How long a worker without siblings waits in accept(2) before it waits in poll(2), as the kernel
# takes it: seconds and microseconds.
ACCEPT_PATIENCE = struct.pack("@ll", 0, 100_000)

# The signals that matter to a worker or to the parent of several.
SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGCHLD,
    signal.SIGALRM,
)

_STREAM = int(socket.SOCK_STREAM)
_PAGE = os.sysconf("SC_PAGESIZE")


class Settings(NamedTuple):
    """What a worker needs to know; 0 is no limit.

    `application` is module:callable. `max_requests` and `max_rss` (bytes of resident memory)
    make the worker end between two requests, `request_timeout` (seconds) ends it inside one.
    """

    application: str
    script_name: Optional[str] = None
    access_log: bool = False
    workers: int = 1
    max_requests: int = 0
    max_rss: int = 0
    request_timeout: float = 0.0


def run_worker(listener: socket.socket, settings: Settings, parent: Optional[int] = None) -> int:
    """Import the application, then answer requests until told to end; return the exit status.

    At end of file on the descriptor `parent` the worker ends as at SIGTERM. Needs the main
    thread, for the signals.
    """
    with Worker(listener, settings, parent) as worker:
        gateway = Gateway(
            import_or_stand_in(settings.application),
            script_name=settings.script_name,
            listener=address_name(listener.getsockname()),
            access_log=settings.access_log,
        )
        worker.run(gateway)
    return 0


class Worker:
    """One worker process's loop; a context manager that takes and gives back the signals."""

    def __init__(
        self, listener: socket.socket, settings: Settings, parent: Optional[int] = None
    ) -> None:
        self._listener = listener
        self._listening = listener.fileno()
        self._family = int(listener.family)
        self._settings = settings
        self._stopping = False
        self._recycled = False  # stopping because of a limit
        self._answered = 0
        self._allowed = None
        if listener.family != socket.AF_UNIX:
            self._allowed = _allowed_peers()
            # Accepted sockets inherit it: a piece of a stream leaves at once.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Connections in the poll set, the one that was quiet for longest first.
        self._waiting: dict[int, Channel] = {}
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._parent = parent
        self._waits_in_accept = False
        if parent is not None:
            self._poll.register(parent, select.POLLIN)
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Worker:
        """Take the signals."""
        forks.forget()
        self._listener.setblocking(False)
        # Accepted sockets of another family would inherit the time that accept(2) waits.
        if self._parent is None and self._family == socket.AF_UNIX:
            with contextlib.suppress(OSError):  # a 32-bit system may want another form of it
                option = (socket.SOL_SOCKET, socket.SO_RCVTIMEO, ACCEPT_PATIENCE)
                self._listener.setsockopt(*option)
                self._listener.setblocking(True)
                self._waits_in_accept = True
        readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake = readable
        self._poll.register(readable, select.POLLIN)
        self._cleanup.callback(os.close, readable)
        self._cleanup.callback(os.close, writable)
        previous = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        self._cleanup.callback(signal.set_wakeup_fd, previous)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._cleanup.callback(signal.signal, number, signal.signal(number, self._stop))
        for number in (signal.SIGHUP, signal.SIGUSR1):
            self._cleanup.callback(signal.signal, number, signal.signal(number, _ignore))
        if self._settings.request_timeout:
            # In C, so that it also works while the interpreter is stuck: write the traceback of
            # all threads, then let the signal end the process.
            faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
            self._cleanup.callback(faulthandler.unregister, signal.SIGALRM)
        # Whoever started this process may have left them blocked; `prefork` does, until here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close every connection and give the signals back."""
        for channel in self._waiting.values():
            channel.close()
        self._waiting.clear()
        self._cleanup.close()

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True
        self._wait_in_poll()  # accept(2) begins anew after each signal, and now returns at once

    def _wait_in_poll(self) -> None:
        self._waits_in_accept = False
        self._listener.setblocking(False)

    def run(self, gateway: Gateway) -> None:
        """Answer requests until a signal or a limit ends the worker."""
        poll = self._poll.poll
        while not self._stopping:
            if (
                self._waits_in_accept
                and not self._waiting
                and self._serve(self._listening, gateway)
            ):
                continue
            for descriptor, _events in poll():
                if descriptor == self._wake:
                    os.read(self._wake, 4096)
                elif descriptor == self._parent:
                    self._stopping = True
                elif not self._serve(descriptor, gateway) and descriptor == self._listening:
                    # Somebody else took the connection: there are siblings after all.
                    self._wait_in_poll()
        self._drain(gateway)

    def _drain(self, gateway: Gateway) -> None:
        """Answer what has come already, and wait a little for requests that are on their way."""
        self._poll.unregister(self._wake)
        if self._parent is not None:
            self._poll.unregister(self._parent)
            if self._recycled:
                # The other workers, and the successor, share the listen queue.
                self._poll.unregister(self._listening)
        for _connection in range(DRAINED_CONNECTIONS):
            expected = any(not channel.idle for channel in self._waiting.values())
            ready = self._poll.poll(DRAIN_PATIENCE if expected else 0)
            if not ready:
                break
            for descriptor, _events in ready:
                self._serve(descriptor, gateway)

    def _accept(self) -> Optional[Channel]:
        listener = self._listener
        try:
            # As socket.accept(), without what that does for people: three numbers made into
            # enumerations, an object that counts its users. It shows in requests a second.
            descriptor, peer = listener._accept()  # type: ignore[attr-defined]
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            # Out of descriptors or memory: without a pause this would spin.
            log(f"cannot accept a connection: {error}; trying again in a second")
            time.sleep(1)
            return None
        sock = socket.SocketType(self._family, _STREAM, 0, descriptor)
        if self._allowed is not None and peer[0] not in self._allowed:
            log(f"refused a connection from {peer[0]}: it is not in FCGI_WEB_SERVER_ADDRS")
            sock.close()
            return None
        return Channel(sock, self._settings.workers)

    def _serve(self, descriptor: int, gateway: Gateway) -> bool:
        """Read from a connection, answer its request if it is complete, and keep or close it.

        Returns False when there was no connection.
        """
        if descriptor == self._listening:
            accepted = self._accept()
            if accepted is None:
                return False
            channel = accepted
        elif descriptor in self._waiting:
            self._poll.unregister(descriptor)
            channel = self._waiting.pop(descriptor)
        else:
            return False  # closed meanwhile
        try:
            channel.look()
            while (exchange := channel.exchange) is not None:
                if channel.aborted:
                    exchange.finish(b"", 0)
                else:
                    self._answer(exchange, gateway)
                if channel.exchange is exchange:  # its end could not be sent
                    channel.exchange = None
        except PeerGone:
            pass
        except Exception:
            # A defect of this package, or of what the application did to it: this connection ends,
            # the worker does not.
            if forks.in_child:
                raise
            channel.failure = traceback.format_exc().rstrip()
        if channel.failure:
            log(f"closed a connection: {channel.failure}")
        if channel.finished:
            channel.close()
            return True
        if len(self._waiting) >= IDLE_CONNECTIONS:
            oldest = next(iter(self._waiting))
            self._poll.unregister(oldest)
            self._waiting.pop(oldest).close()
        descriptor = channel.socket.fileno()
        self._waiting[descriptor] = channel
        self._poll.register(descriptor, select.POLLIN)
        return True

    def _answer(self, exchange: Exchange, gateway: Gateway) -> None:
        settings = self._settings
        self._answered += 1
        if settings.request_timeout:
            signal.setitimer(signal.ITIMER_REAL, settings.request_timeout)
            try:
                gateway.answer(exchange)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        else:
            gateway.answer(exchange)
        if self._stopping:
            return
        if settings.max_requests and self._answered >= settings.max_requests:
            self._stopping = self._recycled = True
        elif settings.max_rss and (resident := _resident_bytes()) > settings.max_rss:
            log(f"ending to be started anew: {resident >> 20} MiB of memory are resident")
            self._stopping = self._recycled = True


def _ignore(number: int, frame: object) -> None:
    pass


def _resident_bytes() -> int:
    statm = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        return int(os.read(statm, 256).split()[1]) * _PAGE
    finally:
        os.close(statm)


def _allowed_peers() -> Optional[frozenset[str]]:
    """Return the peers that FCGI_WEB_SERVER_ADDRS allows (section 3.2), None for all."""
    text = os.environ.get("FCGI_WEB_SERVER_ADDRS")
    return None if text is None else frozenset(item.strip() for item in text.split(","))
