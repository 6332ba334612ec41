"""The ranks' S3 client compared with boto3: the same signatures, addresses and answers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import HTTPResponse

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
