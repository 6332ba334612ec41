"""A TCP stream to one peer: whole messages or an error, within a deadline."""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress

from .channel import Deadline
from .errors import FmiError, MessageMismatch, PeerLost, PeerTimeout
from .handshake import Keys
from .messages import HEAD, LENGTH, OPERATION, PIECE, REFUSAL, TAG, Bytes, Expected, Purpose, Seal, opened

_BLOCK = 1 << 20  # bytes of a bare message that are given to the kernel at once
_KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # seconds, seconds, probes
_LOOKS = 20  # at a socket before this process sleeps: a message of a peer that runs comes within some µs
_LONGEST_REASON = 400  # characters of what a refusal says


class Stream:
    """Bytes to and from `peer`. Any error closes it: a part of a message would shift all that follows."""

    def __init__(self, connection: socket.socket, rank: int, peer: int) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # NATs forget what is silent
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._socket, self._rank, self._peer = connection, rank, peer
        self._readable, self._writable = select.poll(), select.poll()  # know no highest descriptor
        self._readable.register(connection, select.POLLIN)
        self._writable.register(connection, select.POLLOUT)

    def send(self, data: memoryview, purpose: Purpose, deadline: Deadline) -> None:
        """Raises PeerTimeout, PeerLost or, where the peer has refused an earlier message, MessageMismatch."""
        try:
            self._send(data, purpose, deadline)
        except OSError as error:
            raise self._broken(error) from error
        except BaseException:
            self.close()
            raise

    def recv(self, purpose: Purpose, length: int | None, deadline: Deadline) -> bytearray:
        """The next message; length None: whatever it has. Raises PeerTimeout, PeerLost, MessageMismatch."""
        try:
            return self._recv(purpose, length, deadline)
        except OSError as error:
            raise self._broken(error) from error
        except BaseException:
            self.close()
            raise

    def _send(self, data: memoryview, purpose: Purpose, deadline: Deadline) -> None:
        raise NotImplementedError

    def _recv(self, purpose: Purpose, length: int | None, deadline: Deadline) -> bytearray:
        raise NotImplementedError

    def unread(self) -> str | None:
        """A message that has come and that nobody has taken, in words; None where there is none."""
        return None

    def _broken(self, error: OSError) -> FmiError:
        self.close()
        return PeerLost(f"rank {self._rank}: the connection to rank {self._peer} broke: {error}")

    def _push(self, parts: tuple[Bytes, ...], before: int, total: int, deadline: Deadline) -> None:
        """Sends the parts; before, total: bytes of the message that were sent earlier, and that it has."""
        length, sent = sum(map(len, parts)), self._taken(parts)
        if sent == length:
            return
        rest = memoryview(b"".join(parts))
        while sent < length:
            if not deadline.left():
                taken = f"{min(before + sent, total)} of {total} bytes in {deadline.seconds:g} s"
                raise PeerTimeout(f"rank {self._rank}: rank {self._peer} took {taken}")
            self._writable.poll(deadline.left() * 1000)
            sent += self._taken((rest[sent:],))

    def _taken(self, parts: tuple[Bytes, ...]) -> int:
        """Bytes that the kernel took at once."""
        try:
            return self._socket.sendmsg(parts)
        except (BlockingIOError, InterruptedError):
            return 0

    def _read(self, into: memoryview, least: int, deadline: Deadline) -> int:
        """Reads `least` bytes or more, as many as are there, into the buffer; returns how many."""
        got, looks = 0, _LOOKS
        while got < least:
            try:
                count = self._socket.recv_into(into[got:] if got else into)
            except (BlockingIOError, InterruptedError):
                if looks:
                    looks -= 1
                    os.sched_yield()
                    continue
                self._readable.poll(deadline.left() * 1000)
            else:
                if not count:
                    raise PeerLost(f"rank {self._rank}: rank {self._peer} left after {got} of {least} bytes")
                got += count
            if got < least and not deadline.left():
                came = f"{got} of {least} bytes from rank {self._peer}"
                raise PeerTimeout(f"rank {self._rank}: {came} in {deadline.seconds:g} s")
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


class Bare(Stream):
    """FMI's own wire: the bytes of a message and nothing else."""

    def _send(self, data: memoryview, purpose: Purpose, deadline: Deadline) -> None:
        for start in range(0, len(data), _BLOCK):
            self._push((data[start : start + _BLOCK],), start, len(data), deadline)

    def _recv(self, purpose: Purpose, length: int | None, deadline: Deadline) -> bytearray:
        if length is None:
            raise ValueError("on FMI's own wire, a message's length must be known")
        data = bytearray(length)
        self._read(memoryview(data), length, deadline)
        return data


class Sealed(Stream):
    """Messages as the module `messages` describes them: nothing is believed that the peer has not sealed."""

    def __init__(self, connection: socket.socket, rank: int, peer: int, keys: Keys) -> None:
        super().__init__(connection, rank, peer)
        self._sending, self._receiving = Seal(keys.sending), Seal(keys.receiving)
        self._bytes = bytearray(HEAD + PIECE + TAG)
        self._buffer = memoryview(self._bytes)
        self._start = self._end = 0  # of what was received and not looked at

    def _send(self, data: memoryview, purpose: Purpose, deadline: Deadline) -> None:
        head, total = purpose.head(len(data)), len(data)
        piece = data if total <= PIECE else data[:PIECE]
        self._push((head, piece, self._sending.tag(head, piece)), 0, total, deadline)
        for start in range(PIECE, total, PIECE):
            piece = data[start : start + PIECE]
            self._push((piece, self._sending.tag(b"", piece)), start, total, deadline)

    def _recv(self, purpose: Purpose, length: int | None, deadline: Deadline) -> bytearray:
        head, data = self._first(deadline)
        if length is None or head != purpose.head(length):
            try:
                length = Expected(purpose, self._rank, self._peer, length).check(head)
            except MessageMismatch as error:
                self._refuse(str(error))
                raise
        while len(data) < length:
            data += self._piece(min(PIECE, length - len(data)), deadline)
        return data

    def _first(self, deadline: Deadline) -> tuple[bytearray, bytearray]:
        """The head and the first piece of the next message. MessageMismatch where it is a refusal."""
        if self._end - self._start < HEAD:
            self._fill(HEAD, deadline)
        head = self._bytes[self._start : self._start + HEAD]
        body = self._piece(min(int.from_bytes(head[:LENGTH], "little"), PIECE), deadline, head)
        if head[OPERATION] == REFUSAL:
            reason = body.decode(errors="replace")[:_LONGEST_REASON]
            raise MessageMismatch(f"rank {self._rank}: rank {self._peer} refused: {reason}")
        return head, body

    def _piece(self, length: int, deadline: Deadline, head: bytes | bytearray = b"") -> bytearray:
        """The body of the next piece, proven."""
        end = self._start + len(head) + length + TAG
        if self._end < end:
            self._fill(end - self._start, deadline)
            end = self._start + len(head) + length + TAG  # the bytes may have been moved
        body = self._bytes[end - TAG - length : end - TAG]
        if not self._receiving.proves(self._bytes[end - TAG : end], head, body):
            raise MessageMismatch(
                f"rank {self._rank}: a message was not sent by rank {self._peer}, or was changed on the way"
            )
        self._start = end
        return body

    def _fill(self, least: int, deadline: Deadline) -> None:
        """Waits until `least` bytes are in the buffer, and takes more where they are there."""
        have = self._end - self._start
        if not have:
            self._start = self._end = 0
        elif self._start + least > len(self._bytes):
            self._buffer[:have] = self._bytes[self._start : self._end]
            self._start, self._end = 0, have
        into = self._buffer[self._end :] if have else self._buffer
        self._end += self._read(into, least - have, deadline)

    def _refuse(self, reason: str) -> None:
        """Tells the peer why this rank stops, as far as it can be told at once."""
        text = reason[:_LONGEST_REASON].encode()
        head = Purpose(REFUSAL, 0).head(len(text))
        with suppress(OSError):
            self._taken((head, text, self._sending.tag(head, text)))

    def _broken(self, error: OSError) -> FmiError:
        """Why: the peer may have said so before it closed the connection."""
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
        return f"rank {self._peer} sent {opened(head)[1]}, which rank {self._rank} has not taken"
