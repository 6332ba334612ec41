"""Messages on one connection: how much memory they take, and two at once."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import fmi
import numpy as np
import pytest
from fmi.channel import Traffic
from fmi.connection import Sealed, Stream
from fmi.handshake import Keys
from fmi.messages import HEAD, PIECE, TAG

from .fmi_ranks import exactly

MIB = 1 << 20
PURPOSE = fmi.Purpose(7, 2, 0, b"|u1")
SIZES = (0, 1, 4096, 4097, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 5, 5 * MIB)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        first = socket.create_connection(listener.getsockname())
        second = listener.accept()[0]
    with first, second:
        yield first, second


def _sealed(connection: socket.socket, rank: int) -> Stream:
    keys = Keys(b"a" * 32, b"b" * 32) if rank == 0 else Keys(b"b" * 32, b"a" * 32)
    return Sealed(connection, rank, 1 - rank, keys, Traffic())


def _content(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def test_messages_of_all_sizes_come_as_they_were_sent_alone_and_one_after_the_other(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """Also where the next message is already there while one is being received."""
    sender, receiver = _sealed(ends[0], 0), _sealed(ends[1], 1)
    contents = [_content(size, place) for place, size in enumerate(SIZES * 2)]

    def send() -> None:
        for content in contents:
            sender.send(content, PURPOSE, fmi.Deadline(20))

    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send)
        for content in contents:
            assert receiver.recv(PURPOSE, len(content), fmi.Deadline(20)) == content
        sent.result()


def test_a_received_message_is_held_once(ends: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = _sealed(ends[0], 0), _sealed(ends[1], 1)
    content = _content(32 * MIB, 0)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(sender.send, content, PURPOSE, fmi.Deadline(20))
        tracemalloc.start()
        received = receiver.recv(PURPOSE, len(content), fmi.Deadline(20))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        sent.result()
    assert received == content
    assert peak < 33 * MIB


@pytest.mark.parametrize("size", SIZES)
def test_two_ranks_exchange_messages_of_all_sizes(ends: tuple[socket.socket, socket.socket], size: int) -> None:
    streams, contents = (
        [_sealed(end, rank) for rank, end in enumerate(ends)],
        [_content(size, rank) for rank in range(2)],
    )
    with ThreadPoolExecutor(2) as pool:
        received = list(
            pool.map(lambda rank: streams[rank].exchange(contents[rank], PURPOSE, fmi.Deadline(20)), range(2))
        )
    assert received == contents[::-1]


def test_in_an_exchange_neither_rank_waits_for_the_others_message_to_send_its_own(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """The lower rank, too, sends its first piece although its peer has sent nothing yet."""
    ours = _content(3 * PIECE, 0)
    exchanging = threading.Thread(
        target=lambda: _sealed(ends[0], 0).exchange(ours, PURPOSE, fmi.Deadline(20)), daemon=True
    )
    exchanging.start()
    ends[1].settimeout(20)
    first = exactly(ends[1], HEAD + PIECE + TAG)
    assert first[HEAD:-TAG] == ours[:PIECE]
    _sealed(ends[1], 1).send(ours, PURPOSE, fmi.Deadline(20))
    exchanging.join(20)
    assert not exchanging.is_alive()
