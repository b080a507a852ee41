"""What the checks share: the fixture of the deployment.

The checks run against any inventory: `make verify INVENTORY=...`. Those marked `molecule` kill
workers and restart hosts, so they run only where molecule made the host.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from deployment import DEFAULTS, Deployment
from testinfra.host import Host

NAMES = "q('ansible.builtin.varnames', '^(httpd_|fcgi_app|mod_fcgid_|public_url)')"
seen: dict[str, Deployment] = {}


@pytest.fixture(scope="module")
def deployment(host: Host) -> Deployment:
    name = host.backend.get_pytest_id()
    if name not in seen:
        given = host.ansible(
            "ansible.builtin.debug",
            f"msg={{{{ dict({NAMES} | zip(q('ansible.builtin.vars', *{NAMES}))) }}}}",
            become=False,
        )["msg"]
        seen[name] = Deployment(host, DEFAULTS | given, given.get("public_url"))
    return seen[name]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Put httpd's log beside the failure of a check."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    deployment = getattr(item, "funcargs", {}).get("deployment")
    if report.failed and deployment:
        log = deployment.host.run("tail -n 30 /var/log/httpd/error_log").stdout
        report.sections.append(("the last lines of /var/log/httpd/error_log", log))
