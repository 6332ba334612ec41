"""Where a set of partitions may go: a folder on this machine, or a prefix in S3."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from botocore.exceptions import BotoCoreError, ClientError

from cosmicai.data import photometry as photometries
from cosmicai.data.listing import list_folder
from cosmicai.data.photometry import Photometry
from cosmicai.data.sets import SetError
from cosmicai.processes import process_birth
from cosmicai.results.outputs import exclusive, made, writing
from initialize.plan import MOVING, STAGE, Listing, PartitionFile, partitions_among

SHEET = "stamps.png"
_UNFINISHED = ".unfinished"  # ends the name of a file that is being written
_TRANSFERS = 8  # objects that are copied or deleted at once
_MOST_DELETED = 1000  # objects in one request
_LOCK = f"{STAGE}/lock"
_CONFLICTS = ("PreconditionFailed", "ConditionalRequestConflict")


def sha256(body: BinaryIO) -> str:
    """SHA-256 of a stream from its current position."""
    return hashlib.file_digest(body, "sha256").hexdigest()  # type: ignore[arg-type]


class Folder:
    """A folder. Partitions wait in a hidden one within it, so that moving them costs nothing."""

    def __init__(self, path: Path) -> None:
        self._path, self._stage = path, path / STAGE

    def __str__(self) -> str:
        return str(self._path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        with writing(self._path), made(self._path.absolute()), exclusive(self._path):
            yield

    def listing(self) -> Listing:
        return list_folder(self._path)

    def wrote(self, name: str) -> bool:
        return False

    def digest(self, name: str) -> str | None:
        return _digest(self._path / name)

    def waits(self, name: str, digest: str) -> bool:
        return _digest(self._stage / name) == digest

    def stage(self, name: str, body: BinaryIO, digest: str) -> None:
        self._stage.mkdir(exist_ok=True)
        unfinished = self._stage / f"{name}{_UNFINISHED}"
        with unfinished.open("wb") as file:
            shutil.copyfileobj(body, file)
        unfinished.replace(self._stage / name)

    def describe(self, photometry: Photometry) -> None:
        self._stage.mkdir(exist_ok=True)
        photometries.write(photometry, self._stage)

    def publish(self, names: Sequence[str], old: Sequence[str]) -> None:
        self._stage.mkdir(exist_ok=True)
        (self._path / MOVING).touch()
        for name in [*old, *([SHEET, photometries.FILE] if old else [])]:
            (self._path / name).unlink(missing_ok=True)
        has_photometry = (self._stage / photometries.FILE).exists()
        for name in [*names, *([photometries.FILE] if has_photometry else [])]:
            self._move(name)
        for file in self._stage.iterdir():
            if file != self._path / MOVING:
                file.unlink()
        shutil.rmtree(self._stage)

    def _move(self, name: str) -> None:
        (self._stage / name).replace(self._path / name)

    def give_up(self, refused: bool) -> None:
        if not (self._path / MOVING).exists():
            for file in self._stage.glob("*"):
                if refused or file.suffix != ".pt":
                    file.unlink()
            with suppress(OSError):  # partitions wait in it, or there is none
                self._stage.rmdir()


def _digest(file: Path) -> str | None:
    if not file.exists():
        return None
    with file.open("rb") as stream:
        return sha256(stream)


class Bucket:
    """s3://bucket/prefix/. Objects are uploaded in parts, each with a checksum, and carry their SHA-256.

    Nothing in S3 is moved: if nothing is to be replaced, partitions are written to their place at once, and
    until the end a mark says that they are a part of a set, which no run reads. Otherwise they wait below the
    prefix and are copied to their place at the end.
    """

    def __init__(self, s3: Any, bucket: str, prefix: str) -> None:
        self._s3, self._bucket, self._prefix = s3, bucket, prefix
        self._waiting: set[str] = set()
        self._to_copy: set[str] = set()
        self._at_once = False
        self._marked = threading.Lock()
        self._is_marked = False
        self._photometry: bytes | None = None

    def __str__(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}/"

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time, by an object that names it; that of a process of this machine that has ended
        is taken over."""
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "birth": process_birth(os.getpid())}
        put = {"Bucket": self._bucket, "Key": self._key(_LOCK), "Body": json.dumps(owner).encode()}
        with self._translated():
            try:
                self._s3.put_object(**put, IfNoneMatch="*")
            except ClientError as error:
                if error.response["Error"]["Code"] not in _CONFLICTS:
                    raise
                self._take_over(put)
        try:
            yield
        finally:
            with suppress(ClientError, BotoCoreError):  # the next call of this machine takes it over
                self._s3.delete_object(Bucket=self._bucket, Key=self._key(_LOCK))

    def _take_over(self, put: dict[str, Any]) -> None:
        try:
            answer = self._s3.get_object(Bucket=self._bucket, Key=put["Key"])
            holder = json.load(answer["Body"])
            here = holder["host"] == socket.gethostname()
            if here and process_birth(int(holder["pid"])) != holder["birth"]:
                self._s3.put_object(**put, IfMatch=answer["ETag"])
                return
            who = f"process {holder['pid']} on {holder['host']}"
        except (ValueError, KeyError, TypeError):
            who = "another process"
        except ClientError as error:
            if error.response["Error"]["Code"] not in (*_CONFLICTS, "NoSuchKey"):
                raise
            who = "another process"
        raise SetError(
            f"{who} writes to {self}: wait until it has ended; if it has been killed, delete "
            f"s3://{self._bucket}/{put['Key']}, then give the same command again"
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            fault = error.response["Error"]
            raise SetError(f"{self} cannot be used: {fault['Code']}: {fault.get('Message', '')}") from error

    def listing(self) -> Listing:
        with self._translated():
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._key("")
            )
            start = len(self._key(""))
            sizes = {item["Key"][start:]: item["Size"] for page in pages for item in page.get("Contents", [])}
        self._waiting = {name for name in sizes if name.startswith(f"{STAGE}/")} - {_LOCK}
        listing = partitions_among((PartitionFile(name, size) for name, size in sizes.items()), 0)
        self._at_once, self._is_marked = listing.is_part or not listing.files, listing.is_part
        return listing

    def wrote(self, name: str) -> bool:
        return bool(self.digest(name))

    def digest(self, name: str) -> str | None:
        try:
            head = self._s3.head_object(Bucket=self._bucket, Key=self._key(name))
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
                return None
            raise
        return str(head["Metadata"].get("sha256", ""))

    def waits(self, name: str, digest: str) -> bool:
        place = f"{STAGE}/{name}"
        if place not in self._waiting or self.digest(place) != digest:
            return False
        self._to_copy.add(name)
        return True

    def stage(self, name: str, body: BinaryIO, digest: str) -> None:
        if self._at_once:
            self._mark()
        extra = {"Metadata": {"sha256": digest}, "ChecksumAlgorithm": "SHA256"}
        place = name if self._at_once else f"{STAGE}/{name}"
        if not self._at_once:
            self._waiting.add(place)
            self._to_copy.add(name)
        self._s3.upload_fileobj(body, self._bucket, self._key(place), ExtraArgs=extra)

    def _mark(self) -> None:
        with self._marked:
            if not self._is_marked:
                self._s3.put_object(Bucket=self._bucket, Key=self._key(MOVING), Body=b"")
                self._is_marked = True

    def describe(self, photometry: Photometry) -> None:
        self._photometry = photometries.as_bytes(photometry)

    def publish(self, names: Sequence[str], old: Sequence[str]) -> None:
        if names or old:
            self._mark()
        self._delete(sorted(set(old) - (set(names) - self._to_copy)))  # the others are written already
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            list(pool.map(self._copy, sorted(self._to_copy)))
        self._publish_photometry(old)
        self._delete(sorted(self._waiting - {MOVING}))
        if self._is_marked:
            self._delete([MOVING])

    def _publish_photometry(self, old: Sequence[str]) -> None:
        key = self._key(photometries.FILE)
        if self._photometry is None:
            self._delete([photometries.FILE] if old else [])
        elif self._read(key) != self._photometry:
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=self._photometry)

    def _read(self, key: str) -> bytes | None:
        try:
            body: bytes = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except self._s3.exceptions.NoSuchKey:
            return None
        return body

    def _copy(self, name: str) -> None:
        """Copies a waiting object to its place; a large one in parts, which would lose its metadata."""
        waits = self._key(f"{STAGE}/{name}")
        digest = self._s3.head_object(Bucket=self._bucket, Key=waits)["Metadata"]["sha256"]
        extra = {"Metadata": {"sha256": digest}, "MetadataDirective": "REPLACE", "ChecksumAlgorithm": "SHA256"}
        source = {"Bucket": self._bucket, "Key": waits}
        self._s3.copy(source, self._bucket, self._key(name), ExtraArgs=extra)

    def give_up(self, refused: bool) -> None:
        if refused and not self._is_marked:
            self._delete(sorted(self._waiting))

    def _delete(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), _MOST_DELETED):
            keys = [{"Key": self._key(name)} for name in names[start : start + _MOST_DELETED]]
            answer = self._s3.delete_objects(Bucket=self._bucket, Delete={"Objects": keys, "Quiet": True})
            for fault in answer.get("Errors", []):
                raise SetError(f"{self}{fault['Key']} cannot be deleted: {fault['Code']}")
