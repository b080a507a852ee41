"""The reference applications answer, count, and agree with each other byte for byte."""

import hashlib
import json
import re
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from deployment import Deployment, Response
from poll import eventually

GREETING = re.compile(rb"Hello world!<br>\r\nRequest number (\d+)\.")
VHOST = "localhostfcgi"
PYTHON, C = "/app.fcgi", "/x.fcgi"
UPLOAD = "/tmp/fcgid-stack-upload"


@pytest.fixture(autouse=True)
def reference_apps(deployment: Deployment) -> None:
    deployed = {(app["vhost"], app["script"]) for app in deployment.settings["fcgi_app_list"]}
    if not deployed >= {(VHOST, "app.fcgi"), (VHOST, "x.fcgi")}:
        pytest.skip("this inventory deploys applications of its own")


@pytest.fixture
def upload(deployment: Deployment) -> Iterator[str]:
    """The SHA-256 of UPLOAD, a file of 1 MiB of noise on the host."""
    deployment.host.check_output(f"head -c 1048576 /dev/urandom > {UPLOAD}")
    yield deployment.host.file(UPLOAD).sha256sum
    deployment.host.check_output(f"rm {UPLOAD}")


def number(response: Response) -> int:
    match = GREETING.fullmatch(response.body)
    assert match, response
    return int(match.group(1))


@pytest.mark.parametrize("path", [PYTHON, C, "/"])
def test_the_application_greets(deployment: Deployment, path: str) -> None:
    response = deployment.get(path)
    assert response.status == 200
    assert response.header("Content-Type") == "text/html"
    number(response)


@pytest.mark.parametrize("path", [PYTHON, C])
def test_a_worker_answers_consecutive_requests_and_its_counter_rises(
    deployment: Deployment, path: str
) -> None:
    before = {worker.pid for worker in deployment.workers(VHOST + path)}
    answered = deployment.requests_answered()
    numbers = [number(deployment.get(path)) for _ in range(3)]
    after = deployment.requests_answered()
    assert before and before == {worker.pid for worker in deployment.workers(VHOST + path)}
    # A balancer asks, too.
    assert sum(after[pid] - answered[pid] for pid in before) >= 3
    if len(before) == 1:
        assert numbers == list(range(numbers[0], numbers[0] + 3))


def test_both_applications_answer_byte_for_byte_alike(deployment: Deployment) -> None:
    python, c = deployment.get(PYTHON), deployment.get(C)

    def without_counts(response: Response) -> tuple[int, list[str], bytes]:
        headers = [line for line in response.headers if not line.startswith("Date:")]
        return response.status, headers, re.sub(rb"number \d+", b"number N", response.body)

    assert without_counts(python) == without_counts(c)


def test_httpd_adds_nothing_that_would_keep_caches_away(deployment: Deployment) -> None:
    assert deployment.get(PYTHON).header("Vary") is None


def test_head_has_the_headers_and_no_body(deployment: Deployment) -> None:
    response = deployment.get(PYTHON, "--head")
    assert (response.status, response.body) == (200, b"")
    assert response.header("Content-Type") == "text/html"


def test_a_path_that_is_not_there_is_answered_by_the_application(deployment: Deployment) -> None:
    response = deployment.get("/no/such/page")
    assert response.status == 404
    assert b"on this server" not in response.body, "that is httpd's own page"


def test_a_post_of_one_megabyte_comes_back_intact(deployment: Deployment, upload: str) -> None:
    response = deployment.get("/echo?body=1", "--data-binary", f"@{UPLOAD}")
    assert response.status == 200
    assert hashlib.sha256(response.body).hexdigest() == upload


def test_a_chunked_post_of_one_megabyte_arrives_intact(deployment: Deployment, upload: str) -> None:
    chunked = ("--header", "Transfer-Encoding: chunked", "--data-binary", f"@{UPLOAD}")
    response = deployment.get("/echo", *chunked)
    assert response.status == 200
    answer = json.loads(response.body)
    assert (answer["method"], answer["length"], answer["sha256"]) == ("POST", 1 << 20, upload)


@pytest.mark.parametrize("path", [PYTHON, C])
def test_a_post_does_not_disturb_the_next_request(
    deployment: Deployment, path: str, upload: str
) -> None:
    number(deployment.get(path, "--data-binary", f"@{UPLOAD}"))
    number(deployment.get(path))


def test_a_body_over_the_limit_is_answered_with_413(deployment: Deployment) -> None:
    size = deployment.settings["httpd_fcgid_max_request_len"] + 1
    response = deployment.get("/echo", "--request", "POST", "--header", f"Content-Length: {size}")
    assert response.status == 413


def test_a_proxy_header_does_not_become_the_proxy_of_the_application(
    deployment: Deployment,
) -> None:
    """CVE-2016-1000104, "httpoxy"."""
    headers = ("Accept: application/json", "Proxy: sent", "X-Proxy: sent")
    options = [option for header in headers for option in ("--header", header)]
    response = deployment.get("/info", *options)
    variables = json.loads(response.body)["request"]
    assert variables["HTTP_X_PROXY"] == "sent"
    assert "HTTP_PROXY" not in variables


def test_the_server_tells_no_version(deployment: Deployment) -> None:
    assert deployment.get(PYTHON).header("Server") == "Apache"
    assert deployment.get("/", "--request", "TRACE").status == 405


def test_the_status_is_not_served_to_the_world(deployment: Deployment) -> None:
    assert deployment.get("/server-status").status == 404


def test_the_public_url_answers_this_machine(deployment: Deployment) -> None:
    if not deployment.url:
        pytest.skip("this inventory names no public_url")
    with urllib.request.urlopen(deployment.url, timeout=60) as response:
        assert GREETING.fullmatch(response.read())


@pytest.mark.molecule
def test_concurrent_requests_raise_the_number_of_workers_to_the_maximum_and_no_further(
    deployment: Deployment,
) -> None:
    most = deployment.directive("FcgidMaxProcessesPerClass")
    seen: list[int] = []
    with ThreadPoolExecutor(2 * most) as pool:
        slow = [pool.submit(deployment.get, "/sleep?ms=4000") for _ in range(2 * most)]
        while not all(request.done() for request in slow):
            seen.append(len(deployment.workers(VHOST + PYTHON)))
    assert [request.result().status for request in slow] == [200] * 2 * most
    assert max(seen) == most


@pytest.mark.molecule
@pytest.mark.parametrize("path", [PYTHON, C])
def test_killed_workers_are_replaced(deployment: Deployment, path: str) -> None:
    number(deployment.get(path))
    killed = {worker.pid for worker in deployment.workers(VHOST + path)}
    assert killed
    deployment.host.check_output(f"kill -KILL {' '.join(map(str, killed))}")
    assert eventually(lambda: deployment.get(path).status == 200)
    replaced = {worker.pid for worker in deployment.workers(VHOST + path)}
    assert replaced and not replaced & killed
