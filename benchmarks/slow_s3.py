"""An S3 in memory that answers every request after a fixed time: python slow_s3.py SECONDS [CERTIFICATE.pem]

Prints its port on 127.0.0.1. It understands what Initialize and Summarize ask of S3, and for benchmarks of many
ranks PUT @many with {"prefix": …, "suffix": …, "count": N, "body": …}: N objects PREFIX{n}SUFFIX, in whose body
@RANK@ is replaced by n when they are read, so that they need no memory. The parts of an
object in several parts are received and forgotten.
"""

from __future__ import annotations

import io
import json
import re
import ssl
import sys
import threading
import time
import urllib.parse
from bisect import bisect_left, bisect_right
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any
from xml.sax.saxutils import escape

_PAGE = 1000


class Objects:
    """Bodies by key, and the keys in order."""

    def __init__(self) -> None:
        self._bodies: dict[str, tuple[bytes, int | None]] = {}
        self._ordered: list[str] | None = []
        self._lock = threading.Lock()

    def put(self, key: str, body: bytes, number: int | None = None) -> None:
        """number: replaces @RANK@ in the body."""
        with self._lock:
            if key not in self._bodies:
                self._ordered = None
            self._bodies[key] = body, number

    def put_many(self, prefix: str, suffix: str, count: int, body: str) -> None:
        template = body.encode()
        for number in range(count):
            self.put(f"{prefix}{number}{suffix}", template, number)

    def get(self, key: str) -> bytes | None:
        body, number = self._bodies.get(key, (None, None))
        return body if body is None or number is None else body.replace(b"@RANK@", b"%d" % number)

    def size(self, key: str) -> int:
        body, number = self._bodies[key]
        return len(body) if number is None else len(body) - len("@RANK@") + len(str(number))

    def delete(self, key: str) -> None:
        with self._lock:
            if self._bodies.pop(key, None) is not None:
                self._ordered = None

    def page(self, prefix: str, after: str, delimiter: str) -> tuple[list[str], bool]:
        """The next keys with the prefix, but not those in folders below it, and whether there are more."""
        with self._lock:
            if self._ordered is None:
                self._ordered = sorted(self._bodies)
            ordered = self._ordered
        first = max(bisect_left(ordered, prefix), bisect_right(ordered, after) if after else 0)
        keys: list[str] = []
        for index in range(first, len(ordered)):
            key = ordered[index]
            if not key.startswith(prefix):
                break
            if delimiter and delimiter in key[len(prefix) :]:
                continue
            if len(keys) == _PAGE:
                return keys, True
            keys.append(key)
        return keys, False


OBJECTS = Objects()


def _chunked(file: IO[bytes]) -> bytes:
    parts = []
    while size := int(file.readline().split(b";")[0], 16):
        parts.append(file.read(size))
        file.readline()
    while file.readline().strip():
        pass
    return b"".join(parts)


class Handler(BaseHTTPRequestHandler):
    protocol_version, wbufsize, disable_nagle_algorithm = "HTTP/1.1", -1, True

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"ETag": '"1"', "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def name(self) -> tuple[str, dict[str, list[str]]]:
        path, _, query = self.path.partition("?")
        key = urllib.parse.unquote(([*path.split("/", 2), ""])[2])
        return key, urllib.parse.parse_qs(query, keep_blank_values=True)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = _chunked(self.rfile)
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        coded = self.headers.get("Content-Encoding", "") == "aws-chunked"
        return _chunked(io.BytesIO(data)) if coded else data

    def do_PUT(self) -> None:
        key, query = self.name()
        body = self.body()
        time.sleep(LATENCY)
        if key == "@many":
            OBJECTS.put_many(**json.loads(body))
        elif "partNumber" not in query:
            OBJECTS.put(key, body)
        self.answer(200)

    def do_POST(self) -> None:
        _, query = self.name()
        body = self.body().decode()
        time.sleep(LATENCY)
        if "uploads" in query:
            self.answer(
                200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
            )
        elif "uploadId" in query:
            self.answer(200, b'<CompleteMultipartUploadResult><ETag>"1"</ETag></CompleteMultipartUploadResult>')
        else:
            for deleted in re.findall(r"<Key>(.*?)</Key>", body):
                OBJECTS.delete(deleted)
            self.answer(200, b"<DeleteResult/>")

    def do_GET(self) -> None:
        time.sleep(LATENCY)
        key, query = self.name()
        if "list-type" in query:
            self.listing(query)
            return
        body = OBJECTS.get(key)
        if body is None:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self.answer(200, body)

    def listing(self, query: dict[str, list[str]]) -> None:
        prefix, after = query["prefix"][0], query.get("continuation-token", [""])[0]
        keys, more = OBJECTS.page(prefix, after, query.get("delimiter", [""])[0])
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{OBJECTS.size(key)}</Size>"
            "<LastModified>2026-11-22T00:00:00.000Z</LastModified></Contents>"
            for key in keys
        )
        token = f"<NextContinuationToken>{escape(keys[-1])}</NextContinuationToken>" if more else ""
        text = (
            f"<ListBucketResult><IsTruncated>{'true' if more else 'false'}</IsTruncated>{token}{items}"
            "</ListBucketResult>"
        )
        self.answer(200, text.encode(), **{"Content-Type": "application/xml"})

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 64

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Runs in a thread of the connection, which also shakes hands there."""
        if len(sys.argv) > 2:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(Path(sys.argv[2]))
            request = context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away."""


if __name__ == "__main__":
    LATENCY = float(sys.argv[1])
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
