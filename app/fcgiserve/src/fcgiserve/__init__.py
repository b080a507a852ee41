"""A small synchronous FastCGI server for WSGI applications.

The files, from the wire up: `records` (bytes and records), `connection` (what records mean),
`streams` (what an application reads and logs), `channel` (a socket and its request), `wsgi` (the
gateway), `server` (a worker), `prefork` (several), `cgi`, `client`, `cli`. The first two do no
I/O.
"""

__version__ = "1.0.0"
