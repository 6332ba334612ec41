"""The channel that `auto` chooses: a table of runs, with the figures of FMI and of our ranks."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from cosmicai.packaging.places import ROOT
from inference.contract import channels, estimate
from inference.contract.accuracy import Metrics
from inference.contract.channels import Host, HostState, choose
from inference.contract.estimate import ASSUMED, Ranks, Speed
from inference.fmi import cost_model, stores
from inference.fmi.cost_model import Operation, PeerToPeer
from inference.metrics.reduction import Share, Tree

MB = 2**20


def _ranks(count: int, megabytes: float, at_once: int | None = None, speed: Speed = ASSUMED) -> Ranks:
    size = int(megabytes * MB)
    return Ranks(count, count * size, size, at_once or count, 3538, "arm64", "express", speed)


def _host(state: HostState) -> Host:
    return Host(state, f"the host is {state}")


@pytest.mark.parametrize(
    ("count", "megabytes", "at_once", "host", "channel"),
    [
        (1, 25, None, "up", "none"),
        (4, 25, None, "up", "none"),
        (4, 25, None, "stopped", "none"),
        (64, 25, None, "up", "none"),
        (130, 100, None, "up", "direct"),
        (130, 100, None, "stopped", "none"),
        (517, 25, None, "up", "direct"),
        (517, 25, None, "stopped", "none"),
        (517, 25, None, "absent", "none"),
        (517, 25, 100, "up", "none"),  # no direct channel: not all run at once
        (517, 0.02, None, "up", "direct"),
        (517, 0.02, None, "absent", "none"),
        (2000, 25, None, "stopped", "s3"),
        (10_000, 25, None, "up", "direct"),
        (10_000, 25, 1000, "up", "s3"),
    ],
)
def test_a_run_gets_the_channel_that_its_time_and_cost_suggest(
    count: int, megabytes: float, at_once: int | None, host: HostState, channel: str
) -> None:
    choice = choose(_ranks(count, megabytes, at_once), _host(host))
    assert choice.channel == channel
    if count > 1:
        worth = {one.channel: one.seconds * one.usd for one in choice.candidates}
        assert min(worth, key=lambda name: worth[name]) == channel
        assert ("direct" in worth) == (host != "absent" and at_once is None)
        for one in choice.candidates:
            assert str(one) in choice.reason
    if at_once:
        assert (
            f"only {at_once:,} of {count:,} ranks can run at once, so they cannot meet directly"
            in choice.reason
        )


def test_the_reason_has_seconds_and_dollars_of_each_the_host_and_the_speed() -> None:
    speed = Speed((380.0, 400.0), (1.0, 2.0), "the speed of this model's last run, run-7")
    reason = choose(_ranks(517, 25, speed=speed), _host("up")).reason
    assert reason.startswith("it has the smallest product of time and cost (")
    assert reason.endswith(
        " with direct); the host is up; estimated with the speed of this model's last run, run-7: 380 to 400 "
        "images/s per vCPU"
    )


def test_at_517_ranks_a_host_that_is_up_adds_less_than_one_percent_to_the_cost() -> None:
    candidates = {one.channel: one for one in choose(_ranks(517, 25), _host("up")).candidates}
    assert candidates["none"].usd < candidates["direct"].usd < 1.01 * candidates["none"].usd
    assert candidates["direct"].seconds < candidates["none"].seconds - 0.5
    stopped = {one.channel: one for one in choose(_ranks(517, 25), _host("stopped")).candidates}
    assert stopped["direct"].seconds == pytest.approx(
        candidates["direct"].seconds + channels.HOST_START_SECONDS
    )


def test_a_users_script_always_has_a_channel() -> None:
    for count in (1, 4, 517):
        assert choose(_ranks(count, 25), _host("absent"), script=True).channel == "s3"
    for host in ("up", "stopped"):
        assert choose(_ranks(4, 25), _host(host), script=True).channel == "direct"  # type: ignore[arg-type]
    many = choose(_ranks(20, 25, at_once=16), _host("up"), script=True)
    assert many.channel == "s3"
    assert "only 16 of 20 ranks can run at once" in many.reason


@pytest.mark.parametrize("memory_mb", [512, 1769, 10_240])
def test_time_falls_with_memory_and_grows_with_bytes(memory_mb: int) -> None:
    ranks = replace(_ranks(100, 100), memory_mb=memory_mb)
    assert replace(ranks, memory_mb=memory_mb // 2).seconds > ranks.seconds
    assert replace(ranks, bytes=2 * ranks.bytes, largest=2 * ranks.largest).seconds > ranks.seconds
    assert replace(ranks, bytes=2 * ranks.bytes, largest=2 * ranks.largest).usd > ranks.usd
    assert replace(ranks, at_once=50).seconds == pytest.approx(ranks.seconds + ranks.mean_seconds)


def test_latencies_are_those_of_fmis_model() -> None:
    """In seconds: FMI's implementation adds milliseconds to seconds."""
    direct, s3 = (cost_model.EXAMPLES[name] for name in ("Direct", "S3"))
    assert direct["overhead"] / 1e3 == channels.DIRECT_SECONDS
    assert direct["bandwidth"] * 1e6 == channels.DIRECT_BYTES_PER_SECOND
    assert s3["overhead"] / 1e3 == channels.S3_SECONDS
    assert s3["bandwidth"] * 1e6 == channels.S3_BYTES_PER_SECOND
    assert stores.LONGEST_PAUSE == channels.LOOK_SECONDS
    one_level = channels.reduction_seconds("direct", _ranks(32, 25)) - channels.S3_SECONDS
    theirs = PeerToPeer({**direct, "overhead": channels.DIRECT_SECONDS})
    message = theirs.latency(Operation("send", channels.MESSAGE_BYTES, 2))
    assert one_level == pytest.approx(message + channels.PACK_SECONDS + channels.MERGE_SECONDS)


@pytest.mark.parametrize("count", [2, 31, 32, 33, 517, 1024, 1025, 10_000])
def test_the_tree_is_that_of_the_ranks(count: int) -> None:
    one_level = channels.reduction_seconds("s3", _ranks(2, 1)) - channels.S3_SECONDS
    levels = (channels.reduction_seconds("s3", _ranks(count, 1)) - channels.S3_SECONDS) / one_level
    assert round(levels) == Tree(0, count).height
    above = sum(bool(Tree(rank, count).children) for rank in range(count))
    assert abs(above - -(-count // channels.FANOUT)) <= 1  # the last may be alone


def test_a_message_is_about_as_large_as_is_assumed() -> None:
    rng = np.random.default_rng(0)
    count = 25 * MB // estimate.IMAGE_BYTES
    true = rng.uniform(0, 3, count)
    metrics = Metrics.of(true + rng.normal(0, 0.1, count), true, rng.uniform(17, 25, count))
    assert 0.5 < len(Share([1], count, metrics).pack()) / channels.MESSAGE_BYTES < 1.5


def test_the_page_shows_these_estimates() -> None:
    page = (ROOT / "docs" / "collectives.md").read_text()
    rows = re.findall(r"^\| ([0-9,]+) \| (up|stopped) \| (.*) \| (.*) \| (.*) \| (\w+) \|$", page, re.MULTILINE)
    assert len(rows) == 4
    for count, state, *estimates, chosen in rows:
        choice = choose(_ranks(int(count.replace(",", "")), 25), _host(state))
        by_channel = {one.channel: f"{one.seconds:.1f} s, ${one.usd:.4f}" for one in choice.candidates}
        assert [by_channel[name] for name in ("none", "s3", "direct")] == estimates
        assert choice.channel == chosen
