"""Rendezvous host: tells two ranks behind NATs each other's public address, or carries their bytes.

Standard library of Python 3.9 or newer, and one file, so that it fits into the user data of an EC2 instance.
One TCP port; a client's first segment, of fewer than 100 bytes, decides what it gets:

NAME            TCPunch's protocol (https://github.com/spcl/TCPunch): the host answers at once with the client's
                own address as 8 bytes (IPv4 and port in network order, two bytes of padding). When a second
                client sends the same name, the host sends each the other's address, and closes.
0x02 ROLE NAME  the same, but only between the roles L and H; a newer client of a role replaces an older one, so
                that a rank that tries again never meets itself.
0x03 ROLE NAME  a relay between the two roles, for clients that know the host's relay key. The host sends
                frames: two bytes of length in network order, then the content. The first frame is a challenge
                of 16 bytes. The client answers with HMAC-SHA256(relay key, 0x03 ROLE NAME challenge). The
                second frame is one byte 0x01, once both are there. What either client sends from then on goes
                to the other in frames. After a frame of length 0, which ends the relay, one byte says why (End)
                and eight bytes give the limit that was reached.
0x01            health: one line of JSON with the counters; then the host closes.

Run: python server.py [--port 10000] [--relay-key-file FILE] [--idle-exit SECONDS]; --help lists the limits.
SIGTERM and SIGINT end it.
"""

from __future__ import annotations

import argparse
import asyncio
import enum
import hmac
import json
import os
import re
import signal
import socket
import struct
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

VERSION = 2
NAME_LIMIT = 100  # bytes, TCPunch's
HEALTH, PAIR, RELAY = b"\x01", b"\x02", b"\x03"
KEY_BYTES = 32  # the least length of a relay key
_ROLES = {b"L": b"H", b"H": b"L"}
# The end of FMI's names; two port scanners that send the same bytes are a pair, too.
_OF_RANKS = re.compile(rb"[0-9]_[0-9]+\Z")
_PROOF = 32  # bytes of HMAC-SHA256
_CHUNK = 1 << 14  # bytes that a relay reads at once, and that may wait for their reader
_READ_AHEAD = 1 << 12  # about the number of unread bytes that asyncio buffers
_KERNEL_BUFFER = 1 << 14  # bytes of each direction of a relay's socket; Linux doubles them
_CANCEL_SECONDS = 0.1  # that a task has to end before it is cancelled again
LINGER_SECONDS = 2.0  # that a client has to read why its relay has ended
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # seconds, seconds, probes
_GONE = (OSError, EOFError, asyncio.TimeoutError)  # before Python 3.11 TimeoutError was another class


class End(enum.IntEnum):
    """Why a relay ends or does not begin: the last frame says so. fmi/relaying.py has the same numbers."""

    LEFT = 1  # the other client closed its connection
    NO_KEY = 2  # the host has no relay key
    WRONG_KEY = 3
    RELAYS = 4  # from here on, the names of limits
    RELAYS_PER_ADDRESS = 5
    RELAY_BYTES = 6
    RELAY_BYTES_PER_HOUR = 7
    RELAY_IDLE_SECONDS = 8
    RELAY_STALL_SECONDS = 9


def _limit(default: float, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Limits:
    """The host's limits. Each is an option of the command line."""

    clients: int = _limit(8_000, "clients at once")
    clients_per_address: int = _limit(4_096, "clients at once from one address")
    # On a lossy line TCP may have to send a name three times.
    name_seconds: float = _limit(15.0, "seconds in which a client must send its name")
    wait_seconds: float = _limit(120.0, "seconds that a client waits for its partner")
    relays: int = _limit(256, "relays at once")
    relays_per_address: int = _limit(64, "relays at once in which one address takes part")
    relay_bytes: int = _limit(4 << 20, "bytes through one relay in one direction")
    relay_bytes_per_hour: int = _limit(256 << 20, "bytes through all relays in an hour")
    relay_idle_seconds: float = _limit(900.0, "seconds after which a relay without traffic ends")
    relay_stall_seconds: float = _limit(20.0, "seconds that bytes in a relay may wait for their reader")


@dataclass
class Counters:
    """Counts since the start, but `clients` and `relays` are the current numbers."""

    clients: int = 0
    accepted: int = 0
    refused: int = 0
    malformed: int = 0
    expired: int = 0
    left: int = 0
    replaced: int = 0
    paired: int = 0
    relays: int = 0
    relayed: int = 0
    relayed_bytes: int = 0
    relays_refused: int = 0
    relays_cut: int = 0


@dataclass(eq=False)
class _Client:
    """A client that has sent its name; `partner` is set by the later client that finds it waiting."""

    address: tuple[str, int]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    partner: asyncio.Future[_Client | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # set when its relay has ended

    def send(self, data: bytes) -> None:
        self.writer.write(len(data).to_bytes(2, "big") + data)

    async def part(self, end: End, value: float) -> None:
        """Sends the client the reason why its relay ends, and waits briefly until it has closed its side.

        What it still sends is read and dropped: the kernel would answer unread bytes with a reset, and the
        client would lose the reason that is on its way.
        """
        with suppress(*_GONE):
            self.writer.write(b"\0\0" + struct.pack("!BQ", end, int(value)))
            self.writer.write_eof()
            await asyncio.wait_for(_drained(self.reader), LINGER_SECONDS)
        self.writer.transport.abort()


class Rendezvous:
    """The host's state. Only the counters outlive the connection that they come from.

    relay_key: the key that clients must know for a relay; None: the host relays for nobody.
    """

    def __init__(self, limits: Limits = Limits(), relay_key: bytes | None = None) -> None:
        self.counters = Counters()
        self._limits, self._relay_key = limits, relay_key
        self._per_address: Counter[str] = Counter()
        self._relays_of: Counter[str] = Counter()  # by address
        self._waiting: dict[bytes, _Client] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = self._last_pair = self._hour = time.monotonic()
        self._bytes_of_hour = 0

    @property
    def idle_seconds(self) -> float:
        """Seconds since two ranks met or their relay ended; 0 while there is a relay. Other clients do not
        count, since they may be port scanners.
        """
        return 0.0 if self.counters.relays else time.monotonic() - self._last_pair

    def health(self) -> dict[str, object]:
        """The content of the health line."""
        return {
            "healthy": True,
            "version": VERSION,
            "relaying": self._relay_key is not None,
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "waiting": len(self._waiting),
            **asdict(self.counters),
        }

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves a client in our own task: each version of asyncio logs the faults of its tasks differently."""
        task = asyncio.ensure_future(self.serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log("serving a client failed", error=repr(task.exception()))

    async def close(self) -> None:
        """Ends the connections of all clients."""
        await _cancelled(*self._tasks)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one client from its connection to its end; its faults do not reach other clients."""
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
        except _GONE:
            self.counters.left += 1
        finally:
            self.counters.clients -= 1
            _count_down(self._per_address, address[0])
            writer.close()

    async def _answer(
        self, address: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            first = await asyncio.wait_for(reader.read(NAME_LIMIT + 1), self._limits.name_seconds)
        except asyncio.TimeoutError:
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
        client = _Client(address, reader, writer)
        theirs, ours = kind + _ROLES.get(role, b"") + name, kind + role + name
        if kind == RELAY:
            await self._answer_relay(client, first, theirs, ours)
            return
        writer.write(_packed(address))
        partner, _ = await self._meet(client, theirs, ours)
        if partner is not None:
            writer.write(_packed(partner.address))
            await writer.drain()

    async def _answer_relay(self, client: _Client, first: bytes, theirs: bytes, ours: bytes) -> None:
        refusal = await self._admitted(client, first)
        if refusal is not None:
            self.counters.relays_refused += 1
            await client.part(refusal, 0)
            return
        try:
            partner, waited = await self._meet(client, theirs, ours)
            if partner is not None and waited:
                await self._relay(client, partner)
            elif partner is not None:
                await partner.ended.wait()  # its task carries the bytes of both
        finally:
            client.ended.set()

    async def _admitted(self, client: _Client, first: bytes) -> End | None:
        """Why a client may not relay; None if it has proven that it knows the relay key."""
        if self._relay_key is None:
            return End.NO_KEY
        challenge = os.urandom(16)
        client.send(challenge)
        proof = await asyncio.wait_for(client.reader.readexactly(_PROOF), self._limits.name_seconds)
        expected = hmac.digest(self._relay_key, first + challenge, "sha256")
        return None if hmac.compare_digest(proof, expected) else End.WRONG_KEY

    async def _meet(self, client: _Client, theirs: bytes, ours: bytes) -> tuple[_Client | None, bool]:
        """The partner of the same name, and whether it came later; None if none comes or this client leaves."""
        other = self._waiting.pop(theirs, None)
        if other is not None and not other.partner.done():
            self.counters.paired += 1
            if ours[:1] in (PAIR, RELAY) or _OF_RANKS.search(ours):
                self._last_pair = time.monotonic()
            other.partner.set_result(client)
            return other, False
        earlier = self._waiting.pop(ours, None)
        if earlier is not None and not earlier.partner.done():
            self.counters.replaced += 1
            earlier.partner.set_result(None)
        self._waiting[ours] = client
        gone = asyncio.ensure_future(client.reader.read(1))
        either: set[asyncio.Future[Any]] = {client.partner, gone}
        try:
            ended, _ = await asyncio.wait(
                either, timeout=self._limits.wait_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if client.partner in ended:
                return client.partner.result(), True
            self.counters.left += bool(ended)
            self.counters.expired += not ended
            return None, True
        finally:
            await _cancelled(gone)
            if not client.partner.done():
                client.partner.set_result(None)
            if self._waiting.get(ours) is client:
                del self._waiting[ours]

    async def _relay(self, client: _Client, partner: _Client) -> None:
        """Carries the bytes of both until one leaves or a limit is reached, and sends both the reason."""
        both = (client, partner)
        addresses = {each.address[0] for each in both}
        end = self._full(addresses)
        if end is not None:
            self.counters.relays_refused += 1
        else:
            self.counters.relays += 1
            self.counters.relayed += 1
            self._relays_of.update(addresses)
            try:
                end = await self._carry(client, partner)
            finally:
                self.counters.relays -= 1
                self._last_pair = time.monotonic()
                for address in addresses:
                    _count_down(self._relays_of, address)
            self.counters.relays_cut += end is not End.LEFT
        value = getattr(self._limits, end.name.lower(), 0)
        await asyncio.gather(*(each.part(end, value) for each in both))

    def _full(self, addresses: set[str]) -> End | None:
        """The limit that one more relay between these addresses would exceed."""
        limits = self._limits
        if self.counters.relays >= limits.relays:
            return End.RELAYS
        if any(self._relays_of[address] >= limits.relays_per_address for address in addresses):
            return End.RELAYS_PER_ADDRESS
        return None if self._bytes_left() else End.RELAY_BYTES_PER_HOUR

    def _bytes_left(self) -> int:
        """The bytes that all relays may still carry in this hour."""
        now = time.monotonic()
        if now - self._hour >= 3600:
            self._hour, self._bytes_of_hour = now, 0
        return max(self._limits.relay_bytes_per_hour - self._bytes_of_hour, 0)

    async def _carry(self, client: _Client, partner: _Client) -> End:
        for each in (client, partner):
            _bound_buffers(each.writer)
            each.send(b"\x01")
        ways = [_Way(client, partner), _Way(partner, client)]
        pumps = [asyncio.ensure_future(self._pump(way)) for way in ways]
        try:
            while True:
                silent = time.monotonic() - max(way.last for way in ways)
                if silent >= self._limits.relay_idle_seconds:
                    return End.RELAY_IDLE_SECONDS
                ended, _ = await asyncio.wait(
                    pumps,
                    timeout=self._limits.relay_idle_seconds - silent,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if ended:
                    return ended.pop().result()
        finally:
            await _cancelled(*pumps)

    async def _pump(self, way: _Way) -> End:
        """Carries bytes in one direction; returns why it ends."""
        left = self._limits.relay_bytes
        while True:
            try:
                data = await way.source.reader.read(_CHUNK)
            except OSError:
                data = b""
            if not data:
                return End.LEFT
            way.last = time.monotonic()
            for end, most in ((End.RELAY_BYTES, left), (End.RELAY_BYTES_PER_HOUR, self._bytes_left())):
                if len(data) > most:
                    return end
            left -= len(data)
            self._bytes_of_hour += len(data)
            self.counters.relayed_bytes += len(data)
            try:
                way.target.send(data)
                await asyncio.wait_for(way.target.writer.drain(), self._limits.relay_stall_seconds)
            except asyncio.TimeoutError:
                return End.RELAY_STALL_SECONDS
            except OSError:
                return End.LEFT


@dataclass
class _Way:
    """One direction of a relay; last: when the last byte came."""

    source: _Client
    target: _Client
    last: float = field(default_factory=time.monotonic)


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Ends the tasks and retrieves their exceptions, which asyncio would otherwise log.

    It cancels them repeatedly: before Python 3.12, wait_for loses a cancellation that arrives together with its
    result (https://github.com/python/cpython/issues/81839), and its task would continue.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_CANCEL_SECONDS)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def _drained(reader: asyncio.StreamReader) -> None:
    while await reader.read(_CHUNK):
        pass


def _bound_buffers(writer: asyncio.StreamWriter) -> None:
    """Limits what the host and its kernel buffer for a relay's client, and detects when it has gone."""
    writer.transport.set_write_buffer_limits(_CHUNK)
    connection = writer.get_extra_info("socket")
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        connection.setsockopt(socket.SOL_SOCKET, option, _KERNEL_BUFFER)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, number in _KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), number)


def _count_down(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _parsed(first: bytes) -> tuple[bytes, bytes, bytes]:
    """(kind, role, name) of a client's first bytes; plain names end at a NUL and have neither kind nor role."""
    if first[:1] in (PAIR, RELAY):
        role = first[1:2]
        return (first[:1], role, first[2:]) if role in _ROLES else (b"", b"", b"")
    return b"", b"", first.partition(b"\0")[0]


def _packed(address: tuple[str, int]) -> bytes:
    return socket.inet_aton(address[0]) + int(address[1]).to_bytes(2, "big") + b"\0\0"


def log(message: str, **details: object) -> None:
    with suppress(OSError):  # a closed log must not stop the ranks
        print(json.dumps({"message": message, **details}), flush=True)


def read_key(file: Path | None) -> bytes | None:
    """The relay key; None, with a line in the log, if there is none: ranks can still be paired."""
    try:
        key = b"" if file is None else file.read_bytes()
    except OSError as error:
        log("no relay key", error=str(error))
        key = b""
    if len(key) >= KEY_BYTES:
        return key
    log(f"no relays: --relay-key-file must name a file of at least {KEY_BYTES} random bytes")
    return None


async def run(host: str, port: int, idle_exit: float | None, rendezvous: Rendezvous) -> None:
    """Serves until SIGTERM or SIGINT, or until no ranks have met for `idle_exit` seconds."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.set_exception_handler(
        lambda _, context: log("fault", error=f"{context['message']}: {context.get('exception')}")
    )
    server = await asyncio.start_server(
        rendezvous.accept, host, port, family=socket.AF_INET, limit=_READ_AHEAD, backlog=4096
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log("rendezvous listens", port=server.sockets[0].getsockname()[1])
    while not stop.is_set():
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), min(60.0, idle_exit or 60.0))
        log("rendezvous", **rendezvous.health())
        if idle_exit is not None and rendezvous.idle_seconds >= idle_exit:
            log("stops: no ranks have met for a while", idle_seconds=round(rendezvous.idle_seconds))
            break
    server.close()
    await rendezvous.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Rendezvous host of FMI's direct channel.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104 - ranks come from anywhere
    parser.add_argument("--port", type=int, default=10_000, help="TCP port to listen on; 0: any free port")
    parser.add_argument(
        "--idle-exit", type=float, metavar="SECONDS", help="end when no ranks have met for this time"
    )
    parser.add_argument(
        "--relay-key-file", type=Path, metavar="FILE", help="file with the relay key, which clients must know"
    )
    for limit in fields(Limits):
        option = f"--{limit.name.replace('_', '-')}"
        kind = type(limit.default)
        parser.add_argument(option, type=kind, default=limit.default, metavar="N", help=limit.metadata["help"])
    options = parser.parse_args()
    limits = Limits(**{limit.name: getattr(options, limit.name) for limit in fields(Limits)})
    rendezvous = Rendezvous(limits, read_key(options.relay_key_file))
    asyncio.run(run(options.host, options.port, options.idle_exit, rendezvous))


if __name__ == "__main__":
    main()
