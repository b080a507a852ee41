"""httpd and mod_fcgid are replaced: built once, restarted once, serving otherwise.

The checks build on each other; the first meets a host that serves with what the distribution has.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from engine import address_of
from load import greets, note, under_load
from playbooks import deploy, refusal
from testinfra.host import Host

UNTIL = "the requests until it listens again"


def starts(host: Host) -> int:
    """How often httpd was started."""
    lines = host.run("journalctl --unit httpd --output cat --grep '^Started'").stdout
    return len(lines.splitlines())


def record(host: Host) -> Any:
    """What the module was built from."""
    return json.loads(host.file("/var/lib/mod_fcgid/build.json").content_string)


def version(host: Host) -> str:
    return str(host.check_output("dpkg-query --show --showformat '${Version}' apache2-bin"))


def test_the_httpd_of_the_distribution_is_not_pushed_aside_without_being_asked(host: Host) -> None:
    message = refusal()
    assert "Port 80 is taken by apache2" in message
    assert "httpd_replace_distribution_service" in message
    assert greets(address_of(host), "/x.fcgi") == ""


def test_ours_takes_over_when_it_is_ready(host: Host) -> None:
    """Installed and checked beside it, on another port; then it changes places with it.

    The other takes long to end, but no longer listens; nobody is to wait for it.
    """
    begun = time.monotonic()
    deploy(httpd_port=8080)
    first = time.monotonic() - begun
    assert greets(address_of(host), "/x.fcgi") == ""
    host.check_output(
        "cd /etc/systemd/system && mkdir apache2.service.d && "
        "printf '[Service]\\nExecStopPost=/bin/sleep 5\\n' > apache2.service.d/slow.conf && "
        "systemctl daemon-reload"
    )
    event = "from the distribution's httpd, which takes 5 s more to end, to this one"
    with under_load(host, event, None, UNTIL, ["/x.fcgi"]) as load:
        deploy(httpd_replace_distribution_service=True)
    ended = host.check_output(
        "systemctl stop apache2 && "  # waits until it has ended
        "systemctl show --property InactiveEnterTimestampMonotonic --value apache2"
    )
    assert min(end for _, end in load.series) < int(ended) / 1e6
    assert starts(host) == 1
    assert not host.service("apache2").is_running
    assert not host.service("apache2").is_enabled
    begun = time.monotonic()
    assert "changed=0 " in deploy()
    again = time.monotonic() - begun
    note("a first run, and one that changes nothing", f"{first:.0f} s, {again:.0f} s")
    assert again <= first / 2, "a run that changes nothing takes over half the time of the first"


def test_an_upgrade_of_httpd_builds_once_and_restarts_once(host: Host) -> None:
    before = version(host)
    newest = host.check_output("apt-cache madison apache2-bin | cut -d '|' -f 2 | head -1").strip()
    if newest == before:
        pytest.skip(f"the mirrors have one version of httpd only, {before}")
    started, built = starts(host), record(host)
    with under_load(host, "upgrade of the package of httpd", None, UNTIL):
        host.check_output(
            "rm /etc/apt/preferences.d/held && DEBIAN_FRONTEND=noninteractive apt-get -qy upgrade"
        )
        assert version(host) == newest
        deploy()
    assert starts(host) == started + 1
    assert record(host)["inputs"] != built["inputs"]
    assert "changed=0 " in deploy()


def test_a_change_of_the_patches_builds_once_and_restarts_once(host: Host) -> None:
    patched = record(host)
    changes: dict[str, dict[str, object]] = {
        "from the patched mod_fcgid to the released one": {"mod_fcgid_patches": []},
        "and back": {},
    }
    for event, patches in changes.items():
        started = starts(host)
        with under_load(host, event, None, UNTIL):
            deploy(**patches)
        assert starts(host) == started + 1
        assert "changed=0 " in deploy(**patches)
    assert record(host) == patched
