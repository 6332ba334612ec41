"""A run's collectives as its event specifies them: the channel, the run's key, the record in the rank info."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import fmi
from ..contract.event import RankEvent
from ..data.storage import ObjectError, Storage
from .reduction import Reduction, Share, Tree

if TYPE_CHECKING:
    from ..contract.run_records import ReducedMetrics

RELAY_KEY = ".cosmicai/relay-key"  # in the run's bucket: the rendezvous host's key
_SCRIPT_SECONDS = 60.0  # for which an operation of a user's script waits for other ranks


class CollectivesError(RuntimeError):
    """The deployment lacks what the run's collectives need."""


def kind(event: RankEvent) -> str:
    """direct, redis, s3 or none: what the event asks for, but s3 if there is no rendezvous host."""
    if event.collectives == "direct" and event.rendezvous is None:
        return "s3"
    return event.collectives


def reduction(
    event: RankEvent, storage: Storage, redis: str | None, seconds_left: Callable[[], float]
) -> Reduction:
    """This rank's part in reducing the metrics; of a group of only itself if the run has no collectives.

    redis: HOST or HOST:PORT of the deployment's Redis.
    """
    alone = kind(event) == "none"
    tree = Tree(0, 1) if alone else Tree(event.rank, event.world_size, event.originals)
    return Reduction(tree, lambda: _channel(event, storage, redis), seconds_left)


def publish(event: RankEvent, storage: Storage, share: Share, reduction: Reduction) -> dict[str, Any]:
    """At rank 0, writes metrics.json; returns the field `collectives` of the rank info."""
    record: dict[str, Any] = {"channel": kind(event)}
    if record["channel"] == "none":
        return record
    record |= reduction.info()
    if kind(event) != event.collectives:
        record["reason"] = "the rendezvous host could not be reached"
    if event.rank == 0:
        record["ranks"] = len(share.ranks)
        try:
            storage.write_json(
                event.bucket, f"{event.result_path}/metrics.json", _metrics(event, share).to_json()
            )
        except ObjectError as error:  # the predictions are good all the same
            record["faults"]["metrics.json"] = str(error)
    return record


def _metrics(event: RankEvent, share: Share) -> ReducedMetrics:
    from ..contract.run_records import ReducedMetrics  # a tenth of our imports, and rank 0 alone needs it

    return ReducedMetrics(
        run_id=event.run_id,
        world_size=event.world_size,
        channel=kind(event),
        ranks=share.ranks,
        num_samples=share.num_samples,
        accuracy=None if share.metrics is None else share.metrics.report(),
        accuracy_state=None if share.metrics is None else share.metrics.to_json(),
    )


def _channel(event: RankEvent, storage: Storage, redis: str | None) -> fmi.Channel:
    rank, size, name = event.rank, event.world_size, f"{event.private_prefix}/messages/metrics"
    match kind(event):
        case "direct":
            host, port = _address(event)
            relay_key = partial(_relay_key, event, storage)
            return fmi.Direct(rank, size, name, host, port, _key(event, storage), relay_key)
        case "redis":
            from redis import Redis

            host, port = _redis(redis)
            return fmi.Redis(rank, size, name, Redis(host, port), _key(event, storage))
    return fmi.S3(rank, size, name, storage.client, event.bucket)


@contextmanager
def for_script(
    event: RankEvent, storage: Storage, redis: str | None, scratch: Path
) -> Iterator[dict[str, str]]:
    """The environment variables that lead `fmi` and `fmilib` in a user's script to the run's collectives."""
    if kind(event) == "none":
        yield {}
        return
    config = scratch / f"fmi-{event.rank}.json"
    config.unlink(missing_ok=True)
    with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"backends": _back_end(event, storage, redis)}, file)
    try:
        yield {"FMI_CONFIG": str(config), "FMI_COMM_NAME": f"{event.private_prefix}/messages/script"}
    finally:
        config.unlink(missing_ok=True)


def _back_end(event: RankEvent, storage: Storage, redis: str | None) -> dict[str, Any]:
    common = {"enabled": "true", "max_timeout": str(int(_SCRIPT_SECONDS * 1000))}
    match kind(event):
        case "direct":
            host, port = _address(event)
            secret, relay_key = _key(event, storage).hex(), f"s3://{event.bucket}/{RELAY_KEY}"
            direct = {"host": host, "port": str(port), "secret": secret, "relay_key": relay_key}
            return {"Direct": {**common, **direct}}
        case "redis":
            host, port = _redis(redis)
            secret = _key(event, storage).hex()
            return {"Redis": {**common, "host": host, "port": str(port), "secret": secret}}
    return {"S3": {**common, "bucket_name": event.bucket, "keep": "true"}}  # Summarize deletes them


def _key(event: RankEvent, storage: Storage) -> bytes:
    """The run's secret, made by Initialize; it appears in no event, log or execution history."""
    return storage.read(event.bucket, f"{event.private_prefix}/key")


def _relay_key(event: RankEvent, storage: Storage) -> bytes:
    """The rendezvous host's key, which it makes at each start. Raises RelayRefused."""
    try:
        return storage.read(event.bucket, RELAY_KEY)
    except ObjectError as error:
        raise fmi.RelayRefused(f"the rendezvous host's relay key: {error}") from error


def _address(event: RankEvent) -> tuple[str, int]:
    host, _, port = str(event.rendezvous).rpartition(":")
    return host, int(port)


def _redis(address: str | None) -> tuple[str, int]:
    """Host and port. Raises CollectivesError if the deployment has no Redis."""
    if not address:
        raise CollectivesError("collectives: this deployment has no Redis; set redis_host in its tfvars")
    host, _, port = address.partition(":")
    return host, int(port or 6379)
