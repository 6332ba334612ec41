"""The ranks' client of S3 beside boto3: the same signatures, addresses and answers; broken connections."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.httpchecksum import Crc32Checksum
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import HTTPResponse

from summarize.contract.s3_rest import client as s3_module
from summarize.contract.s3_rest.choice import broken, new_client
from summarize.contract.s3_rest.client import S3, Broken, NoSuchKey, S3Error, place
from summarize.contract.s3_rest.signing import Credentials, path_of, query_of, signed
from tests.replica import Replica, replica

BUCKET = "team3-cosmicai"
KEYS = [
    "a.pt",
    "a b+c.pt",
    "ä/ü €.pt",
    "100%/~x=y&z?.pt",
    "quote'\"<>.pt",
    "\u202ex.pt",
    "x//y.pt",
    "😀.pt",
    "a\tb",
]
AT = datetime(2026, 11, 27, 20, 15, 0, tzinfo=UTC)
_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token",
    "AWS_REGION": "eu-central-1",
}  # fmt: skip


@given(
    st.sampled_from(["GET", "PUT", "DELETE"]),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=30),
    st.dictionaries(st.sampled_from(["prefix", "continuation-token", "list-type"]), st.text(max_size=20)),
    st.dictionaries(
        st.sampled_from(["Range", "If-Match", "Content-Type", "x-amz-checksum-crc32"]),
        st.text('abc "=-/', min_size=1, max_size=20),
    ),
    st.binary(max_size=100),
    st.sampled_from([None, "FwoGZXIvYXdzEJr//////////wEaD"]),
)
def test_signatures_are_botocores(
    method: str, key: str, query: dict[str, str], headers: dict[str, str], body: bytes, token: str | None
) -> None:
    host, path, text = f"{BUCKET}.s3.eu-west-1.amazonaws.com", f"/{path_of(key)}", query_of(query)
    credentials = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token)
    ours = signed(method, path, text, {"Host": host, **headers}, body, credentials, "eu-west-1", AT)
    request = AWSRequest(method, f"https://{host}{path}?{text}", headers, body)
    keys = botocore.credentials.Credentials(credentials.access_key, credentials.secret_key, token)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda: AT.replace(tzinfo=None))
        botocore.auth.S3SigV4Auth(keys, "s3", "eu-west-1").add_auth(request)
    assert ours["Authorization"] == request.headers["Authorization"]
    assert ours["X-Amz-Content-SHA256"] == request.headers["X-Amz-Content-SHA256"]


@pytest.mark.parametrize("bucket", [BUCKET, "dotted.name.of-a-team"])
@pytest.mark.parametrize("partition", boto3.Session().get_available_partitions())
def test_buckets_are_where_boto3_asks_for_them(partition: str, bucket: str) -> None:
    asked: list[str] = []

    def answer(request: Any, **_: object) -> AWSResponse:
        asked.append(request.url)
        return AWSResponse(request.url, 204, {}, HTTPResponse(io.BytesIO(), preload_content=False))

    regional = Config(s3={"us_east_1_regional_endpoint": "regional"})
    regions = boto3.Session().get_available_regions("s3", partition)
    for region in regions:
        theirs = boto3.client("s3", region, aws_access_key_id="a", aws_secret_access_key="b", config=regional)  # noqa: S106
        theirs.meta.events.register("before-send.s3.DeleteObject", answer)
        theirs.delete_object(Bucket=bucket, Key="x/y")
    assert asked == [f"{''.join(place(bucket, region))}x/y" for region in regions]


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with replica(tmp_path_factory.mktemp("s3") / "log") as running:
        running.client("s3").create_bucket(Bucket=BUCKET)
        yield running


@pytest.fixture
def ours(aws: Replica) -> Iterator[S3]:
    client = S3(Credentials("test", "test"), "us-east-1", aws.endpoint)
    yield client
    client.close()


@pytest.mark.parametrize("key", KEYS)
def test_what_one_client_writes_the_other_reads(aws: Replica, ours: S3, key: str) -> None:
    theirs = aws.client("s3")
    for number, (writer, reader) in enumerate(((ours, theirs), (theirs, ours))):
        body = f"{number} of {key}".encode()
        writer.put_object(Bucket=BUCKET, Key=key, Body=body, ContentType="application/json")
        answer, other = (one.get_object(Bucket=BUCKET, Key=key) for one in (reader, writer))
        assert answer["Body"].read() == other["Body"].read() == body
        assert (answer["ETag"], answer["ContentLength"]) == (other["ETag"], other["ContentLength"])
    assert theirs.head_object(Bucket=BUCKET, Key=key)["ContentType"] == "application/json"
    listed = [one.list_objects_v2(Bucket=BUCKET, Prefix=key)["Contents"] for one in (ours, theirs)]
    assert [
        [(item["Key"], item["ETag"], item["Size"], item["LastModified"]) for item in one] for one in listed
    ] == [[(item["Key"], item["ETag"], item["Size"], item["LastModified"]) for item in listed[1]]] * 2
    ours.delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(NoSuchKey):
        ours.get_object(Bucket=BUCKET, Key=key)


def test_ranges_conditions_and_refusals_are_those_of_boto3(aws: Replica, ours: S3) -> None:
    theirs = aws.client("s3")
    ours.put_object(Bucket=BUCKET, Key="object", Body=bytes(range(100)))
    ours.put_object(Bucket=BUCKET, Key="empty", Body=b"")
    etag = theirs.head_object(Bucket=BUCKET, Key="object")["ETag"]
    asked: list[dict[str, Any]] = [
        {"Key": "object", "Range": "bytes=10-19"},
        {"Key": "object", "Range": "bytes=90-200", "IfMatch": etag},
        {"Key": "object", "Range": "bytes=100-200"},
        {"Key": "object", "IfMatch": '"another"'},
        {"Key": "empty", "Range": "bytes=0-9"},
        {"Key": "nothing"},
        {"Key": "object", "Bucket": "no-such-bucket-of-ours"},
    ]
    answers: list[list[object]] = [[], []]
    for seen, one in zip(answers, (ours, theirs), strict=True):
        for arguments in asked:
            try:
                answer = one.get_object(**{"Bucket": BUCKET, **arguments})
                seen.append((answer["Body"].read(), answer["ContentRange"], answer["ETag"]))
            except (S3Error, ClientError) as error:
                seen.append((error.response["Error"]["Code"], error.response["Error"]["Message"]))
    assert answers[0] == answers[1]
    assert {"InvalidRange", "PreconditionFailed", "NoSuchKey", "NoSuchBucket"} <= {
        one[0] for one in answers[0] if isinstance(one, tuple)
    }


def test_a_long_listing_has_pages(aws: Replica, ours: S3) -> None:
    names = {f"long/{number:04} +%.pt" for number in range(1100)}
    for name in names:
        ours.put_object(Bucket=BUCKET, Key=name, Body=b"x")
    page = ours.list_objects_v2(Bucket=BUCKET, Prefix="long/")
    assert len(page["Contents"]) == 1000
    token = page["NextContinuationToken"]
    rest = ours.list_objects_v2(Bucket=BUCKET, Prefix="long/", ContinuationToken=token)
    assert {one["Key"] for one in page["Contents"] + rest["Contents"]} == names
    assert "NextContinuationToken" not in rest
    assert ours.list_objects_v2(Bucket=BUCKET, Prefix="nothing/") == {}


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
    ("changes", "is_ours"),
    [
        ({}, True),
        ({"AWS_SESSION_TOKEN": None, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, True),
        ({"AWS_CONFIG_FILE": "/dev/null", "HTTPS_PROXY": ""}, True),
        ({"HTTPS_PROXY": "http://proxy:3128"}, False),
        ({"AWS_CA_BUNDLE": __file__}, False),
        ({"REQUESTS_CA_BUNDLE": __file__}, False),
        ({"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, False),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, False),
        ({"AWS_SECRET_ACCESS_KEY": None}, False),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_SESSION_TOKEN": None}, False),
    ],
)
def test_boto3_is_used_for_what_our_client_does_not_know(
    changes: dict[str, str | None], is_ours: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment = {name: value for name, value in {**_ENVIRONMENT, **changes}.items() if value is not None}
    for name, value in {**environment, "AWS_DEFAULT_REGION": "eu-central-1"}.items():
        monkeypatch.setenv(name, value)
    client = new_client(environment)
    assert isinstance(client, S3) == is_ours
    assert (Broken in broken(client)) == is_ours


def test_an_address_that_is_no_url_is_refused_as_by_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**_ENVIRONMENT, "AWS_ENDPOINT_URL": "localhost:4566"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="Invalid endpoint: localhost:4566"):
        new_client(environment)
