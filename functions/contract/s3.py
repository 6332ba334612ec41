"""Reading and writing objects over connections that break.

botocore repeats a request until its answer begins. A connection that breaks after that, in a body, raises
botocore's exception; in the body of an error answer it raises urllib3's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from botocore.exceptions import HTTPClientError, IncompleteReadError
from urllib3.exceptions import HTTPError

from . import repeating
from .s3_rest.choice import broken

T = TypeVar("T")

BROKEN: tuple[type[Exception], ...] = (HTTPClientError, IncompleteReadError, HTTPError)
"""What a broken connection raises; the request may be made again."""


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
    s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json")


def put_list(s3: Any, bucket: str, key: str, content: Iterable[object]) -> None:
    """Writes a list as JSON, an element to a line: json.dumps takes ten times as long to indent it.

    Raises botocore's ClientError.
    """
    lines = ",\n".join(map(json.dumps, content))
    body = f"[{lines}]".encode()
    s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json")


def put_if(s3: Any, bucket: str, key: str, body: bytes, condition: Mapping[str, str]) -> None:
    """Writes JSON under a condition of HTTP, such as {"If-None-Match": "*"}. Raises botocore's ClientError.

    The header is set directly: boto3 has arguments for both conditions only since 1.35.69, and Lambda's boto3
    may be older.
    """

    def add(params: dict[str, Any], **_: Any) -> None:
        params["headers"].update(condition)

    s3.meta.events.register("before-call.s3.PutObject", add)
    try:
        s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json")
    finally:
        s3.meta.events.unregister("before-call.s3.PutObject", add)
