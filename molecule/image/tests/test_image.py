"""What an image has besides the checks of a host: no root, no compiler, one process to stop."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from playbooks import refusal, run
from poll import eventually
from testinfra.host import Host

NAME = "fcgid-stack/image-test"
DIRECTORY = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "image"
BEFORE = DIRECTORY.with_name("image-before")
CONTAINER = "fcgid-image"
UID = 33
# As an orchestrator that grants nothing runs it.
STRICT: dict[str, Any] = {
    "read_only": True,
    "tmpfs": {"/run": "", "/tmp": ""},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
}


def is_healthy(url: str) -> bool:
    try:
        get(f"{url}/healthz")
    except OSError:
        return False
    return True


@contextlib.contextmanager
def running(engine: Any, **options: Any) -> Iterator[tuple[Any, str]]:
    """A container of the image, and its URL."""
    container = engine.containers.run(NAME, detach=True, **(STRICT | options))
    try:
        container.reload()
        url = f"http://{container.attrs['NetworkSettings']['IPAddress']}:8080"
        assert eventually(lambda: is_healthy(url), interval=0.1), container.logs().decode()
        yield container, url
    finally:
        container.remove(force=True)


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as response:
        body: bytes = response.read()
        return body


def environment_of_worker(url: str) -> dict[str, str]:
    asked = urllib.request.Request(f"{url}/info", headers={"Accept": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as response:
        environment: dict[str, str] = json.loads(response.read())["environment"]
        return environment


def manifests() -> dict[str, Any]:
    """The manifests that the playbook has written, by their kind."""
    documents = yaml.safe_load_all((DIRECTORY / "kubernetes.yml").read_text())
    return {document["kind"]: document for document in documents}


def digests(archive: Path) -> dict[str, str]:
    """The SHA-256 of each file of an archive."""
    with tarfile.open(archive) as tar:
        return {
            member.name: hashlib.sha256(file.read()).hexdigest()
            for member in tar
            if (file := tar.extractfile(member) if member.isfile() else None)
        }


def test_no_process_is_of_root(engine: Any) -> None:
    (column,) = (
        index
        for index, title in enumerate(engine.containers.get(CONTAINER).top()["Titles"])
        if title == "UID"
    )
    rows = engine.containers.get(CONTAINER).top()["Processes"]
    assert {row[column] for row in rows} <= {"www-data", str(UID)}


def test_httpd_is_the_first_process(host: Host) -> None:
    assert host.file("/run/httpd/httpd.pid").content_string.strip() == "1"


def test_not_even_root_writes_to_its_file_system(host: Host) -> None:
    result = host.run("touch /srv/fcgi/x")
    assert result.rc != 0
    assert "Read-only file system" in result.stderr


def test_no_program_runs_with_the_rights_of_its_owner(host: Host) -> None:
    assert host.run("find / -xdev -type f -perm /6000").stdout == ""


def test_nothing_to_build_or_deploy_with_is_in_it(host: Host) -> None:
    for program in ("cc", "gcc", "make", "apxs", "patch", "pip", "pip3", "ansible", "systemctl"):
        assert not host.exists(program), program
    assert host.run("ls /var/lib/apt/lists/*Packages*").rc != 0


def test_no_secret_is_in_it(engine: Any) -> None:
    saved = b"".join(engine.images.get(NAME).save())
    assert b"fcgi_reference" in saved
    assert b"not in the image" not in saved


def test_a_secret_that_is_mounted_is_where_the_application_looks(
    engine: Any, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("mounted")
    tmp_path.chmod(0o755)
    with running(
        engine, volumes={str(tmp_path): {"bind": "/srv/fcgi/python/secrets", "mode": "ro"}}
    ) as (container, _):
        program = container.exec_run("cat /var/www/htdocs/localhostfcgi/app.fcgi").output.decode()
        (directory,) = re.findall(r'"CREDENTIALS_DIRECTORY"\] = "(.*)"', program)
        assert container.exec_run(f"cat {directory}/password").output == b"mounted"


def test_the_environment_that_was_named_reaches_the_workers_and_no_other(engine: Any) -> None:
    given = """a 'value' with "quotes", \\ and ${HOME}"""
    with running(engine, environment={"GIVEN": given, "OTHER": "x"}) as (_, url):
        environment = environment_of_worker(url)
    assert environment["GIVEN"] == given
    assert "NOT_GIVEN" not in environment
    assert "OTHER" not in environment


def test_a_configuration_can_be_mounted(engine: Any, host: Host, tmp_path: Path) -> None:
    vhosts = tmp_path / "vhosts.conf"
    text = host.file("/etc/httpd/vhosts.conf").content_string
    assert "/x.fcgi" in text
    vhosts.write_text(text.replace("Alias /x.fcgi", "Alias /y.fcgi"))
    vhosts.chmod(0o644)
    with running(
        engine, volumes={str(vhosts): {"bind": "/etc/httpd/vhosts.conf", "mode": "ro"}}
    ) as (_, url):
        assert get(f"{url}/y.fcgi").startswith(b"Hello world!")


def test_the_logs_are_the_standard_output_and_error(engine: Any) -> None:
    with running(engine) as (container, url):
        get(f"{url}/info?logged")
        # Logged is what was answered.
        assert eventually(lambda: b"GET /info?logged" in container.logs(stderr=False))
        assert b"resuming normal operations" in container.logs(stdout=False)


# Nanoseconds.
OFTEN = {"interval": 500_000_000, "timeout": 1_000_000_000, "retries": 2, "start_period": 0}


def health(container: Any) -> dict[str, Any]:
    container.reload()
    state: dict[str, Any] = container.attrs["State"]["Health"]
    return state


def test_the_health_check_passes_and_fails(engine: Any) -> None:
    with running(engine, healthcheck=OFTEN) as (container, _):
        assert eventually(lambda: health(container)["Status"] == "healthy")
        container.exec_run("sh -c 'kill -STOP $(pgrep apache2 | tail -n +2)'")
        assert eventually(lambda: health(container)["Status"] == "unhealthy")


def test_busy_is_not_dead(engine: Any) -> None:
    with running(engine, healthcheck=OFTEN) as (container, url), ThreadPoolExecutor(8) as pool:
        assert eventually(lambda: health(container)["Status"] == "healthy")
        slow = [pool.submit(get, f"{url}/sleep?ms=6000") for _ in range(8)]
        while not all(answer.done() for answer in slow):
            assert health(container)["FailingStreak"] == 0
            time.sleep(0.2)
        assert [answer.result() for answer in slow] == [b"slept 6000 ms\n"] * 8


def test_a_stop_answers_what_is_in_flight(engine: Any) -> None:
    with running(engine) as (container, url), ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(get, f"{url}/sleep?ms=3000") for _ in range(4)]
        time.sleep(1)
        container.stop(timeout=60)
        assert [answer.result() for answer in slow] == [b"slept 3000 ms\n"] * 4
        assert container.wait()["StatusCode"] == 0


def test_the_labels_are_those_of_the_specification(engine: Any) -> None:
    image = engine.images.get(NAME)
    standard = "org.opencontainers.image."
    labels = {name.removeprefix(standard): value for name, value in image.labels.items()}
    assert f"{NAME}:{labels['version']}" in image.tags
    assert engine.images.get(labels["base.name"]).id in {
        layer["Id"] for layer in image.history() if layer["Id"] != "<missing>"
    }
    assert re.fullmatch(r"[0-9a-f]{40}", labels["revision"])
    assert re.match(r"\d{4}-\d\d-\d\dT", labels["created"])


def test_the_same_commit_and_packages_give_the_same_archive_and_tag(engine: Any) -> None:
    first, second = digests(BEFORE / "rootfs.tar"), digests(DIRECTORY / "rootfs.tar")
    assert "usr/lib/httpd/modules/mod_fcgid.so" in first
    assert any(name.startswith("srv/fcgi/python/releases/") for name in first)
    assert first == second
    assert (BEFORE / "rootfs.tar").read_bytes() == (DIRECTORY / "rootfs.tar").read_bytes()
    (tag,) = (tag for tag in engine.images.get(NAME).tags if not tag.endswith(":latest"))
    assert tag.partition(":")[2] in (BEFORE / "sbom.cdx.json").read_text()


def test_the_bill_of_materials_lists_what_is_in_it(host: Host) -> None:
    materials = json.loads((DIRECTORY / "sbom.cdx.json").read_text())
    assert materials["bomFormat"] == "CycloneDX"
    listed = {part["purl"].partition("?")[0] for part in materials["components"] if "purl" in part}
    for package in ("apache2-bin", "python3", "libfcgi0ldbl"):
        assert f"pkg:deb/debian/{package}@{host.package(package).version}" in {
            purl.replace("%2B", "+").replace("%7E", "~") for purl in listed
        }
    assert "pkg:generic/mod_fcgid@2.3.9" in listed
    assert any(purl.startswith("pkg:pypi/fcgiserve@") for purl in listed)


def test_it_is_not_larger_than_httpd_with_mod_wsgi(engine: Any) -> None:
    peer, _ = engine.images.build(
        fileobj=io.BytesIO(
            b"FROM fcgid-stack/base:bookworm\n"
            b"RUN apt-get update && apt-get install --yes --no-install-recommends"
            b" apache2 libapache2-mod-wsgi-py3 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*\n"
        ),
        rm=True,
    )
    base = engine.images.get("fcgid-stack/base:bookworm").attrs["Size"]
    ours, theirs = (image.attrs["Size"] - base for image in (engine.images.get(NAME), peer))
    engine.images.remove(peer.id)
    assert ours <= theirs


def test_the_manifests_for_kubernetes_are_valid() -> None:
    # The playbook writes them only if the validator passes them.
    status, printed = run("kubernetes")
    assert status == 0, printed
    assert set(manifests()) == {
        *("Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget"),
        "HorizontalPodAutoscaler",
    }


def test_a_pod_is_reached_at_its_port_only_and_meets_the_restricted_standard() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/."""
    assert run("kubernetes")[0] == 0
    policy = manifests()["NetworkPolicy"]["spec"]
    template = manifests()["Deployment"]["spec"]["template"]
    assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    (port,) = container["ports"]
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"ports": [{"port": port["name"]}]}]
    assert (
        template["spec"]["securityContext"].items()
        >= {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }.items()
    )
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


@pytest.mark.parametrize("rules", [[], [{"ports": [{"port": 53, "protocol": "UDP"}]}]])
def test_what_a_pod_connects_to_can_be_restricted(rules: list[dict[str, Any]]) -> None:
    status, printed = run("kubernetes", kubernetes_egress=rules)
    assert status == 0, printed
    policy = manifests()["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == rules


def test_a_rule_that_kubernetes_does_not_take_is_refused() -> None:
    status, printed = run("kubernetes", kubernetes_egress=[{"port": 53}])
    assert status == 2
    assert "spec.egress.0" in printed


def test_a_name_that_kubernetes_does_not_take_is_refused() -> None:
    message = refusal("kubernetes", kubernetes_name="Not_a_name")
    assert "kubernetes_name Not_a_name is not a name for Kubernetes" in message


def test_environment_that_would_not_reach_the_workers_is_refused() -> None:
    message = refusal("kubernetes", kubernetes_environment={"COLOUR": "red"})
    assert "the image does not pass COLOUR to the workers" in message


def test_a_port_of_root_is_refused() -> None:
    assert "image_port 80 needs root" in refusal("image", httpd_port=80)
