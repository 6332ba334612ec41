"""How two ranks greet each other: bytes in, bytes out, and no socket.

Both send a hello with a challenge. Each then sends a proof, an HMAC over both hellos with the run's secret,
which shows that it knows the secret. Only then are the hellos read: ranks that disagree about who they are or
how many there are get an error on both sides. Finally the lower rank confirms, because a pair may greet on two
connections at once and both ranks must choose the same one. The higher rank sends its proof after the lower
one's, so it knows that it is waiting for its peer and not for a stranger. The confirmation may take long to
arrive, while the lower rank already uses the connection. The keys of the messages that follow are derived from
the secret and both challenges, one for each direction, so that no message of another connection or direction is
accepted.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple

from .errors import FmiError, PeerRefused

VERSION = 2
_HELLO = struct.Struct("<4sIIII16s")  # magic, version, my rank, your rank, world size, challenge
_MAGIC = b"CFMI"
_PROOF = hashlib.sha256().digest_size


class Stranger(FmiError):
    """Whoever connected does not know the run's secret; the peer itself may still come."""


class Keys(NamedTuple):
    """The keys of one connection's messages, 32 bytes each."""

    sending: bytes
    receiving: bytes


@dataclass(frozen=True)
class Pair:
    """Rank `rank` of `size`, which meets rank `peer` in the group `name` and shares `secret` with it."""

    secret: bytes
    name: str
    rank: int
    peer: int
    size: int


class Handshake:
    """One side of the handshake. outgoing: bytes to send; missing: how many to receive next, 0 at its end.

    in_doubt: whether the peer, which has proven itself, may already use the connection.
    """

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self.outgoing = bytearray()
        self.missing = 0
        self.in_doubt = False
        self.keys: Keys | None = None
        self._received = bytearray()
        self._steps = self._run()
        self.missing = next(self._steps)

    def receive(self, data: bytes) -> None:
        """Accepts at most `missing` bytes. Raises Stranger, or PeerRefused for a peer that disagrees: bytes
        that are then left in `outgoing` tell the peer so.
        """
        self._received += data
        self.missing -= len(data)
        if not self.missing:
            step, self._received = bytes(self._received), bytearray()
            try:
                self.missing = self._steps.send(step)
            except StopIteration:
                self.missing = 0

    def _run(self) -> Generator[int, bytes, None]:
        """Yields how many bytes it needs next."""
        pair = self._pair
        mine = _HELLO.pack(_MAGIC, VERSION, pair.rank, pair.peer, pair.size, os.urandom(16))
        self.outgoing += mine
        theirs = yield _HELLO.size
        magic, version, *_ = _HELLO.unpack(theirs)
        if magic != _MAGIC or version != VERSION:
            raise Stranger(f"{self._who} does not speak version {VERSION} of this protocol")
        proof = self._mac(b"proof", mine, theirs)
        if pair.rank < pair.peer:
            self.outgoing += proof
        if not hmac.compare_digest((yield _PROOF), self._mac(b"proof", theirs, mine)):
            raise Stranger(f"{self._who} does not know this run's secret")
        if pair.rank < pair.peer:
            self._check(theirs)
            self.outgoing += self._mac(b"taken", mine, theirs)
        else:
            self.outgoing += proof
            self._check(theirs)
            self.in_doubt = True
            if not hmac.compare_digest((yield _PROOF), self._mac(b"taken", theirs, mine)):
                raise Stranger(f"{self._who} does not know this run's secret")
            self.in_doubt = False
        self.keys = Keys(self._mac(b"messages", mine, theirs), self._mac(b"messages", theirs, mine))

    @property
    def _who(self) -> str:
        return f"rank {self._pair.rank}: the process that answered for rank {self._pair.peer}"

    def _check(self, hello: bytes) -> None:
        pair = self._pair
        _, _, rank, to, size, _ = _HELLO.unpack(hello)
        if (rank, to) != (pair.peer, pair.rank):
            raise PeerRefused(f"{self._who} says it is rank {rank} and looks for rank {to}")
        if size != pair.size:
            raise PeerRefused(
                f"rank {pair.rank} is in a group of {pair.size} ranks and rank {pair.peer} in one of {size}; "
                "give all ranks the same number of ranks"
            )

    def _mac(self, purpose: bytes, first: bytes, second: bytes) -> bytes:
        content = b"\0".join((purpose, self._pair.name.encode(), first + second))
        return hmac.digest(self._pair.secret, content, "sha256")
