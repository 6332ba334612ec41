"""Rendezvous host: tells two ranks behind NATs each other's public address, or carries their bytes.

Standard library alone, one file, so that it fits the user data of an EC2 instance. One TCP port; what a client
sends first decides, in one segment of fewer than 100 bytes:

NAME                     TCPunch's protocol (https://github.com/spcl/TCPunch): the host answers at once with the
                         client's own address as 8 bytes (IPv4 and port in network order, two bytes of padding)
                         and, when a second client brings the name, sends each the other's, and closes.
0x02 ROLE NAME           the same between the two roles L and H alone; a newer client of a role takes the place
                         of an older one, so that a rank that tries again never meets itself.
0x03 ROLE NAME           both, once there, get one byte 0x01, and from then on each other's bytes.
0x01                     health: one line of JSON with the counters, then the end.

Run: python server.py [--host 0.0.0.0] [--port 10000] [--idle-exit SECONDS]; SIGTERM and SIGINT end it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

VERSION = 1
NAME_LIMIT = 100  # bytes, TCPunch's
HEALTH, PAIR, RELAY = b"\x01", b"\x02", b"\x03"
_ROLES = {b"L": b"H", b"H": b"L"}


@dataclass(frozen=True)
class Limits:
    """clients: at once in all and from one address; seconds: to send a name, to wait for the partner, and
    without a byte in a relay; bytes: through one relay in each direction."""

    clients: int = 8_000
    clients_per_address: int = 4_096
    name_seconds: float = 15.0  # on a lossy line TCP may send a name three times
    wait_seconds: float = 120.0
    relay_idle_seconds: float = 60.0
    relay_bytes: int = 256 << 20
    relays: int = 256


@dataclass
class Counters:
    """Since the start; `clients` is now."""

    clients: int = 0
    accepted: int = 0
    refused: int = 0
    malformed: int = 0
    expired: int = 0
    left: int = 0
    replaced: int = 0
    paired: int = 0
    relayed: int = 0
    relayed_bytes: int = 0


@dataclass(eq=False)
class _Waiting:
    """A client whose partner has not come yet; `partner` is set by the one that comes."""

    address: tuple[str, int]
    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader
    partner: asyncio.Future[_Waiting | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # of its direction of a relay


class Rendezvous:
    """The host's state; nothing outlives the connection that it belongs to."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self.counters = Counters()
        self._limits = limits
        self._per_address: Counter[str] = Counter()
        self._waiting: dict[bytes, _Waiting] = {}
        self._relays = 0
        self._started = self._last_client = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """Since the last client left; 0 while one is there."""
        return 0.0 if self.counters.clients else time.monotonic() - self._last_client

    def health(self) -> dict[str, object]:
        """What the health line says."""
        return {
            "healthy": True,
            "version": VERSION,
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "waiting": len(self._waiting),
            **asdict(self.counters),
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, from its connection to its end; no fault of it reaches another."""
        address = writer.get_extra_info("peername")
        limits = self._limits
        full = self.counters.clients >= limits.clients
        if address is None or full or self._per_address[address[0]] >= limits.clients_per_address:
            self.counters.refused += 1
            writer.transport.abort()
            return
        self.counters.clients += 1
        self.counters.accepted += 1
        self._per_address[address[0]] += 1
        try:
            await self._answer(address, reader, writer)
        except (TimeoutError, OSError):
            self.counters.left += 1
        finally:
            self.counters.clients -= 1
            self._last_client = time.monotonic()
            self._per_address[address[0]] -= 1
            if not self._per_address[address[0]]:
                del self._per_address[address[0]]
            writer.close()

    async def _answer(
        self, address: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            first = await asyncio.wait_for(reader.read(NAME_LIMIT + 1), self._limits.name_seconds)
        except TimeoutError:
            self.counters.expired += 1
            return
        if first == HEALTH:
            writer.write(json.dumps(self.health()).encode() + b"\n")
            await writer.drain()
            return
        kind, role, name = _parsed(first)
        if not name or len(first) >= NAME_LIMIT:
            self.counters.malformed += 1
            return
        client = _Waiting(address, writer, reader)
        if kind != RELAY:
            writer.write(_packed(address))
        partner = await self._meet(client, kind + _ROLES.get(role, b"") + name, kind + role + name)
        if partner is None:
            return
        if kind == RELAY:
            await self._relay(client, partner)
            return
        writer.write(_packed(partner.address))
        await writer.drain()

    async def _meet(self, client: _Waiting, theirs: bytes, ours: bytes) -> _Waiting | None:
        """The partner under the name, at once or when it comes; None if it does not, or this client leaves."""
        other = self._waiting.pop(theirs, None)
        if other is not None and not other.partner.done():
            self.counters.paired += 1
            other.partner.set_result(client)
            return other
        earlier = self._waiting.pop(ours, None)
        if earlier is not None and not earlier.partner.done():
            self.counters.replaced += 1
            earlier.partner.set_result(None)
        self._waiting[ours] = client
        gone = asyncio.ensure_future(client.reader.read(1))
        either: set[asyncio.Future[Any]] = {client.partner, gone}
        try:
            done, _ = await asyncio.wait(
                either,
                timeout=self._limits.wait_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if client.partner in done:
                return client.partner.result()
            self.counters.left += bool(done)
            self.counters.expired += not done
            return None
        finally:
            if not gone.done():
                gone.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await gone
            if not client.partner.done():
                client.partner.set_result(None)
            if self._waiting.get(ours) is client:
                del self._waiting[ours]

    async def _relay(self, client: _Waiting, partner: _Waiting) -> None:
        """Carries this client's bytes to its partner; the partner's task carries the others."""
        if self._relays >= 2 * self._limits.relays:
            self.counters.refused += 1
            return
        self._relays += 1
        self.counters.relayed += 1
        try:
            client.writer.write(b"\x01")
            left = self._limits.relay_bytes
            while left > 0:
                data = await asyncio.wait_for(
                    client.reader.read(min(left, 1 << 16)), self._limits.relay_idle_seconds
                )
                if not data:
                    break
                left -= len(data)
                self.counters.relayed_bytes += len(data)
                partner.writer.write(data)
                await partner.writer.drain()
            if partner.writer.can_write_eof():
                partner.writer.write_eof()
            client.ended.set()
            with suppress(asyncio.TimeoutError):  # closing now would cut the other direction off
                await asyncio.wait_for(partner.ended.wait(), self._limits.relay_idle_seconds)
        finally:
            client.ended.set()
            self._relays -= 1


def _parsed(first: bytes) -> tuple[bytes, bytes, bytes]:
    """(kind, role, name) of what a client sent; plain names are pairs without a role, cut at a NUL."""
    if first[:1] in (PAIR, RELAY):
        role = first[1:2]
        return (first[:1], role, first[2:]) if role in _ROLES else (b"", b"", b"")
    return b"", b"", first.partition(b"\0")[0]


def _packed(address: tuple[str, int]) -> bytes:
    return socket.inet_aton(address[0]) + int(address[1]).to_bytes(2, "big") + b"\0\0"


def log(message: str, **fields: object) -> None:
    with suppress(OSError):  # a log that nobody reads any more stops no rank
        print(json.dumps({"message": message, **fields}), flush=True)


async def run(host: str, port: int, idle_exit: float | None, limits: Limits = Limits()) -> None:
    """Serves until SIGTERM or SIGINT, or until nobody has come for `idle_exit` seconds."""
    rendezvous, stop = Rendezvous(limits), asyncio.Event()
    server = await asyncio.start_server(
        rendezvous.serve, host, port, family=socket.AF_INET, limit=1 << 16, backlog=4096
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log("rendezvous listens", port=server.sockets[0].getsockname()[1])
    while not stop.is_set():
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), min(60.0, idle_exit or 60.0))
        log("rendezvous", **rendezvous.health())
        if idle_exit is not None and rendezvous.idle_seconds >= idle_exit:
            log("nobody has come for a while", idle_seconds=round(rendezvous.idle_seconds))
            break
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Rendezvous host of FMI's direct channel.")
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - ranks come from anywhere
    parser.add_argument("--port", type=int, default=10_000)
    parser.add_argument("--idle-exit", type=float, metavar="SECONDS", help="end when nobody came for so long")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.host, arguments.port, arguments.idle_exit))


if __name__ == "__main__":
    main()
