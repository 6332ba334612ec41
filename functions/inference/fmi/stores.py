"""Channels through a store that all ranks reach: S3 or Redis. A message is one entry, numbered for its pair."""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Any

from .channel import Deadline, Statistics
from .errors import MessageMismatch, PeerLost, PeerTimeout

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.2  # seconds between looks for an object; each look costs a GET
_REDIS_SECONDS = 3600  # that an entry which nobody fetches is kept


class _Stored(ABC):
    """What both have in common. A rank that tries again writes the same entries again; readers see one."""

    def __init__(self, rank: int, size: int, name: str) -> None:
        self.rank, self.size = rank, size
        self.statistics = Statistics()
        self._name = name
        self._sent: Counter[int] = Counter()
        self._received: Counter[int] = Counter()
        self.durable = True
        self._closed = False

    def connect(self, peer: int, sender: int, deadline: Deadline) -> None:  # noqa: B027
        """Nothing: the store is always there."""

    def send(self, peer: int, data: bytes | memoryview, deadline: Deadline) -> None:
        start = time.perf_counter()
        self._put(f"{self._name}/{self.rank}_{peer}_{self._sent[peer]}", bytes(data))
        self._sent[peer] += 1
        self.statistics.sent(peer, len(data), time.perf_counter() - start)

    def recv(self, peer: int, length: int | None, deadline: Deadline) -> bytes:
        start = time.perf_counter()
        data = self._take(f"{self._name}/{peer}_{self.rank}_{self._received[peer]}", deadline)
        if data is None:
            raise PeerTimeout(f"rank {self.rank}: nothing from rank {peer} in {deadline.seconds:g} s")
        self._received[peer] += 1
        self.statistics.received(peer, len(data), time.perf_counter() - start)
        if length is not None and len(data) != length:
            raise MessageMismatch(f"rank {self.rank}: rank {peer} sent {len(data)} bytes, expected {length}")
        return data

    def close(self) -> None:
        """Ends waits of other threads; peers that wait are not told, they run into their deadline."""
        self._closed = True

    @abstractmethod
    def _put(self, key: str, data: bytes) -> None:
        """Raises PeerLost where the store cannot be written."""

    @abstractmethod
    def _take(self, key: str, deadline: Deadline) -> bytes | None:
        """None where it does not come in time. Raises PeerLost where the store cannot be read."""


class S3(_Stored):
    """Objects s3://bucket/NAME/FROM_TO_NUMBER.

    client: boto3's, for S3. It is consistent: an object is seen as soon as it was written
    (https://aws.amazon.com/s3/consistency). keep: messages stay in the bucket after they were read, so that a
    rank which is started again finds them; else the reader deletes them, so that a later group of the same name
    does not read them as its own.
    """

    def __init__(self, rank: int, size: int, name: str, client: Any, bucket: str, keep: bool = True) -> None:
        super().__init__(rank, size, name)
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
            pause = min(1.5 * pause, _LONGEST_PAUSE)
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
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError  # botocore's, where the body of an error breaks off

        try:
            return request()
        except (BotoCoreError, ClientError, HTTPError) as error:
            raise PeerLost(f"rank {self.rank}: s3://{self._bucket}/{self._name}: {error}") from None


class Redis(_Stored):
    """Lists NAME/FROM_TO_NUMBER of one element. client: redis-py's, redis.Redis."""

    def __init__(self, rank: int, size: int, name: str, client: Any) -> None:
        super().__init__(rank, size, name)
        self._client = client

    def _put(self, key: str, data: bytes) -> None:
        def push() -> None:
            with self._client.pipeline() as pipeline:
                pipeline.rpush(key, data).expire(key, _REDIS_SECONDS).execute()

        self._asked(push)

    def _take(self, key: str, deadline: Deadline) -> bytes | None:
        while not self._closed:
            found = self._asked(lambda: self._pop(key, deadline))
            if found is not None or not deadline.left():
                return None if found is None else bytes(found[1])
        return None

    def _pop(self, key: str, deadline: Deadline) -> Any:
        """In pieces, so that close() is noticed; 0 would wait for ever."""
        return self._client.blpop([key], timeout=min(max(deadline.left(), 0.01), 1.0))

    def _asked(self, request: Callable[[], Any]) -> Any:
        from redis.exceptions import RedisError

        try:
            return request()
        except RedisError as error:
            raise PeerLost(f"rank {self.rank}: Redis, {self._name}: {error}") from None
