"""The package's own tests, and those against its peers, on the host's Python."""

import pytest
from testinfra.host import Host


@pytest.mark.parametrize("suite", ["tests", "interop"])
def test_the_suite_passes(host: Host, suite: str) -> None:
    # /tmp may be mounted noexec.
    pytest_here = "cd /opt/fcgiserve/fcgiserve && TMPDIR=/var/tmp ../venv/bin/python -m pytest -q"
    run = host.run(f"{pytest_here} {suite}")
    print(run.stdout)
    assert run.rc == 0
