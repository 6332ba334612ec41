"""The rendezvous host under each Python, from its start to its end, amid clients in every state."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable

import fmi
import numpy as np
import pytest

from tests.unit.fmi_ranks import exactly, together
from tests.unit.rendezvous import Host, interpreter

from .relay_clients import admitted, asked, connected, eventually, pair, relayed, reset

VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13")


@pytest.fixture(params=VERSIONS)
def python(request: pytest.FixtureRequest) -> str:
    command = interpreter(request.param)
    if command is None:
        pytest.skip(f"this Python is not on the machine: {request.param}")
    return command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_host_that_ends_is_not_taken_for_a_peer_that_left(
    started: Callable[..., Host], closed_networks: None, number: signal.Signals
) -> None:
    host, met = started(), threading.Barrier(2)

    def work(group: fmi.Group) -> None:
        group.barrier()
        met.wait()
        if group.rank == 0:
            host.stop(number)
        met.wait()
        group.barrier()

    for error in together(pair(host), work):
        assert isinstance(error, fmi.RelayRefused)
        assert "the rendezvous host ended it without a reason: it is full or was stopped" in str(error)


def in_every_state(host: Host) -> list[socket.socket]:
    """Clients that have said nothing, part of a name, all of it; asking for a relay, alone, together."""
    silent, plain, role = (connected(host) for _ in range(3))
    plain.sendall(b"name")
    role.sendall(b"\x02Lname")
    unproven, *_ = asked(host, b"L", b"unproven")
    alone = admitted(host, b"L", b"alone")
    both = relayed(host, b"both")
    refused, *_ = asked(host, b"L", b"refused")
    refused.sendall(bytes(32))
    exactly(plain, 8)
    eventually(host, waiting=3)
    return [silent, plain, role, unproven, alone, *both, refused]


def test_the_host_under_each_python(started: Callable[..., Host], python: str) -> None:
    """Pairs, relays and time-outs; resets in every state; an end amid clients: and not a word on stderr."""
    host = started("--name-seconds", "1", "--wait-seconds", "1", python=python)
    for end in in_every_state(host):
        reset(end)
    eventually(host, clients=1, relays=0, waiting=0)
    for end in in_every_state(host):  # now none says more
        end.close()
    connected(host)
    connected(host).sendall(b"nobody-else")
    eventually(host, clients=1, waiting=0)
    health = host.health()
    assert health["expired"] >= 2, health
    first, second = connected(host), connected(host)
    for client in (first, second):
        client.sendall(b"pair")
    assert exactly(first, 16)[8:] == exactly(second, 16)[:8]
    in_every_state(host)
    assert host.stop() == 0
    assert host.errors == ""


def test_ranks_relay_under_each_python(
    started: Callable[..., Host], python: str, closed_networks: None
) -> None:
    host = started(python=python)
    sums = together(pair(host), lambda group: float(group.allreduce(np.ones(100_000), np.add).sum()))
    assert sums == [200_000.0] * 2
    assert host.stop() == 0
    assert host.errors == ""


def test_a_scanner_does_not_keep_an_idle_host(started: Callable[..., Host]) -> None:
    """It connects again and again, says something or nothing, and stays; the host ends all the same."""
    began = time.monotonic()  # before it starts: its own clock does so before we hear from it
    host = started("--idle-exit", "3")
    words = (b"", b"GET / HTTP/1.0\r\n\r\n", b"\x01", b"\x02Lscan", b"\x03Lscan")
    for number in range(1_000):
        try:
            connected(host).sendall(words[number % len(words)])
        except OSError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the host still accepts the scanner's connections")
    assert host.ended() == 0
    assert time.monotonic() - began >= 3


def test_a_relay_keeps_the_host_and_a_pair_lets_it_wait_again(started: Callable[..., Host]) -> None:
    host = started("--idle-exit", "2")
    ends = relayed(host, b"busy")
    time.sleep(4)
    assert host.process.poll() is None
    for end in ends:
        end.close()
    closed = time.monotonic()
    assert host.ended(15) == 0
    assert time.monotonic() - closed > 1.5
