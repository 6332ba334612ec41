"""The rendezvous host with many clients at once, silent, slow and malicious ones among them."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import fmi

from .fmi_ranks import exactly, together
from .rendezvous import Host


def test_no_client_holds_up_another() -> None:
    host = Host()
    idle = [host.connect() for _ in range(300)]  # silent
    for connection in (host.connect() for _ in range(50)):  # reset at once
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    flood = host.connect()
    flood.sendall(b"n" * 50_000)
    channels = [fmi.Direct(rank, 4, "calm-", "127.0.0.1", host.port, b"s") for rank in range(4)]
    assert together(channels, lambda group: group.barrier()) == [None] * 4
    health = host.health()
    assert health["paired"] >= 4
    assert health["malformed"] >= 1
    for connection in idle:
        connection.close()
    flood.close()
    assert host.stop() == 0


def _paired(host: Host, number: int) -> bytes:
    """What the host tells one of two clients that bring the same name."""
    with host.connect() as connection:
        connection.settimeout(20)
        connection.sendall(b"pair-%d" % (number // 2))
        return exactly(connection, 16)


def test_two_thousand_clients_pair_at_once_and_names_leave_nothing_behind() -> None:
    host = Host()
    before = host.memory_kib()

    with ThreadPoolExecutor(500) as pool:
        answers = list(pool.map(partial(_paired, host), range(2000)))
    assert all(len(answer) == 16 for answer in answers)
    for burst in range(20):  # 10,000 names whose partner never comes, and whose client goes
        connections = [host.connect() for _ in range(500)]
        for number, connection in enumerate(connections):
            connection.sendall(b"nobody-%d-%d" % (burst, number))
        for connection in connections:
            connection.close()
    health = _until_waiting(host, 0)
    assert (health["waiting"], health["clients"], health["paired"]) == (0, 1, 1000)
    assert host.memory_kib() - before < 150_000
    assert host.stop() == 0


def test_two_thousand_pair_at_once_beside_idle_and_slow_ones() -> None:
    host = Host()
    idle = [host.connect() for _ in range(500)]
    slow = [host.connect() for _ in range(50)]
    for connection in slow:  # one byte each, and never the rest
        connection.sendall(b"\x02")

    with ThreadPoolExecutor(500) as pool:
        assert all(len(answer) == 16 for answer in pool.map(partial(_paired, host), range(2000)))
    for connection in (*idle, *slow):
        connection.close()
    assert host.stop() == 0


def test_a_flood_of_a_hundred_thousand_names_is_bounded() -> None:
    """Clients hold names that nobody brings twice, 3,000 at once, again and again: 1.5 GB if none were dropped.
    The smallest machine that a host runs on, a t4g.nano, has 512 MB.
    """
    host, peak = Host(), 0
    with _names_held(host, 0, 3000):
        _until_waiting(host, 3000)
        assert host.memory_kib() > 50_000  # it holds them, at 10 KiB or more each
    for burst in range(1, 34):
        with _names_held(host, burst, 3000):
            peak = max(peak, host.memory_kib())
    health = _until_waiting(host, 0)
    assert host.stop() == 0
    assert health["accepted"] + health["refused"] >= 100_000
    assert (health["waiting"], health["malformed"]) == (0, 0)
    assert peak < 200_000


@contextmanager
def _names_held(host: Host, burst: int, clients: int) -> Iterator[None]:
    """`clients` clients have sent names, and stay."""
    with ExitStack() as stack:
        for number in range(clients):
            connection = stack.enter_context(host.connect())
            connection.sendall(b"n%d-%d-%s" % (burst, number, b"x" * 80))
        yield


def _until_waiting(host: Host, clients: int) -> dict[str, Any]:
    """The host's health once `clients` clients wait for a partner, or after two minutes.

    It refuses to say it while one address has too many clients at once.
    """
    deadline, health = time.monotonic() + 120, {"waiting": -1}
    while health["waiting"] != clients and time.monotonic() < deadline:
        time.sleep(0.05)
        with suppress(OSError, ValueError):
            health = host.health()
    return health


def test_a_host_that_nobody_needs_ends_by_itself() -> None:
    """Pairs of ranks keep it, with names of FMI's or of ours."""
    host = Host(0, "--idle-exit", "2")
    for pair in ((b"run0_1", b"run0_1"), (b"\x02Lpair", b"\x02Hpair"), (b"run0_1", b"run0_1")):
        time.sleep(1.2)
        with host.connect() as first, host.connect() as second:
            first.sendall(pair[0])
            second.sendall(pair[1])
            assert len(exactly(first, 16)) == 16
    assert host.health()["paired"] == 3
    met = time.monotonic()
    assert host.ended() == 0
    assert time.monotonic() - met > 1
