"""A relay on the rendezvous host: how a rank is admitted, and how it learns why the relay ends.

The host sends the peer's bytes in frames, so that it can also send the reason when a limit ends the relay;
functions/rendezvous/server.py describes the protocol. The bytes that a rank sends are not framed.
"""

from __future__ import annotations

import enum
import hmac
import select
import socket
import struct
from collections.abc import Generator, Iterable
from typing import Any

from .channel import Deadline
from .errors import PeerLost, RelayRefused
from .handshake import Handshake
from .punching import Address, Greeting, writable

_CHALLENGE = 16  # bytes
_LENGTH = 2  # bytes of a frame's head
_END = struct.Struct("!BQ")  # why, and the limit that was reached
_BEGUN = b"\x01"


class End(enum.IntEnum):
    """Why the host ends a relay or does not begin one; functions/rendezvous/server.py has the same numbers."""

    LEFT = 1
    NO_KEY = 2
    WRONG_KEY = 3
    RELAYS = 4
    RELAYS_PER_ADDRESS = 5
    RELAY_BYTES = 6
    RELAY_BYTES_PER_HOUR = 7
    RELAY_IDLE_SECONDS = 8
    RELAY_STALL_SECONDS = 9


_REFUSALS = {
    End.NO_KEY: "it has no relay key; start it with --relay-key-file",
    End.WRONG_KEY: "its relay key is not the one that this rank has read: it makes a new one at each start, "
    "and the key of a host that somebody else runs must be put into the team's bucket",
}
_LIMITS = {
    End.RELAYS: "{} relays at once",
    End.RELAYS_PER_ADDRESS: "{} relays at once for one address",
    End.RELAY_BYTES: "{} bytes through one relay in one direction",
    End.RELAY_BYTES_PER_HOUR: "{} bytes through all relays in an hour",
    End.RELAY_IDLE_SECONDS: "{} s without a byte",
    End.RELAY_STALL_SECONDS: "{} s for a rank to take what was sent to it",
}


class Relayed(socket.socket):
    """A connection to the host that asks for a relay, and is used like one to the peer. who: for errors.

    Receiving returns the peer's bytes, or b"" after the peer has closed. Receiving and sending raise
    RelayRefused if the host ends the relay.
    """

    def __init__(self, who: str) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self._who = who
        self._head = bytearray()  # of the next frame, as far as it has come
        self._left = 0  # bytes of the current frame
        self._peer_left = False
        self._early = bytearray()  # bytes of the peer that were received while sending

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        data = bytearray(bufsize)
        return bytes(data[: self.recv_into(data, 0, flags)])

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        if self._early:
            return self._take_early(memoryview(buffer))
        if not self._left:
            self._next_frame(flags)
        if self._peer_left:
            return 0
        count = super().recv_into(memoryview(buffer)[: self._left], 0, flags)
        if not count:
            raise self._broken()
        self._left -= count
        return count

    def send(self, data: Any, flags: int = 0, /) -> int:
        return self.sendmsg((data,), (), flags)

    def sendmsg(self, buffers: Iterable[Any], *more: Any) -> int:
        try:
            return super().sendmsg(buffers, *more)
        except (BlockingIOError, InterruptedError):
            raise
        except OSError:
            self._look_for_end()
            raise

    def _next_frame(self, flags: int) -> None:
        """Receives a frame's head, if necessary in several calls. Raises RelayRefused if the relay ends."""
        length = self._received(_LENGTH, flags)
        self._left = int.from_bytes(length, "big")
        if self._left:
            self._head.clear()
            return
        code, value = _END.unpack(self._received(_LENGTH + _END.size, flags)[_LENGTH:])
        if code != End.LEFT:
            raise RelayRefused(f"{self._who} {_reason(code, value)}")
        self._peer_left = True

    def _received(self, length: int, flags: int) -> bytes:
        """The first `length` bytes of the head, once they are there."""
        while len(self._head) < length:
            piece = super().recv(length - len(self._head), flags)
            if not piece:
                raise self._broken()
            self._head += piece
        return bytes(self._head[:length])

    def _look_for_end(self) -> None:
        """After sending has failed: raises RelayRefused if the host has sent the reason.

        What the peer sent before is kept: it may say why the peer has closed.
        """
        self.setblocking(False)
        early, data = bytearray(), bytearray(1 << 16)
        try:
            while count := self.recv_into(data):
                early += data[:count]
        except OSError:
            pass
        self._early += early

    def _take_early(self, into: memoryview) -> int:
        count = min(len(into), len(self._early))
        into[:count] = self._early[:count]
        del self._early[:count]
        return count

    def _broken(self) -> RelayRefused:
        return RelayRefused(
            f"{self._who} the rendezvous host ended it without a reason: it is full or was stopped, or this "
            "rank has asked again, or did not read what was sent to it"
        )


class Admission(Greeting):
    """A greeting through the relay of the host at `address`.

    Before the two ranks greet, it proves to the host that this rank knows the host's key, and waits for the
    peer. request: the bytes that ask the host for the relay. Its `advance` also raises RelayRefused.
    """

    def __init__(
        self, address: Address, request: bytes, key: bytes, handshake: Handshake, until: Deadline, who: str
    ) -> None:
        super().__init__(Relayed(who), handshake, until)
        self._who = who
        self._steps = self._admitted(request, key)
        self._waits_for = select.POLLOUT  # 0 once the peer is there
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(address)  # its failure shows when the request is sent

    @property
    def ended(self) -> bool:
        return not self._waits_for and super().ended

    @property
    def events(self) -> int:
        return self._waits_for or super().events

    def advance(self) -> None:
        if self._waits_for:
            self._waits_for = next(self._steps, 0)
        if not self._waits_for:
            super().advance()

    def _admitted(self, request: bytes, key: bytes) -> Generator[int, None, None]:
        """Yields the events that poll() should wait for before it continues."""
        while not writable(self.socket):
            yield select.POLLOUT
        self.socket.sendall(request)
        challenge = yield from self._exactly(_CHALLENGE)
        self.socket.sendall(hmac.digest(key, request + challenge, "sha256"))
        if (yield from self._exactly(len(_BEGUN))) != _BEGUN:
            raise RelayRefused(f"{self._who} the rendezvous host speaks another version of this protocol")

    def _exactly(self, length: int) -> Generator[int, None, bytes]:
        data = b""
        while len(data) < length:
            try:
                piece = self.socket.recv(length - len(data))
            except (BlockingIOError, InterruptedError):
                yield select.POLLIN
                continue
            if not piece:
                raise PeerLost(f"{self._who} the peer left before it began")
            data += piece
        return data


def _reason(code: int, value: int) -> str:
    end = next((end for end in End if end == code), None)
    if end is None or end not in _LIMITS:
        unknown = f"for the reason {code}, which this version does not know"
        return f"the rendezvous host does not relay: {unknown if end is None else _REFUSALS[end]}"
    name = end.name.lower()
    return (
        f"the rendezvous host's limit of {_LIMITS[end].format(value)} is reached; to raise it, set its option "
        f"--{name.replace('_', '-')}, in Terraform rendezvous.limits.{name}"
    )
