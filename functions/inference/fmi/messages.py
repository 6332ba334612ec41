"""Messages as bytes: a head that says what a message is for, and seals that nobody without the key can make.

A sealed message is its head and its body in pieces of at most PIECE bytes, each with a tag: a keyed BLAKE2b
(RFC 7693, a MAC by itself) of the piece's number on this connection and its bytes. So a reader believes a piece
before it looks at it, holds no more than one piece that is not proven, and notices what was changed, repeated,
left out or moved. Messages are authenticated, not encrypted.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import NamedTuple

from .errors import MessageMismatch

PIECE = 1 << 16  # bytes of a body under one tag
TAG = 16  # bytes
LARGEST = 1 << 32  # bytes of a message; more is no message of ours
OPERATIONS = (
    "a message", "send", "bcast", "barrier", "gather", "scatter", "reduce", "allreduce", "scan", "a refusal",
)  # fmt: skip
REFUSAL = OPERATIONS.index("a refusal")
_HEAD = struct.Struct("<QIIB7s")  # bytes of the body, world size, root, operation, type of the values
HEAD = _HEAD.size
Bytes = bytes | bytearray | memoryview


class Purpose(NamedTuple):
    """What a message is part of: the operation's place in OPERATIONS, the group's size, the root's rank.

    values: numpy's name of their type, such as b"<f8"; empty where the bytes are no array.
    """

    operation: int
    size: int
    root: int = 0
    values: bytes = b""

    def __str__(self) -> str:
        known = self.operation < len(OPERATIONS)
        name = OPERATIONS[self.operation] if known else f"operation {self.operation}"
        values = f" of {self.values.decode(errors='replace')}" if self.values else ""
        return f"{name}{values} with root {self.root} among {self.size} ranks"

    def head(self, length: int) -> bytes:
        return _HEAD.pack(length, self.size, self.root, self.operation, self.values)


def opened(head: Bytes) -> tuple[int, Purpose]:
    """The length of a message's body, and what it is for."""
    length, size, root, operation, values = _HEAD.unpack_from(head)
    return int(length), Purpose(operation, size, root, values.rstrip(b"\0"))


class Seal:
    """Tags for one direction of one connection; both sides count its pieces from 0."""

    def __init__(self, key: bytes) -> None:
        self._keyed = hashlib.blake2b(key=key, digest_size=TAG)
        self._pieces = 0

    def tag(self, *parts: Bytes) -> bytes:
        """Of the next piece."""
        mac = self._keyed.copy()
        mac.update(self._pieces.to_bytes(8, "little"))
        for part in parts:
            mac.update(part)
        self._pieces += 1
        return mac.digest()

    def proves(self, tag: Bytes, *parts: Bytes) -> bool:
        """Whether `tag` is that of the next piece."""
        return hmac.compare_digest(tag, self.tag(*parts))


class Expected(NamedTuple):
    """The message that `rank` waits for from `peer`; length: of its body, None for any."""

    purpose: Purpose
    rank: int
    peer: int
    length: int | None

    def check(self, head: Bytes) -> int:
        """The length in the head; MessageMismatch where two ranks are not in the same operation."""
        length, purpose = opened(head)
        if purpose != self.purpose:
            raise MessageMismatch(f"rank {self.rank} is in {self.purpose}; rank {self.peer} is in {purpose}")
        most = LARGEST if self.length is None else self.length
        if length > most or self.length not in (None, length):
            at_most = "at most " if self.length is None else ""
            raise MessageMismatch(
                f"rank {self.peer} sent {length} bytes in {purpose}; rank {self.rank} expected {at_most}{most}"
            )
        return length
