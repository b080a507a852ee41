"""The container engine of this machine (docker SDK), and the hosts that are its containers.

A plugin of pytest: it brings the fixtures `engine` and `address`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from testinfra.host import Host


@contextlib.contextmanager
def engine_client() -> Iterator[Any]:
    """A client of the engine, which is closed at the end."""
    client = docker.from_env()
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def container_of(host: Host) -> Iterator[Any]:
    """The container that is the host."""
    with engine_client() as client:
        yield client.containers.get(host.backend.get_pytest_id().rpartition("/")[2])


def address_of(host: Host) -> str:
    """The address of the host in its one network."""
    with container_of(host) as container:
        (network,) = container.attrs["NetworkSettings"]["Networks"].values()
    address: str = network["IPAddress"]
    return address


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """A client of the engine."""
    with engine_client() as client:
        yield client


@pytest.fixture
def address(host: Host) -> str:
    """The address at which the host answers."""
    return address_of(host)
