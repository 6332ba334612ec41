"""Clients of the rendezvous host that ask for relays: honest, broken and hostile ones."""

from __future__ import annotations

import hmac
import socket
import struct
import time
from typing import Any

import fmi
import numpy as np

from rendezvous.server import End
from tests.unit.fmi_ranks import exactly
from tests.unit.rendezvous import Host

SECRET = b"of this run"

clients: list[socket.socket] = []
"""Those that are connected; the fixture `started` closes them."""


def connected(host: Host) -> socket.socket:
    """A client of the host, which is closed at the end of the test."""
    clients.append(host.connect())
    return clients[-1]


def pair(host: Host, name: str = "relayed-") -> list[fmi.Direct]:
    return [fmi.Direct(rank, 2, name, "127.0.0.1", host.port, SECRET, host.relay_key) for rank in range(2)]


def total(group: fmi.Group) -> float:
    return float(group.allreduce(np.array([group.rank + 1.0]), np.add)[0])


def asked(host: Host, role: bytes, name: bytes) -> tuple[socket.socket, bytes, bytes]:
    """A connection that has asked for a relay; what was sent, and the host's challenge."""
    connection, request = connected(host), b"\x03" + role + name
    connection.sendall(request)
    challenge = exactly(connection, 18)
    assert challenge[:2] == b"\0\x10"
    return connection, request, challenge[2:]


def proof(key: bytes, request: bytes, challenge: bytes) -> bytes:
    return hmac.digest(key, request + challenge, "sha256")


def admitted(host: Host, role: bytes, name: bytes) -> socket.socket:
    """A client that knows the relay key: a rank of the team that is broken, or was taken over."""
    connection, request, challenge = asked(host, role, name)
    connection.sendall(proof(host.key, request, challenge))
    return connection


def relayed(host: Host, name: bytes) -> tuple[socket.socket, socket.socket]:
    """Both ends of a relay that has begun."""
    ends = admitted(host, b"L", name), admitted(host, b"H", name)
    for end in ends:
        assert exactly(end, 3) == b"\0\x01\x01"
    return ends


def why(connection: socket.socket) -> tuple[End, int]:
    """What the host says at the end, after whatever it has relayed."""
    connection.settimeout(20)
    while length := int.from_bytes(exactly(connection, 2), "big"):
        exactly(connection, length)
    code, value = struct.unpack("!BQ", exactly(connection, 9))
    return End(code), value


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def eventually(host: Host, **expected: Any) -> None:
    deadline = time.monotonic() + 20
    while {name: (health := host.health())[name] for name in expected} != expected:
        assert time.monotonic() < deadline, (expected, health)
        time.sleep(0.05)
