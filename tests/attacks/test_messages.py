"""Messages between ranks that come from somebody else, are changed, repeated, left out, moved, or too slow.

The two ranks meet through a proxy that knows the protocol, but not the run's secret. Each outcome has to be the
right value or an error in time, at each rank.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import fmi
import numpy as np
import psutil
import pytest
from fmi.handshake import Handshake, Pair
from fmi.messages import HEAD, PIECE, TAG, Purpose, Seal, opened
from fmi.punching import Greeting

from tests.unit.fmi_ranks import exactly, greeted, together
from tests.unit.rendezvous import Host

SECRET = b"of this run"
GREETING = {0: (36, 32, 32), 1: (36, 32)}  # bytes that each rank sends in the handshake
LARGE = 3 * PIECE // 8  # doubles of a message in three pieces
ATTACKS = 24  # of each kind
Change = Callable[[list[bytes]], list[bytes]]


class Proxied(fmi.Direct):
    """A rank that meets its peer on a given socket."""

    def __init__(self, rank: int, connection: socket.socket, size: int = 2) -> None:
        super().__init__(rank, size, "run", "127.0.0.1", 1, SECRET)
        self._connection = connection

    def _meet(self, peer: int, sender: int, deadline: fmi.Deadline) -> Any:
        if self._connection.fileno() < 0:
            raise fmi.PeerLost("the proxy makes one connection alone")
        pair = Pair(SECRET, self._name, self.rank, peer, self.size)
        return greeted(Greeting(self._connection, Handshake(pair), deadline))


def linked() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        return here, listener.accept()[0]


class Proxy:
    """Carries whole pieces of messages between two ranks; `change` is asked about those of rank `victim`.

    change: takes the pieces that came so far, the newest last, and gives what is sent in place of the newest.
    """

    def __init__(self, victim: int, change: Change, pause: float = 0.0) -> None:
        self._victim, self._change, self._pause = victim, change, pause
        (self.first, first), (self.second, second) = linked(), linked()
        self._ends = (first, second)
        self._threads = [threading.Thread(target=self._carry, args=(rank,), daemon=True) for rank in range(2)]
        for thread in self._threads:
            thread.start()

    def _carry(self, rank: int) -> None:
        source, target = self._ends[rank], self._ends[1 - rank]
        with suppress(OSError):
            for length in GREETING[rank]:
                target.sendall(exactly(source, length))
            pieces: list[bytes] = []
            left = 0  # bytes of the current message
            while True:
                head = b"" if left else exactly(source, HEAD)
                if not left and len(head) < HEAD:
                    break
                left = left or opened(head)[0]
                body = min(left, PIECE)
                pieces.append(head + exactly(source, body + TAG))
                left -= body
                self._pass_on(target, self._change(pieces) if rank == self._victim else pieces[-1:])
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_WR)

    def _pass_on(self, target: socket.socket, pieces: list[bytes]) -> None:
        for piece in pieces:
            if not self._pause:
                target.sendall(piece)
            for place in range(len(piece) if self._pause else 0):
                target.sendall(piece[place : place + 1])
                time.sleep(self._pause)

    def close(self) -> None:
        for end in (*self._ends, self.first, self.second):
            end.close()


def work(group: fmi.Group) -> list[float]:
    """Small and large messages in both directions; the sums of what this rank gets."""
    mine = np.full(LARGE, group.rank + 1.0)
    return [
        float(group.allreduce(np.array([group.rank + 1.0]), np.add)[0]),
        float(group.bcast(mine, 0).sum()),
        float(group.bcast(mine, 1).sum()),
        float(group.allreduce(mine, np.add).sum()),
        float(group.scan(np.array([2.0]), np.add)[0]),
    ]


RIGHT = [[3.0, LARGE, 2 * LARGE, 3 * LARGE, 2.0 * (rank + 1)] for rank in range(2)]


def outcomes(victim: int, change: Change, seconds: float = 1.0, pause: float = 0.0) -> list[Any]:
    proxy = Proxy(victim, change, pause)
    try:
        return together([Proxied(0, proxy.first), Proxied(1, proxy.second)], work, seconds)
    finally:
        proxy.close()


def at(place: int, change: Change) -> Change:
    """Leaves all pieces but one as they are."""
    return lambda pieces: change(pieces) if len(pieces) == place + 1 else pieces[-1:]


def flipped(piece: bytes, bit: int) -> bytes:
    data = bytearray(piece)
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(data)


def forged(pieces: list[bytes]) -> list[bytes]:
    """A message that is right except for its seal, which was made with another key."""
    body = np.array([7.0]).tobytes()
    head = Purpose(7, 2, 0, b"<f8").head(len(body))
    return [head + body + Seal(os.urandom(32)).tag(head, body)]


CHANGES: dict[str, Callable[[random.Random], Change]] = {
    "bit flip": lambda draw: lambda pieces: [flipped(pieces[-1], draw.randrange(8 * len(pieces[-1])))],
    "bit flip in the head": lambda draw: lambda pieces: [flipped(pieces[-1], draw.randrange(8 * HEAD))],
    "forged": lambda draw: forged,
    "forged before it": lambda draw: lambda pieces: [*forged(pieces), pieces[-1]],
    "replayed": lambda draw: lambda pieces: [draw.choice(pieces), pieces[-1]],
    "twice": lambda draw: lambda pieces: [pieces[-1], pieces[-1]],
    "in place of another": lambda draw: lambda pieces: [draw.choice(pieces[:-1] or [bytes(64)])],
    "left out": lambda draw: lambda pieces: [],
    "truncated": lambda draw: lambda pieces: [pieces[-1][: draw.randrange(len(pieces[-1]))]],
    "longer": lambda draw: lambda pieces: [pieces[-1] + draw.randbytes(draw.randrange(1, 99))],
    "cut in the middle": lambda draw: lambda pieces: [pieces[-1][:9] + pieces[-1][10:]],
    "another length": lambda draw: lambda pieces: [(3 << 30).to_bytes(8, "little") + pieces[-1][8:]],
    "any bytes": lambda draw: lambda pieces: [draw.randbytes(len(pieces[-1]))],
}


def _attacked(kind: str, seed: int) -> str | None:
    """What is wrong with the outcomes of one attack; None where nothing is."""
    draw = random.Random(f"{kind} {seed}")
    victim, place = draw.randrange(2), draw.randrange(9)
    began = time.monotonic()
    results = outcomes(victim, at(place, CHANGES[kind](draw)))
    if time.monotonic() - began > 20:  # several operations of a second at most, on a busy machine
        return f"{kind}, {seed}: took {time.monotonic() - began:.0f} s"
    for rank, result in enumerate(results):
        if result != RIGHT[rank] and not isinstance(result, fmi.FmiError):
            return f"{kind}, {seed}: rank {rank} has {result!r}"
    last = 7 - victim  # of its pieces; what follows it is read by nobody
    if results == RIGHT and place < last:
        return f"{kind}, {seed}: nobody noticed"
    return None


def test_no_changed_message_gives_a_wrong_value_or_a_hang() -> None:
    cases = [(kind, seed) for kind in CHANGES for seed in range(ATTACKS)]
    tracemalloc.start()
    with ThreadPoolExecutor(6) as pool:
        faults = [fault for fault in pool.map(lambda case: _attacked(*case), cases) if fault]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not faults
    assert peak < 6 * (40 << 20)  # of six runs at once, none of which has messages of more than 200 kB


def test_without_a_change_the_proxy_is_not_noticed() -> None:
    assert outcomes(0, lambda pieces: pieces[-1:], 20) == RIGHT


def test_a_message_of_another_connection_of_the_same_ranks_is_refused() -> None:
    recorded: list[bytes] = []

    def record(pieces: list[bytes]) -> list[bytes]:
        recorded[:] = pieces
        return pieces[-1:]

    assert outcomes(1, record, 20) == RIGHT
    first, second = outcomes(1, lambda pieces: [recorded[len(pieces) - 1]])
    assert isinstance(first, fmi.MessageMismatch)
    assert "a message was not sent by rank 1, or was changed on the way" in str(first)
    assert isinstance(second, fmi.FmiError)


def test_a_message_sent_back_to_its_sender_is_refused() -> None:
    ours, theirs = linked()
    rank = Proxied(0, ours)

    def mirror() -> None:
        shake = Handshake(Pair(SECRET, "run", 1, 0, 2))  # an honest handshake, then an echo
        greeted(Greeting(theirs, shake, fmi.Deadline(5)))
        theirs.setblocking(True)
        with suppress(OSError):
            while data := theirs.recv(4096):
                theirs.sendall(data)

    threading.Thread(target=mirror, daemon=True).start()
    group = fmi.Group(rank, 5)
    group.send(np.ones(1), 1)
    with pytest.raises(fmi.MessageMismatch, match="not sent by rank 1"):
        group.recv(np.ones(1), 1)
    rank.close()
    theirs.close()


def test_a_slow_drip_stretches_no_deadline() -> None:
    """Each byte comes long before the deadline, the last one long after it."""
    began = time.monotonic()
    results = outcomes(1, lambda pieces: pieces[-1:], seconds=0.5, pause=0.02)
    assert all(isinstance(result, fmi.FmiError) for result in results)
    assert any(isinstance(result, fmi.PeerTimeout) for result in results)
    assert time.monotonic() - began < 5


def test_a_slow_drip_of_a_handshake_stretches_no_deadline() -> None:
    ours, theirs = linked()
    began = time.monotonic()

    def drip() -> None:
        with suppress(OSError):
            for _ in range(200):
                theirs.sendall(b"C")
                time.sleep(0.05)

    threading.Thread(target=drip, daemon=True).start()
    with pytest.raises(fmi.FmiError):
        fmi.Group(Proxied(0, ours), 0.5).barrier()
    assert time.monotonic() - began < 5
    ours.close()
    theirs.close()


def test_ranks_of_worlds_of_different_sizes_say_so_on_both_sides(host: Host) -> None:
    """Worlds of 3 and 4 gave a wrong sum."""
    for smaller, larger in ((0, 1), (1, 0)):
        sizes = {smaller: 3, larger: 4}
        channels = [
            fmi.Direct(rank, sizes[rank], "sizes-", "127.0.0.1", host.port, SECRET) for rank in range(2)
        ]

        def pair(group: fmi.Group) -> Any:
            return group.send(np.ones(1), 1) if group.rank == 0 else group.recv(np.ones(1), 0)

        results = together(channels, pair, 10)
        assert all(isinstance(result, fmi.PeerRefused) for result in results)
        assert f"rank 0 is in a group of {sizes[0]} ranks and rank 1 in one of {sizes[1]}" in str(results[0])
        assert f"rank 1 is in a group of {sizes[1]} ranks and rank 0 in one of {sizes[0]}" in str(results[1])


DISAGREEMENTS: dict[str, Callable[[fmi.Group], Any]] = {
    "operations": lambda g: g.allreduce(np.ones(1), np.add) if g.rank else g.scan(np.ones(1), np.add),
    "a reduction and a broadcast": lambda g: g.reduce(np.ones(1), np.add) if g.rank else g.barrier(),
    "roots": lambda g: g.bcast(np.ones(1), g.rank),
    "roots of a reduction": lambda g: [g.reduce(np.ones(1), np.add, 0), g.bcast(np.ones(1), g.rank)],
    "types": lambda g: g.allreduce(np.ones(1, np.int64 if g.rank else np.float64), np.add),
    "lengths": lambda g: g.allreduce(np.ones(1 + g.rank), np.add),
    "order": lambda g: [g.barrier(), g.bcast(np.ones(1))] if g.rank else [g.bcast(np.ones(1)), g.barrier()],
}


@pytest.mark.parametrize("about", DISAGREEMENTS)
def test_ranks_that_disagree_get_an_error_on_both_sides(about: str, host: Host) -> None:
    name = f"{about.replace(' ', '-')}-"
    channels = [fmi.Direct(rank, 2, name, "127.0.0.1", host.port, SECRET) for rank in range(2)]

    def disagree(group: fmi.Group) -> Any:
        group.barrier()
        result = DISAGREEMENTS[about](group)
        time.sleep(0.5)  # a rank that only sends learns of it when it closes the group
        return result

    results = together(channels, disagree, 5)
    assert all(isinstance(result, fmi.FmiError) for result in results), results
    assert any(isinstance(result, fmi.MessageMismatch) for result in results), results


def _listening() -> set[int]:
    return {
        link.laddr.port for link in psutil.Process().net_connections("tcp") if link.status == psutil.CONN_LISTEN
    }


STRANGERS = {
    "silent": b"",
    "garbage": bytes(range(256)),
    "a hello": b"CFMI" + b"\2\0\0\0" + bytes(28),
    "a hello and a proof": b"CFMI" + b"\2\0\0\0" + bytes(28 + 32),
    "HTTP": b"GET / HTTP/1.1\r\nHost: rank\r\n\r\n",
}


def test_strangers_at_the_punch_port_end_no_operation(host: Host) -> None:
    """They come before the partner does, and continue to come."""
    before = _listening()
    channels = [fmi.Direct(rank, 2, "strangers-", "127.0.0.1", host.port, SECRET) for rank in range(2)]
    come: list[socket.socket] = []
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fmi.Group(channels[0], 20).allreduce, np.ones(1), np.add)
        while not (ports := _listening() - before):
            time.sleep(0.01)
        for content in list(STRANGERS.values()) * 8:
            stranger = socket.create_connection(("127.0.0.1", min(ports)), 5)
            stranger.sendall(content)
            come.append(stranger)
        began = time.monotonic()
        second = pool.submit(fmi.Group(channels[1], 20).allreduce, np.ones(1), np.add)
        assert first.result()[0] == second.result()[0] == 2.0
    assert time.monotonic() - began < 5
    for each in (*channels, *come):
        each.close()


@pytest.mark.parametrize("store", ["redis_client", "s3_client"])
def test_a_forged_message_in_a_store_is_refused(store: str, request: pytest.FixtureRequest) -> None:
    client, name = request.getfixturevalue(store), f"run-{os.urandom(4).hex()}"

    def group(rank: int, secret: bytes) -> fmi.Group:
        made: Any = (
            fmi.Redis(rank, 2, name, client, secret)
            if store == "redis_client"
            else fmi.S3(rank, 2, name, client, "fmi", secret=secret)
        )
        return fmi.Group(made, 5)

    reader, sender, forger = group(1, SECRET), group(0, SECRET), group(0, b"a guess")
    sender.send(np.array([1.5]), 1)
    assert reader.recv(np.zeros(1), 0).tolist() == [1.5]
    forger.send(np.array([0.0]), 1)  # takes the first place, which was read already
    forger.send(np.array([9.9]), 1)
    with pytest.raises(
        fmi.MessageMismatch, match=r"the message 0_1_1 was not written by rank 0, or was changed"
    ):
        reader.recv(np.zeros(1), 0)


def test_a_communicator_closes_all_of_its_channels_and_then_says_what_was_wrong(host: Host) -> None:
    channels = [fmi.Direct(rank, 2, "closing-", "127.0.0.1", host.port, SECRET) for rank in range(2)]
    double = fmi.types(fmi.datatypes.double)

    def rank(channel: fmi.Channel) -> Any:
        communicator = fmi.Communicator.over(channel)
        communicator.barrier()
        communicator.bcast(1.0, channel.rank, double)  # each thinks that it is the root
        time.sleep(0.3)
        try:
            communicator.close()
        except fmi.MessageMismatch as error:
            return str(error)
        return None

    with ThreadPoolExecutor(2) as pool:
        messages = list(pool.map(rank, channels))
    assert messages == [
        "rank 1 sent bcast of <f8 with root 1 among 2 ranks, which rank 0 has not read",
        "rank 0 sent bcast of <f8 with root 0 among 2 ranks, which rank 1 has not read",
    ]
