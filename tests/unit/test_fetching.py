"""Summarize's own reads of S3: what boto3 would give, also where the short way does not work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import botocore.auth
import pytest
from botocore.config import Config
from botocore.credentials import Credentials

from summarize.fetching import Fetcher

BODY = b"galaxies" * 1000
CREDENTIALS = Credentials("a", "b")


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
            aws_access_key_id=CREDENTIALS.access_key, aws_secret_access_key=CREDENTIALS.secret_key,
            config=Config(signature_version="s3v4"),
        )  # fmt: skip
        yield client
        server.shutdown()


@pytest.fixture
def fetch(s3: Any) -> Iterator[Fetcher]:
    with Fetcher(s3, CREDENTIALS, "runs") as fetcher:
        yield fetcher


def test_an_object_is_read_by_its_signed_address_alone(fetch: Fetcher) -> None:
    assert fetch("r/1.json", len(BODY)) == BODY
    assert _Store.asked == (["/runs/r/1.json"], [])


def test_threads_share_a_fetcher(fetch: Fetcher) -> None:
    keys = [f"r/{number}.json" for number in range(200)]
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda key: fetch(key, len(BODY)), keys)) == {BODY}
    assert sorted(_Store.asked[0]) == sorted(f"/runs/{key}" for key in keys)
    assert _Store.asked[1] == []


@pytest.mark.parametrize("way", ["closed", "refused", "replaced", "cut"])
def test_what_cannot_be_read_so_is_read_by_boto3(
    fetch: Fetcher, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Store, "way", way)
    for number in range(12):
        assert fetch(f"r/{number}.json", len(BODY)) == BODY
    assert len(_Store.asked[0]) == (8 if way in ("closed", "cut") else 12)  # not for ever in vain
    assert _Store.asked[1] == [f"/runs/r/{number}.json" for number in range(12)]


def test_one_broken_connection_makes_one_object_slow(fetch: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch("r/1.json", len(BODY)) == BODY
    monkeypatch.setattr(_Store, "way", "closed")
    assert fetch("r/2.json", len(BODY)) == BODY
    monkeypatch.setattr(_Store, "way", "whole")
    assert fetch("r/3.json", len(BODY)) == BODY
    assert _Store.asked[1] == ["/runs/r/2.json"]


def test_an_object_that_is_not_there_is_boto3s_error(s3: Any, fetch: Fetcher) -> None:
    with pytest.raises(s3.exceptions.NoSuchKey):
        fetch("none.json", 7)


@pytest.mark.parametrize("token", [None, "a+token/of=a role"])
@pytest.mark.parametrize("bucket", ["runs", "runs.of.a.team"])  # a host of its own; in the path
@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
def test_addresses_are_those_that_boto3_signs(
    region: str, bucket: str, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = boto3.Session("AKID", "secret", token, region)
    s3 = session.client("s3", config=Config(signature_version="s3v4"))
    fetch = Fetcher(s3, session.get_credentials(), bucket)
    for key in ("r/1.json", "a b/ü~+&=%2F/../1.json", "r//1.json"):
        place = {"Bucket": bucket, "Key": key}
        theirs = urlsplit(s3.generate_presigned_url("get_object", Params=place, ExpiresIn=60))
        signed = datetime.strptime(parse_qs(theirs.query)["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ")
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda signed=signed: signed)
        ours = urlsplit(fetch.address(key))
        assert ours[:3] == theirs[:3]
        assert parse_qs(ours.query) == parse_qs(theirs.query)  # awscrt, where it signs, orders them otherwise
