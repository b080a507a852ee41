"""The module: built from the pinned source, recorded, loaded, and nothing else touched."""

import json

import pytest
from deployment import HTTPD, MODULE, RECORD, Deployment
from testinfra.host import Host


def test_the_installed_module_is_the_one_that_the_build_record_names(host: Host) -> None:
    record = json.loads(host.file(RECORD).content_string)
    assert record["module"] == MODULE
    assert record["module_sha256"] == host.file(MODULE).sha256sum


def test_the_module_was_built_from_the_pinned_source(deployment: Deployment) -> None:
    record = json.loads(deployment.host.file(RECORD).content_string)
    assert record["tarball_sha256"] == deployment.settings["mod_fcgid_sha256"]
    assert record["inputs"]["version"] == deployment.settings["mod_fcgid_version"]


def test_the_module_belongs_to_root_and_only_root_writes_it(host: Host) -> None:
    module = host.file(MODULE)
    assert (module.user, module.group, module.mode) == ("root", "root", 0o644)


def test_the_build_left_nothing_behind(host: Host) -> None:
    assert host.file("/var/lib/mod_fcgid").listdir() == ["build.json"]
    assert host.file("/usr/lib/httpd/modules").listdir() == ["mod_fcgid.so"]


def test_httpd_has_loaded_the_installed_module(deployment: Deployment) -> None:
    maps = deployment.host.check_output(f"cat /proc/{deployment.httpd_pid()}/maps")
    loaded = {line.split(None, 5)[5] for line in maps.splitlines() if "mod_fcgid" in line}
    assert loaded == {MODULE}, "a module that was replaced since would be marked (deleted)"


def test_httpd_lists_the_module(host: Host) -> None:
    assert " fcgid_module (shared)" in host.check_output(f"{HTTPD} -M").splitlines()


def test_the_configuration_is_valid(host: Host) -> None:
    result = host.run(f"{HTTPD} -t")
    assert result.rc == 0, result.stderr


def test_the_files_of_the_distribution_are_as_it_shipped_them(host: Host) -> None:
    # Files whose content differs; left out: what the image never unpacked, and configuration files.
    rows = host.run("dpkg --verify apache2 apache2-bin apache2-dev").stdout.splitlines()
    assert [row for row in rows if row.startswith("??5") and " c /" not in row] == []


@pytest.mark.molecule
def test_the_configuration_of_the_distribution_is_byte_identical(host: Host) -> None:
    before = host.file("/var/tmp/etc-apache2.sha256")
    if not before.exists:
        pytest.skip("this scenario has no httpd of the distribution")
    now = host.check_output("find /etc/apache2 -type f -exec sha256sum {} +")
    assert sorted(now.splitlines()) == sorted(before.content_string.splitlines())
