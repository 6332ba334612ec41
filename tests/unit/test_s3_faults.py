"""The ranks' S3 client with servers that break off, refuse, redirect and hang; and what it sends."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from botocore.httpchecksum import Crc32Checksum

from summarize.contract.s3_rest import client as s3_module
from summarize.contract.s3_rest.client import S3, Broken, NoSuchKey, S3Error
from summarize.contract.s3_rest.signing import Credentials

BUCKET = "team3-cosmicai"
Answer = Callable[[Any, int], None]  # of a handler of HTTP to its n-th request


@contextmanager
def _server(answer: Answer) -> Iterator[S3]:
    """Our client of a server that answers as it is told."""
    requests = iter(range(1000))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self, next(requests))

        def do_PUT(self) -> None:
            answer(self, next(requests))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ours = S3(Credentials("test", "test"), "us-east-1", f"http://127.0.0.1:{server.server_port}")
        try:
            yield ours
        finally:
            ours.close()
            server.shutdown()


def _send(handler: Any, status: int, body: bytes, announced: int | None = None, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body) if announced is None else announced))
    handler.end_headers()
    handler.wfile.write(body)


def _hang_up(handler: Any) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def _refusal(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>of S3</Message></Error>".encode()


@pytest.mark.parametrize("body", [b"", b"x", bytes(range(256)) * 5000])
def test_what_is_written_has_boto3s_checksum(body: bytes) -> None:
    headers: list[Any] = []

    def answer(handler: Any, _: int) -> None:
        headers.append(handler.headers)
        assert handler.rfile.read(int(handler.headers["Content-Length"])) == body
        _send(handler, 200, b"", ETag='"1"')

    with _server(answer) as ours:
        ours.put_object(Bucket=BUCKET, Key="x", Body=body)
    theirs = Crc32Checksum()
    theirs.update(body)
    assert headers[0]["x-amz-checksum-crc32"] == theirs.b64digest()
    assert "x-amz-checksum-crc32" in headers[0]["Authorization"]


def test_a_client_is_made_while_the_certificates_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read, may_end = s3_module._read_certificates, threading.Event()

    def slowly() -> ssl.SSLContext:
        assert may_end.wait(60)
        return read()

    monkeypatch.setattr(s3_module, "_read_certificates", slowly)
    ours = S3(Credentials("test", "test"), "us-east-1")
    assert ours._tls is not None
    assert not ours._tls.done()
    may_end.set()
    connection, _ = ours._connection("https://s3.us-east-1.amazonaws.com", [])
    context = ours._tls.result()
    assert connection._context is context  # type: ignore[attr-defined]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) > 100


def test_certificates_that_could_not_be_read_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox serves many ranks, with the client that was made when it started."""
    faults = [OSError(24, "Too many open files")]
    read = s3_module._read_certificates
    monkeypatch.setattr(s3_module, "_read_certificates", lambda: _raise(faults.pop()) if faults else read())
    ours = S3(Credentials("test", "test"), "us-east-1")
    with pytest.raises(OSError, match="Too many open files"):
        ours._connection("https://s3.us-east-1.amazonaws.com", [])
    connection, _ = ours._connection("https://s3.us-east-1.amazonaws.com", [])
    assert connection._context.verify_mode == ssl.CERT_REQUIRED  # type: ignore[attr-defined]


def _raise(error: Exception) -> ssl.SSLContext:
    raise error


def test_one_connection_serves_many_requests() -> None:
    ports: set[int] = set()

    def answer(handler: Any, request: int) -> None:
        ports.add(handler.client_address[1])
        status, body = (404, _refusal("NoSuchKey")) if request % 2 else (200, b"body")
        _send(handler, status, body, ETag='"1"')

    with _server(answer) as ours:
        for _ in range(10):
            assert ours.get_object(Bucket=BUCKET, Key="one")["Body"].read() == b"body"
            with pytest.raises(NoSuchKey):
                ours.get_object(Bucket=BUCKET, Key="none")
    assert len(ports) == 1


@pytest.mark.parametrize(
    "fault",
    [
        lambda handler: _send(handler, 503, _refusal("SlowDown")),
        lambda handler: _send(handler, 500, b""),
        lambda handler: _send(handler, 400, _refusal("RequestTimeout")),
        lambda handler: _send(handler, 502, b"<html>a proxy's"),
        lambda handler: (_send(handler, 500, b"<Err", announced=100), _hang_up(handler)),
        _hang_up,
    ],
    ids=["SlowDown", "500", "RequestTimeout", "502", "an error cut off", "hung up"],
)
def test_a_fault_that_passes_is_not_seen(
    fault: Callable[[Any], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "_PAUSE", 0.001)

    def answer(handler: Any, request: int) -> None:
        fault(handler) if request < 4 else _send(handler, 200, b"body", ETag='"1"')

    with _server(answer) as ours:
        assert ours.get_object(Bucket=BUCKET, Key="x")["Body"].read() == b"body"


def test_a_fault_that_stays_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "_PAUSE", 0.001)
    with (
        _server(lambda handler, _: _send(handler, 503, _refusal("SlowDown"))) as ours,
        pytest.raises(S3Error, match="S3 answers SlowDown to GET x: of S3"),
    ):
        ours.get_object(Bucket=BUCKET, Key="x")
    with _server(lambda handler, _: _hang_up(handler)) as ours, pytest.raises(Broken):
        ours.get_object(Bucket=BUCKET, Key="x")


def test_a_refusal_is_not_repeated() -> None:
    seen: list[int] = []

    def answer(handler: Any, request: int) -> None:
        seen.append(request)
        _send(handler, 403, _refusal("AccessDenied"))

    with _server(answer) as ours, pytest.raises(S3Error, match="AccessDenied"):
        ours.get_object(Bucket=BUCKET, Key="x")
    assert seen == [0]


@pytest.mark.parametrize("amount", [None, 10])
def test_a_body_that_is_cut_off_is_noticed(amount: int | None) -> None:
    def answer(handler: Any, _: int) -> None:
        _send(handler, 200, b"x" * 25, announced=100, ETag='"1"')
        _hang_up(handler)

    with _server(answer) as ours:
        body = ours.get_object(Bucket=BUCKET, Key="x")["Body"]
        with pytest.raises(Broken):
            list(iter(lambda: body.read(amount), b""))


def test_a_body_that_is_cut_off_is_noticed_by_its_only_read() -> None:
    """Summarize reads at most so much, once; half an info would count as none."""

    def answer(handler: Any, _: int) -> None:
        _send(handler, 200, b"x" * 25, announced=100, ETag='"1"')
        _hang_up(handler)

    with _server(answer) as ours:
        body = ours.get_object(Bucket=BUCKET, Key="x")["Body"]
        with pytest.raises(Broken, match="75 bytes are missing"):
            body.read(1000)


def test_a_refusal_that_is_cut_off_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its status alone, a missing object would be another error than NoSuchKey."""
    monkeypatch.setattr(s3_module, "_PAUSE", 0.001)
    refusal = _refusal("NoSuchKey")

    def answer(handler: Any, request: int) -> None:
        _send(handler, 404, refusal if request else refusal[:30], announced=len(refusal))
        if not request:
            _hang_up(handler)

    with _server(answer) as ours, pytest.raises(NoSuchKey):
        ours.get_object(Bucket=BUCKET, Key="x")


@pytest.mark.parametrize("closes", [True, False])
def test_a_refusal_before_all_is_written_is_seen(closes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 does not read a large body that it refuses. The connection serves no other request."""
    monkeypatch.setattr(s3_module, "_PAUSE", 0.001)
    ports: list[int] = []

    def answer(handler: Any, request: int) -> None:
        ports.append(handler.client_address[1])
        if request:
            _send(handler, 200, b"body", ETag='"1"')
            return
        headers = {"Connection": "close"} if closes else {}
        _send(handler, 403, _refusal("AccessDenied"), **headers)
        handler.connection.shutdown(socket.SHUT_RD)
        handler.close_connection = True

    with _server(answer) as ours:
        with pytest.raises(S3Error, match="AccessDenied"):
            ours.put_object(Bucket=BUCKET, Key="x", Body=bytes(20 << 20))
        assert ours.get_object(Bucket=BUCKET, Key="x")["Body"].read() == b"body"
    assert len(ports) == len(set(ports)) == 2


def test_of_idle_connections_that_hang_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network may lose them without a word; a request would wait 30 s for each of them."""
    monkeypatch.setattr(s3_module, "_SECONDS", 0.5)
    hung, ended = list[int](), threading.Event()

    def answer(handler: Any, request: int) -> None:
        _send(handler, 200, b"body", ETag='"1"')
        if request < 6 and handler.rfile.readline():
            hung.append(request)
            ended.wait(30)

    with _server(answer) as ours:
        bodies = [ours.get_object(Bucket=BUCKET, Key="x")["Body"] for _ in range(6)]
        assert [body.read() for body in bodies] == [b"body"] * 6
        assert ours.get_object(Bucket=BUCKET, Key="x")["Body"].read() == b"body"
        ended.set()
    assert len(hung) == 1


def test_an_idle_connection_that_was_closed_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where only one attempt is made."""
    monkeypatch.setattr(s3_module, "_ATTEMPTS", 1)

    def answer(handler: Any, _: int) -> None:
        _send(handler, 200, b"body", ETag='"1"')
        _hang_up(handler)  # without having said so

    with _server(answer) as ours:
        for _ in range(5):
            assert ours.get_object(Bucket=BUCKET, Key="x")["Body"].read() == b"body"


def test_a_bucket_in_another_region_is_asked_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 names it in a header of the refusal."""
    monkeypatch.setattr(s3_module, "_ATTEMPTS", 1)
    regions: list[str] = []

    def answer(handler: Any, _: int) -> None:
        regions.append(handler.headers["Authorization"].split("/")[2])
        if regions[-1] == "eu-west-1":
            _send(handler, 200, b"body", ETag='"1"', x_amz_bucket_region="eu-west-1")
        else:
            _send(handler, 301, _refusal("PermanentRedirect"), x_amz_bucket_region="eu-west-1")

    with _server(answer) as ours:
        for _ in range(2):
            assert ours.get_object(Bucket=BUCKET, Key="x")["Body"].read() == b"body"
    assert regions == ["us-east-1", "eu-west-1", "eu-west-1"]


def test_threads_that_are_sent_to_another_region_at_once_all_go_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of them is sent there when the client knows the region already."""
    monkeypatch.setattr(s3_module, "_ATTEMPTS", 1)
    together, order = threading.Barrier(4), iter(range(4))

    def answer(handler: Any, _: int) -> None:
        if "/eu-west-1/" in handler.headers["Authorization"]:
            _send(handler, 200, b"body", ETag='"1"')
            return
        together.wait(30)
        time.sleep(0.1 * next(order))
        _send(handler, 301, _refusal("PermanentRedirect"), x_amz_bucket_region="eu-west-1")

    with _server(answer) as ours, ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda key: ours.get_object(Bucket=BUCKET, Key=key)["Body"].read(), "abcd")
        assert list(answers) == [b"body"] * 4


@pytest.mark.parametrize("region", ["", "evil.example/", "us-east-1.evil.example", "us-east-1"])
def test_no_other_host_is_asked_than_one_of_a_region(region: str) -> None:
    seen: list[int] = []

    def answer(handler: Any, request: int) -> None:
        seen.append(request)
        _send(handler, 301, _refusal("PermanentRedirect"), x_amz_bucket_region=region)

    with _server(answer) as ours, pytest.raises(S3Error, match="PermanentRedirect"):
        ours.get_object(Bucket=BUCKET, Key="x")
    assert seen == [0]


@pytest.mark.parametrize(
    ("encoding", "key"), [("", "a+b%20.pt"), ("<EncodingType>url</EncodingType>", "a b .pt")]
)
def test_keys_are_decoded_where_the_server_says_that_they_are_encoded(encoding: str, key: str) -> None:
    item = (
        "<Contents><Key>a+b%20.pt</Key><ETag>x</ETag><Size>1</Size>"
        "<LastModified>2026-11-27T20:15:00Z</LastModified></Contents>"
    )
    page = f"<ListBucketResult>{encoding}{item}</ListBucketResult>".encode()
    with _server(lambda handler, _: _send(handler, 200, page)) as ours:
        (listed,) = ours.list_objects_v2(Bucket=BUCKET, Prefix="")["Contents"]
    assert listed["Key"] == key
