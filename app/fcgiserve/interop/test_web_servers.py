"""nginx, lighttpd and httpd's mod_proxy_fcgi as the web server, each as its manual configures it.

Every test runs with each of them, with a connection for each request and with kept ones.
"""

import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support import TESTS, Program, answers, wait_until

NGINX = """
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {directory}/body;
    fastcgi_temp_path {directory}/fastcgi;
    proxy_temp_path {directory}/proxy;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream workers {{ server {backend}; {keep} }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            include /etc/nginx/fastcgi_params;
            fastcgi_param SCRIPT_NAME "";
            fastcgi_param PATH_INFO $fastcgi_script_name;
            fastcgi_param HTTP_PROXY "";
            fastcgi_buffering off;
            fastcgi_pass workers;
            {keep_conn}
        }}
    }}
}}
"""

LIGHTTPD = """
server.document-root = "{directory}"
server.port = {port}
server.bind = "127.0.0.1"
server.errorlog = "{directory}/error.log"
server.upload-dirs = ( "{directory}" )
server.modules = ( "mod_fastcgi" )
server.stream-response-body = 1
fastcgi.server = ( "/" => (( {backend},
    "check-local" => "disable", "fix-root-scriptname" => "enable" )) )
"""

HTTPD = """
ServerRoot {directory}
ServerName localhost
PidFile {directory}/httpd.pid
ErrorLog {directory}/error.log
Listen 127.0.0.1:{port}
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_fcgi_module /usr/lib/apache2/modules/mod_proxy_fcgi.so
User www-data
Group www-data
ProxyPass / {backend}/ flushpackets=on {keep}
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class WebServer:
    """A web server of its own in a temporary directory, with its error log."""

    def __init__(self, command, configuration, port, directory):
        self.port = port
        self._log = Path(directory, "error.log")
        Path(directory, "conf").write_text(configuration)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(command, stdout=self._output, stderr=self._output)

    def __enter__(self):
        wait_until(self._listens, self.explain)
        return self

    def __exit__(self, *exc_info):
        self._process.terminate()
        self._process.wait(20)
        self._output.close()

    def explain(self):
        size = os.fstat(self._output.fileno()).st_size
        log = self._log.read_text() if self._log.exists() else ""
        return os.pread(self._output.fileno(), size, 0).decode() + log

    def _listens(self):
        assert self._process.poll() is None, self.explain()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def get(self, path="/", method="GET", body=None, headers=(), **options):
        """Return status, headers and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, dict(headers), **options)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


def nginx(program, directory, port, address, keep):
    backend = f"unix:{address}" if isinstance(address, str) else f"{address[0]}:{address[1]}"
    configuration = NGINX.format(
        directory=directory,
        port=port,
        backend=backend,
        keep="keepalive 4;" if keep else "",
        keep_conn="fastcgi_keep_conn on;" if keep else "",
    )
    command = [program("nginx"), "-p", directory, "-c", f"{directory}/conf"]
    if os.getuid() == 0:
        command += ["-g", "user root;"]
    return WebServer(command, configuration, port, directory)


def lighttpd(program, directory, port, address, keep):
    if isinstance(address, str):
        backend = f'"socket" => "{address}"'
    else:
        backend = f'"host" => "{address[0]}", "port" => {address[1]}'
    configuration = LIGHTTPD.format(directory=directory, port=port, backend=backend)
    command = [program("lighttpd"), "-D", "-f", f"{directory}/conf"]
    return WebServer(command, configuration, port, directory)


def httpd(program, directory, port, address, keep):
    if isinstance(address, str):
        backend = f"unix:{address}|fcgi://localhost"
    else:
        backend = f"fcgi://{address[0]}:{address[1]}"
    configuration = HTTPD.format(
        directory=directory,
        port=port,
        backend=backend,
        keep="enablereuse=on" if keep else "",
    )
    command = [program("apache2"), "-X", "-d", directory, "-f", f"{directory}/conf"]
    return WebServer(command, configuration, port, directory)


def serve(application, address, *arguments):
    """Return a program of two workers on the address, ready to answer."""
    bind = f"unix:{address}" if isinstance(address, str) else "tcp:{}:{}".format(*address)
    return Program(application, "--bind", bind, "--workers", "2", *arguments)


SERVERS = {
    "nginx-unix": (nginx, True, False, ()),
    "nginx-tcp": (nginx, False, False, ()),
    "nginx-keep": (nginx, True, True, ()),
    "lighttpd-unix": (lighttpd, True, False, ()),
    "lighttpd-tcp": (lighttpd, False, False, ()),
    "httpd-unix": (httpd, True, False, ("--script-name", "")),
    "httpd-tcp": (httpd, False, False, ("--script-name", "")),
    "httpd-keep": (httpd, True, True, ("--script-name", "")),
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request, program):
    start, is_unix, keep, arguments = SERVERS[request.param]
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        address = f"{directory}/socket" if is_unix else ("127.0.0.1", free_port())
        with serve("fcgi_reference:application", address, *arguments) as workers:
            wait_until(lambda: answers(address), lambda: workers.log)
            if is_unix:
                os.chmod(address, 0o777)
            with start(program, directory, free_port(), address, keep) as web_server:
                web_server.workers = workers
                yield web_server


def test_the_greeting_has_no_header_of_the_gateways_own(server):
    status, headers, body = server.get()
    assert status == 200
    assert body.startswith(b"Hello world!<br>\r\nRequest number ")
    assert headers["Content-Type"].startswith("text/html")


def test_many_requests_are_answered_one_after_the_other(server):
    assert {server.get("/healthz")[::2] for _ in range(50)} == {(200, b"ok\n")}


def test_method_path_query_and_headers_arrive(server):
    _, _, body = server.get("/echo?a=b%20c", "PUT", b"body", {"X-Own": "1", "Content-Type": "a/b"})
    found = json.loads(body)
    assert (found["method"], found["path"], found["query"]) == ("PUT", "/echo", "a=b%20c")
    assert (found["headers"]["X-Own"], found["headers"]["Content-Type"]) == ("1", "a/b")
    assert found["length"] == 4


def test_a_large_body_arrives_and_comes_back(server):
    body = os.urandom(3_000_000)
    _, _, back = server.get("/echo?body=1", "POST", body)
    assert hashlib.sha256(back).digest() == hashlib.sha256(body).digest()


def test_a_body_that_is_not_read_is_no_harm(server):
    for _ in range(3):
        assert server.get("/healthz", "POST", bytes(2_000_000))[::2] == (200, b"ok\n")


def test_a_chunked_body_arrives_whole(server):
    pieces = [b"x" * 1000] * 50
    headers = {"Transfer-Encoding": "chunked"}
    status, _, body = server.get("/upload", "POST", iter(pieces), headers, encode_chunked=True)
    assert (status, json.loads(body)["length"]) == (200, 50_000)


def test_head_has_the_headers_and_no_body(server):
    status, headers, body = server.get("/healthz", "HEAD")
    assert (status, body) == (200, b"")
    assert headers["Content-Length"] in ("3", None)  # httpd leaves it out


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/sleep?ms=x", 400)])
def test_the_status_arrives(server, path, status):
    assert server.get(path)[0] == status


def test_a_stream_arrives_as_it_is_made(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    # So slow that it would fill no buffer before the connection's time is over.
    connection.request("GET", "/stream?n=100&interval=0.5")
    assert connection.getresponse().read(7) == b"line 1 "
    connection.close()


def test_a_client_that_leaves_frees_the_worker(server):
    for _ in range(4):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("GET", "/stream?n=1000000&interval=0")
        connection.getresponse().read(100)
        connection.close()
    assert server.get("/healthz")[0] == 200


def test_nothing_was_logged(server):
    assert server.workers.log == ""


def test_lighttpd_starts_workers_itself_with_the_socket_on_descriptor_0(program):
    with tempfile.TemporaryDirectory() as directory:
        launcher = Path(directory, "app.fcgi")
        launcher.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(TESTS)!r})\n"
            "from fcgiserve.cli import main\nsys.exit(main(['fixtureapps.plain:environment']))\n"
        )
        launcher.chmod(0o755)
        port = free_port()
        backend = f'"socket" => "{directory}/s", "bin-path" => "{launcher}", "max-procs" => 1'
        configuration = LIGHTTPD.format(directory=directory, port=port, backend=backend)
        command = [program("lighttpd"), "-D", "-f", f"{directory}/conf"]
        with WebServer(command, configuration, port, directory) as web_server:
            for _ in range(3):
                status, _, body = web_server.get("/a")
                assert (status, b"PATH_INFO=/a\n" in body) == (200, True)
