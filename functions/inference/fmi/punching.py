"""Hole punching: both ranks of a pair listen on, and connect from, the address that the host saw.

Whoever connects first may be a stranger. So all connections greet side by side, and only one whose rank
knows the run's secret ends the search: a stranger costs neither time nor the operation.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from contextlib import suppress

from .channel import Deadline
from .errors import FmiError, PeerLost, PeerTimeout
from .handshake import Handshake, Keys, Stranger

Address = tuple[str, int]
Met = tuple[socket.socket, Keys | None]
_GREETING_SECONDS = (
    5.0  # for one connection: a hello that is lost on the way is sent again after a second or two
)
_GREETINGS = 32  # at once; of more, the oldest is given up
_CLOSED_SECONDS = 0.2  # between looks at whether the channel was closed
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.1  # seconds between attempts to connect


class NotThrough(FmiError):
    """No connection stood in time; `stranger`: who came instead, None where nobody did."""

    def __init__(self, stranger: Stranger | None = None) -> None:
        super().__init__("no connection stood in time")
        self.stranger = stranger


class Greeting:
    """A connection on which the two ranks greet. handshake: None where whoever connects is believed."""

    def __init__(self, connection: socket.socket, handshake: Handshake | None, until: Deadline) -> None:
        connection.setblocking(False)
        self.socket, self.until, self._handshake = connection, until, handshake

    @property
    def ended(self) -> bool:
        shake = self._handshake
        return shake is None or not (shake.missing or shake.outgoing)

    @property
    def keys(self) -> Keys | None:
        return None if self._handshake is None else self._handshake.keys

    @property
    def events(self) -> int:
        """What poll() is to look for."""
        wants = 0 if self._handshake is None else select.POLLOUT if self._handshake.outgoing else 0
        return wants | select.POLLIN

    def advance(self) -> None:
        """Sends and receives what can be at once. Raises OSError, PeerLost, Stranger and PeerRefused."""
        shake = self._handshake
        while shake is not None and not self.ended:
            try:
                while shake.outgoing:
                    del shake.outgoing[: self.socket.send(shake.outgoing)]
                if shake.missing:
                    data = self.socket.recv(shake.missing)
                    if not data:
                        raise PeerLost("the connection was closed while greeting")
                    shake.receive(data)
            except (BlockingIOError, InterruptedError):
                return

    def finish(self, who: str) -> Met:
        """Waits for its end. who: in errors."""
        poll = select.poll()
        while True:
            self.advance()
            if self.ended:
                return self.socket, self.keys
            if not self.until.left():
                raise PeerTimeout(f"{who} did not greet in {self.until.seconds:g} s")
            poll.register(self.socket, self.events)
            poll.poll(self.until.left() * 1000)


def bound(own: Address) -> socket.socket:
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


class Punch:
    """The search for one connection to a peer at `address`, by a `listener` on the `own` address.

    begin: makes a handshake; None for FMI's own wire, on which connections from the peer's IP address alone are
    taken. closed: whether to give up.
    """

    def __init__(
        self,
        listener: socket.socket,
        own: Address,
        address: Address,
        begin: Callable[[], Handshake] | None,
        closed: Callable[[], bool],
    ) -> None:
        listener.setblocking(False)
        self._listener, self._own, self._address = listener, own, address
        self._begin, self._closed = begin, closed
        self._dialing: socket.socket | None = None
        self._dialed: Greeting | None = None
        self._pause = _FIRST_PAUSE
        self._greetings: list[Greeting] = []
        self._stranger: Stranger | None = None

    def through(self, until: Deadline) -> Met:
        """The connection. Raises NotThrough, and PeerRefused for a peer that disagrees."""
        try:
            while until.left() and not self._closed():
                if self._dialing is None and self._dialed not in self._greetings:
                    self._dialing = _dialled(self._own, self._address)
                self._wait(until)
                self._accept(until)
                self._look_at_dialed(until)
                for greeting in list(self._greetings):
                    if self._greeted(greeting):
                        self._greetings.remove(greeting)
                        return greeting.socket, greeting.keys
            raise NotThrough(self._stranger)
        finally:
            for greeting in self._greetings:
                greeting.socket.close()
            if self._dialing is not None:
                self._dialing.close()

    def _wait(self, until: Deadline) -> None:
        poll = select.poll()  # knows no highest descriptor, as select() does
        poll.register(self._listener, select.POLLIN)
        if self._dialing is not None:
            poll.register(self._dialing, select.POLLOUT)
        for greeting in self._greetings:
            poll.register(greeting.socket, greeting.events)
        seconds = self._pause if self._dialing is None else _CLOSED_SECONDS
        poll.poll(min(seconds, until.left()) * 1000)

    def _accept(self, until: Deadline) -> None:
        with suppress(OSError):  # nobody, or one that is gone again
            accepted, source = self._listener.accept()
            if self._begin is None and source[0] != self._address[0]:
                accepted.close()
                return
            self._greet(accepted, until)

    def _look_at_dialed(self, until: Deadline) -> None:
        """Greets on the dialled connection once it stands; tries again where it failed."""
        dialing, poll = self._dialing, select.poll()
        if dialing is None:
            return
        poll.register(dialing, select.POLLOUT)
        if not poll.poll(0):
            return
        self._dialing = None
        if dialing.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            self._dialed = self._greet(dialing, until)
        else:
            dialing.close()
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _greet(self, connection: socket.socket, until: Deadline) -> Greeting:
        if len(self._greetings) >= _GREETINGS:
            self._greetings.pop(0).socket.close()
        handshake = None if self._begin is None else self._begin()
        greeting = Greeting(connection, handshake, Deadline(min(_GREETING_SECONDS, until.left())))
        self._greetings.append(greeting)
        return greeting

    def _greeted(self, greeting: Greeting) -> bool:
        """Whether it has ended well; one that cannot any more is dropped."""
        try:
            greeting.advance()
            if greeting.ended or greeting.until.left():
                return greeting.ended
        except Stranger as stranger:
            self._stranger = stranger
        except (OSError, PeerLost):  # the half of a connection that the partner gave up
            pass
        self._greetings.remove(greeting)
        greeting.socket.close()
        return False


def _dialled(own: Address, address: Address) -> socket.socket | None:
    """A connection to `address` on its way; None where it failed at once."""
    dialing = bound(own)
    dialing.setblocking(False)
    if dialing.connect_ex(address) in (0, errno.EINPROGRESS, errno.EALREADY, errno.EAGAIN):
        return dialing
    dialing.close()
    return None
