"""httpd as a service: enabled, running, and back after a restart of the host."""

import pytest
from deployment import IPC_DIR, Deployment
from engine import container_of
from poll import eventually


@pytest.fixture(autouse=True)
def systemd(deployment: Deployment) -> None:
    if not deployment.host.file("/run/systemd/system").is_directory:
        pytest.skip("no systemd runs on this host: httpd is its own service manager there")


def test_the_service_is_enabled_and_active(deployment: Deployment) -> None:
    service = deployment.host.service("httpd")
    assert service.is_enabled
    assert service.is_running


def test_the_service_runs_the_httpd_that_answers(deployment: Deployment) -> None:
    main = deployment.host.check_output("systemctl show --property MainPID --value httpd")
    assert int(main) == deployment.httpd_pid()


def test_no_service_of_the_distribution_serves_beside_it(deployment: Deployment) -> None:
    assert not deployment.host.service("apache2").is_running
    enabled = deployment.host.run("systemctl is-enabled apache2").stdout.strip()
    assert enabled != "enabled"


@pytest.mark.molecule
def test_a_stop_leaves_no_socket_and_no_worker_and_a_start_serves_again(
    deployment: Deployment,
) -> None:
    (url, *_) = deployment.scripts.values()
    deployment.host.check_output("systemctl stop httpd")
    assert not deployment.host.file(IPC_DIR).exists
    assert deployment.workers() == []
    assert deployment.host.process.filter(comm="apache2") == []
    deployment.host.check_output("systemctl start httpd")
    assert deployment.get(url).status == 200


@pytest.mark.molecule
def test_the_service_comes_back_after_the_host_restarts(deployment: Deployment) -> None:
    (url, *_) = deployment.scripts.values()
    with container_of(deployment.host) as container:
        container.restart()
    assert eventually(lambda: deployment.host.service("httpd").is_running)
    assert deployment.get(url).status == 200
    assert deployment.sockets(), "the sockets are those of the new process manager"
