"""The documentation shows what a deploy of the demonstration renders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from testinfra.host import Host

REFERENCE = Path(__file__).parents[3] / "docs/reference"
# These numbers follow from the cores and the memory of the host.
OF_THE_HOST = re.compile(
    r"^(StartServers|ServerLimit|MaxRequestWorkers|MaxSpareThreads|FcgidMaxProcesses"
    r"|FcgidMaxProcessesPerClass|FcgidMinProcessesPerClass|FcgidSpawnScoreUpLimit) \d+$",
    re.MULTILINE,
)


@pytest.mark.parametrize("name", ["httpd.conf", "vhosts.conf"])
def test_the_documentation_shows_what_a_deploy_renders(host: Host, name: str) -> None:
    live = host.file(f"/etc/httpd/{name}").content_string
    documented = (REFERENCE / name).read_text()
    assert OF_THE_HOST.sub(r"\1", live) == OF_THE_HOST.sub(r"\1", documented)
