"""What can go wrong between ranks; messages name rank, peer, operation and, after a timeout, the time."""

from __future__ import annotations


class FmiError(RuntimeError):
    """A collective could not be done."""


class PeerTimeout(FmiError):
    """A peer did not come, send or receive in time."""


class PeerLost(FmiError):
    """A peer closed the connection, or it broke."""


class PeerRefused(FmiError):
    """A peer does not know the run's secret, or belongs to another run, rank or protocol version."""


class MessageMismatch(FmiError):
    """A peer's message is not the one that this rank expects, or was changed on the way."""


class RelayRefused(FmiError):
    """The rendezvous host does not relay for a pair, or has stopped relaying; the message names the limit."""
