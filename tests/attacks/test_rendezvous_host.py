"""What strangers, broken ranks and scanners do to the rendezvous host, and what it tells its clients."""

from __future__ import annotations

import hmac
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import fmi
import numpy as np
import pytest

from rendezvous.server import End
from tests.unit.fmi_ranks import exactly, together
from tests.unit.rendezvous import Host, interpreter

VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
SECRET = b"of this run"
MIB = 1 << 20


@pytest.fixture
def closed_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rank gets through to another, so that all pairs need the relay."""
    monkeypatch.setattr("fmi.direct.PUNCH_SECONDS", 0.2)
    monkeypatch.setattr("fmi.punching._dialled", lambda own, address: None)


@pytest.fixture
def started() -> Iterator[Callable[..., Host]]:
    """Starts hosts, and ends those that still run at the end."""
    hosts: list[Host] = []

    def start(*options: str, python: str | None = None) -> Host:
        hosts.append(Host(0, *options) if python is None else Host(0, *options, python=python))
        return hosts[-1]

    yield start
    for host in hosts:
        if host.process.poll() is None:
            host.stop()


@pytest.fixture(params=VERSIONS)
def python(request: pytest.FixtureRequest) -> str:
    command = interpreter(request.param)
    if command is None:
        pytest.skip(f"this Python is not on the machine: {request.param}")
    return command


_clients: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _no_client_is_left() -> Iterator[None]:
    yield
    for client in _clients:
        client.close()
    _clients.clear()


def connected(host: Host) -> socket.socket:
    """A client of the host, which is closed at the end of the test."""
    _clients.append(host.connect())
    return _clients[-1]


def pair(host: Host, name: str = "relayed-") -> list[fmi.Direct]:
    return [fmi.Direct(rank, 2, name, "127.0.0.1", host.port, SECRET, host.relay_key) for rank in range(2)]


def total(group: fmi.Group) -> float:
    return float(group.allreduce(np.array([group.rank + 1.0]), np.add)[0])


def asked(host: Host, role: bytes, name: bytes) -> tuple[socket.socket, bytes, bytes]:
    """A connection that has asked for a relay; what was sent, and the host's challenge."""
    connection, request = connected(host), b"\x03" + role + name
    connection.sendall(request)
    challenge = exactly(connection, 18)
    assert challenge[:2] == b"\0\x10"
    return connection, request, challenge[2:]


def proof(key: bytes, request: bytes, challenge: bytes) -> bytes:
    return hmac.digest(key, request + challenge, "sha256")


def admitted(host: Host, role: bytes, name: bytes) -> socket.socket:
    """A client that knows the relay key: a rank of the team that is broken, or was taken over."""
    connection, request, challenge = asked(host, role, name)
    connection.sendall(proof(host.key, request, challenge))
    return connection


def relayed(host: Host, name: bytes) -> tuple[socket.socket, socket.socket]:
    """Both ends of a relay that has begun."""
    ends = admitted(host, b"L", name), admitted(host, b"H", name)
    for end in ends:
        assert exactly(end, 3) == b"\0\x01\x01"
    return ends


def why(connection: socket.socket) -> tuple[End, int]:
    """What the host says at the end, after whatever it has relayed."""
    connection.settimeout(20)
    while length := int.from_bytes(exactly(connection, 2), "big"):
        exactly(connection, length)
    code, value = struct.unpack("!BQ", exactly(connection, 9))
    return End(code), value


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def eventually(host: Host, **expected: Any) -> None:
    deadline = time.monotonic() + 20
    while {name: (health := host.health())[name] for name in expected} != expected:
        assert time.monotonic() < deadline, (expected, health)
        time.sleep(0.05)


def test_nobody_relays_without_the_hosts_key(started: Callable[..., Host], closed_networks: None) -> None:
    """Guessed keys, and proofs of another connection, role and name; 300 of each kind, more than slots."""
    host = started()
    honest, request, challenge = asked(host, b"L", b"overheard")
    heard = proof(host.key, request, challenge)
    honest.sendall(heard)
    proofs: dict[str, Callable[[bytes, bytes], bytes]] = {
        "guessed": lambda request, challenge: proof(os.urandom(32), request, challenge),
        "no key": lambda request, challenge: proof(b"", request, challenge),
        "replayed": lambda request, challenge: heard,
        "of the other role": lambda request, challenge: proof(host.key, b"\x03H" + request[2:], challenge),
        "of another name": lambda request, challenge: proof(host.key, request + b"x", challenge),
        "silent": lambda request, challenge: b"",
        "half": lambda request, challenge: proof(host.key, request, challenge)[:31],
    }
    for kind, make in proofs.items():
        for _ in range(300):
            stranger, request, challenge = asked(host, b"H" if kind == "replayed" else b"L", b"overheard")
            stranger.sendall(made := make(request, challenge))
            if len(made) == 32:
                assert why(stranger) == (End.WRONG_KEY, 0), kind
    assert together(pair(host), total) == [3.0, 3.0]
    health = host.health()
    assert (health["relayed"], health["relays_refused"]) == (1, 1500)


def test_ranks_that_do_not_read_hold_no_slot_and_no_memory(
    started: Callable[..., Host], closed_networks: None
) -> None:
    """256 relays, all there are, whose 512 clients send without end and read nothing."""
    host = started("--relay-stall-seconds", "3", "--relays-per-address", "256")
    before = host.memory_kib()
    stop = threading.Event()
    ends = [end for number in range(256) for end in relayed(host, b"deaf-%d" % number)]

    def flood() -> None:
        data = bytes(1 << 16)
        for end in ends:
            end.setblocking(False)
        while not stop.is_set():
            for end in ends:
                with suppress(OSError):
                    end.send(data)
            stop.wait(0.05)

    resident = queued = 0
    sender = threading.Thread(target=flood)
    sender.start()
    try:
        deadline = time.monotonic() + 60
        while host.health()["relays"]:
            resident, queued = max(resident, host.memory_kib()), max(queued, host.queued_bytes())
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        stop.set()
        sender.join()
    print(f"at most {(resident - before) / 1024:.0f} MiB resident, {queued / MIB:.0f} MiB in the kernel")
    assert resident - before < 100 * 1024
    assert queued < 64 * MIB
    assert together(pair(host), total) == [3.0, 3.0]
    for end in ends:
        end.close()
    eventually(host, clients=1, relays=0)


def much(group: fmi.Group) -> None:
    """400 kB from rank 0 to rank 1, and an answer."""
    group.bcast(np.ones(50_000))
    group.barrier()


def with_a_pause(group: fmi.Group) -> None:
    group.barrier()
    time.sleep(2.5)
    group.barrier()


def with_a_late_reader(group: fmi.Group) -> None:
    group.barrier()
    if group.rank:
        time.sleep(2)
    much(group)


LIMITS = [
    ("relay-bytes", 100_000, much, "bytes through one relay in one direction"),
    ("relay-bytes-per-hour", 100_000, much, "bytes through all relays in an hour"),
    ("relay-idle-seconds", 1, with_a_pause, "s without a byte"),
    ("relay-stall-seconds", 1, with_a_late_reader, "s for a rank to take what was sent to it"),
]


@pytest.mark.parametrize(("option", "value", "work", "words"), LIMITS, ids=[option for option, *_ in LIMITS])
def test_a_limit_that_ends_a_relay_is_told_to_both_ranks(
    started: Callable[..., Host],
    closed_networks: None,
    option: str,
    value: int,
    work: Callable[[fmi.Group], None],
    words: str,
) -> None:
    host = started(f"--{option}", str(value))
    message = f"the rendezvous host's limit of {value} {words} is reached"
    setting = f"set its option --{option}, in Terraform rendezvous.limits.{option.replace('-', '_')}"
    for rank, error in enumerate(together(pair(host), work)):
        assert isinstance(error, fmi.RelayRefused), error
        late = work is with_a_late_reader and rank == 1
        if not (late and "without a reason" in str(error)):  # its buffers may have had no room for the word
            assert message in str(error)
            assert setting in str(error)
        assert f"rank {rank}: relay to rank {1 - rank}:" in str(error)
        assert "left" not in str(error)
    eventually(host, relays=0, relays_cut=1)


@pytest.mark.parametrize(
    ("option", "words"),
    [("relays", "1 relays at once is"), ("relays-per-address", "1 relays at once for one address is")],
)
def test_a_relay_for_which_there_is_no_slot_is_refused_with_the_limit(
    started: Callable[..., Host], closed_networks: None, option: str, words: str
) -> None:
    host = started(f"--{option}", "1")
    first, second = relayed(host, b"first")
    for error in together(pair(host), total, seconds=1.5):
        assert isinstance(error, fmi.PeerTimeout)
        assert f"limit of {words} reached; to raise it, set its option --{option}," in str(error)
    first.close()
    assert why(second) == (End.LEFT, 0)
    second.close()
    assert together(pair(host), total) == [3.0, 3.0]  # the slot is free again


def test_what_is_wrong_with_the_key_is_told(started: Callable[..., Host], closed_networks: None) -> None:
    def unreadable() -> bytes:
        raise fmi.RelayRefused("s3://team3/.cosmicai/relay-key could not be read: NoSuchKey")

    host, keyless = started(), started("--relay-key-file", "/nowhere")
    assert (host.health()["relaying"], keyless.health()["relaying"]) == (True, False)
    cases: list[tuple[Host, Callable[[], bytes], str]] = [
        (keyless, keyless.relay_key, "it has no relay key; start it with --relay-key-file"),
        (host, lambda: os.urandom(32), "its relay key is not the one that this rank has read"),
        (host, unreadable, "s3://team3/.cosmicai/relay-key could not be read: NoSuchKey"),
    ]
    for where, key, words in cases:
        channels = [fmi.Direct(rank, 2, "key-", "127.0.0.1", where.port, SECRET, key) for rank in range(2)]
        for error in together(channels, total, seconds=1.5):
            assert isinstance(error, fmi.PeerTimeout)
            assert words in str(error)


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


def test_a_peer_that_leaves_is_named(started: Callable[..., Host], closed_networks: None) -> None:
    def work(group: fmi.Group) -> None:
        group.barrier()
        if group.rank == 0:
            group.recv(np.empty(1), 1)

    left, outcome = together(pair(started()), work)
    assert isinstance(left, fmi.PeerLost)
    assert "rank 1 left" in str(left)
    assert outcome is None


def test_a_peer_cannot_speak_for_the_host(started: Callable[..., Host]) -> None:
    """What it sends is data, whatever it looks like; 1 to 100,000 bytes, as they come."""
    first, second = relayed(started(), b"forger")
    forged = b"\0\0" + struct.pack("!BQ", End.RELAY_BYTES, 7) + b"\0\x01\x01"
    for times in (1, 100, 7000):
        first.sendall(forged * times)
        received = b""
        while len(received) < len(forged) * times:
            length = int.from_bytes(exactly(second, 2), "big")
            assert length
            received += exactly(second, length)
        assert received == forged * times
    first.close()
    assert why(second) == (End.LEFT, 0)
    second.close()


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
