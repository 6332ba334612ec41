"""Metrics reduced by the tree: all of them when all goes well, and never a hang or a lost rank when not."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from inference import fmi
from inference.contract.accuracy import Metrics
from inference.metrics import reduction
from inference.metrics.reduction import FANOUT, Reduction, Share, Tree

from .rendezvous import Host


@pytest.fixture(scope="module")
def host() -> Any:
    started = Host()
    yield started
    started.stop()


def _share(rank: int) -> Share:
    rng = np.random.default_rng(rank)
    true = rng.uniform(0, 3, 5)
    return Share([rank], 5, Metrics.of(true + rng.normal(0, 0.05, 5), true, rng.uniform(17, 25, 5)))


def _merged(ranks: list[int]) -> Share:
    total = _share(ranks[0])
    for rank in ranks[1:]:
        total.add(_share(rank))
    return total


@pytest.mark.parametrize("size", [1, 2, FANOUT, FANOUT + 1, 1000, FANOUT**2 + 1, 10_000])
def test_everybody_hangs_below_rank_0(size: int) -> None:
    trees = [Tree(rank, size) for rank in range(size)]
    for tree in trees:
        for child in tree.children:
            assert trees[child].parent == tree.rank
            assert trees[child].height < tree.height
        if tree.rank:
            assert tree.parent is not None
            assert tree.rank in trees[tree.parent].children
    assert sum(len(tree.children) for tree in trees) == size - 1
    assert trees[0].height <= 3


def _run(channels: list[Any]) -> tuple[list[Share], list[dict[str, Any]]]:
    def one(rank: int) -> tuple[Share, dict[str, Any]]:
        with Reduction(Tree(rank, len(channels)), lambda: channels[rank], lambda: 60.0) as part:
            return part.finish(_share(rank)), part.info()

    with ThreadPoolExecutor(len(channels)) as pool:
        shares, infos = zip(*pool.map(one, range(len(channels))), strict=True)
    return list(shares), list(infos)


@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_rank_0_has_what_all_have(size: int) -> None:
    memory = fmi.Memory(size)
    shares, infos = _run([memory.channel(rank) for rank in range(size)])
    expected = _merged(list(range(size)))
    assert shares[0] == expected
    assert shares[0].metrics is not None
    assert expected.metrics is not None
    assert shares[0].metrics.report() == expected.metrics.report()
    assert all(not info["faults"] for info in infos)


def _direct(host: Host, size: int, secrets: dict[int, bytes] | None = None) -> list[fmi.Channel]:
    name = f"run-{os.urandom(4).hex()}"
    return [
        fmi.Direct(rank, size, name, "127.0.0.1", host.port, (secrets or {}).get(rank, b"s"))
        for rank in range(size)
    ]


def test_over_the_direct_channel_a_leaf_does_not_wait(host: Host) -> None:
    ended: dict[int, float] = {}

    def one(rank: int) -> tuple[Share, dict[str, Any]]:
        with Reduction(Tree(rank, 6), lambda: channels[rank], lambda: 60.0) as part:
            time.sleep(2.0 if rank == 0 else 0.3)
            share = part.finish(_share(rank))
            ended[rank] = time.monotonic() - began
            return share, part.info()

    channels, began = _direct(host, 6), time.monotonic()
    with ThreadPoolExecutor(6) as pool:
        shares, infos = zip(*pool.map(one, range(6)), strict=True)
    assert shares[0].ranks == list(range(6))
    assert max(ended[rank] for rank in range(1, 6)) < 2.0 <= ended[0]
    assert infos[0]["partners"] == [1, 2, 3, 4, 5]
    assert all(info["partners"] == [0] for info in infos[1:])


def test_a_rank_that_never_comes_is_left_out_and_named(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduction, "PATIENCE_SECONDS", 1.0)
    channels = _direct(host, 4)

    def one(rank: int) -> tuple[Share, dict[str, Any]]:
        with Reduction(Tree(rank, 4), lambda: channels[rank], lambda: 30.0) as part:
            return part.finish(_share(rank)), part.info()

    with ThreadPoolExecutor(3) as pool:
        reductions = list(pool.map(one, [0, 1, 3]))
    assert reductions[0][0] == _merged([0, 1, 3])
    assert list(reductions[0][1]["faults"]) == ["rank 2"]


@pytest.mark.fault(
    "an inner rank of the reduction never starts",
    "the rank is not started",
    "its children stop waiting after a time limit",
    "nothing: Summarize adds them from S3",
)
def test_a_parent_that_never_comes_costs_a_leaf_its_patience_alone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduction, "PATIENCE_SECONDS", 0.5)
    began = time.monotonic()
    with Reduction(Tree(1, 2), lambda: _direct(host, 2)[1], lambda: 900.0) as part:
        assert part.finish(_share(1)) == _share(1)
        assert "rank 0" in part.info()["faults"]
    assert time.monotonic() - began < 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reduction")]


@pytest.mark.parametrize("dying", [0, 1])
def test_a_rank_that_died_and_is_started_again_joins(host: Host, dying: int) -> None:
    """Parent or child: the connection is made again by those who still wait."""
    first, second = _direct(host, 2), None
    name = first[0]._name  # type: ignore[attr-defined]
    met = threading.Barrier(2)

    def survivor() -> tuple[Share, dict[str, Any]]:
        rank = 1 - dying
        with Reduction(Tree(rank, 2), lambda: first[rank], lambda: 60.0) as part:
            _until(lambda: first[rank]._connections)  # type: ignore[attr-defined]
            met.wait(10)
            if rank == 1:  # the parent is gone now; its second life is not there yet
                time.sleep(0.3)
            return part.finish(_share(rank)), part.info()

    def victim() -> tuple[Share, dict[str, Any]]:
        nonlocal second
        with Reduction(Tree(dying, 2), lambda: first[dying], lambda: 60.0):
            _until(lambda: first[dying]._connections)  # type: ignore[attr-defined]
            met.wait(10)
        second = fmi.Direct(dying, 2, name, "127.0.0.1", host.port, b"s")
        with Reduction(Tree(dying, 2), lambda: second, lambda: 60.0) as part:
            return part.finish(_share(dying)), part.info()

    with ThreadPoolExecutor(2) as pool:
        ended = [pool.submit(survivor), pool.submit(victim)]
        shares = [future.result(60)[0] for future in ended]
    assert max(shares, key=lambda share: len(share.ranks)) == _merged([0, 1])


def _until(holds: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_channel_that_cannot_be_opened_fails_nobody() -> None:
    def broken() -> fmi.Channel:
        raise OSError("no key")

    with Reduction(Tree(0, 3), broken, lambda: 60.0) as part:
        assert part.finish(_share(0)) == _share(0)
        assert part.info()["faults"]["channel"] == "OSError: no key"


def test_a_rank_with_another_key_adds_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduction, "PATIENCE_SECONDS", 1.0)
    shares, infos = _run(_direct(host, 3, {2: b"another"}))
    assert shares[0] == _merged([0, 1])
    assert list(infos[0]["faults"]) == ["rank 2"]


def test_no_time_left_means_no_waiting(host: Host) -> None:
    began = time.monotonic()
    with Reduction(Tree(0, 3), lambda: _direct(host, 3)[0], lambda: 5.0) as part:
        assert part.finish(_share(0)) == _share(0)
    assert time.monotonic() - began < 2
