"""What is lost when something is killed, full, stopped or wrong."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import address_of, container_of
from load import CLIENTS, greets, note, under_load
from playbooks import applications, deploy, failures, refusal, start, variant
from poll import eventually, seconds_until
from testinfra.host import Host

VHOST = {"name": "localhostfcgi"}


def processes(host: Host) -> dict[int, str]:
    """FastCGI processes that mod_fcgid knows, and their states."""
    status = host.check_output("curl --silent 'http://127.0.0.1:8079/server-status?auto'")
    found = re.findall(r"^FcgidProcess: pid=(\d+) state=(\w+)", status, re.MULTILINE)
    return {int(pid): state for pid, state in found}


def parents(host: Host) -> dict[int, tuple[int, str]]:
    """Of each process of the web server's user, its parent and its command line."""
    rows = host.check_output("ps -u www-data -o pid=,ppid=,args=").splitlines()
    return {
        int(pid): (int(parent), args) for pid, parent, args in (row.split(None, 2) for row in rows)
    }


def main_pid(host: Host) -> int:
    return int(host.file("/run/httpd/httpd.pid").content_string)


def is_back(host: Host) -> bool:
    """Whether both applications answer."""
    try:
        return not any(greets(address_of(host), path) for path in ("/app.fcgi", "/x.fcgi"))
    except OSError:
        return False


def wait_until_back(host: Host) -> float:
    """How many seconds pass until both applications answer."""
    return seconds_until(lambda: is_back(host))


def test_a_worker_that_is_killed_takes_its_request_and_no_other(host: Host) -> None:
    rule = "the request that it had"
    with under_load(host, "a worker killed (-9) in a request", 1, rule) as load:
        load.wait_for_answer()
        busy = eventually(
            lambda: [pid for pid, state in processes(host).items() if state != "Idle"], interval=0
        )
        assert busy
        host.check_output(f"kill -KILL {random.choice(busy)}")
        load.wait_for_answer()


def test_all_workers_that_are_killed_take_their_requests_and_no_other(host: Host) -> None:
    rule = "the requests that they had"
    with under_load(host, "all workers killed (-9) at once", CLIENTS, rule) as load:
        load.wait_for_answer()
        host.check_output(f"kill -KILL {' '.join(map(str, processes(host)))}")
        load.wait_for_answer()


def test_the_process_manager_comes_back(host: Host) -> None:
    rule = "the requests until it is back"
    with under_load(host, "the process manager killed (-9)", None, rule) as load:
        load.wait_for_answer()
        (manager,) = {parents(host)[pid][0] for pid in processes(host)}
        host.check_output(f"kill -KILL {manager}")
        time.sleep(10)
        back = len(load.failures)
        load.wait_for_answer()
        time.sleep(3)
        assert len(load.failures) == back, "it is not back"
    (after,) = {parents(host)[pid][0] for pid in processes(host)}
    assert after != manager
    orphans = [
        args for parent, args in parents(host).values() if parent not in (after, main_pid(host))
    ]
    assert orphans == []


def test_httpd_comes_back_and_leaves_no_orphan(host: Host) -> None:
    before = main_pid(host)
    rule = "the requests until it is back"
    with under_load(host, "httpd, the parent, killed (-9)", None, rule) as load:
        load.wait_for_answer()
        old = set(parents(host))
        host.check_output(f"kill -KILL {before}")
        back = wait_until_back(host)
        load.wait_for_answer()
    note("httpd answers again after", f"{back:.1f} s")
    assert main_pid(host) != before
    assert old.isdisjoint(parents(host)), "a worker of the httpd that was killed is left"


def test_a_change_of_the_configuration_loses_no_request(host: Host) -> None:
    before = main_pid(host)
    with under_load(host, "change of the configuration, three times in a row"):
        for seconds in (299, 298, 300):
            assert "changed=0 " not in deploy(httpd_fcgid_idle_timeout=seconds)
    assert main_pid(host) == before, "httpd was restarted"


@pytest.mark.parametrize(
    ("event", "config", "reason"),
    [
        ("a virtual host with a syntax error", "NoSuchDirective on", "Invalid command"),
        (
            "a certificate that is missing",
            "SSLEngine on\nSSLCertificateFile /etc/ssl/nosuch.pem",
            "'/etc/ssl/nosuch.pem' does not exist or is empty",
        ),
    ],
)
def test_a_configuration_that_is_not_valid_changes_nothing(
    host: Host, event: str, config: str, reason: str
) -> None:
    before = host.check_output(
        "readlink /etc/httpd; cat /etc/httpd/*; stat -c %z /run/httpd/httpd.pid"
    )
    with under_load(host, event):
        vhosts = [VHOST | {"config": config, "mounts": [{"url": "/", "script": "app.fcgi"}]}]
        message = refusal(httpd_vhosts=vhosts, httpd_extra_modules=["socache_shmcb", "ssl"])
    assert reason in message
    now = host.check_output(
        "readlink /etc/httpd; cat /etc/httpd/*; stat -c %z /run/httpd/httpd.pid"
    )
    assert now == before


@contextlib.contextmanager
def full_disk(host: Host, directory: str) -> Iterator[None]:
    """A file system of its own below `directory`, with what was there, and no room for more."""
    host.check_output(
        f"cp -a {directory} /var/tmp/kept && mount -t tmpfs -o size=200m tmpfs {directory} && "
        f"cp -a /var/tmp/kept/. {directory}/ && systemctl reload httpd && "
        f"dd if=/dev/zero of={directory}/full bs=64k 2>/dev/null; df {directory} | grep 100%"
    )
    wait_until_back(host)
    yield
    host.check_output(f"umount --lazy {directory} && systemctl reload httpd && rm -r /var/tmp/kept")
    wait_until_back(host)


def test_a_release_for_which_there_is_no_room_is_refused(host: Host, tmp_path: Path) -> None:
    with full_disk(host, "/srv/fcgi"), under_load(host, "no disk space for a release"):
        *_, message = failures("deploy", fcgi_app_list=applications(variant(tmp_path, "no room")))
    assert "was not built, and nothing live was changed" in message
    assert "No space left on device" in message, message


def test_a_log_for_which_there_is_no_room_costs_no_request(host: Host) -> None:
    with full_disk(host, "/var/log/httpd"), under_load(host, "no disk space for the logs") as load:
        deploy(httpd_fcgid_idle_timeout=299)
        load.wait_for_answer()
    deploy()


def test_a_container_that_was_stopped_serves_again(host: Host) -> None:
    rule = "the requests until it is back"
    with under_load(host, "container stopped and started", None, rule) as load:
        load.wait_for_answer()
        with container_of(host) as container:
            container.stop(timeout=60)
            container.start()
        assert load.address == address_of(host)
        wait_until_back(host)
        load.wait_for_answer()
        time.sleep(3)
    managers = {parents(host)[pid][0] for pid in processes(host)}
    sockets = host.check_output("ls /run/fcgidsock").split()
    assert {int(name.split(".")[0]) for name in sockets} == managers, "stale sockets"


def test_a_deploy_that_is_killed_leaves_a_version_serving_and_the_next_completes_it(
    host: Host, tmp_path: Path
) -> None:
    with under_load(host, "deploy killed (-9) at ten random points, completed after every second"):
        for number in range(10):
            apps = applications(variant(tmp_path, f"killed {number // 2}"))
            variables = {"fcgi_app_list": apps, "httpd_fcgid_idle_timeout": 290 + number // 2}
            process = start("deploy", **variables)
            time.sleep(random.uniform(0.5, 12))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if number % 2:
                deploy(**variables)
    assert "changed=0 " in deploy(**variables)
