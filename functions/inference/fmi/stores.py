"""Channels through a store that all ranks reach: S3 or Redis. A message is one entry, numbered for its pair."""

from __future__ import annotations

import hmac
import time
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Any

from .channel import Deadline, Received, Statistics
from .errors import MessageMismatch, PeerLost, PeerTimeout
from .messages import HEAD, TAG, Expected, Purpose, Seal

_FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.2  # seconds between looks for an object; each look costs a GET
_REDIS_SECONDS = 3600  # after which an entry that nobody has fetched is deleted


class _Stored(ABC):
    """The common part of both. A rank that tries again writes the same entries again; readers see one.

    A message is its head and its body and, with a secret that only the group's ranks know, a seal that nobody
    else can make.
    """

    def __init__(self, rank: int, size: int, name: str, secret: bytes | None) -> None:
        self.rank, self.size = rank, size
        self.statistics = Statistics()
        self._name, self._secret = name, secret
        self._sent: Counter[int] = Counter()
        self._received: Counter[int] = Counter()
        self.durable = True
        self._closed = False

    def connect(self, peer: int, sender: int, deadline: Deadline) -> None:  # noqa: B027
        """Nothing: the store is always there."""

    def send(self, peer: int, data: bytes | memoryview, purpose: Purpose, deadline: Deadline) -> None:
        start, entry = time.perf_counter(), f"{self.rank}_{peer}_{self._sent[peer]}"
        content = purpose.head(len(data)) + bytes(data)
        self._put(f"{self._name}/{entry}", content + self._seal(entry, content))
        self._sent[peer] += 1
        self.statistics.of(peer).sent(len(data), time.perf_counter() - start)

    def recv(self, peer: int, length: int | None, purpose: Purpose, deadline: Deadline) -> Received:
        start, entry = time.perf_counter(), f"{peer}_{self.rank}_{self._received[peer]}"
        stored = self._take(f"{self._name}/{entry}", deadline)
        if stored is None:
            raise PeerTimeout(f"rank {self.rank}: nothing came from rank {peer} in {deadline.seconds:g} s")
        self._received[peer] += 1
        content = self._proven(entry, stored, peer)
        self.statistics.of(peer).received(len(content) - HEAD, time.perf_counter() - start)
        if Expected(purpose, self.rank, peer, length).check(content) != len(content) - HEAD:
            raise MessageMismatch(f"rank {self.rank}: the message {entry} of rank {peer} is incomplete")
        return bytearray(memoryview(content)[HEAD:])

    def exchange(self, peer: int, data: bytes | memoryview, purpose: Purpose, deadline: Deadline) -> Received:
        self.send(peer, data, purpose, deadline)
        return self.recv(peer, len(data), purpose, deadline)

    def _seal(self, entry: str, content: bytes) -> bytes:
        if self._secret is None:
            return b""
        key = hmac.digest(self._secret, f"stored\0{self._name}\0{entry}".encode(), "sha256")
        return Seal(key).tag(b"", content)

    def _proven(self, entry: str, stored: bytes, peer: int) -> bytes:
        """The stored bytes without their seal. Raises MessageMismatch if the peer has not written them."""
        end = len(stored) - (0 if self._secret is None else TAG)
        content, seal = stored[: max(end, 0)], stored[max(end, 0) :]
        if len(content) < HEAD or not hmac.compare_digest(seal, self._seal(entry, content)):
            raise MessageMismatch(
                f"rank {self.rank}: the message {entry} was not written by rank {peer}, or was changed"
            )
        return content

    def unread(self) -> list[str]:
        """None are known: looking for them would cost requests."""
        return []

    def close(self) -> None:
        """Ends waits of other threads; peers that wait do not notice, and run into their deadline."""
        self._closed = True

    @abstractmethod
    def _put(self, key: str, data: bytes) -> None:
        """Raises PeerLost if the store cannot be written."""

    @abstractmethod
    def _take(self, key: str, deadline: Deadline) -> bytes | None:
        """The stored message; None if it does not come in time. Raises PeerLost if the store cannot be read."""


class S3(_Stored):
    """Objects s3://bucket/NAME/FROM_TO_NUMBER.

    client: boto3's for S3, or one with its methods. S3 is consistent: an object can be read as soon as it was
    written (https://aws.amazon.com/s3/consistency). keep: messages stay in the bucket after they were read, so
    that a rank that is started again finds them; otherwise the reader deletes them, so that a later group of
    the same name does not read them as its own. IAM decides who may write to the bucket; a secret also seals
    messages.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        name: str,
        client: Any,
        bucket: str,
        keep: bool = True,
        secret: bytes | None = None,
    ) -> None:
        super().__init__(rank, size, name, secret)
        self._client, self._bucket, self._keep = client, bucket, keep

    def _put(self, key: str, data: bytes) -> None:
        self._asked(lambda: self._client.put_object(Bucket=self._bucket, Key=key, Body=data))

    def _take(self, key: str, deadline: Deadline) -> bytes | None:
        pause = _FIRST_PAUSE
        while not self._closed:
            body: bytes | None = self._asked(lambda: self._get(key))
            if body is not None and not self._keep:
                self._delete(key)
            if body is not None or not deadline.left():
                return body
            time.sleep(min(pause, deadline.left()))
            pause = min(1.5 * pause, LONGEST_PAUSE)
        return None

    def _get(self, key: str) -> bytes | None:
        try:
            body: bytes = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except self._client.exceptions.NoSuchKey:
            return None
        return body

    def _delete(self, key: str) -> None:
        try:
            self._asked(lambda: self._client.delete_object(Bucket=self._bucket, Key=key))
        except PeerLost as error:  # the message itself has arrived
            warnings.warn(
                f"{error}; messages stay in the bucket, so do not use the name {self._name} again",
                stacklevel=2,
            )
            self._keep = True

    def _asked(self, request: Callable[[], Any]) -> Any:
        try:
            return request()
        except (self._client.exceptions.ClientError, *_broken(self._client)) as error:
            raise PeerLost(f"rank {self.rank}: s3://{self._bucket}/{self._name}: {error}") from error


def _broken(client: Any) -> tuple[type[Exception], ...]:
    """What an S3 client raises if a connection breaks: it names these exceptions itself, or it is boto3's."""
    named: tuple[type[Exception], ...] | None = getattr(client, "BROKEN", None)
    if named is not None:
        return named
    from botocore.exceptions import BotoCoreError
    from urllib3.exceptions import HTTPError  # botocore's, if the body of an error breaks off

    return BotoCoreError, HTTPError


class Redis(_Stored):
    """Lists NAME/FROM_TO_NUMBER of one element. client: redis-py's, redis.Redis.

    Anyone who can reach Redis can write there; a secret seals messages against that.
    """

    def __init__(self, rank: int, size: int, name: str, client: Any, secret: bytes | None = None) -> None:
        super().__init__(rank, size, name, secret)
        self._client = client

    def _put(self, key: str, data: bytes) -> None:
        def push() -> None:
            with self._client.pipeline() as pipeline:
                pipeline.rpush(key, data).expire(key, _REDIS_SECONDS).execute()

        self._asked(push)

    def _take(self, key: str, deadline: Deadline) -> bytes | None:
        while not self._closed:
            entry = self._asked(lambda: self._pop(key, deadline))
            if entry is not None or not deadline.left():
                return None if entry is None else bytes(entry[1])
        return None

    def _pop(self, key: str, deadline: Deadline) -> Any:
        """Waits for a second at most, so that close() is noticed; a timeout of 0 would wait for ever."""
        return self._client.blpop([key], timeout=min(max(deadline.left(), 0.01), 1.0))

    def _asked(self, request: Callable[[], Any]) -> Any:
        from redis.exceptions import RedisError

        try:
            return request()
        except RedisError as error:
            raise PeerLost(f"rank {self.rank}: Redis, {self._name}: {error}") from error
