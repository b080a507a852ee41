# Copyright fcgid.stack maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the configuration of httpd says about a FastCGI application.

This reads what it needs and ignores the rest; `httpd -t` is what validates a configuration. The
content of conditional sections (<IfDefine>, <IfModule>, <IfDirective>, ...) always counts. Files
that cannot be read count as empty.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from ansible_collections.fcgid.stack.plugins.module_utils._files import open_regular

# Limits on what is read; what is beyond them is ignored.
MAX_SIZE = 1 << 24  # bytes of all files, and characters that replace ${NAME}
MAX_FILES = 4096
MAX_DEPTH = 20  # of Include, as in httpd (AP_MAX_INCLUDE_DEPTH)

CONTINUATION = re.compile(r"\\\r?\n")
REFERENCE = re.compile(r"\$\{([^}]*)\}")
# As ap_getword_conf() splits: a quote is escaped by a backslash, and need not be closed.
WORD = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"?|'((?:[^'\\]|\\.)*)'?|(\S+))""")
ESCAPED = re.compile(r"""\\(["'\\])""")
ANY_ADDRESS = re.compile(r"(?:\*|_default_|0\.0\.0\.0):(\d+)", re.IGNORECASE)
ADDRESS = re.compile(r"(?:\[[0-9a-f:]+\]|[^:/\s]+):\d+", re.IGNORECASE)


class Site(NamedTuple):
    """How a FastCGI application is reached through httpd.

    `address` is host:port, for a connection from this host. `mount` is the URL path without a slash
    at the end, which is the application's SCRIPT_NAME.
    """

    address: str
    mount: str
    environment: dict[str, str]


class _Server:
    """The main server or a virtual host."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.aliases: dict[str, str] = {}  # URL to path
        self.environment: dict[str, str] = {}
        self.tls = False

    def set(self, directive: str, arguments: list[str]) -> None:
        if directive == "servername" and arguments:
            name = arguments[0].rpartition("://")[2]
            self.names.add(re.sub(r":\d+$", "", name).lower())
        elif directive == "serveralias":
            self.names.update(map(str.lower, arguments))
        elif directive == "alias" and len(arguments) == 2:
            self.aliases.setdefault(*arguments)  # the first match wins
        elif directive == "fcgidinitialenv" and len(arguments) == 2:
            self.environment[arguments[0]] = arguments[1]
        elif directive == "sslengine" and arguments:
            self.tls = arguments[0].lower() != "off"

    def urls(self, program: str) -> list[str]:
        """Return the URL paths at which `program` answers without TLS."""
        found = [url for url, path in self.aliases.items() if path.rstrip("/") == program]
        return [] if self.tls else [url for url in found if url.startswith("/")]


class HttpdConfig:
    """The configuration in the file `path` and in the files that it includes."""

    def __init__(self, path: str) -> None:
        self._defines: dict[str, str] = {}
        self._root = "/"
        self._size_left = MAX_SIZE
        self._files_left = MAX_FILES
        self._main = _Server()
        self._hosts: dict[str, list[_Server]] = {}  # by address
        server = self._main
        for directive, arguments in self._read(path, MAX_DEPTH):
            if directive == "<virtualhost":
                server = _Server()
                for address in filter(None, map(_connectable, arguments)):
                    self._hosts.setdefault(address, []).append(server)
            elif directive == "</virtualhost>":
                server = self._main
            else:
                server.set(directive, arguments)

    @property
    def environment(self) -> dict[str, str]:
        """What FcgidInitialEnv of the main server gives to workers.

        Without the names that it passes from the environment of httpd itself.
        """
        return dict(self._main.environment)

    def find(self, program: str, host: str) -> Site | None:
        """Return where an Alias for the path `program` answers a request with the Host `host`.

        Of several URLs the one that sorts first counts. Returns None if there is no such Alias in
        a virtual host without TLS.
        """
        found = []
        for address, servers in self._hosts.items():
            named = [server for server in servers if host.lower() in server.names]
            server = (named or servers)[0]  # which httpd chooses
            environment = {**self._main.environment, **server.environment}
            found += [Site(address, url, environment) for url in server.urls(program)]
        if not found:
            return None
        site = min(found, key=lambda site: site.mount)
        return site._replace(mount=site.mount.rstrip("/"))

    def _read(self, path: str, depth: int) -> Iterator[tuple[str, list[str]]]:
        """Yield the directives, in lower case, with their arguments; sections begin with "<"."""
        for line in self._lines(path):
            directive, *rest = line.split(None, 1)
            directive = directive.lower()
            text = self._resolve(rest[0]) if rest else ""
            if directive.startswith("<"):
                text = text.rpartition(">")[0]
            arguments = list(_words(text))
            if directive == "define" and len(arguments) == 2:
                self._defines[arguments[0]] = arguments[1]
            elif directive == "serverroot" and arguments:
                self._root = arguments[0]
            elif directive in ("include", "includeoptional") and arguments and depth:
                for included in self._included(arguments[0]):
                    yield from self._read(included, depth - 1)
            else:
                yield directive, arguments

    def _lines(self, path: str) -> Iterator[str]:
        """Yield the lines of a file that are not empty and no comment, without continuations."""
        file = open_regular(os.path.realpath(path))
        if file is None or not self._files_left:
            return
        self._files_left -= 1
        with file:
            content = file.read(max(self._size_left, 0))
        self._size_left -= len(content)
        text = os.fsdecode(content.replace(b"\0", b""))
        for line in CONTINUATION.sub("", text).split("\n"):
            line = line.strip()
            if line and not line.startswith("#"):
                yield line

    def _resolve(self, text: str) -> str:
        """Replace each ${NAME} that was defined; like httpd, leave others as they are."""

        def value(reference: re.Match[str]) -> str:
            found = self._defines.get(reference[1], reference[0])
            self._size_left -= len(found)
            return found if self._size_left > 0 else ""

        return REFERENCE.sub(value, text)

    def _included(self, pattern: str) -> list[str]:
        """Return the files that an Include names: a file, a pattern, or all below a directory."""
        found = []
        for path in sorted(glob.glob(os.path.join(self._root, pattern))):
            if os.path.isdir(path):
                below = (
                    os.path.join(directory, name)
                    for directory, _directories, names in os.walk(path)
                    for name in names
                )
                found += sorted(itertools.islice(below, self._files_left))
            else:
                found.append(path)
        return found


def _words(text: str) -> Iterator[str]:
    for word in WORD.finditer(text):
        yield ESCAPED.sub(r"\1", "".join(word.groups("")))


def _connectable(address: str) -> str:
    """Return host:port to connect to an address of <VirtualHost> from this host; "" if unknown."""
    anywhere = ANY_ADDRESS.fullmatch(address)
    if anywhere:
        return f"127.0.0.1:{anywhere[1]}"
    if address.startswith("[::]:"):
        return f"[::1]:{address[5:]}"
    return address if ADDRESS.fullmatch(address) else ""
