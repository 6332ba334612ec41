"""Reading and writing objects over connections that break.

botocore repeats a request until its answer begins. A connection that breaks after that, in a body, raises
botocore's exception; in the body of an error answer it raises urllib3's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Self, TypeVar

import boto3
import botocore.session
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.utils import parse_timestamp
from urllib3.exceptions import HTTPError

from . import repeating
from .s3_rest.choice import broken

T = TypeVar("T")

_JSON = "application/json"
_PART_BYTES = 8 << 20
"""Of a list. S3 takes parts from 5 MiB on, except the last, and 10,000 of them
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html)."""

BROKEN: tuple[type[Exception], ...] = (HTTPClientError, IncompleteReadError, HTTPError)
"""What a broken connection raises; the request may be made again."""


def boto3_client() -> Any:
    """boto3's client for S3, whose listings take less than half of the CPU time.

    botocore reads the time of each object with dateutil, in 0.2 ms.
    """
    session = botocore.session.get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time)
    return boto3.Session(botocore_session=session).client("s3")


def _time(value: Any) -> datetime:
    """As listings have it, or as headers have it."""
    with suppress(TypeError, ValueError):
        return datetime.fromisoformat(value)
    time: datetime = parse_timestamp(value)
    return time


def repeated(request: Callable[[], T]) -> T:
    """The answer of an idempotent request, made again while its connection breaks. May raise one of BROKEN."""
    return repeating.repeated(request, BROKEN)


def read(s3: Any, bucket: str, key: str) -> tuple[bytes, str]:
    """An object and its ETag. Raises botocore's ClientError, or one of BROKEN."""

    def get() -> tuple[bytes, str]:
        answer = s3.get_object(Bucket=bucket, Key=key)
        return answer["Body"].read(), answer["ETag"]

    return repeated(get)


def read_small(s3: Any, bucket: str, key: str, most_bytes: int) -> bytes:
    """An object that may be anybody's. s3: boto3's client, or that of s3_rest.

    Raises ValueError for one with more bytes, the client's ClientError, or its error of a broken connection.
    """

    def get() -> bytes:
        answer = s3.get_object(Bucket=bucket, Key=key)
        if answer["ContentLength"] > most_bytes:
            answer["Body"].close()
            raise ValueError(f"it has {answer['ContentLength']:,} bytes, and at most {most_bytes:,} are read")
        body: bytes = answer["Body"].read()
        return body

    return repeating.repeated(get, broken(s3))


def put_json(s3: Any, bucket: str, key: str, content: object) -> None:
    """Writes the content as JSON. Raises botocore's ClientError."""
    body = json.dumps(content, indent=1).encode()
    s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType=_JSON)


def put_list(s3: Any, bucket: str, key: str, content: Iterable[object]) -> None:
    """Writes a list as JSON, as ListUpload does. Raises botocore's ClientError."""
    with ListUpload(s3, bucket, key) as upload:
        for one in content:
            upload.add(one)
        upload.finish()


class ListUpload:
    """A list that is written as JSON while its elements are made, so that it need not fit into memory.

    An element has a line of its own: json.dumps takes ten times as long to indent. The object appears when
    `finish` has returned. A block that ends without it leaves nothing. Methods raise botocore's ClientError.
    """

    def __init__(self, s3: Any, bucket: str, key: str) -> None:
        self._s3, self._object = s3, {"Bucket": bucket, "Key": key}
        self._text = bytearray(b"[")
        self._separator = b""
        self._upload: str | None = None  # of several parts, where the list is larger than one
        self._parts: list[dict[str, Any]] = []
        self._is_finished = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._upload is not None and not self._is_finished:
            with suppress(BotoCoreError, ClientError, *BROKEN):  # else the bucket's lifecycle removes the parts
                self._s3.abort_multipart_upload(**self._object, UploadId=self._upload)

    def add(self, element: object) -> None:
        """Adds it to the end of the list."""
        self._text += self._separator
        self._text += json.dumps(element).encode()
        self._separator = b",\n"
        if len(self._text) >= _PART_BYTES:
            self._put_part()

    def finish(self) -> None:
        """Writes the end of the list, and what is left of it."""
        self._text += b"]"
        if self._upload is None:
            self._s3.put_object(**self._object, Body=bytes(self._text), ContentType=_JSON)
        else:
            self._put_part()
            parts = {"Parts": self._parts}
            self._s3.complete_multipart_upload(**self._object, UploadId=self._upload, MultipartUpload=parts)
        self._is_finished = True

    def _put_part(self) -> None:
        if self._upload is None:
            created = self._s3.create_multipart_upload(**self._object, ContentType=_JSON)
            self._upload = created["UploadId"]
        number = len(self._parts) + 1
        answer = self._s3.upload_part(
            **self._object, UploadId=self._upload, PartNumber=number, Body=bytes(self._text)
        )
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        self._text.clear()


def put_if(s3: Any, bucket: str, key: str, body: bytes, condition: Mapping[str, str]) -> None:
    """Writes JSON under a condition of HTTP, such as {"If-None-Match": "*"}. Raises botocore's ClientError.

    The header is set directly: boto3 has arguments for both conditions only since 1.35.69, and Lambda's boto3
    may be older.
    """

    def add(params: dict[str, Any], **_: Any) -> None:
        params["headers"].update(condition)

    s3.meta.events.register("before-call.s3.PutObject", add)
    try:
        s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType=_JSON)
    finally:
        s3.meta.events.unregister("before-call.s3.PutObject", add)
