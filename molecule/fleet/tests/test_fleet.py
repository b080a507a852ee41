"""Changes roll over three web hosts behind a balancer, and its clients notice nothing."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import testinfra
from engine import address_of, container_of
from load import CLIENTS, VHOST, note, request, under_load
from playbooks import applications, deploy, refusal, variant
from poll import seconds_until
from testinfra.host import Host

testinfra_hosts = ["ansible://fcgid-lb"]

WEB = {
    name: testinfra.get_host(f"docker://{name}")
    for name in ("fcgid-web1", "fcgid-web2", "fcgid-web3")
}
LIVE = "readlink /var/www/htdocs/localhostfcgi/app.fcgi"
CONFIGURATION = "readlink /etc/httpd"
HTTPD = "cat /run/httpd/httpd.pid"


def on_each(command: str) -> list[str]:
    """What the command prints on each web host."""
    return [web.check_output(command) for web in WEB.values()]


def manager(host: Host, options: str) -> str:
    """What balancer-manager answers; without a Referer it would ignore all parameters."""
    url = "http://127.0.0.1:8079/balancer-manager"
    return str(host.check_output(f"curl --silent --fail --referer {url} {options} {url}"))


def member(host: Host, name: str, field: str) -> str:
    """What the balancer says of a web host (mod_proxy_balancer, balancer_display_page)."""
    page = manager(host, "--get --data xml=1")
    (entry,) = (entry for entry in page.split("<httpd:worker>") if f"<httpd:route>{name}<" in entry)
    (value,) = re.findall(rf"<httpd:{field}>(.*)</httpd:{field}>", entry)
    return str(value)


def in_rotation(host: Host, name: str) -> bool:
    return "Ok " in member(host, name, "status")


def test_each_host_gets_requests(host: Host) -> None:
    before = [int(member(host, name, "elected")) for name in WEB]
    with under_load(host, "no event") as load:
        load.wait_for_answer()
    assert all(int(member(host, name, "elected")) > count for name, count in zip(WEB, before))


def test_the_application_sees_the_client_and_not_the_balancer(host: Host) -> None:
    address = address_of(host)
    _, body = request(address, "/info", headers={"Accept": "application/json"})
    seen = json.loads(body)["request"]
    assert seen["HTTP_HOST"] == VHOST
    assert seen["HTTP_X_FORWARDED_PROTO"] == "http"
    assert seen["REMOTE_ADDR"] not in ("", address)


def test_balancer_manager_is_on_the_loopback_address_only(host: Host) -> None:
    assert host.socket("tcp://127.0.0.1:8079").is_listening
    assert not host.socket("tcp://0.0.0.0:8079").is_listening
    assert request(address_of(host), "/balancer-manager")[0] == 404


def test_a_release_rolls_over_the_hosts(host: Host, tmp_path: Path) -> None:
    before = on_each(LIVE)
    with under_load(host, "a new release, on three hosts"):
        deploy(fcgi_app_list=applications(variant(tmp_path, "rolled")))
    (live,) = set(on_each(LIVE))
    assert live not in before


def test_a_configuration_rolls_over_the_hosts(host: Host) -> None:
    before, running = on_each(CONFIGURATION), on_each(HTTPD)
    with under_load(host, "a change of httpd's configuration, on three hosts"):
        deploy(httpd_fcgid_idle_timeout=299)
    assert set(before).isdisjoint(on_each(CONFIGURATION))
    assert on_each(HTTPD) == running, "httpd was restarted"


def test_an_upgrade_of_the_module_rolls_over_the_hosts(host: Host) -> None:
    running = on_each(HTTPD)
    with under_load(host, "mod_fcgid rebuilt and httpd restarted, on three hosts"):
        deploy(mod_fcgid_cflags="-O1")
    assert set(running).isdisjoint(on_each(HTTPD))
    assert all(in_rotation(host, name) for name in WEB)


def test_a_host_that_is_killed_takes_its_requests_and_no_other(host: Host) -> None:
    rule = "the requests that it held"
    with under_load(host, "a web host killed (-9)", CLIENTS, rule) as load:
        load.wait_for_answer()
        with container_of(WEB["fcgid-web2"]) as container:
            container.kill()
        out = seconds_until(lambda: not in_rotation(host, "fcgid-web2"))
        failed = len(load.failures)
        load.wait_for_answer()
        time.sleep(3)
        assert len(load.failures) == failed
    note("it is out of rotation after", f"{out:.1f} s")
    assert out < 5


def test_a_host_that_comes_back_gets_requests_again(host: Host) -> None:
    before = int(member(host, "fcgid-web2", "elected"))
    with under_load(host, "it comes back"):
        with container_of(WEB["fcgid-web2"]) as container:
            container.start()
        back = seconds_until(lambda: in_rotation(host, "fcgid-web2"))
        seconds_until(lambda: int(member(host, "fcgid-web2", "elected")) > before)
    note("it is in rotation after", f"{back:.1f} s")


def test_a_bad_release_stops_at_the_first_host(host: Host, tmp_path: Path) -> None:
    before, releases = on_each(LIVE), on_each("ls /srv/fcgi/python/releases")
    source = variant(tmp_path, "raise RuntimeError('no luck')\n_counts =", "_counts =")
    with under_load(host, "a release that does not work"):
        message = refusal(fcgi_app_list=applications(source))
    assert "fatal: [fcgid-web1]" in message
    assert "RuntimeError: no luck" in message
    assert on_each(LIVE) == before
    assert on_each("ls /srv/fcgi/python/releases")[1:] == releases[1:]


def test_a_rollback_of_several_hosts_wants_to_be_told_where_to(host: Host) -> None:
    before = on_each(LIVE)
    assert "RELEASE=" in refusal("rollback", app="python")
    assert on_each(LIVE) == before


def test_a_host_that_a_failed_run_left_out_is_put_back(host: Host) -> None:
    url = f"http://{address_of(WEB['fcgid-web3'])}"
    manager(host, f"--data 'b=members&nonce=deploy&w={url}&w_status_D=1'")
    assert not in_rotation(host, "fcgid-web3")
    deploy()
    assert in_rotation(host, "fcgid-web3")


def certify(host: Host, directory: Path) -> None:
    """Put a certificate for the virtual host, and its key, on the host."""
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -keyout edge.key -out edge.pem "
        f"-subj /CN={VHOST} -addext subjectAltName=DNS:{VHOST}".split(),
        cwd=directory,
        check=True,
        capture_output=True,
    )
    for name in ("edge.pem", "edge.key"):
        host.check_output("printf %%s %s > %s", (directory / name).read_text(), f"/root/{name}")


def test_a_sticky_client_stays_on_its_host_and_tls_ends_at_the_balancer(
    host: Host, tmp_path: Path
) -> None:
    certify(host, tmp_path)
    deploy(
        balancer_sticky_cookie="ROUTE",
        balancer_certificate="/root/edge.pem",
        balancer_certificate_key="/root/edge.key",
    )
    assert request(address_of(host), "/app.fcgi?a=b")[0] == 301
    curl = (
        "curl --silent --show-error --fail --http2 --cacert /root/edge.pem "
        f"--cookie /tmp/jar --cookie-jar /tmp/jar --resolve {VHOST}:443:127.0.0.1"
    )
    before = {name: int(member(host, name, "elected")) for name in WEB}
    for _ in range(5):
        host.check_output(f"{curl} https://{VHOST}/app.fcgi")
    after = {name: int(member(host, name, "elected")) for name in WEB}
    assert sorted(after[name] - before[name] for name in WEB) == [0, 0, 5]
    seen = json.loads(
        host.check_output(f"{curl} --header 'Accept: application/json' https://{VHOST}/info")
    )["request"]
    assert seen["HTTP_X_FORWARDED_PROTO"] == "https"
    deploy()
