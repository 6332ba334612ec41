"""What a plan says of chance: bands that follow from its distributions, and where those are from."""

from __future__ import annotations

import heapq
import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from cosmicai.cli import app
from cosmicai.experiments import simulation
from cosmicai.experiments.cases import Assumptions, Case, PlanningError
from cosmicai.experiments.comparing import recommended
from cosmicai.experiments.planning import Plan, plan
from cosmicai.experiments.published import compare_published
from cosmicai.experiments.scatter import LAMBDA_SCATTER, NO_SCATTER, RUNS, Band, Scatter, draw
from cosmicai.experiments.simulation import Sandboxes, schedule
from summarize.contract import pricing

CASE = Case(600_000, 25, 3538, "arm64")


def test_a_plan_is_the_same_each_time_and_another_seed_changes_it_little() -> None:
    again, other = plan(CASE), plan(CASE, seed=1)
    assert plan(CASE) == again
    assert other.seconds != again.seconds
    for one, two in zip(vars(other.seconds).values(), vars(again.seconds).values(), strict=True):
        assert one == pytest.approx(two, rel=0.05)


def test_the_parts_are_those_of_the_median_run() -> None:
    planned = plan(CASE)
    assert sum(planned.parts.values()) == pytest.approx(planned.seconds.p50)
    assert sum(planned.usd.values()) == pytest.approx(planned.total_usd.p50)
    for band in (planned.seconds, planned.total_usd):
        assert band.p10 < band.p50 < band.p90


def test_without_scatter_all_runs_are_alike() -> None:
    planned = plan(CASE, Assumptions((400.0, 400.0), (2.0, 2.0), scatter=NO_SCATTER))
    assert planned.seconds.p10 == planned.seconds.p90
    assert planned.total_usd.p10 == planned.total_usd.p90


def test_the_band_follows_from_the_distribution() -> None:
    """One rank for 100 s at a speed between 0.5 and 1.5 times: 100 / 1.4, 100 and 100 / 0.6 s."""
    steady = Assumptions((100.0, 100.0), (0.0, 0.0), scatter=NO_SCATTER)
    case = Case(10_000, 500, 1769, "arm64", "none")
    fixed = plan(case, steady).seconds.p50 - 100
    varied = plan(case, replace(steady, scatter=replace(NO_SCATTER, speed_level=(0.5, 1.5)))).seconds
    expected = [100 / 1.4, 100.0, 100 / 0.6]
    assert [one - fixed for one in vars(varied).values()] == pytest.approx(expected, rel=0.02)


def test_cold_starts_are_as_far_apart_as_their_source_says() -> None:
    levels = np.sort(draw(LAMBDA_SCATTER, 1, 0).start[:, 0])
    low, high = np.quantile(levels, (0.025, 0.975))
    assert high / low == pytest.approx(1.4 / 0.6, rel=0.1)
    assert np.median(levels) == pytest.approx(1.0, rel=0.02)


def test_a_slow_rank_holds_up_the_whole_run() -> None:
    steady = Assumptions((400.0, 400.0), (2.0, 2.0), scatter=NO_SCATTER)
    rare = plan(CASE, replace(steady, scatter=replace(NO_SCATTER, slow_rank_share=1e-4, slow_rank_factor=3.0)))
    often = plan(CASE, replace(steady, scatter=replace(NO_SCATTER, slow_rank_share=0.1, slow_rank_factor=3.0)))
    compute = plan(CASE, steady).parts["compute"]
    assert rare.seconds.p50 == plan(CASE, steady).seconds.p50
    assert often.seconds.p10 == pytest.approx(plan(CASE, steady).seconds.p50 + 2 * compute, rel=0.05)


def _greedily(dispatched: list[float], ready: list[float], cold: list[float], busy: list[float]) -> list[float]:
    """The end of each rank, one after the other, with all sandboxes in one list: slow, and as it is defined."""
    warm: list[float] = []
    left, ends = list(ready), []
    for at, start, work in zip(dispatched, cold, busy, strict=True):
        old = max(at, min(warm)) if warm else np.inf
        new = max(at, left[0]) if left else np.inf
        if old <= new:
            warm.remove(min(warm))
            ends.append(old + work)
        else:
            left.pop(0)
            ends.append(new + start + work)
        heapq.heappush(warm, ends[-1])
    return ends


@pytest.mark.parametrize(
    ("ranks", "at_once", "rate"), [(300, 300, 1000.0), (300, 300, 20.0), (399, 25, 1000.0)]
)
def test_ranks_run_as_one_by_one(ranks: int, at_once: int, rate: float) -> None:
    """With sandboxes for all, with some that are free again before the last dispatch, and in waves."""
    dice = np.random.default_rng(3)
    dispatched, ready = np.arange(ranks) / rate, np.maximum(0.0, (np.arange(at_once) - 9) / 5)
    cold, busy = dice.uniform(1, 2, (RUNS, ranks)), dice.uniform(3, 6, (RUNS, ranks))
    times = schedule(dispatched, Sandboxes(ready), cold, busy)
    for run in (0, 50, 100):
        expected = _greedily(*(one.tolist() for one in (dispatched, ready, cold[run], busy[run])))
        assert times.end[run] == pytest.approx(expected)


def test_groups_of_ranks_take_as_long_as_single_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(4000 * 1278, 25, 3538, "arm64", "none")
    grouped = plan(case)
    monkeypatch.setattr(simulation, "_MOST_UNITS", 10**9)
    single = plan(case)
    assert vars(grouped.seconds) == pytest.approx(vars(single.seconds), rel=0.03)
    assert vars(grouped.total_usd) == pytest.approx(vars(single.total_usd), rel=0.01)


def test_the_published_runs_are_within_their_bands_or_nearly() -> None:
    for earlier, theirs, _ in compare_published():
        least, most = earlier.seconds
        assert theirs.seconds.p10 / 1.1 < most
        assert least < theirs.seconds.p90 * 1.1


def test_a_target_is_met_in_nine_of_ten_runs_and_not_in_every_second() -> None:
    planned = plan(CASE)
    assert recommended([planned], planned.seconds.p90, None) is planned
    with pytest.raises(PlanningError, match=r"up to .* in nine of ten runs"):
        recommended([planned], planned.seconds.p50, None)
    with pytest.raises(PlanningError, match=r"up to .* in nine of ten runs"):
        recommended([planned], None, planned.total_usd.p50)


def _printed(*options: str) -> str:
    result = CliRunner().invoke(app, ["plan", "--images", "600000", "--partition-mb", "25", *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_prints_the_bands_and_what_nobody_has_measured() -> None:
    planned: Plan = plan(Case(600_000, 25, 3538, "arm64"))
    text = _printed("--memory-mb", "3538", "--arch", "arm64")
    seconds, usd = planned.seconds, planned.total_usd
    assert f"Recommended: {seconds.p50:.0f} ({seconds.p10:.0f} to {seconds.p90:.0f}) s" in text
    assert f"{usd.p50:.4f} ({usd.p10:.4f} to {usd.p90:.4f}) USD" in text
    varying = LAMBDA_SCATTER.described("")
    assert 0 < sum(one.assumed for one in varying) < len(varying)
    for one in varying:
        assert (f"{one.figure} ({one.distribution})" in text) is one.assumed


def test_json_has_the_bands_their_distributions_and_the_date_of_the_prices() -> None:
    printed = json.loads(_printed("--json"))
    assert printed["recommended"]["seconds"].keys() == {"p10", "p50", "p90"}
    assert printed["recommended"]["usd"]["p10"] < printed["recommended"]["usd"]["p90"]
    basis = printed["basis"]
    assert basis["simulated runs"] == RUNS
    assert {one["figure"]: one["assumed"] for one in basis["varies"]}["slow ranks"] is True
    assert printed["recommended"]["prices as of"] == pricing.AS_OF


def test_every_pair_of_a_scatter_is_described() -> None:
    """A figure that varies and is not in the list would be varied without a word."""
    words = " ".join(
        one.distribution
        for one in Scatter((0.11, 2.0), 0.12, (0.13, 2.0), (0.14, 2.0), (0.15, 2.0), 0.016, 17.0).described("s")
    )
    assert all(number in words for number in ("0.11", "0.12", "0.13", "0.14", "0.15", "16 of 1,000", "17"))


def test_quantiles_are_of_the_simulated_runs() -> None:
    assert Band.of(np.arange(101.0)[::-1]) == Band(10.0, 50.0, 90.0)
