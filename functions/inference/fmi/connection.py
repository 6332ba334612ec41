"""A TCP stream to one peer: whole messages or an error, within a deadline."""

from __future__ import annotations

import os
import select
import socket
import struct
import zlib
from contextlib import suppress

from .channel import Deadline
from .errors import MessageMismatch, PeerLost, PeerTimeout

_FRAME = struct.Struct("<QI")  # length, CRC-32
_PIECE = 1 << 20
_LARGEST = 1 << 32  # bytes of a message whose length its reader does not know; more is no message of ours
_KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # seconds, seconds, probes
_LOOKS = 20  # at a socket before this process sleeps: a message of a peer that runs comes within some µs


class Connection:
    """Between this rank and `peer`. framed: with length and checksum before each message, else bare bytes.

    After any error it is closed, because a part of a message would shift all that follows.
    """

    def __init__(self, connection: socket.socket, rank: int, peer: int, framed: bool) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # NATs forget what is silent
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._socket, self._peer, self._framed = connection, peer, framed
        self._us = f"rank {rank}:"
        self._readable, self._writable = select.poll(), select.poll()  # know no highest descriptor
        self._readable.register(connection, select.POLLIN)
        self._writable.register(connection, select.POLLOUT)

    def send(self, data: memoryview, deadline: Deadline) -> None:
        """Raises PeerTimeout or PeerLost."""
        head = memoryview(_FRAME.pack(len(data), zlib.crc32(data)) if self._framed else b"")
        try:
            sent = _sent(self._socket, head, data)
            while sent < len(head) + len(data):
                body = max(sent - len(head), 0)
                written = _sent(self._socket, head[sent:], data[body : body + _PIECE])
                if not written and not self._writable.poll(_milliseconds(deadline)) and not deadline.left():
                    took = f"took {body} of {len(data)} bytes"
                    raise PeerTimeout(f"{self._us} rank {self._peer} {took} in {deadline.seconds:g} s")
                sent += written
        except OSError as error:
            self.close()
            raise PeerLost(f"{self._us} the connection to rank {self._peer} broke: {error}") from None
        except BaseException:
            self.close()
            raise

    def recv(self, length: int | None, deadline: Deadline) -> bytes:
        """The next message; None: of whatever length, which bare bytes cannot tell.

        Raises PeerTimeout, PeerLost and MessageMismatch.
        """
        try:
            if not self._framed:
                if length is None:
                    raise ValueError("without frames, a message's length must be known")
                return bytes(self._exactly(bytearray(length), 0, length, deadline))
            return self._message(length, deadline)
        except OSError as error:
            self.close()
            raise PeerLost(f"{self._us} the connection to rank {self._peer} broke: {error}") from None
        except BaseException:
            self.close()
            raise

    def _message(self, length: int | None, deadline: Deadline) -> bytes:
        data = bytearray(_FRAME.size + (length or 0))  # header and body in one read where they come together
        got = self._some(data, 0, _FRAME.size, deadline)
        found, expected = _FRAME.unpack_from(data)
        if found != (found if length is None else length) or found > _LARGEST:
            raise MessageMismatch(f"{self._us} rank {self._peer} sent {found} bytes, expected {length}")
        if length is None:
            data.extend(bytes(found))
        self._exactly(data, got, _FRAME.size + found, deadline)
        body = bytes(memoryview(data)[_FRAME.size :])
        if zlib.crc32(body) != expected:
            raise MessageMismatch(f"{self._us} what rank {self._peer} sent was damaged on the way")
        return body

    def _exactly(self, data: bytearray, got: int, length: int, deadline: Deadline) -> bytearray:
        if got < length:
            self._some(data, got, length, deadline)
        return data

    def _some(self, data: bytearray, got: int, least: int, deadline: Deadline) -> int:
        """Reads into data[got:] until at least `least` bytes are there; returns how many are."""
        view, looks = memoryview(data), _LOOKS
        while got < least:
            try:
                count = self._socket.recv_into(view[got : got + _PIECE])
            except (BlockingIOError, InterruptedError):
                if looks:
                    looks -= 1
                    os.sched_yield()
                elif not self._readable.poll(_milliseconds(deadline)) and not deadline.left():
                    raise PeerTimeout(
                        f"{self._us} {got} of {least} bytes from rank {self._peer} in {deadline.seconds:g} s"
                    ) from None
                continue
            if not count:
                raise PeerLost(f"{self._us} rank {self._peer} left after {got} of {least} bytes")
            got += count
        return got

    def wake(self) -> None:
        """Ends what another thread is waiting for here, with PeerLost."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0


def _sent(connection: socket.socket, *parts: memoryview) -> int:
    """Bytes that the kernel took at once."""
    try:
        return connection.sendmsg(parts)
    except (BlockingIOError, InterruptedError):
        return 0


def _milliseconds(deadline: Deadline) -> float:
    return deadline.left() * 1000
