"""Messages as bytes: a head with a message's purpose, and seals that nobody can make without the key.

A sealed message is its head and its body in pieces of at most PIECE bytes, each with a tag: a keyed BLAKE2b
(RFC 7693, a MAC by itself) of the piece's number on this connection, its length, the head and the bytes. For
long pieces the SHA-256 of the bytes is sealed instead, which processors compute faster. So a reader verifies
each piece before it uses it, never holds more than one unverified piece, and detects pieces that were changed,
repeated, left out or moved. Messages are authenticated, not encrypted.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import NamedTuple

from .errors import MessageMismatch

PIECE = 1 << 16  # bytes of a body under one tag
TAG = 16  # bytes
LARGEST = 1 << 32  # bytes of a message; none of ours is larger
OPERATIONS = (
    "a message", "send", "bcast", "barrier", "gather", "scatter", "reduce", "allreduce", "scan", "a refusal",
)  # fmt: skip
REFUSAL = OPERATIONS.index("a refusal")
LENGTH = 8  # bytes of a head that hold the length of its body; the others are the purpose
_PURPOSE = struct.Struct("<IIB7s")  # world size, root, operation, type of the values
HEAD = LENGTH + _PURPOSE.size
OPERATION = LENGTH + 8  # the place of its byte in a head
_COUNTS = struct.Struct("<QI").pack  # a piece's number, and its body's bytes
_MANY = 1024  # bytes of a body from which its SHA-256 is sealed instead
Bytes = bytes | bytearray | memoryview


class Purpose:
    """The operation that a message belongs to.

    operation: its index in OPERATIONS; size: of the group; root: the root's rank; values: numpy's name of their
    type, such as b"<f8"; empty if the bytes are not an array. packed: all of that, as it is in a head.
    """

    __slots__ = ("packed",)

    def __init__(self, operation: int, size: int, root: int = 0, values: bytes = b"") -> None:
        self.packed = _PURPOSE.pack(size, root, operation, values)

    def __str__(self) -> str:
        size, root, operation, values = _PURPOSE.unpack(self.packed)
        name = OPERATIONS[operation] if operation < len(OPERATIONS) else f"operation {operation}"
        kind = values.rstrip(b"\0").decode(errors="replace")
        return f"{name}{f' of {kind}' if kind else ''} with root {root} among {size} ranks"

    def head(self, length: int) -> bytes:
        return length.to_bytes(LENGTH, "little") + self.packed


def opened(head: Bytes) -> tuple[int, Purpose]:
    """The length of a message's body, and its purpose."""
    purpose = Purpose.__new__(Purpose)
    purpose.packed = bytes(head[LENGTH:HEAD])
    return int.from_bytes(head[:LENGTH], "little"), purpose


class Seal:
    """Tags for one direction of one connection; both sides count its pieces from 0."""

    def __init__(self, key: bytes) -> None:
        self._keyed = hashlib.blake2b(key=key, digest_size=TAG)
        self._pieces = 0

    def tag(self, head: Bytes, body: Bytes) -> bytes:
        """The tag of the next piece; head: empty except for a message's first piece."""
        length, number = len(body), self._pieces
        self._pieces = number + 1
        mac = self._keyed.copy()
        digest = body if length < _MANY else hashlib.sha256(body).digest()
        mac.update(b"".join((_COUNTS(number, length), head, digest)))
        return mac.digest()

    def proves(self, tag: Bytes, head: Bytes, body: Bytes) -> bool:
        """Whether `tag` is the tag of the next piece."""
        return hmac.compare_digest(tag, self.tag(head, body))


class Expected(NamedTuple):
    """The message that `rank` waits for from `peer`; length: of its body, None for any."""

    purpose: Purpose
    rank: int
    peer: int
    length: int | None

    def check(self, head: Bytes) -> int:
        """The length in the head. Raises MessageMismatch if the two ranks are not in the same operation."""
        length, purpose = opened(head)
        if purpose.packed != self.purpose.packed:
            raise MessageMismatch(f"rank {self.rank} is in {self.purpose}; rank {self.peer} is in {purpose}")
        most = LARGEST if self.length is None else self.length
        if length > most or self.length not in (None, length):
            at_most = "at most " if self.length is None else ""
            raise MessageMismatch(
                f"rank {self.peer} sent {length} bytes in {purpose}; rank {self.rank} expected {at_most}{most}"
            )
        return length
