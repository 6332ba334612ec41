"""The body of an HTTP request, of bounded size, with a length or in chunks (RFC 9112, 6 and 7)."""

from __future__ import annotations

import re
from io import BufferedIOBase

_LONGEST_LINE = 1024  # bytes of a chunk's size with its extensions, and of a trailer
_MOST_TRAILERS = 20


class BodyError(ValueError):
    """A refused body: the status of the response, and a message with the reason."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def read_body(stream: BufferedIOBase, coding: str | None, length: str | None, most_bytes: int) -> bytes:
    """Reads a body. coding, length: the headers Transfer-Encoding and Content-Length. Raises BodyError."""
    if coding is not None:
        if coding.strip().lower() != "chunked" or length is not None:
            raise BodyError(400, "send the body either in chunks or with its Content-Length")
        return _chunks(stream, most_bytes)
    if length is None:
        raise BodyError(411, "the request has no Content-Length; send one, or send the body in chunks")
    if not re.fullmatch(r"[0-9]{1,15}", length):
        raise BodyError(400, "Content-Length is not a number of bytes")
    _check(int(length), most_bytes)
    return _exactly(stream, int(length))


def _chunks(stream: BufferedIOBase, most_bytes: int) -> bytes:
    body = bytearray()
    while size := _size(stream):
        _check(len(body) + size, most_bytes)
        body += _exactly(stream, size)
        if _line(stream):
            raise BodyError(400, "a chunk is longer than it says")
    for _ in range(_MOST_TRAILERS):
        if not _line(stream):
            return bytes(body)
    raise BodyError(400, f"more than {_MOST_TRAILERS} lines follow the chunks")


def _size(stream: BufferedIOBase) -> int:
    text = _line(stream).partition(b";")[0].strip()
    if not re.fullmatch(rb"[0-9A-Fa-f]{1,12}", text):
        raise BodyError(400, "a chunk does not begin with its size, or the body ended early")
    return int(text, 16)


def _line(stream: BufferedIOBase) -> bytes:
    line = stream.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise BodyError(400, "the body ended early, or one of its lines is too long")
    return line.rstrip(b"\r\n")


def _exactly(stream: BufferedIOBase, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise BodyError(400, f"the body ended {size - len(content):,} bytes early")
    return content


def _check(size: int, most_bytes: int) -> None:
    if size > most_bytes:
        limit = f"the body has more than {most_bytes >> 20} MB"
        raise BodyError(413, f"{limit}; prepare smaller partitions, or raise MaxPayloadInMB")
