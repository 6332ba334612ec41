"""The Lambda that starts and watches the rendezvous host, beside real hosts."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

import rendezvous.handler as rendezvous
from rendezvous.contract.host import NotHealthy, health

from .rendezvous import Host


def test_health_is_a_round_trip_of_the_protocol() -> None:
    host = Host()
    counters = health(host.address)
    assert counters["healthy"]
    assert counters["accepted"] == 1
    host.stop()
    with pytest.raises(NotHealthy, match=f"at {host.address} does not answer"):
        health(host.address)


@pytest.mark.parametrize("answer", [b"", b"220 mail server\r\n", b"[1]\n", b'{"healthy": false}\n'])
def test_what_answers_otherwise_is_not_healthy(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def once() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1)
                connection.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        with pytest.raises(NotHealthy):
            health(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()


class _Account:
    """What boto3 would reach: one instance."""

    def __init__(self, state: str, address: str | None) -> None:
        self.state, self.address = state, address

    def client(self, name: str) -> _Account:
        return self

    def start_instances(self, InstanceIds: list[str]) -> None:
        pass

    def describe_instances(self, InstanceIds: list[str]) -> dict[str, Any]:
        instance = {"State": {"Name": self.state}}
        if self.address:
            instance["PublicIpAddress"] = self.address  # type: ignore[assignment]
        return {"Reservations": [{"Instances": [instance]}]}


def _asked(account: _Account, action: str, monkeypatch: pytest.MonkeyPatch, port: int = 10_000) -> Any:
    monkeypatch.setattr(rendezvous, "boto3", account)
    monkeypatch.setenv("INSTANCE_ID", "i-1")
    monkeypatch.setenv("PORT", str(port))
    monkeypatch.delenv("ADDRESS", raising=False)
    return rendezvous.handler({"action": action, "execution": "mine"}, None)


def test_an_instance_is_healthy_once_it_runs_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _asked(_Account("stopped", None), "start", monkeypatch) == {"started": True}
    with pytest.raises(NotHealthy, match="i-1 is pending, without a public address yet"):
        _asked(_Account("pending", None), "status", monkeypatch)
    host = Host()
    running = _Account("running", "127.0.0.1")
    assert _asked(running, "status", monkeypatch, host.port)["address"] == host.address
    host.stop()
    with pytest.raises(NotHealthy, match="does not answer"):
        _asked(running, "status", monkeypatch, host.port)


def test_a_host_of_somebody_else_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    foreign = rendezvous.Host(None, host.address, 10_000)
    assert foreign.start() == {"started": False}
    assert foreign.status()["address"] == host.address
    host.stop()


def test_an_unknown_action_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="action: 'restart' is neither start nor status"):
        _asked(_Account("running", None), "restart", monkeypatch)
