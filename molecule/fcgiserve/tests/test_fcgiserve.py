"""The package's own tests, and those against its peers, on the host's Python."""

import pytest
from testinfra.host import Host


@pytest.mark.parametrize("suite", ["tests", "interop"])
def test_the_suite_passes(host: Host, suite: str) -> None:
    run = host.run(f"cd /opt/fcgiserve/fcgiserve && /opt/fcgiserve/venv/bin/pytest -q {suite}")
    print(run.stdout)
    assert run.rc == 0
