"""The direct channel: one TCP connection per pair of ranks, made by hole punching through a rendezvous host.

Without a secret it speaks FMI's and TCPunch's wire exactly, and can connect to their ranks. With one, which
only the ranks of a run know, pairing names cannot be guessed, both sides first prove that they know it, and
messages are sealed. A pair that cannot punch through uses a relay on the host, if it has the host's relay key.
After a rank had to use the relay, it asks for one at once when it next punches, until a punch succeeds.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import struct
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from .channel import Deadline, Received, Statistics
from .connection import Bare, Sealed, Stream
from .errors import PeerLost, PeerTimeout
from .handshake import Handshake, Pair
from .messages import Purpose
from .punching import Address, Alternative, Greeting, Met, NotThrough, Punch, bound
from .relaying import Admission, Relayed

PORT = 10_000
NAME_LIMIT = 100  # bytes; the host accepts no more, and FMI cuts longer names silently
PUNCH_SECONDS = 4.0  # after which a pair without a relay asks to be paired again
HEAD_START = 0.5  # seconds of a rank's first punch after which the pair also asks for the relay
RELAY_SECONDS = 6.0  # for the partner to come to the relay; after that the two ask to be paired again

_ANY = ("", 0)  # until the connection to the host says which interface leads to it
_ADDRESS = struct.Struct("!4sHxx")
_PAIR, _RELAY = b"\x02", b"\x03"


class Direct:
    """Makes a pair's connection when it is first needed, and keeps it.

    host: the rendezvous server's name or address. comm_name: of the run; without a secret, name and ranks have
    fewer than 100 bytes, and a name that ends in a digit causes a warning, since two runs' pairing names can
    then be the same. relay_key: reads the host's relay key when a relay is needed, or raises RelayRefused;
    None: no relays. Without a secret there are none.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        comm_name: str,
        host: str,
        port: int = PORT,
        secret: bytes | None = None,
        relay_key: Callable[[], bytes] | None = None,
    ) -> None:
        if secret is None:
            _check_plain_name(comm_name, size)
        self.rank, self.size = rank, size
        self.statistics, self.durable = Statistics(), False
        self._name, self._host, self._port, self._secret = comm_name, host, port, secret
        self._relay_key = relay_key
        self._last_was_relayed = False  # the last pair could not punch through in time
        self._connections: dict[int, Stream] = {}
        self._meeting: set[socket.socket] = set()  # connections to the host, and those that are greeting
        self._lock = threading.Lock()
        self._closed = False

    def connect(self, peer: int, sender: int, deadline: Deadline) -> None:
        """Makes the pair's connection before it is needed; sender: the rank that sends its first message."""
        self._connected(peer, sender, deadline)

    def send(self, peer: int, data: bytes | memoryview, purpose: Purpose, deadline: Deadline) -> None:
        self._connected(peer, self.rank, deadline).send(data, purpose, deadline)

    def recv(self, peer: int, length: int | None, purpose: Purpose, deadline: Deadline) -> Received:
        return self._connected(peer, peer, deadline).recv(purpose, length, deadline)

    def exchange(self, peer: int, data: bytes | memoryview, purpose: Purpose, deadline: Deadline) -> Received:
        return self._connected(peer, max(peer, self.rank), deadline).exchange(data, purpose, deadline)

    def unread(self) -> list[str]:
        with self._lock:
            connections = list(self._connections.values())
        return [
            message for message in (connection.unread() for connection in connections) if message is not None
        ]

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

    def _connected(self, peer: int, sender: int, deadline: Deadline) -> Stream:
        """The pair's connection; `sender`: of its first message, which names a pair without a secret."""
        known = self._connections.get(peer)
        if known is not None and not known.closed:
            return known
        start = time.perf_counter()
        try:
            met, keys = self._meet(peer, sender, deadline)
            traffic = self.statistics.of(peer)
            made: Stream
            if keys is None:
                made = Bare(met, self.rank, peer, traffic)
            else:
                made = Sealed(met, self.rank, peer, keys, traffic)
        except OSError as error:
            raise PeerLost(f"{self._us} cannot connect to rank {peer}: {error}") from error
        finally:
            self.statistics.connected(time.perf_counter() - start)
        with self._lock:
            if self._closed:
                made.close()
                raise PeerLost(f"{self._us} this channel was closed")
            self._connections[peer] = made
        return made

    def _meet(self, peer: int, sender: int, deadline: Deadline) -> Met:
        """Meets the peer through the host, in several attempts. If the partner or its host ends during one,
        this rank asks to be paired again, and meets the partner when that is back.
        """
        plain, name = self._plain_name(peer, sender), self._pair_name(peer)
        wrong = ""  # added to the message if time runs out
        while True:
            try:
                met = self._punch(peer, plain if name is None else _PAIR + name, deadline)
            except NotThrough as failed:
                wrong = wrong if failed.reason is None else f"; {failed.reason}"
            except PeerTimeout as late:
                raise PeerTimeout(f"{late}{wrong}") from late
            else:
                self._last_was_relayed = isinstance(met[0], Relayed)
                if self._last_was_relayed:
                    self.statistics.relayed.add(peer)
                return met
            if self._closed:
                raise PeerLost(f"{self._us} this channel was closed")
            if not deadline.left():
                raise PeerTimeout(f"{self._us} cannot reach rank {peer} in {deadline.seconds:g} s{wrong}")

    def _pair_name(self, peer: int) -> bytes | None:
        """This rank's role and the pair's name, which nobody can guess without the secret."""
        if self._secret is None:
            return None
        low, high = sorted((self.rank, peer))
        pair = f"pair {self._name} {low} {high}"
        digest = hmac.new(self._secret, pair.encode(), hashlib.sha256).hexdigest()[:48]
        return (b"L" if self.rank == low else b"H") + digest.encode()

    def _handshake(self, peer: int) -> Handshake:
        assert self._secret is not None  # noqa: S101 - for the type checker
        return Handshake(Pair(self._secret, self._name, self.rank, peer, self.size))

    def _plain_name(self, peer: int, sender: int) -> bytes:
        receiver = peer if sender == self.rank else self.rank
        return f"{self._name}{sender}_{receiver}".encode()

    def _punch(self, peer: int, name: bytes, deadline: Deadline) -> Met:
        """deadline: for the partner to come to the host; after that, meeting it takes a few seconds at most,
        or the rest of the time if the partner may already use a connection whose last bytes are missing.
        """
        with self._ask(name, peer, deadline) as host, self._watched(host):
            own = host.getsockname()
            with bound(own) as listener:
                listener.listen(64)
                theirs = _ADDRESS.unpack(self._take(host, _ADDRESS.size, peer, deadline))
                address = (socket.inet_ntoa(theirs[0]), int(theirs[1]))
                seconds = deadline.left() if self._secret is None else min(PUNCH_SECONDS, deadline.left())
                begin = None if self._secret is None else lambda: self._handshake(peer)
                relay = self._relay(peer, host.getpeername(), deadline)
                punch = Punch(listener, own, address, begin, lambda: self._closed, relay)
                return punch.through(Deadline(seconds), deadline)

    def _relay(self, peer: int, host: Address, deadline: Deadline) -> Alternative | None:
        name, relay_key = self._pair_name(peer), self._relay_key
        if name is None or relay_key is None:
            return None

        def begin() -> Greeting:
            key, until = relay_key(), Deadline(min(RELAY_SECONDS, deadline.left()))
            who = f"{self._us} relay to rank {peer}:"
            return Admission(host, _RELAY + name, key, self._handshake(peer), until, who)

        return Alternative(begin, Deadline(0.0 if self._last_was_relayed else HEAD_START))

    @contextmanager
    def _watched(self, meeting: socket.socket) -> Iterator[None]:
        """In this context, close() ends the wait of this socket."""
        with self._lock:
            self._meeting.add(meeting)
        try:
            if self._closed:
                raise PeerLost(f"{self._us} this channel was closed")
            yield
        finally:
            with self._lock:
                self._meeting.discard(meeting)

    def _ask(self, name: bytes, peer: int, deadline: Deadline) -> socket.socket:
        """A connection to the host, after sending the name in one segment and receiving our own address.

        It tries again while there is time: the host may be full or not yet up, or the name may have been lost.
        """
        fault = "no time was left"
        while deadline.left() and not self._closed:
            # Otherwise the kernel may choose a port that others share, which cannot be bound again.
            host = bound(_ANY)
            try:
                host.settimeout(max(deadline.left(), 1e-3))
                with self._watched(host):
                    host.connect((self._host, self._port))
                host.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                host.sendall(name)
                with self._watched(host):
                    self._take(host, _ADDRESS.size, peer, deadline)
                return host
            except socket.gaierror as error:
                host.close()
                raise PeerLost(f"{self._us} rendezvous host {self._host}: {error}") from error
            except (PeerLost, OSError) as error:
                host.close()
                fault = str(error)
                time.sleep(min(0.1, deadline.left()))
            except BaseException:
                host.close()
                raise
        raise PeerTimeout(
            f"{self._us} rendezvous host {self._host}:{self._port} for rank {peer} cannot be reached in "
            f"{deadline.seconds:g} s ({fault}); check that it runs and that its port is open"
        )

    def _take(self, host: socket.socket, length: int, peer: int, deadline: Deadline) -> bytes:
        data = b""
        try:
            while len(data) < length:
                host.settimeout(max(deadline.left(), 1e-3))
                piece = host.recv(length - len(data))
                if not piece:
                    raise PeerLost(
                        f"{self._us} the rendezvous host closed the connection before rank {peer} came: it is "
                        "full, was stopped, or this rank has asked again"
                    )
                data += piece
        except TimeoutError:
            raise PeerTimeout(
                f"{self._us} rank {peer} did not come to the rendezvous host in {deadline.seconds:g} s"
            ) from None
        except OSError as error:
            raise PeerLost(f"{self._us} the connection to the rendezvous host broke: {error}") from error
        return data


def _check_plain_name(comm_name: str, size: int) -> None:
    """Without a secret, a pair of ranks is named comm_name, rank, "_", rank, with nothing in between."""
    length, most = len(comm_name.encode()), NAME_LIMIT - 1 - len(f"{size}_{size}")
    if not 0 < length <= most:
        raise ValueError(
            f"comm_name: {comm_name!r} has {length} bytes, with which the host would confuse pairs of ranks; "
            f"give 1 to {most}"
        )
    if comm_name[-1].isdigit():
        warnings.warn(
            f"comm_name: {comm_name!r} ends in a digit, so its ranks can be paired with those of another group "
            "at the same host whose name differs by digits at its end; a name that ends otherwise is safe, "
            f"such as {comm_name + '-'!r}",
            stacklevel=3,
        )
