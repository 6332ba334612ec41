"""A TCP stream to one peer: whole messages or an error, within a deadline."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from .channel import Deadline, Received, Traffic
from .errors import FmiError, MessageMismatch, PeerLost, PeerTimeout
from .handshake import Keys
from .messages import HEAD, LENGTH, OPERATION, PIECE, REFUSAL, TAG, Bytes, Expected, Purpose, Seal, opened

_BLOCK = 1 << 20  # bytes of a bare message that are passed to the kernel at once
_SENT_AHEAD = 4 * PIECE  # bytes that the kernel accepts while the peer does not read
_KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # seconds, seconds, probes
_LOOKS = 60  # at a socket before this process sleeps, some 40 µs: waking up takes as long as most messages
_SHORT_WAIT = 0.05  # seconds that one receiving call may sleep; longer waits use poll()
_SMALL = 1 << 14  # bytes of a body that go to the kernel in one buffer with head and tag
_NOW = int(socket.MSG_DONTWAIT)
_LONGEST_REASON = 400  # characters of a refusal's text


class Stream:
    """Bytes to and from `peer`. Any error closes it, since nothing can be read after a partial message.

    traffic: counts the messages.
    """

    def __init__(self, connection: socket.socket, rank: int, peer: int, traffic: Traffic) -> None:
        connection.setblocking(True)
        wait = struct.pack("ll", 0, int(_SHORT_WAIT * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SENT_AHEAD)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # NATs forget silent connections
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._socket, self._rank, self._peer, self._traffic = connection, rank, peer, traffic
        self._readable, self._writable = select.poll(), select.poll()  # without select()'s highest descriptor
        self._readable.register(connection, select.POLLIN)
        self._writable.register(connection, select.POLLOUT)
        self.closed = False

    def send(self, data: Bytes, purpose: Purpose, deadline: Deadline) -> None:
        """Raises PeerTimeout, PeerLost or, if the peer has refused an earlier message, MessageMismatch."""
        start = time.perf_counter()
        try:
            self._send(data, purpose, deadline)
        except BaseException as error:
            self._fail(error)
        self._traffic.sent(len(data), time.perf_counter() - start)

    def recv(self, purpose: Purpose, length: int | None, deadline: Deadline) -> Received:
        """The next message; length None: of any length. Raises PeerTimeout, PeerLost, MessageMismatch."""
        start = time.perf_counter()
        try:
            data = self._recv(purpose, length, deadline)
        except BaseException as error:
            self._fail(error)
            raise
        self._traffic.received(len(data), time.perf_counter() - start)
        return data

    def exchange(self, data: Bytes, purpose: Purpose, deadline: Deadline) -> Received:
        """Sends, and receives a message of the same length from the peer, which does the same."""
        start = time.perf_counter()
        try:
            received = self._exchange(data, purpose, deadline)
        except BaseException as error:
            self._fail(error)
            raise
        self._traffic.sent(len(data), 0.0)
        self._traffic.received(len(received), time.perf_counter() - start)
        return received

    def _send(self, data: Bytes, purpose: Purpose, deadline: Deadline) -> None:
        raise NotImplementedError

    def _recv(self, purpose: Purpose, length: int | None, deadline: Deadline) -> Received:
        raise NotImplementedError

    def _exchange(self, data: Bytes, purpose: Purpose, deadline: Deadline) -> Received:
        raise NotImplementedError

    def unread(self) -> str | None:
        """A description of a message that has come but has not been read; None if there is none."""
        return None

    def _fail(self, error: BaseException) -> None:
        """Closes the connection and raises the error in the form that the user should see."""
        if isinstance(error, OSError):
            raise self._broken(error) from error
        self.close()
        raise error

    def _broken(self, error: OSError) -> FmiError:
        self.close()
        return PeerLost(f"rank {self._rank}: the connection to rank {self._peer} broke: {error}")

    def _push(self, parts: tuple[Bytes, ...], before: int, total: int, deadline: Deadline) -> None:
        """Sends the parts; before: bytes of the message that were sent earlier; total: its length."""
        sent, length = self._send_now(parts), len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        while sent < length:
            if not deadline.left():
                progress = f"{min(before + sent, total)} of {total} bytes in {deadline.seconds:g} s"
                raise PeerTimeout(f"rank {self._rank}: rank {self._peer} accepted only {progress}")
            self._writable.poll(deadline.left() * 1000)
            sent += self._send_now(_without(parts, sent))

    def _send_now(self, parts: tuple[Bytes, ...]) -> int:
        """Sends what the kernel accepts without waiting; returns the number of bytes."""
        try:
            if len(parts) == 1:
                return self._socket.send(parts[0], _NOW)
            return self._socket.sendmsg(parts, (), _NOW)
        except (BlockingIOError, InterruptedError):
            return 0

    def _read(self, into: memoryview, least: int, deadline: Deadline) -> int:
        """Reads at least `least` bytes, and more if they are there, into the buffer; returns the number.

        It first looks at the socket a few times, then sleeps in the receiving call itself, then polls.
        """
        received, waits, flags = 0, 0, _NOW
        while True:
            try:
                count = self._socket.recv_into(into[received:] if received else into, 0, flags)
            except (BlockingIOError, InterruptedError):
                waits += 1
            else:
                if not count:
                    raise PeerLost(
                        f"rank {self._rank}: rank {self._peer} left after {received} of {least} bytes"
                    )
                received += count
                if received >= least:
                    return received
                waits = min(waits, _LOOKS)
            if waits < _LOOKS:
                if waits:
                    os.sched_yield()
                continue
            left = deadline.left()
            if not left:
                came = f"{received} of {least} bytes from rank {self._peer}"
                raise PeerTimeout(f"rank {self._rank}: {came} in {deadline.seconds:g} s")
            flags = 0 if waits == _LOOKS and left > _SHORT_WAIT else _NOW
            if flags:
                self._readable.poll(left * 1000)

    def wake(self) -> None:
        """Ends the wait of another thread on this connection, with PeerLost."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.closed = True
        self._socket.close()


def _without(parts: tuple[Bytes, ...], sent: int) -> tuple[Bytes, ...]:
    """What is left of the parts after `sent` bytes."""
    left: list[Bytes] = []
    for part in parts:
        if sent < len(part):
            left.append(memoryview(part)[sent:])
        sent = max(sent - len(part), 0)
    return tuple(left)


def _room(length: int) -> memoryview:
    """New memory, which is not filled with zeros."""
    return np.empty(length, np.uint8).data


class Bare(Stream):
    """FMI's own wire: the bytes of a message and nothing else."""

    def _send(self, data: Bytes, purpose: Purpose, deadline: Deadline) -> None:
        view = memoryview(data)
        for start in range(0, len(view), _BLOCK):
            self._push((view[start : start + _BLOCK],), start, len(view), deadline)

    def _recv(self, purpose: Purpose, length: int | None, deadline: Deadline) -> Received:
        if length is None:
            raise ValueError("on FMI's own wire, a message's length must be known")
        data = _room(length)
        if length:
            self._read(data, length, deadline)
        return data

    def _exchange(self, data: Bytes, purpose: Purpose, deadline: Deadline) -> Received:
        """The higher rank sends first, and the other one receives first, as FMI's ranks do."""
        if self._rank > self._peer:
            self._send(data, purpose, deadline)
            return self._recv(purpose, len(data), deadline)
        received = self._recv(purpose, len(data), deadline)
        self._send(data, purpose, deadline)
        return received


class Sealed(Stream):
    """Messages as the module `messages` describes them: bytes that the peer has not sealed are refused."""

    def __init__(self, connection: socket.socket, rank: int, peer: int, keys: Keys, traffic: Traffic) -> None:
        super().__init__(connection, rank, peer, traffic)
        self._sending, self._receiving = Seal(keys.sending), Seal(keys.receiving)
        self._bytes = bytearray(HEAD + PIECE + TAG)
        self._buffer = memoryview(self._bytes)
        self._start = self._end = 0  # of the bytes in the buffer that were received and not yet processed

    def _send(self, data: Bytes, purpose: Purpose, deadline: Deadline) -> None:
        total = len(data)
        if total > _SMALL:
            for start, parts in self._outgoing(data, purpose):
                self._push(parts, start, total, deadline)
            return
        head = purpose.head(total)
        self._push((b"".join((head, data, self._sending.tag(head, data))),), 0, total, deadline)

    def _recv(self, purpose: Purpose, length: int | None, deadline: Deadline) -> Received:
        if length is not None and length <= _SMALL:
            body = self._small(purpose.head(length), length, deadline)
            if body is not None:
                return body
        received: Received = bytearray()
        for received in self._incoming(purpose, length, deadline):  # noqa: B007 - the last one is whole
            pass
        return received

    def _exchange(self, data: Bytes, purpose: Purpose, deadline: Deadline) -> Received:
        """Works piece by piece, so that the kernel accepts each even while the peer is not reading."""
        if len(data) <= _SMALL:
            self._send(data, purpose, deadline)
            return self._recv(purpose, len(data), deadline)
        received: Received = bytearray()
        incoming = self._incoming(purpose, len(data), deadline)
        for start, parts in self._outgoing(data, purpose):
            self._push(parts, start, len(data), deadline)
            received = next(incoming)
        return received

    def _outgoing(self, data: Bytes, purpose: Purpose) -> Iterator[tuple[int, tuple[Bytes, ...]]]:
        """The message's pieces, sealed, with the place of each."""
        total, head = len(data), purpose.head(len(data))
        view = memoryview(data)
        piece = view[:PIECE]
        yield 0, (head, piece, self._sending.tag(head, piece))
        for start in range(PIECE, total, PIECE):
            piece = view[start : start + PIECE]
            yield start, (piece, self._sending.tag(b"", piece))

    def _incoming(self, purpose: Purpose, length: int | None, deadline: Deadline) -> Iterator[Received]:
        """Yields the next message after each piece: the same memory each time, complete at the end.

        All pieces except the first are received into their final place, so for a moment the tag of each is
        where the next piece will be.
        """
        head, first = self._first(deadline)
        if length is None or head != purpose.head(length):
            try:
                length = Expected(purpose, self._rank, self._peer, length).check(head)
            except MessageMismatch as error:
                self._refuse(str(error))
                raise
        if length <= PIECE:
            yield first
            return
        room = _room(length + TAG)
        room[:PIECE] = first
        yield room[:length]
        for start in range(PIECE, length, PIECE):
            end = min(start + PIECE, length)
            self._receive(room[start : end + TAG], deadline)
            self._prove(b"", room[start:end], room[end : end + TAG])
            yield room[:length]

    def _small(self, expected: bytes, length: int, deadline: Deadline) -> bytearray | None:
        """The next message if it has arrived completely and as expected; otherwise None, without reading it."""
        if self._end - self._start < HEAD:
            self._fill(HEAD, deadline)
        data, begin = self._bytes, self._start + HEAD
        end = begin + length
        if end + TAG > self._end or data[begin - HEAD : begin] != expected:
            return None
        body = data[begin:end]
        self._prove(expected, body, data[end : end + TAG])
        self._start = end + TAG
        return body

    def _first(self, deadline: Deadline) -> tuple[bytearray, bytearray]:
        """The head and the first piece of the next message. Raises MessageMismatch if it is a refusal."""
        if self._end - self._start < HEAD:
            self._fill(HEAD, deadline)
        head = self._bytes[self._start : self._start + HEAD]
        length = min(int.from_bytes(head[:LENGTH], "little"), PIECE)
        if self._end - self._start < HEAD + length + TAG:
            self._fill(HEAD + length + TAG, deadline)
        begin = self._start + HEAD
        end = begin + length
        body = self._bytes[begin:end]
        self._prove(head, body, self._bytes[end : end + TAG])
        self._start = end + TAG
        if head[OPERATION] == REFUSAL:
            reason = body.decode(errors="replace")[:_LONGEST_REASON]
            raise MessageMismatch(f"rank {self._rank}: rank {self._peer} refused: {reason}")
        return head, body

    def _prove(self, head: Bytes, body: Bytes, tag: Bytes) -> None:
        if not self._receiving.proves(tag, head, body):
            raise MessageMismatch(
                f"rank {self._rank}: a message was not sent by rank {self._peer}, or was changed on the way"
            )

    def _receive(self, into: memoryview, deadline: Deadline) -> None:
        """Fills `into`, starting with bytes that were received already."""
        ahead = min(self._end - self._start, len(into))
        into[:ahead] = self._buffer[self._start : self._start + ahead]
        self._start += ahead
        if ahead < len(into):
            self._read(into[ahead:], len(into) - ahead, deadline)

    def _fill(self, least: int, deadline: Deadline) -> None:
        """Waits until `least` bytes are in the buffer; reads more if they are there."""
        have = self._end - self._start
        if not have:
            self._start = self._end = 0
        elif self._start + least > len(self._bytes):
            self._buffer[:have] = self._bytes[self._start : self._end]
            self._start, self._end = 0, have
        into = self._buffer[self._end :] if have else self._buffer
        self._end += self._read(into, least - have, deadline)

    def _refuse(self, reason: str) -> None:
        """Sends the peer the reason why this rank stops, without waiting."""
        text = reason[:_LONGEST_REASON].encode()
        head = Purpose(REFUSAL, 0).head(len(text))
        with suppress(OSError):
            self._send_now((head, text, self._sending.tag(head, text)))

    def _broken(self, error: OSError) -> FmiError:
        """The reason: the peer may have sent it before it closed the connection."""
        try:
            self._first(Deadline(0))
        except MessageMismatch as refusal:
            return refusal
        except (OSError, FmiError):
            pass
        finally:
            self.close()
        return super()._broken(error)

    def unread(self) -> str | None:
        if self.closed:
            return None
        try:
            head, _ = self._first(Deadline(0))
        except MessageMismatch as error:
            return str(error)
        except (OSError, FmiError):
            return None
        return f"rank {self._peer} sent {opened(head)[1]}, which rank {self._rank} has not read"
