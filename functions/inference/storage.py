"""S3 as a rank uses it, with every request counted and timed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class ObjectError(RuntimeError):
    """An object cannot be read or written; the message names it, the reason and the remedy."""


class Storage:
    """Reads and writes objects through one boto3 client; `seconds` holds the duration of each request."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.seconds: list[float] = []

    def read(self, bucket: str, key: str) -> bytes:
        def get() -> bytes:
            body: bytes = self._client.get_object(Bucket=bucket, Key=key)["Body"].read()
            return body

        return self._timed(get, "read", bucket, key)

    def write(self, bucket: str, key: str, body: bytes, content_type: str) -> None:
        def put() -> None:
            self._client.put_object(Bucket=bucket, Key=key, Body=body, ContentType=content_type)

        self._timed(put, "written", bucket, key)

    def write_json(self, bucket: str, key: str, content: object) -> None:
        self.write(bucket, key, json.dumps(content, indent=1).encode(), "application/json")

    def fetch_folder(self, bucket: str, prefix: str, names: tuple[str, ...], cache: Path) -> Path:
        """The named objects under a prefix as files of `cache`, fetched again only when one has changed."""
        heads = {name: self._etag(bucket, f"{prefix}/{name}") for name in names}
        folder = cache / "-".join(etag.strip('"') for etag in heads.values())
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            partial.mkdir(parents=True, exist_ok=True)
            for name in names:
                (partial / name).write_bytes(self.read(bucket, f"{prefix}/{name}"))
            with suppress(OSError):  # another process of this sandbox was first
                partial.rename(folder)
        return folder

    def list_etags(self, bucket: str, prefix: str) -> dict[str, str]:
        """ETag of every object whose key begins with `prefix`, by key."""

        def pages() -> dict[str, str]:
            found = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            return {item["Key"]: item["ETag"] for page in found for item in page.get("Contents", [])}

        return self._timed(pages, "listed", bucket, prefix)

    def _etag(self, bucket: str, key: str) -> str:
        def head() -> str:
            return str(self._client.head_object(Bucket=bucket, Key=key)["ETag"])

        return self._timed(head, "found", bucket, key)

    def _timed(self, request: Callable[[], T], verb: str, bucket: str, key: str) -> T:
        start = time.perf_counter()
        try:
            return request()
        except self._client.exceptions.ClientError as error:
            code, message = (error.response["Error"].get(name, "") for name in ("Code", "Message"))
            raise ObjectError(f"s3://{bucket}/{key} could not be {verb}: {code} {message}".rstrip()) from error
        finally:
            self.seconds.append(time.perf_counter() - start)

    def statistics(self) -> dict[str, float]:
        """The historic s3_* figures, in seconds."""
        total, count = sum(self.seconds), len(self.seconds)
        return {
            "s3_num_requests": count,
            "s3_total_time": total,
            "s3_avg_time": total / count if count else 0.0,
            "s3_min_time": min(self.seconds, default=0.0),
            "s3_max_time": max(self.seconds, default=0.0),
        }
