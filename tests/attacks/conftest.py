"""Attacks between ranks need the hosts and stores of the tests of fmi, others moto's S3."""

from collections.abc import Callable, Iterator

import pytest

from tests.unit.conftest import host, redis_client, redis_port, s3, s3_client, s3_cloud, s3_of_ranks
from tests.unit.rendezvous import Host

from .relay_clients import clients

__all__ = ["host", "redis_client", "redis_port", "s3", "s3_client", "s3_cloud", "s3_of_ranks"]


@pytest.fixture
def closed_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rank gets through to another, so that all pairs need the relay."""
    monkeypatch.setattr("fmi.direct.PUNCH_SECONDS", 0.2)
    monkeypatch.setattr("fmi.punching._dialled", lambda own, address: None)


@pytest.fixture
def started() -> Iterator[Callable[..., Host]]:
    """Starts hosts; closes their clients at the end, and ends those that still run."""
    hosts: list[Host] = []

    def start(*options: str, python: str | None = None) -> Host:
        hosts.append(Host(0, *options) if python is None else Host(0, *options, python=python))
        return hosts[-1]

    yield start
    for client in clients:
        client.close()
    clients.clear()
    for one in hosts:
        if one.process.poll() is None:
            one.stop()
