"""A stack of three containers is updated, and goes back, and its clients notice nothing."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any

from load import CLIENTS, GREETING, request, under_load
from playbooks import refusal, run
from poll import eventually

# Everything goes through the engine.
testinfra_hosts = ["local://"]

IMAGE = "fcgid-stack/image-test"
STACK = "fcgid-test"
ADDRESS = "127.0.0.1:8094"
REPLICAS = 3


def swarm(**variables: object) -> str:
    """Deploy the stack, which must work; what was printed."""
    status, printed = run("swarm", **variables)
    assert status == 0, printed
    return printed


def derived(engine: Any, tag: str, command: str) -> None:
    """An image like the latest, but for what the command does to it."""
    lines = [f"FROM {IMAGE}", "USER root", f"RUN {command}", "USER www-data"]
    engine.images.build(
        fileobj=io.BytesIO("\n".join(lines).encode()), tag=f"{IMAGE}:{tag}", rm=True
    )


def containers(engine: Any, tag: str = "latest") -> list[Any]:
    """Those of the service `web` that run the image with this tag."""
    wanted = engine.images.get(f"{IMAGE}:{tag}").id
    label = f"com.docker.swarm.service.name={STACK}_web"
    running = engine.containers.list(filters={"label": label, "status": "running"})
    return [container for container in running if container.image.id == wanted]


def facts(**headers: str) -> dict[str, Any]:
    """What the application says of a request and of itself."""
    _, body = request(ADDRESS, "/info", headers={"Accept": "application/json"} | headers)
    seen: dict[str, Any] = json.loads(body)
    return seen


def test_the_stack_is_deployed_and_answers(engine: Any) -> None:
    swarm()
    assert len(containers(engine)) == REPLICAS
    status, body = request(ADDRESS, "/app.fcgi")
    assert status == 200 and GREETING.fullmatch(body)


def test_a_second_run_changes_nothing(engine: Any) -> None:
    before = {container.id for container in containers(engine)}
    assert "changed=0" in swarm()
    assert {container.id for container in containers(engine)} == before


def test_a_container_has_no_privileges_and_what_was_configured(engine: Any) -> None:
    (container, *_) = containers(engine)
    assert container.attrs["HostConfig"]["ReadonlyRootfs"]
    assert container.attrs["HostConfig"]["CapDrop"] == ["ALL"]
    assert container.attrs["Config"]["User"] == "www-data"
    _, out = container.exec_run("grep -E '^(Cap(Prm|Eff|Bnd)|Uid):' /proc/1/status")
    assert [line.split()[1] for line in out.decode().splitlines()] == ["33", *["0" * 16] * 3]
    # In KiB: 16 MiB, and half of swarm_memory.
    _, out = container.exec_run("df --output=size /run /tmp")
    assert out.split()[1:] == [b"16384", b"262144"]
    assert container.exec_run("cat /srv/greeting").output == b"$good morning\n"
    secret = "/srv/fcgi/python/secrets/password"
    assert container.exec_run(f"cat {secret}").output == b"not in the image"
    assert container.exec_run(f"stat --format '%U %a' {secret}").output == b"www-data 400\n"


def test_the_application_sees_its_environment_and_the_client() -> None:
    seen = facts(**{"X-Forwarded-For": "10.1.2.3"})
    assert seen["environment"]["GIVEN"] == "$HOME"
    # This machine's: neither the edge's, which is on the stack's network, nor what was made up.
    assert seen["request"]["REMOTE_ADDR"].startswith("172.")
    assert seen["request"]["HTTP_X_FORWARDED_PROTO"] == "http"


def test_each_container_gets_requests() -> None:
    answered = Counter(facts()["host"] for _ in range(60))
    assert len(answered) == REPLICAS
    assert min(answered.values()) >= 5, answered


def test_another_image_is_rolled_out_and_nobody_notices(engine: Any) -> None:
    derived(engine, "next", "touch /srv/next")
    with under_load(ADDRESS, "Swarm: a rolling update to another image"):
        swarm(image_tag="next")
    assert len(containers(engine, "next")) == REPLICAS
    assert not containers(engine)


def test_an_image_that_does_not_work_is_taken_back_and_nobody_notices(engine: Any) -> None:
    derived(engine, "broken", "rm /srv/fcgi/python/releases/*/app.fcgi")
    with under_load(ADDRESS, "Swarm: an update to an image that does not work"):
        status, printed = run("swarm", image_tag="broken")
    assert status == 2
    assert f"{IMAGE}:broken does not run, so Swarm rolled back to the previous image." in " ".join(
        printed.split()
    )
    assert len(containers(engine, "next")) == REPLICAS
    assert not containers(engine, "broken")


def test_an_image_that_is_not_there_is_refused_and_nothing_is_changed(engine: Any) -> None:
    message = refusal("swarm", image_tag="forgotten")
    assert f"swarm_image {IMAGE}:forgotten is not on this engine" in message
    assert len(containers(engine, "next")) == REPLICAS


def test_environment_that_would_not_reach_the_workers_is_refused() -> None:
    message = refusal("swarm", swarm_environment={"COLOUR": "red"})
    assert "the image does not pass COLOUR to the workers" in message


def test_a_new_secret_is_rolled_out_and_nobody_notices(engine: Any) -> None:
    with under_load(ADDRESS, "Swarm: another secret, and the image before"):
        swarm(fcgi_app_secrets={"python": {"password": "another"}})
    assert len(containers(engine)) == REPLICAS
    for container in containers(engine):
        assert container.exec_run("cat /srv/fcgi/python/secrets/password").output == b"another"


def test_a_container_that_is_killed_is_replaced(engine: Any) -> None:
    (victim, *_) = containers(engine)
    with under_load(ADDRESS, "Swarm: a container is killed", CLIENTS, "what it had") as load:
        victim.kill()
        assert eventually(
            lambda: len({one.id for one in containers(engine)} - {victim.id}) >= REPLICAS, 120
        )
        load.wait_for_answer()
    assert len(containers(engine)) == REPLICAS
