"""What strangers and broken ranks do to the rendezvous host, and what it tells its clients."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import fmi
import numpy as np
import pytest

from rendezvous.server import End
from tests.unit.fmi_ranks import exactly, together
from tests.unit.rendezvous import Host

from .relay_clients import SECRET, asked, eventually, pair, proof, relayed, total, why

MIB = 1 << 20


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
