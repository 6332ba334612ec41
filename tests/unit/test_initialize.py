"""What Initialize refuses before anything is written, and how it chooses the ranks' channel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from inference.metrics import reduction
from initialize.channel import collectives
from initialize.contract.estimate import ASSUMED
from initialize.contract.run_records import Run
from initialize.deployed import Deployed
from initialize.payload import PayloadError
from initialize.run import FANOUT, _in_order, start

_SCRIPT = {
    "bucket": "team3-cosmicai",
    "result_path": "results/1",
    "data_prefix": "25MB",
    "S3_object_name": "code",
    "script": "/tmp/code/run.py",  # noqa: S108
}


def test_scripts_are_off_unless_the_deployment_allows_them() -> None:
    """No S3 client is given: nothing may be asked of it."""
    with pytest.raises(
        PayloadError, match=r"switched off in this deployment; set inference\.allow_scripts = true"
    ):
        start(None, _SCRIPT, "run-1", "2026-11-22T00:00:00Z", _deployed())


def _deployed(concurrency: int = 1000, has_redis: bool = False) -> Deployed:
    return Deployed(allow_scripts=False, has_redis=has_redis, concurrency=lambda: concurrency, is_running=bool)


def _collectives(
    asked: str, ranks: int, at_once: int, deployed: Deployed | None = None, resume: bool = False
) -> dict[str, Any]:
    run = Run(run_id="r", started="2026-11-22T00:00:00Z", payload={}, world_size=ranks, bytes=ranks * 25 << 20)
    return collectives(asked, run, resume, at_once, deployed or _deployed(), lambda: ASSUMED)


@pytest.mark.parametrize(
    ("asked", "ranks", "at_once", "channel", "reason"),
    [
        ("direct", 16, 1000, "direct", None),
        ("direct", 1000, 1000, "direct", None),
        ("direct", 1001, 1000, "s3", "only 1,000 of 1,001 ranks can run at once"),
        ("redis", 1001, 1000, "s3", "only 1,000 of 1,001 ranks can run at once"),
        ("direct", 16, 15, "s3", "only 15 of 16 ranks can run at once"),
        ("direct", 16, 16, "direct", None),
        ("direct", 1, 1000, "s3", "a single rank has no other to connect to"),
        ("s3", 5000, 1000, "s3", None),
        ("none", 16, 1000, "none", None),
        ("auto", 16, 1000, "none", "it has the smallest product of time and cost"),
        ("auto", 1, 1000, "none", "a single rank has nothing to reduce"),
        ("auto", 5000, 1000, "none", "only 1,000 of 5,000 ranks can run at once, so they cannot meet directly"),
    ],
)
def test_the_channel_follows_what_can_run_at_once(
    asked: str, ranks: int, at_once: int, channel: str, reason: str | None
) -> None:
    chosen = _collectives(asked, ranks, at_once)
    assert chosen["channel"] == channel
    assert (reason or "") in chosen.get("reason", "")
    assert ("reason" in chosen) == (reason is not None)
    assert _collectives(asked, ranks, at_once, resume=True)["channel"] == "none"


def test_without_a_rendezvous_host_nobody_waits_for_one() -> None:
    chosen = _collectives("direct", 16, 1000, replace(_deployed(), has_rendezvous=False))
    assert chosen == {"channel": "s3", "reason": "this deployment has no rendezvous host"}


def test_redis_needs_a_redis() -> None:
    payload = {"bucket": "team3-cosmicai", "result_path": "r", "data_prefix": "d", "collectives": "redis"}
    with pytest.raises(PayloadError, match="set redis_host in the team's tfvars"):
        start(None, payload, "run-1", "2026-11-22T00:00:00Z", _deployed())


def test_who_waits_starts_behind_those_it_waits_for() -> None:
    assert FANOUT == reduction.FANOUT
    assert _in_order(range(5), "direct") == [1, 2, 3, 4, 0]
    assert _in_order(range(70), "direct")[31:34] == [0, 33, 34]
    assert _in_order(range(70), "direct")[-2:] == [69, 64]
    assert _in_order([0, 2, 5], "s3") == [5, 2, 0]
