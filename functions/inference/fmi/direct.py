"""The direct channel: one TCP connection a pair of ranks, made by hole punching through a rendezvous host.

Without a secret it speaks FMI's and TCPunch's wire exactly, and can meet their ranks. With one, which only the
ranks of a run know, pairing names cannot be guessed, both sides prove that they know it before anything is
believed, and messages carry length and checksum; a pair that cannot punch through meets in a relay on the host.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import select
import socket
import struct
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from .channel import Deadline, Statistics
from .connection import Connection
from .errors import FmiError, PeerLost, PeerRefused, PeerTimeout

PORT = 10_000
VERSION = 1
NAME_LIMIT = 100  # bytes; the host takes no more, and FMI cuts longer names silently
PUNCH_SECONDS = 4.0  # then the pair meets in the relay
RELAY_SECONDS = 6.0  # for the partner to come there; then the two try to be paired again
_CLOSED_SECONDS = 0.2  # between looks at whether the channel was closed

_ANY = ("", 0)  # until the connection to the host says which interface leads to it
_ADDRESS = struct.Struct("!4sHxx")
_HELLO = struct.Struct("<4sHII16s")  # magic, version, my rank, your rank, challenge
_MAGIC = b"CFMI"
_PAIR, _RELAY = b"\x02", b"\x03"
Greet = Callable[[socket.socket, Deadline], None]


class Direct:
    """Connections are made when a pair first needs one, and kept.

    host: of the rendezvous server, a name or an address. comm_name: of the run; without a secret it has fewer
    than 100 bytes with the ranks. A warning is given where it ends in a digit, as two runs' pairing names can
    then be the same.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        comm_name: str,
        host: str,
        port: int = PORT,
        secret: bytes | None = None,
        relay: bool = True,
    ) -> None:
        if secret is None:
            _check_plain_name(comm_name, size)
        self.rank, self.size = rank, size
        self.statistics, self.durable = Statistics(), False
        self._name, self._host, self._port, self._secret = comm_name, host, port, secret
        self._relay = relay and secret is not None
        self._connections: dict[int, Connection] = {}
        self._meeting: set[socket.socket] = set()  # connections to the host, and those that are greeting
        self._lock = threading.Lock()
        self._closed = False

    def connect(self, peer: int, sender: int, deadline: Deadline) -> None:
        """Makes the pair's connection before it is needed; sender: of its first message, one of the two."""
        self._connected(peer, sender, deadline)

    def send(self, peer: int, data: bytes | memoryview, deadline: Deadline) -> None:
        connection, start = self._connected(peer, self.rank, deadline), time.perf_counter()
        view = memoryview(data)
        connection.send(view, deadline)
        self.statistics.sent(peer, len(view), time.perf_counter() - start)

    def recv(self, peer: int, length: int | None, deadline: Deadline) -> bytes:
        connection, start = self._connected(peer, peer, deadline), time.perf_counter()
        data = connection.recv(length, deadline)
        self.statistics.received(peer, len(data), time.perf_counter() - start)
        return data

    def close(self) -> None:
        """Other threads that wait in this channel end at once, with an error."""
        with self._lock:
            self._closed = True
            waiting, connections = list(self._meeting), list(self._connections.values())
            self._connections.clear()
        for meeting in waiting:
            with suppress(OSError):
                meeting.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.wake()
            connection.close()

    @property
    def _us(self) -> str:
        return f"rank {self.rank}:"

    def _connected(self, peer: int, sender: int, deadline: Deadline) -> Connection:
        """The pair's connection; `sender`: of the pair's first message, which names a plain pair."""
        known = self._connections.get(peer)
        if known is not None and not known.closed:
            return known
        start = time.perf_counter()
        try:
            made = Connection(self._meet(peer, sender, deadline), self.rank, peer, self._secret is not None)
        except OSError as error:
            raise PeerLost(f"{self._us} no connection to rank {peer} can be made here: {error}") from None
        finally:
            self.statistics.connected(time.perf_counter() - start)
        with self._lock:
            if self._closed:
                made.close()
                raise PeerLost(f"{self._us} this channel was closed")
            self._connections[peer] = made
        return made

    def _meet(self, peer: int, sender: int, deadline: Deadline) -> socket.socket:
        low, high = sorted((self.rank, peer))
        role, pair = (b"L" if self.rank == low else b"H"), f"pair {self._name} {low} {high}"
        name, greet = self._plain_name(peer, sender), _taken_as_it_is
        if self._secret is not None:
            name = role + hmac.new(self._secret, pair.encode(), hashlib.sha256).hexdigest()[:48].encode()
            greet = partial(self._greet, peer)
        while True:
            with suppress(_NotThrough):
                return self._punch(peer, name if self._secret is None else _PAIR + name, deadline, greet)
            # The partner may not know of the attempt that failed, where it died in it or the host did: it then
            # waits to be paired, not in the relay. So nobody waits there for long.
            if self._relay and deadline.left():
                with suppress(PeerTimeout):
                    until = Deadline(min(RELAY_SECONDS, deadline.left()))
                    connection = self._relayed(peer, _RELAY + name, until, greet)
                    self.statistics.relayed.add(peer)
                    return connection
            if not self._relay or not deadline.left():
                seconds = f"{deadline.seconds:g} s"
                raise PeerTimeout(f"{self._us} no way through to rank {peer} in {seconds}")

    def _plain_name(self, peer: int, sender: int) -> bytes:
        receiver = peer if sender == self.rank else self.rank
        return f"{self._name}{sender}_{receiver}".encode()

    def _punch(
        self,
        peer: int,
        name: bytes,
        deadline: Deadline,
        greet: Greet,
    ) -> socket.socket:
        """deadline: for the partner to come to the host; after that PUNCH_SECONDS at most to get through."""
        with self._asked(name, peer, deadline, _ADDRESS.size) as host:  # our own address, which is not needed
            own = host.getsockname()
            with _bound(own) as listener:
                listener.listen(8)
                theirs = _ADDRESS.unpack(self._take(host, _ADDRESS.size, peer, deadline))
                address = (socket.inet_ntoa(theirs[0]), int(theirs[1]))
                seconds = min(PUNCH_SECONDS, deadline.left()) if self._relay else deadline.left()
                return self._through(listener, own, address, Deadline(seconds), greet)

    def _through(
        self,
        listener: socket.socket,
        own: tuple[str, int],
        address: tuple[str, int],
        until: Deadline,
        greet: Greet,
    ) -> socket.socket:
        """Listens on and connects from the very address that the host saw, until one connection stands."""
        listener.setblocking(False)
        dialing, pause = _dialled(own, address), 0.002
        try:
            while until.left() and not self._closed:
                wait = min(_CLOSED_SECONDS if dialing is not None else pause, until.left())
                ready, writable = _ready(listener, dialing, wait)
                found: socket.socket | None = None
                if ready:
                    with _quiet():
                        accepted, source = listener.accept()
                        found = accepted
                        if self._secret is None and source[0] != address[0]:
                            accepted.close()
                            found = None
                if found is None and writable and dialing is not None:
                    if dialing.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                        found, dialing = dialing, None
                    else:
                        dialing.close()
                        dialing, pause = None, min(2 * pause, 0.1)
                        continue
                if found is not None:
                    try:
                        found.setblocking(True)
                        with self._watched(found):
                            greet(found, Deadline(min(until.left(), 2.0)))
                        return found
                    except (PeerLost, PeerTimeout):
                        found.close()  # a stranger, or the half of a connection that the partner gave up
                    except BaseException:
                        found.close()
                        raise
                if dialing is None:
                    dialing = _dialled(own, address)
            raise _NotThrough
        finally:
            if dialing is not None:
                dialing.close()

    def _relayed(
        self,
        peer: int,
        name: bytes,
        deadline: Deadline,
        greet: Greet,
    ) -> socket.socket:
        with self._asked(name, peer, deadline) as host:
            self._take(host, 1, peer, deadline)
            greet(host, deadline)
            return host.dup()

    @contextmanager
    def _asked(self, name: bytes, peer: int, deadline: Deadline, answer: int = 0) -> Iterator[socket.socket]:
        host = self._ask(name, peer, deadline, answer)
        with host, self._watched(host):
            yield host

    @contextmanager
    def _watched(self, meeting: socket.socket) -> Iterator[None]:
        """While it lasts, close() ends what this socket waits for."""
        with self._lock:
            self._meeting.add(meeting)
        try:
            if self._closed:
                raise PeerLost(f"{self._us} this channel was closed")
            yield
        finally:
            with self._lock:
                self._meeting.discard(meeting)

    def _ask(self, name: bytes, peer: int, deadline: Deadline, answer: int) -> socket.socket:
        """A connection to the host, with the name sent in one segment and so many bytes answered at once.

        Tried again while there is time: the host may be full or not there yet, or the name may have been lost.
        """
        fault = "no time was left"
        while deadline.left() and not self._closed:
            host = _bound(
                _ANY
            )  # else the kernel may give a port that others share, which cannot be bound again
            try:
                host.settimeout(max(deadline.left(), 1e-3))
                with self._watched(host):
                    host.connect((self._host, self._port))
                host.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                host.sendall(name)
                with self._watched(host):
                    self._take(host, answer, peer, deadline)
                return host
            except socket.gaierror as error:
                host.close()
                raise PeerLost(f"{self._us} rendezvous host {self._host}: {error}") from None
            except (PeerLost, OSError) as error:
                host.close()
                fault = str(error)
                time.sleep(min(0.1, deadline.left()))
            except BaseException:
                host.close()
                raise
        raise PeerTimeout(
            f"{self._us} rendezvous host {self._host}:{self._port} for rank {peer} cannot be reached in "
            f"{deadline.seconds:g} s: {fault}"
        )

    def _take(self, host: socket.socket, length: int, peer: int, deadline: Deadline) -> bytes:
        data = b""
        try:
            while len(data) < length:
                host.settimeout(max(deadline.left(), 1e-3))
                piece = host.recv(length - len(data))
                if not piece:
                    raise PeerLost(
                        f"{self._us} the rendezvous host let go before rank {peer} came: it is full, was "
                        "stopped, or this rank has asked again"
                    )
                data += piece
        except TimeoutError:
            raise PeerTimeout(
                f"{self._us} rank {peer} did not come to the rendezvous host in {deadline.seconds:g} s"
            ) from None
        except OSError as error:
            raise PeerLost(f"{self._us} the rendezvous host broke off: {error}") from None
        return data

    def _greet(self, peer: int, connection: socket.socket, until: Deadline) -> None:
        """Each proves by an HMAC over both challenges that it knows the secret; none is sent before it."""
        assert self._secret is not None  # noqa: S101 - for the type checker
        connection.settimeout(max(until.left(), 1e-3))
        mine = _HELLO.pack(_MAGIC, VERSION, self.rank, peer, os.urandom(16))
        try:
            connection.sendall(mine)
            theirs = self._exactly(connection, _HELLO.size, peer)
            magic, version, rank, to, _ = _HELLO.unpack(theirs)
            if (magic, version, rank, to) != (_MAGIC, VERSION, peer, self.rank):
                raise PeerRefused(
                    f"{self._us} who answered for rank {peer} says it is rank {rank} for {to}, "
                    f"version {version}"
                )
            connection.sendall(self._proof(mine, theirs))
            proof = self._exactly(connection, 32, peer)
        except TimeoutError:
            raise PeerTimeout(f"{self._us} rank {peer} did not greet in {until.seconds:g} s") from None
        except OSError as error:
            raise PeerLost(f"{self._us} the connection to rank {peer} broke: {error}") from None
        if not hmac.compare_digest(proof, self._proof(theirs, mine)):
            raise PeerRefused(f"{self._us} who answered for rank {peer} does not know this run's secret")

    def _exactly(self, connection: socket.socket, length: int, peer: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = connection.recv(length - len(data))
            if not piece:
                raise PeerLost(f"{self._us} rank {peer} closed the connection while greeting")
            data += piece
        return data

    def _proof(self, first: bytes, second: bytes) -> bytes:
        assert self._secret is not None  # noqa: S101 - for the type checker
        return hmac.new(self._secret, b"greet " + self._name.encode() + first + second, hashlib.sha256).digest()


def _check_plain_name(comm_name: str, size: int) -> None:
    """Without a secret, a pair of ranks is named comm_name, rank, "_", rank, with nothing in between."""
    length, most = len(comm_name.encode()), NAME_LIMIT - 1 - len(f"{size}_{size}")
    if not 0 < length <= most:
        raise ValueError(
            f"comm_name: {comm_name!r} has {length} bytes, so that the host would confuse pairs of ranks; "
            f"give 1 to {most}"
        )
    if comm_name[-1].isdigit():
        warnings.warn(
            f"comm_name: {comm_name!r} ends in a digit, so its ranks can be paired with those of another group "
            "at the same host whose name differs by digits at its end; a name that ends otherwise is safe, "
            f"such as {comm_name + '-'!r}",
            stacklevel=3,
        )


def _taken_as_it_is(connection: socket.socket, until: Deadline) -> None:
    """Without a secret, who connects is believed."""


class _NotThrough(FmiError):
    """No connection stood in time."""


class _quiet:
    """A connection that is gone before it was accepted is no fault."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, OSError)


def _ready(listener: socket.socket, dialing: socket.socket | None, seconds: float) -> tuple[bool, bool]:
    """Whether one can be accepted, and whether the dialled one has an outcome."""
    poll = select.poll()  # knows no highest descriptor, as select() does
    poll.register(listener, select.POLLIN)
    if dialing is not None:
        poll.register(dialing, select.POLLOUT)
    events = {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
    return listener.fileno() in events, dialing is not None and dialing.fileno() in events


def _bound(own: tuple[str, int]) -> socket.socket:
    """A socket on a local address that others of this process may share."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(own)
    except BaseException:
        made.close()
        raise
    return made


def _dialled(own: tuple[str, int], address: tuple[str, int]) -> socket.socket | None:
    """A connection to `address` on its way; None where it failed at once."""
    dialing = _bound(own)
    dialing.setblocking(False)
    if dialing.connect_ex(address) in (0, errno.EINPROGRESS, errno.EALREADY, errno.EAGAIN):
        return dialing
    dialing.close()
    return None
