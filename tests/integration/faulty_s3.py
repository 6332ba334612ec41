"""A proxy in front of S3 that spoils requests: what a rank's client meets on a bad day, on real sockets."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlparse

_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}
STALL_SECONDS = 2.0


@dataclass
class FaultyS3:
    """spoil: for a request (method, path) and how often just that one has come, the fault or None.

    Faults: "slow down" (S3's 503), "reset" (the connection, in the middle of the body), "short" (an end before
    its time), "stall" (a pause in the middle), "lost" (it is done, but no answer comes),
    "hold" (nothing is done until `release` is set).
    """

    endpoint: str
    spoil: Callable[[str, str, int], str | None]
    injected: Counter[str] = field(default_factory=Counter)
    held: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    _seen: Counter[tuple[str, ...]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, path: str, part: str) -> str | None:
        with self._lock:
            self._seen[method, path, part] += 1
            kind = self.spoil(method, path, self._seen[method, path, part])
            self.injected[kind or "none"] += 1
        return kind

    @contextmanager
    def running(self) -> Iterator[FaultyS3]:
        server = _Server(self)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            self.release.set()
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, proxy: FaultyS3) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client has gone
            self.close_connection = True

    def _pass_on(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = proxy.fault(self.command, urlparse(self.path).path, self.headers.get("Range", ""))
        if kind == "slow down":
            self._answer(503, {"Content-Type": "application/xml"}, _SLOW_DOWN)
            return
        if kind == "hold":
            proxy.held.set()
            proxy.release.wait(60)
        status, headers, content = self._asked(body)
        if kind == "lost":
            self.close_connection = True
            self.connection.close()
            return
        self._answer(status, headers, content, kind)

    def _asked(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        target = urlparse(self.server.proxy.endpoint)
        connection = http.client.HTTPConnection(str(target.hostname), target.port, timeout=60)
        try:
            connection.request(self.command, self.path, body or None, dict(self.headers))
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes, kind: str | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind in ("reset", "short", "stall"):
            self._write_spoilt(content, kind)
        else:
            self.wfile.write(content)

    def _write_spoilt(self, content: bytes, kind: str) -> None:
        """The first half of the content, and then what the kind of fault does."""
        middle = len(content) // 2
        self.wfile.write(content[:middle])
        self.wfile.flush()
        if kind == "stall":
            time.sleep(STALL_SECONDS)
            self.wfile.write(content[middle:])
            return
        if kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_WR) if kind == "short" else self.connection.close()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on

    def log_message(self, format: str, *arguments: Any) -> None: ...


_SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
