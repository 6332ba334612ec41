"""Summarize's own reads of S3: what boto3 would give, also where the short way does not work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
from botocore.config import Config

from summarize.fetching import Fetcher

BODY = b"galaxies" * 1000


class _Store(BaseHTTPRequestHandler):
    """Answers signed addresses as `way` says, and boto3's requests as S3 does."""

    way = "whole"
    asked: tuple[list[str], list[str]] = ([], [])  # by signed addresses; by boto3

    def do_GET(self) -> None:
        signed = "X-Amz-Signature=" in self.path
        self.asked[not signed].append(self.path.partition("?")[0])
        if signed and self.way == "closed":
            self.close_connection = True
            return
        if self.path.startswith("/runs/none") or (signed and self.way == "refused"):
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>", None)
        elif signed and self.way == "replaced":
            self._send(200, b"another", None)
        else:
            self._send(200, BODY[:-9] if signed and self.way == "cut" else BODY, len(BODY))

    def _send(self, status: int, body: bytes, length: int | None) -> None:
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(_Store, "asked", ([], []))
    with ThreadingHTTPServer(("127.0.0.1", 0), _Store) as server:
        threading.Thread(target=server.serve_forever).start()
        client = boto3.client(
            "s3", "us-east-1", endpoint_url=f"http://127.0.0.1:{server.server_port}",
            aws_access_key_id="a", aws_secret_access_key="b",  # noqa: S106
            config=Config(signature_version="s3v4"),
        )  # fmt: skip
        yield client
        server.shutdown()


def test_an_object_is_read_by_its_signed_address_alone(s3: Any) -> None:
    assert Fetcher(s3, 4)("runs", "r/1.json", len(BODY)) == BODY
    assert _Store.asked == (["/runs/r/1.json"], [])


@pytest.mark.parametrize("way", ["closed", "refused", "replaced", "cut"])
def test_what_cannot_be_read_so_is_read_by_boto3(s3: Any, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Store, "way", way)
    fetch = Fetcher(s3, 4)
    assert fetch("runs", "r/1.json", len(BODY)) == BODY
    assert fetch("runs", "r/2.json", len(BODY)) == BODY
    broken = way in ("closed", "cut")
    assert _Store.asked[0] == ["/runs/r/1.json"] if broken else ["/runs/r/1.json", "/runs/r/2.json"]
    assert _Store.asked[1] == ["/runs/r/1.json", "/runs/r/2.json"]


def test_an_object_that_is_not_there_is_boto3s_error(s3: Any) -> None:
    with pytest.raises(s3.exceptions.NoSuchKey):
        Fetcher(s3, 4)("runs", "none.json", 7)
