"""A rank's access to S3, with every request counted and timed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from ..contract.paths import PathError, is_marker, plain
from ..contract.rank_info import RankInfo
from ..contract.repeating import repeated
from ..contract.s3_rest.choice import broken
from .torchfile import Source

T = TypeVar("T")

_FIRST_READ = 1 << 20  # bytes: the pickle, and most small files as a whole
_LAST_READ = 1 << 16  # bytes: the zip's central directory
_PIECE = 1 << 18
_FRUITLESS = 5  # attempts without a new byte, each of which has already been repeated


class ObjectError(RuntimeError):
    """An object cannot be read or written; the message names it, the reason and the remedy."""


@dataclass(frozen=True, repr=False, eq=False)
class Range:
    """Some bytes of an object, the size of the whole, and its ETag."""

    body: bytes
    size: int
    etag: str


class Storage:
    """Reads and writes objects; `seconds` holds the duration of each request.

    client: that of contract/s3_rest, or boto3's.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.broken = broken(client)
        self.seconds: list[float] = []

    def read(self, bucket: str, key: str) -> bytes:
        def get() -> bytes:
            body: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
            return body

        return self._timed(get, "read", bucket, key)

    def open(self, bucket: str, key: str) -> Source:
        """An object that several threads may read in pieces; a small one is read in one request."""
        return _Object(self, bucket, key)

    def get_range(self, bucket: str, key: str, start: int, stop: int, etag: str | None = None) -> Range:
        """Bytes of one version of an object, from `start` to `stop` or its end.

        If a connection breaks or ends early, another request continues after the last byte received.
        etag: of the version to read; None for the current one. Raises ObjectError.
        """
        body, failures, fault = bytearray(), 0, "it ends early"
        while failures <= _FRUITLESS:
            before = len(body)
            answer = self._get(bucket, key, start + before, stop, etag)
            if answer is None:
                return Range(b"", 0, "")
            size, etag = int(answer["ContentRange"].rpartition("/")[2]), answer["ETag"]
            fault = str(_receive(answer["Body"], body, (OSError, *self.broken)) or fault)
            if len(body) >= min(stop, size) - start:
                return Range(bytes(body), size, str(etag))
            failures = 0 if len(body) > before else failures + 1
            time.sleep(0.1 * failures)
        raise ObjectError(f"s3://{bucket}/{key} could not be read: {fault}")

    def _get(self, bucket: str, key: str, start: int, stop: int, etag: str | None) -> Any:
        """S3's answer; None for an empty object, of which no range can be read."""
        condition = {} if etag is None else {"IfMatch": etag}

        def get() -> Any:
            return self.client.get_object(
                Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", **condition
            )

        try:
            return self._timed(get, "read", bucket, key)
        except ObjectError as error:
            code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
            if code == "InvalidRange" and start == 0:
                return None
            if code == "PreconditionFailed":
                raise ObjectError(f"s3://{bucket}/{key} was replaced while it was read; run again") from error
            raise

    def write(self, bucket: str, key: str, body: bytes, content_type: str) -> None:
        def put() -> None:
            self.client.put_object(Bucket=bucket, Key=key, Body=body, ContentType=content_type)

        self._timed(put, "written", bucket, key)

    def write_json(self, bucket: str, key: str, content: object) -> None:
        self.write(bucket, key, json.dumps(content, indent=1).encode(), "application/json")

    def folder(self, bucket: str, prefix: str, cache: Path) -> Folder:
        """The objects under a prefix, as files that are fetched on demand."""
        etags = self.list_etags(bucket, f"{prefix}/")
        return Folder(
            self, bucket, prefix, {key.removeprefix(f"{prefix}/"): etag for key, etag in etags.items()}, cache
        )

    def list_etags(self, bucket: str, prefix: str) -> dict[str, str]:
        """ETag of every object whose key begins with `prefix`, by key, except those that represent folders."""
        versions = self.list_versions(bucket, prefix)
        return {key: etag for key, (etag, _) in versions.items() if not is_marker(key)}

    def list_versions(self, bucket: str, prefix: str) -> dict[str, tuple[str, datetime]]:
        """ETag and time of every object whose key begins with `prefix`, by key."""

        def pages() -> dict[str, tuple[str, datetime]]:
            versions: dict[str, tuple[str, datetime]] = {}
            token: dict[str, str] = {}
            while True:
                page = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix, **token)
                for item in page.get("Contents", []):
                    versions[item["Key"]] = (item["ETag"], item["LastModified"])
                if "NextContinuationToken" not in page:
                    return versions
                token = {"ContinuationToken": page["NextContinuationToken"]}

        return self._timed(pages, "listed", bucket, prefix)

    def _timed(self, request: Callable[[], T], verb: str, bucket: str, key: str) -> T:
        start = time.perf_counter()
        try:
            return repeated(request, self.broken)
        except self.broken as error:
            raise ObjectError(f"s3://{bucket}/{key} could not be {verb}: {error}") from error
        except self.client.exceptions.ClientError as error:
            code, message = (error.response["Error"].get(name, "") for name in ("Code", "Message"))
            raise ObjectError(f"s3://{bucket}/{key} could not be {verb}: {code} {message}".rstrip()) from error
        finally:
            self.seconds.append(time.perf_counter() - start)

    def with_requests(self, info: RankInfo) -> RankInfo:
        """Adds the historic s3_* figures."""
        total, count = sum(self.seconds), len(self.seconds)
        return replace(
            info,
            s3_num_requests=count,
            s3_total_time=total,
            s3_avg_time=total / count if count else 0.0,
            s3_min_time=min(self.seconds, default=0.0),
            s3_max_time=max(self.seconds, default=0.0),
        )


@dataclass(frozen=True, repr=False, eq=False)
class Folder:
    """Objects under a prefix with their ETags; `fetch` keeps one copy of each version in `cache`."""

    storage: Storage
    bucket: str
    prefix: str
    etags: Mapping[str, str]
    cache: Path

    def fetch(self, names: Sequence[str]) -> Path:
        """A folder on this machine with these files, fetched unless they are there already."""
        missing = [name for name in names if name not in self.etags]
        if missing:
            raise ObjectError(f"s3://{self.bucket}/{self.prefix}/ holds no {', '.join(missing)}")
        versions = json.dumps([self.prefix, *((name, self.etags[name]) for name in names)])
        folder = self.cache / hashlib.sha256(versions.encode()).hexdigest()[:32]
        if not folder.exists():
            partial = Path(f"{folder}.{os.getpid()}.partial")
            paths = self._paths(names, partial)
            partial.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(len(names)) as pool:
                list(pool.map(self._fetch_one, names, paths))
            with suppress(OSError):  # another process of this sandbox was first
                partial.rename(folder)
        return folder

    def _paths(self, names: Sequence[str], folder: Path) -> list[Path]:
        """Raises ObjectError for a name that cannot be a file in the folder."""
        try:
            return [plain(folder, name) for name in names]
        except PathError as error:
            raise ObjectError(f"s3://{self.bucket}/{self.prefix}/: {error}") from error

    def _fetch_one(self, name: str, path: Path) -> None:
        path.write_bytes(self.storage.read(self.bucket, f"{self.prefix}/{name}"))


class LocalFolder(Folder):
    """A folder that is on this machine already."""

    @classmethod
    def of(cls, storage: Storage, folder: Path) -> LocalFolder:
        return cls(storage, "", str(folder), {path.name: "" for path in folder.iterdir()}, folder)

    def fetch(self, names: Sequence[str]) -> Path:
        missing = sorted(set(names) - set(self.etags))
        if missing:
            raise ObjectError(f"{self.prefix} holds no {', '.join(missing)}")
        return Path(self.prefix)


def _receive(stream: Any, body: bytearray, broken: tuple[type[Exception], ...]) -> Exception | None:
    """Appends what comes to `body`; returns the exception that ended it early, if any."""
    try:
        while piece := stream.read(_PIECE):
            body += piece
    except broken as error:
        return error
    return None


class _Object:
    """One version of an S3 object; its beginning and end are read once and kept."""

    def __init__(self, storage: Storage, bucket: str, key: str) -> None:
        self._storage, self._bucket, self._key = storage, bucket, key
        first = storage.get_range(bucket, key, 0, _FIRST_READ)
        self.size, self._etag, self._first = first.size, first.etag, first.body
        self._last_start = self.size
        if self.size > len(self._first):
            self._last_start = max(len(self._first), self.size - _LAST_READ)
        self._last = self._get(self._last_start, self.size)

    def read(self, start: int, stop: int) -> bytes:
        if stop <= len(self._first):
            return self._first[start:stop]
        if start >= self._last_start:
            return self._last[start - self._last_start : stop - self._last_start]
        return self._first[start:] + self._get(max(start, len(self._first)), stop)

    def _get(self, start: int, stop: int) -> bytes:
        if start >= stop:
            return b""
        return self._storage.get_range(self._bucket, self._key, start, stop, self._etag).body
