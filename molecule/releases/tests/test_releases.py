"""A release that works goes live without a lost request; one that does not never does.

The checks build on each other, and begin on a deployed host.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
from load import note, request, under_load
from playbooks import DEVELOPMENT, ROOT, applications, deploy, refusal, run, start, variant
from poll import eventually, seconds_until
from testinfra.host import Host

APP = "/srv/fcgi/python"
HEALTHY = 'return _text(start_response, "200 OK", "ok\\n")'


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


def live(host: Host) -> str:
    """Name of the release that the link names."""
    script: str = host.check_output("readlink /var/www/htdocs/localhostfcgi/app.fcgi")
    return script.split("/")[-2]


def workers(host: Host, release: str) -> list[str]:
    """Process ids of the workers of a release."""
    found: str = host.run(f"pgrep --full '^{APP}/releases/{release}/'").stdout
    return found.split()


def wait_until_gone(host: Host, release: str) -> float:
    """How many seconds pass until a release has no worker any more."""
    return seconds_until(lambda: not workers(host, release))


def serving(address: str) -> str:
    """Name of the release that answers."""
    status, body = request(address, "/info", headers={"Accept": "application/json"})
    assert status == 200
    return str(json.loads(body)["executable"]).split("/")[-4]


def generation(host: Host) -> str:
    """Changes with every start and every reload of httpd."""
    return str(host.check_output("stat --format '%z' /run/httpd/httpd.pid"))


def test_five_releases_in_a_row_lose_no_request(host: Host, address: str, sources: Path) -> None:
    before = generation(host)
    times, ends = [], []
    with under_load(host, "new release of the Python application, five times in a row"):
        for number in range(5):
            replaced = live(host)
            begun = time.monotonic()
            deploy(fcgi_app_list=applications(variant(sources, f"release {number}")))
            times.append(time.monotonic() - begun)
            assert live(host) == serving(address) != replaced
            ends.append(wait_until_gone(host, replaced))
    assert generation(host) == before, "httpd was reloaded"
    note("the whole run for each of these", f"{max(times):.0f} s at most")
    note("the last worker of the release before has ended after", f"{max(ends):.0f} s at most")


@pytest.mark.parametrize(
    ("event", "text", "replaced", "reason"),
    [
        ("does not import", "raise RuntimeError('no luck')\n_counts =", "_counts =", "no luck"),
        ("answers 500", "raise RuntimeError('no luck')", HEALTHY, "no luck"),
        ("hangs at start", "time.sleep(600)\n_counts =", "_counts =", "in <module>"),
    ],
)
def test_a_release_that_does_not_work_never_goes_live(
    host: Host, address: str, sources: Path, event: str, text: str, replaced: str, reason: str
) -> None:
    before = live(host)
    with under_load(host, f"release that {event}"):
        source = variant(sources, text, replaced)
        message = refusal(fcgi_app_list=applications(source, start_timeout=5))
        assert live(host) == serving(address) == before
    assert f"was tried and does not work, so {before} stays live" in message
    assert reason in message
    assert workers(host, "[^/]*") == workers(host, before)


def test_a_release_that_fails_behind_httpd_is_taken_back_at_once(
    host: Host, address: str, sources: Path
) -> None:
    before = live(host)
    fails = f'assert "Apache" not in environ["SERVER_SOFTWARE"], "no luck"\n    {HEALTHY}'
    with under_load(host, "release that responds directly, but not through httpd"):
        source = variant(sources, fails, HEALTHY)
        message = refusal(fcgi_app_list=applications(source))
        assert live(host) == serving(address) == before
    assert f"was put live and does not work, so {before} is live again" in message
    assert "AssertionError: no luck" in message


def roll_back(release: str = "") -> float:
    """Seconds that it takes."""
    begun = time.monotonic()
    status, printed = run("rollback", app="python", release=release)
    assert status == 0, printed
    assert "changed=1 " in printed
    assert "is live, in place of" in printed
    return time.monotonic() - begun


def test_a_rollback_loses_no_request(host: Host, address: str) -> None:
    latest = live(host)
    with under_load(host, "rollback: to the release before, back again, to a named one"):
        times = [roll_back()]
        earlier = live(host)
        assert earlier == serving(address) != latest
        times.append(roll_back())
        assert live(host) == serving(address) == latest
        times.append(roll_back(earlier))
        assert live(host) == serving(address) == earlier
    note("the whole run for each of these", f"{max(times):.0f} s at most")


def test_a_rollback_to_what_is_not_there_says_what_is(host: Host) -> None:
    message = refusal("rollback", app="python", release="nosuch")
    assert "There is no release nosuch in /srv/fcgi/python/releases" in message
    assert f"{live(host)} (live)" in message
    assert "APP=python or APP=c" in refusal("rollback", app="pyton")


def test_old_releases_are_deleted_but_none_that_still_has_a_worker(
    host: Host, address: str, sources: Path
) -> None:
    replaced = live(host)
    # Of an old release, one worker that is busy.
    host.check_output(
        "systemd-run --unit slow curl --silent --output /var/tmp/slow "
        "--header 'Host: localhostfcgi' 'http://127.0.0.1/sleep?ms=25000'; sleep 1"
    )
    kept = applications(variant(sources, "the newest"))
    printed = deploy(fcgi_app_list=kept, fcgi_app_keep_releases=1)
    assert "changed=0 " not in printed
    assert set(releases(host)) == {live(host), replaced}
    wait_until_gone(host, replaced)
    assert host.file("/var/tmp/slow").content_string == "slept 25000 ms\n"
    deploy(fcgi_app_list=applications(variant(sources, "newer still")), fcgi_app_keep_releases=1)
    assert replaced not in releases(host)


def releases(host: Host) -> list[str]:
    found: str = host.check_output(f"ls {APP}/releases")
    return found.split()


def test_secrets_are_read_by_the_workers_group_alone_and_a_new_one_needs_no_reload(
    host: Host, address: str
) -> None:
    value = "correct horse battery staple"
    before = generation(host)
    with under_load(host, "new secret"):
        printed = deploy(fcgi_app_secrets={"python": {"token": value}})
        workers_before = set(workers(host, live(host)))
        deploy(fcgi_app_secrets={"python": {"token": f"{value} two"}})
    assert generation(host) == before
    assert "changed=0 " in deploy(fcgi_app_secrets={"python": {"token": f"{value} two"}})
    assert workers_before.isdisjoint(workers(host, live(host)))
    secret = host.file(f"{APP}/secrets/token")
    assert secret.content_string == f"{value} two"
    assert (secret.user, secret.group, secret.mode) == ("root", "www-data", 0o440)
    directory = host.file(f"{APP}/secrets")
    assert (directory.user, directory.group, directory.mode) == ("root", "www-data", 0o750)
    assert value not in printed
    places = "/etc /run/log /var/log /var/www /srv"
    found = host.run(f"grep --recursive --files-with-matches '{value}' {places}").stdout
    assert found.split() == [f"{APP}/secrets/token"]
    assert value not in host.check_output("ps -u www-data -o args=")
    _, body = request(address, "/info", headers={"Accept": "application/json"})
    assert "CREDENTIALS_DIRECTORY" in json.loads(body)["environment"]


def test_the_bill_of_materials_of_a_host_lists_what_was_deployed(host: Host) -> None:
    status, printed = run("sbom")
    assert status == 0, printed
    name = host.backend.get_hostname()
    materials = json.loads((ROOT / f"build/sbom/{name}/sbom.cdx.json").read_text())
    assert materials["bomFormat"] == "CycloneDX"
    assert materials["metadata"]["component"]["name"] == name
    parts = {part["name"]: part for part in materials["components"]}
    httpd = host.package("apache2-bin").version
    assert unquote(parts["apache2-bin"]["purl"]).startswith(f"pkg:deb/debian/apache2-bin@{httpd}")
    assert parts["fcgiserve"]["purl"].startswith("pkg:pypi/fcgiserve@")
    record = json.loads(host.file("/var/lib/mod_fcgid/build.json").content_string)
    assert record["tarball_sha256"] in parts["mod_fcgid"]["purl"]
    properties = parts["mod_fcgid"]["properties"]
    patches = {patch["name"].rpartition(":")[2]: patch["value"] for patch in properties}
    assert patches == record["inputs"]["patch_files_sha256"]


def test_two_deploys_at_once_are_one_too_many(host: Host) -> None:
    first = start("deploy")
    lock = "readlink /run/fcgid.stack.lock"
    assert eventually(lambda: host.run(lock).stdout or first.poll() is not None, 120)
    assert first.poll() is None
    message = refusal()
    assert "is being changed by" in message and f"(process {first.pid}, since" in message
    assert "failed=0 " in first.communicate()[0]
    assert "changed=0 " in deploy()


def test_the_environment_of_an_application_is_its_own(host: Host, address: str) -> None:
    environment = DEVELOPMENT | {"COLOUR": 'blue "and" $HOME'}
    deploy(fcgi_app_list=applications(environment=environment))
    _, body = request(address, "/info", headers={"Accept": "application/json"})
    assert json.loads(body)["environment"]["COLOUR"] == 'blue "and" $HOME'
    assert re.search(r"Request number \d+", request(address, "/x.fcgi")[1].decode())


def test_a_rollback_is_tried_and_checked_as_a_deploy_is(
    host: Host, address: str, sources: Path
) -> None:
    """Where the variables of httpd were given to the deploy alone, and are not in the inventory."""
    broken = "/var/www/htdocs/localhostfcgi/public/broken"
    wants = (
        'import os\n\n    assert os.environ["SITE"] == "here"\n'
        f'    if "Apache" in environ["SERVER_SOFTWARE"] and os.path.exists("{broken}"):\n'
        f'        raise RuntimeError("broken behind httpd")\n    {HEALTHY}'
    )
    given = {"httpd_fcgid_initial_env": {"LANG": "C.UTF-8", "SITE": "here"}}
    deploy(fcgi_app_list=applications(variant(sources, wants, HEALTHY)), **given)
    earlier = live(host)
    deploy(fcgi_app_list=applications(variant(sources, "a later one")), **given)
    latest = live(host)

    roll_back()
    assert live(host) == serving(address) == earlier

    roll_back()
    host.check_output(f"touch {broken}")
    message = refusal("rollback", app="python", release=earlier)
    assert f"was put live and does not work, so {latest} is live again" in message
    assert "broken behind httpd" in message
    assert live(host) == serving(address) == latest
    host.check_output(f"rm {broken}")
    deploy()
