"""What the tests of fmi share: all ranks of a group as threads, and a socket read to a length."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fmi
import pytest
from fmi.punching import Greeting, Met


def together(channels: list[Any], work: Callable[[fmi.Group], Any], seconds: float = 20.0) -> list[Any]:
    """What `work` gives at each rank, all running at once; an exception stands for itself."""

    def one(channel: fmi.Channel) -> Any:
        group = fmi.Group(channel, seconds)
        try:
            result = work(group)
        except Exception as error:
            result = error
        try:
            group.close()
        except fmi.MessageMismatch as error:
            return error
        return result

    with ThreadPoolExecutor(len(channels)) as pool:
        return list(pool.map(one, channels))


def exactly(connection: socket.socket, length: int) -> bytes:
    """At most that many bytes, fewer where the other side has closed."""
    data = b""
    while len(data) < length and (piece := connection.recv(length - len(data))):
        data += piece
    return data


def greeted(greeting: Greeting) -> Met:
    """Waits for its end."""
    while greeting.until.left():
        greeting.advance()
        if greeting.ended:
            return greeting.socket, greeting.keys
        poll = select.poll()
        poll.register(greeting.socket, greeting.events)
        poll.poll(greeting.until.left() * 1000)
    raise fmi.PeerTimeout(f"nobody greeted in {greeting.until.seconds:g} s")


def no_punch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmi.punching._dialled", lambda own, address: None)
