"""What Summarize makes of metrics that the ranks have reduced themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inference.contract.accuracy import Metrics
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import Run
from summarize.states import States
from summarize.summary import summary

RUN = Run(
    run_id="r", started="2026-11-22T00:00:00Z", payload={}, world_size=4, bytes=1,
    collectives={"channel": "direct"},
)  # fmt: skip


def _metrics(rank: int) -> Metrics:
    rng = np.random.default_rng(rank)
    true = rng.uniform(0, 3, 9)
    return Metrics.of(true + rng.normal(0, 0.1, 9), true, rng.uniform(17, 25, 9))


def _info(rank: int) -> RankInfo:
    return RankInfo(
        rank=rank, run_id="r", num_samples=9, cold_start=True, memory_limit=1769, duration=2.0,
        architecture="x86_64", s3_num_requests=3, ended=1795305600.0 + 120,
        accuracy_state=_metrics(rank).to_json(),
    )  # fmt: skip


def _reduced(ranks: list[int]) -> dict[str, Any]:
    total = _metrics(ranks[0])
    for rank in ranks[1:]:
        total.add(_metrics(rank))
    return {"run_id": "r", "ranks": ranks, "channel": "direct", "accuracy_state": total.to_json()}


@pytest.mark.parametrize(
    ("covered", "source"),
    [
        ([0, 1, 2, 3], "collectives (direct) of 4 ranks"),
        ([3, 0, 1], "collectives (direct) of 3 ranks; from rank infos: 2"),
        ([0], "collectives (direct) of 1 ranks; from rank infos: 1, 2, 3"),
        (None, "rank infos"),
    ],
)
def test_what_the_collectives_lack_is_filled_in(covered: list[int] | None, source: str) -> None:
    infos = [_info(rank) for rank in range(4)]
    states = States(RUN, None if covered is None else _reduced(covered))
    for info in infos:
        states.add(info)
    run_summary = summary(RUN, infos, {}, states)
    assert run_summary.metrics_source == source
    assert run_summary.accuracy == summary(RUN, infos, {}).accuracy


def test_metrics_that_count_a_rank_without_a_result_are_noticed() -> None:
    states = States(RUN, _reduced([0, 1, 3]))
    assert not states.cover_only({0, 1, 2})
    assert states.cover_only({0, 1, 2, 3})


def test_metrics_of_no_rank_are_not_used() -> None:
    states = States(RUN, {**_reduced([0]), "ranks": []})
    states.add(_info(1))
    assert states.source == "rank infos; metrics.json is not used: its ranks are not those of the run"
    assert states.metrics is not None
    assert states.metrics.report() == _metrics(1).report()


def test_the_rendezvous_host_is_paid_for_by_the_minute_at_least() -> None:
    infos = [_info(rank) for rank in range(4)]
    assert summary(RUN, infos, {}).cost.rendezvous_host == pytest.approx(120 / 3600 * 0.0092)
    other = replace(RUN, collectives={"channel": "s3"})
    assert summary(other, infos, {}).cost.rendezvous_host == 0
    short = [replace(info, ended=1795305601.0) for info in infos]
    assert summary(RUN, short, {}).cost.rendezvous_host == pytest.approx(60 / 3600 * 0.0092)
