"""What a stranger may send to a rank: in place of a greeting, and instead of or among its peer's messages."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from functools import cache

from inference.fmi.channel import Deadline, Traffic
from inference.fmi.connection import Sealed
from inference.fmi.errors import FmiError
from inference.fmi.handshake import Handshake, Keys, Pair
from inference.fmi.messages import PIECE, Purpose

_KEYS = Keys(b"a" * 32, b"b" * 32)
_PURPOSE = Purpose(7, 2, 0, b"<f8")
_BODIES = (b"", b"12345678", bytes(range(256)) * 12, b"z" * (PIECE + 5))
_EDIT = struct.Struct("<BHB")  # what to do, where (in 64ths of the place's unit), how many bytes
_STEP = 5  # bytes: a place of 16 bits reaches every part of the stream


def greeting(data: bytes) -> None:
    """A handshake without the secret: refused, or waiting for more; never keys."""
    for rank, peer in ((0, 1), (1, 0)):
        shake, rest = Handshake(Pair(b"the secret", "run", rank, peer, 2)), data
        with suppress(FmiError):
            while rest and shake.missing:
                piece, rest = rest[: shake.missing], rest[shake.missing :]
                shake.receive(piece)
        assert shake.keys is None


def message(data: bytes) -> None:
    """A stream of sealed messages with edits: each message is what was sent, or an error."""
    stream = edited(_stream(), data)
    count = taken(stream)
    assert count == len(_BODIES) or not stream.startswith(_stream())


def taken(stream: bytes) -> int:
    """How many messages a rank takes from these bytes, before an error; each as it was sent."""
    reader, writer = _linked()
    count = 0
    with reader, writer:
        _write(writer, stream)
        writer.shutdown(socket.SHUT_WR)
        peer = Sealed(reader, 1, 0, Keys(_KEYS.receiving, _KEYS.sending), Traffic())
        with suppress(FmiError):
            for number, body in enumerate(_BODIES):
                length = len(body) if number % 2 else None
                assert peer.recv(_PURPOSE, length, Deadline(1.0)) == body
                count += 1
    return count


def edited(stream: bytes, edits: bytes) -> bytes:
    """The stream with bytes changed, taken out, put in or repeated, as `edits` say."""
    content = bytearray(stream)
    while len(edits) >= _EDIT.size:
        kind, place, count = _EDIT.unpack_from(edits)
        edits, at = edits[_EDIT.size :], place * _STEP % (len(content) + 1)
        match kind % 4:
            case 0:
                for offset, byte in enumerate(edits[:count]):
                    if at + offset < len(content):
                        content[at + offset] ^= byte
                edits = edits[count:]
            case 1:
                del content[at : at + count]
            case 2:
                content[at:at] = edits[:count]
                edits = edits[count:]
            case 3:
                content[at:at] = content[at : at + count]
    return bytes(content)


def seeds() -> list[bytes]:
    """Edits of heads, bodies, tags and borders of messages."""
    places = (0, 1, 3, 5, 8, 12, 630, 640, 645, 13_000, 13_700)
    return [
        _EDIT.pack(kind, place, count) + b"\1" * count
        for place in places
        for kind in range(4)
        for count in (1, 40)
    ]


@cache
def _stream() -> bytes:
    reader, writer = _linked()
    with reader, writer:
        sender = Sealed(writer, 0, 1, _KEYS, Traffic())
        for body in _BODIES:
            sender.send(memoryview(body), _PURPOSE, Deadline(5.0))
        writer.shutdown(socket.SHUT_WR)
        content = b""
        while piece := reader.recv(1 << 20):
            content += piece
    return content


def _linked() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        return here, listener.accept()[0]


def _write(writer: socket.socket, content: bytes) -> None:
    """All of it: the kernel's buffers hold several times a stream."""
    writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    writer.sendall(content)
