"""The rendezvous host with many clients at once, silent, slow and malicious ones among them."""

from __future__ import annotations

import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

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
    found = host.health()
    assert found["paired"] >= 4
    assert found["malformed"] >= 1
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
    deadline, found = time.monotonic() + 20, {"waiting": -1}
    while found["waiting"] and time.monotonic() < deadline:
        time.sleep(0.05)
        with suppress(ConnectionError):  # so many of one address at once are refused, this one too
            found = host.health()
    assert (found["waiting"], found["clients"], found["paired"]) == (0, 1, 1000)
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
    """3,000 clients at once hold names that nobody else brings, again and again."""
    host, peak = Host(), 0
    before = host.memory_kib()
    for burst in range(34):
        connections = [host.connect() for _ in range(3000)]
        for number, connection in enumerate(connections):
            connection.sendall(b"n%d-%d-%s" % (burst, number, b"x" * 80))
        peak = max(peak, host.memory_kib())
        for connection in connections:
            connection.close()
    deadline, found = time.monotonic() + 30, {"waiting": -1}
    while found["waiting"] and time.monotonic() < deadline:
        time.sleep(0.05)
        with suppress(ConnectionError):
            found = host.health()
    assert found["accepted"] + found["refused"] >= 100_000
    assert (found["waiting"], found["malformed"]) == (0, 0)
    assert max(peak, host.memory_kib()) - before < 100_000
    assert host.stop() == 0


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
