"""Hole punching: both ranks of a pair listen on, and connect from, the address that the host saw.

Whoever connects first may be a stranger. So all connections greet at the same time, and only one whose rank
knows the run's secret ends the search: a stranger costs no time and cannot make the operation fail. A relay
greets at the same time, so that a pair that cannot punch through loses no time either. The lower rank of the
pair confirms one connection, which both then use. The higher rank keeps a connection that its peer may have
confirmed until it is closed or _DOUBT_SECONDS have passed.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from .channel import Deadline
from .errors import FmiError, PeerLost, PeerRefused, RelayRefused
from .handshake import Handshake, Keys, Stranger

Address = tuple[str, int]
Met = tuple[socket.socket, Keys | None]
# For one connection: a hello that is lost on the way is repeated after a second or two.
_GREETING_SECONDS = 5.0
# For a connection that the peer may already use. TCP sends a lost packet again after 3, 9 and 21 s if the
# connection's first packet was lost too (RFC 6298, section 5.7), otherwise much sooner.
_DOUBT_SECONDS = 30.0
_GREETINGS = 32  # at once; if there are more, the oldest is closed
_CLOSED_SECONDS = 0.2  # between checks whether the channel was closed
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.1  # seconds between attempts to connect


class NotThrough(FmiError):
    """No connection was made in time; `reason`: why there is no relay, or who came instead, if known."""

    def __init__(self, reason: Exception | None = None) -> None:
        super().__init__("no connection was made in time")
        self.reason = reason


class Greeting:
    """A connection on which the two ranks greet. handshake: None if anyone who connects is accepted.

    until: when it is given up, unless it is in doubt.
    """

    def __init__(self, connection: socket.socket, handshake: Handshake | None, until: Deadline) -> None:
        connection.setblocking(False)
        self.socket, self.until, self._handshake = connection, until, handshake
        self._doubt: Deadline | None = None

    @property
    def ended(self) -> bool:
        shake = self._handshake
        return shake is None or not (shake.missing or shake.outgoing)

    @property
    def keys(self) -> Keys | None:
        return None if self._handshake is None else self._handshake.keys

    @property
    def events(self) -> int:
        """The events that poll() should wait for."""
        sending = 0 if self._handshake is None else select.POLLOUT if self._handshake.outgoing else 0
        return sending | select.POLLIN

    @property
    def in_doubt(self) -> bool:
        """Whether the peer may already use the connection."""
        return self._handshake is not None and self._handshake.in_doubt

    def in_time(self, latest: Deadline) -> bool:
        """Whether it may still succeed. latest: of the operation that needs the connection."""
        if self.in_doubt and self._doubt is None:
            self._doubt = Deadline(min(_DOUBT_SECONDS, latest.left()))
        return bool((self._doubt or self.until).left())

    def advance(self) -> None:
        """Sends and receives without waiting. Raises OSError, PeerLost, Stranger and PeerRefused."""
        shake = self._handshake
        while shake is not None and not self.ended:
            try:
                self._send(shake)
                if shake.missing:
                    data = self.socket.recv(shake.missing)
                    if not data:
                        raise PeerLost("the connection was closed while greeting")
                    shake.receive(data)
            except (BlockingIOError, InterruptedError):
                return
            except PeerRefused:
                self._send(shake)  # what shows the peer that the two disagree
                raise

    def _send(self, shake: Handshake) -> None:
        while shake.outgoing:
            del shake.outgoing[: self.socket.send(shake.outgoing)]


@dataclass(frozen=True)
class Alternative:
    """A relay in addition to the punch: `begin` asks for it once the head start has passed."""

    begin: Callable[[], Greeting]
    head_start: Deadline


def bound(own: Address) -> socket.socket:
    """A socket on a local address that other sockets of this process may share."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(own)
    except BaseException:
        made.close()
        raise
    return made


class Punch:
    """The search for one connection to a peer at `address`, by a `listener` on the `own` address.

    begin: makes a handshake; None for FMI's own wire, on which only connections from the peer's IP address are
    accepted. closed: whether to give up. relay: None if there is none.
    """

    def __init__(
        self,
        listener: socket.socket,
        own: Address,
        address: Address,
        begin: Callable[[], Handshake] | None,
        closed: Callable[[], bool],
        relay: Alternative | None = None,
    ) -> None:
        listener.setblocking(False)
        self._listener, self._own, self._address = listener, own, address
        self._begin, self._closed = begin, closed
        self._relay = relay  # until it was asked for
        self._relaying: Greeting | None = None
        self._dialing: socket.socket | None = None
        self._dialed: Greeting | None = None
        self._pause, self._paused = _FIRST_PAUSE, Deadline(0)  # before it dials again
        self._greetings: list[Greeting] = []  # the relay's is among them
        self._reason: Exception | None = None

    def through(self, until: Deadline, latest: Deadline) -> Met:
        """The connection. until: the punch's deadline; a relay that was asked for has its own. latest: the
        deadline for a connection that the peer may already use.

        Raises NotThrough, and PeerRefused for a peer that disagrees.
        """
        try:
            while not self._closed() and (until.left() or self._relay or self._undecided):
                self._dial()
                self._ask_relay(until)
                self._wait()
                self._accept()
                self._look_at_dialed()
                for greeting in sorted(self._greetings, key=lambda each: each is self._relaying):
                    if self._greeted(greeting, latest):
                        self._greetings.remove(greeting)
                        return greeting.socket, greeting.keys
            raise NotThrough(self._reason)
        finally:
            for greeting in self._greetings:
                greeting.socket.close()
            if self._dialing is not None:
                self._dialing.close()

    @property
    def _undecided(self) -> bool:
        """Whether a connection remains that outlasts the punch."""
        return any(greeting.in_doubt or greeting is self._relaying for greeting in self._greetings)

    def _dial(self) -> None:
        """Dials unless a connection is being made or greets. It pauses in between, as refusals come at once."""
        if self._dialing is not None or self._dialed in self._greetings or self._paused.left():
            return
        self._dialing = _dialled(self._own, self._address)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._paused = Deadline(self._pause)

    def _ask_relay(self, until: Deadline) -> None:
        """Asks for the relay, once, when the punch has had its head start."""
        relay = self._relay
        if relay is None or (relay.head_start.left() and until.left()):
            return
        self._relay = None
        try:
            self._relaying = relay.begin()
        except (OSError, RelayRefused) as error:
            self._reason = error
        else:
            self._greetings.append(self._relaying)

    def _wait(self) -> None:
        poll = select.poll()  # knows no highest descriptor, as select() does
        poll.register(self._listener, select.POLLIN)
        if self._dialing is not None:
            poll.register(self._dialing, select.POLLOUT)
        for greeting in self._greetings:
            poll.register(greeting.socket, greeting.events)
        seconds = _CLOSED_SECONDS
        if self._dialing is None and self._dialed not in self._greetings:
            seconds = min(seconds, self._paused.left())
        if self._relay is not None:
            seconds = min(seconds, self._relay.head_start.left())
        poll.poll(seconds * 1000)

    def _accept(self) -> None:
        with suppress(OSError):  # nobody has connected, or whoever did has left again
            accepted, source = self._listener.accept()
            if self._begin is None and source[0] != self._address[0]:
                accepted.close()
                return
            self._greet(accepted)

    def _look_at_dialed(self) -> None:
        """Greets on the dialled connection once it is made; tries again if it failed."""
        dialing = self._dialing
        if dialing is None or not writable(dialing):
            return
        self._dialing = None
        if dialing.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            self._dialed = self._greet(dialing)
        else:
            dialing.close()

    def _greet(self, connection: socket.socket) -> Greeting:
        strangers = [
            greeting for greeting in self._greetings if greeting is not self._relaying and not greeting.in_doubt
        ]
        if len(strangers) >= _GREETINGS:
            self._drop(strangers[0])
        handshake = None if self._begin is None else self._begin()
        greeting = Greeting(connection, handshake, Deadline(_GREETING_SECONDS))
        self._greetings.append(greeting)
        return greeting

    def _greeted(self, greeting: Greeting, latest: Deadline) -> bool:
        """Whether the greeting has succeeded; drops one that can no longer succeed."""
        try:
            greeting.advance()
            if greeting.ended or greeting.in_time(latest):
                return greeting.ended
        except (Stranger, RelayRefused) as error:
            self._reason = error
        except (OSError, PeerLost) as error:  # of a connection that the partner has given up
            if greeting is self._relaying:
                self._reason = error
        self._drop(greeting)
        return False

    def _drop(self, greeting: Greeting) -> None:
        self._greetings.remove(greeting)
        greeting.socket.close()


def writable(connection: socket.socket) -> bool:
    """Whether the connection accepts bytes, or has failed."""
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    return bool(poll.poll(0))


def _dialled(own: Address, address: Address) -> socket.socket | None:
    """A connection to `address` that is being made; None if it failed at once."""
    dialing = bound(own)
    dialing.setblocking(False)
    if dialing.connect_ex(address) in (0, errno.EINPROGRESS, errno.EALREADY, errno.EAGAIN):
        return dialing
    dialing.close()
    return None
