"""The plan of a run: what it costs and takes, beside runs that were published."""

from __future__ import annotations

import io
import json
import math
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cosmicai.cli import app
from cosmicai.cli.common import console
from cosmicai.cli.plan_text import table
from cosmicai.experiments.cases import Assumptions, Case, PlanningError
from cosmicai.experiments.comparing import options, options_on_batch, recommended
from cosmicai.experiments.planning import Obstacle, plan
from cosmicai.experiments.published import PUBLISHED, compare_published
from cosmicai.experiments.scatter import NO_SCATTER
from summarize.contract import pricing
from summarize.contract.channels import Choice, HostState
from summarize.contract.estimate import IMAGE_BYTES
from summarize.contract.figures import usd_text
from summarize.contract.run_records import Summary


@pytest.mark.parametrize(("host", "channel"), [("up", "direct"), ("stopped", "none"), ("absent", "none")])
def test_a_plan_has_the_channel_that_initialize_would_choose(host: HostState, channel: str) -> None:
    images = int(12.6e9 / IMAGE_BYTES)
    planned = plan(Case(images, 25, 3538, "arm64"), replace(Assumptions(), host=host))
    assert planned.channel is not None
    assert planned.channel.channel == channel
    (chosen,) = (one for one in planned.channel.candidates if one.channel == channel)
    assert planned.seconds.p50 == pytest.approx(chosen.seconds, rel=0.1)  # which simulates no rank by itself
    assert planned.total_usd.p50 == pytest.approx(chosen.usd, rel=0.1)


def test_a_plan_waits_for_a_stopped_host_only_where_it_is_told_to() -> None:
    case = Case(600_000, 25, 3538, "arm64", "direct")
    stopped, up = (
        plan(case, replace(Assumptions(), host=host, scatter=NO_SCATTER)) for host in ("stopped", "up")
    )
    assert stopped.bottleneck == "rendezvous host"
    assert stopped.seconds.p50 == pytest.approx(up.seconds.p50 + 30.0)
    assert stopped.usd["rendezvous host"] > 10 * up.usd["rendezvous host"] > 0
    small = replace(Assumptions(), concurrency=10)
    assert plan(case, small).channel == Choice("s3", "not all ranks can run at once")


def test_the_published_runs_are_met_within_a_quarter() -> None:
    for earlier, theirs, _ in compare_published():
        assert theirs.case.ranks == pytest.approx(earlier.ranks, abs=1)
        assert theirs.seconds.p50 == pytest.approx(sum(earlier.seconds) / 2, rel=0.25)


def test_the_honest_bill_of_the_published_75_mb_case_is_met_within_a_quarter() -> None:
    """0.97 USD by configured memory and billed duration, not the 0.30 by used memory."""
    (theirs,) = (theirs for earlier, theirs, _ in compare_published() if earlier.partition_mb == 75)
    assert theirs.total_usd.p50 == pytest.approx(0.97, rel=0.25)


def test_one_rank_by_hand() -> None:
    assumptions = Assumptions((100.0, 100.0), (2.0, 2.0), scatter=NO_SCATTER)
    one = plan(Case(1000, 25, 1769, "x86_64", collectives="none"), assumptions)
    assert one.case.ranks == 1
    assert one.seconds.p50 == pytest.approx(2.0 + 1 / 10_000 + 2.0 + 10.0 + 2.0 + 1 / 600)
    assert one.usd["Lambda compute"] == pytest.approx(12.0 * 1769 / 1024 * 0.0000166667)
    assert one.bottleneck == "compute"


def test_an_init_phase_beyond_the_limit_runs_twice() -> None:
    slow = Assumptions(cold_start_seconds=(12.0, 12.0), scatter=NO_SCATTER)
    assert plan(Case(10, 25, 1769, "arm64"), slow).parts["cold start"] == 22.0


def test_beyond_the_quota_ranks_wait_and_start_warm() -> None:
    assumptions = replace(Assumptions(), concurrency=10)
    few, many = (plan(Case(1278 * ranks, 25, 1769, "arm64", "none"), assumptions) for ranks in (10, 40))
    assert not few.obstacles
    assert "in 4 waves: the account runs 10 at once" in many.obstacles[0].text
    most = plan(Case(30_000_000, 25, 3538, "arm64", "s3"), replace(Assumptions(), concurrency=50_000))
    assert "in 3 waves: Step Functions runs 10,000 at once" in most.obstacles[0].text
    assert many.bottleneck == "concurrency quota"
    assert many.parts["cold start"] == 0.0


@pytest.mark.parametrize(("terabytes", "obstacle"), [(1, "waves"), (100, "a run has 100,000")])
def test_large_data_name_the_quotas_in_the_way(terabytes: int, obstacle: str) -> None:
    images = int(terabytes * 1e12 / IMAGE_BYTES)
    size = 25.0 if terabytes > 1 else 100.0
    assert obstacle in plan(Case(images, size, 3538, "arm64")).obstacles[0].text


def test_a_rank_beyond_lambdas_time_is_named() -> None:
    planned = plan(Case(2_000_000, 20_000, 1769, "arm64"))
    assert any("Lambda ends it after 900 s" in obstacle.text for obstacle in planned.obstacles)
    with pytest.raises(PlanningError, match="none of these can be run: a rank takes"):
        recommended([planned], None, None)


def test_the_recommendation_keeps_to_what_was_asked() -> None:
    plans = list(options(600_000, (25, 50, 100), (1769, 3538), ("arm64", "x86_64")))
    cheapest, fastest = min(one.total_usd.p50 for one in plans), min(one.seconds.p50 for one in plans)
    assert recommended(plans, 1e6, None).total_usd.p50 == cheapest
    assert recommended(plans, None, 1e6).seconds.p50 == fastest
    middle = sorted(one.seconds.p90 for one in plans)[len(plans) // 2]
    assert recommended(plans, middle, None).seconds.p90 <= middle
    with pytest.raises(PlanningError, match="--target-seconds 1 cannot be met; the fastest takes"):
        recommended(plans, 1.0, None)
    with pytest.raises(PlanningError, match=r"--budget 0\.001 is too small; the cheapest takes"):
        recommended(plans, None, 0.001)


def test_target_and_budget_are_both_kept() -> None:
    plans = list(options(600_000, (25, 50, 100), (1769, 3538), ("arm64", "x86_64")))
    fastest, cheapest = (
        min(plans, key=key) for key in (lambda one: one.seconds.p90, lambda one: one.total_usd.p90)
    )
    best = recommended(plans, fastest.seconds.p90, fastest.total_usd.p90)
    assert best.seconds.p90 <= fastest.seconds.p90
    assert best.total_usd.p90 <= fastest.total_usd.p90
    assert cheapest.seconds.p90 > fastest.seconds.p90
    with pytest.raises(PlanningError, match="--target-seconds and --budget cannot both be met"):
        recommended(plans, fastest.seconds.p90, cheapest.total_usd.p90)


@pytest.mark.parametrize("text", ["in 4 waves", "a rank takes 1,000 s", ""])
def test_the_recommendation_depends_on_the_flag_of_an_obstacle_and_not_on_its_text(text: str) -> None:
    slow, fast = plan(Case(100_000, 25, 1769, "arm64")), plan(Case(100_000, 25, 3538, "arm64"))
    assert fast.seconds.p50 < slow.seconds.p50
    assert (
        recommended([slow, replace(fast, obstacles=(Obstacle(text, prevents=False),))], None, 1e6).case
        == fast.case
    )
    assert recommended([slow, replace(fast, obstacles=(Obstacle(text, prevents=True),))], None, 1e6) is slow


def test_more_ranks_than_one_run_can_have_are_not_simulated() -> None:
    began = time.monotonic()
    planned = plan(Case(10**15, 25, 1769, "arm64"))
    assert time.monotonic() - began < 1
    assert (planned.possible, planned.seconds.p10, planned.total_usd.p90) == (False, math.inf, math.inf)


def test_a_rank_on_batch_has_its_own_vcpus_starts_and_price() -> None:
    planned = plan(Case(200_000, 1000, 16_384, "x86_64", "none", 4))
    assert planned.case.ranks == 4
    assert planned.usd.keys() == {"AWS Batch compute", "Step Functions", "S3 requests"}
    seconds = 200_000 / (4 * 412.5) + 4 * 90
    hours = seconds / 3600
    assert planned.usd["AWS Batch compute"] == pytest.approx(
        hours * (4 * 0.04048 + 16 * 0.004445 + 0.005), rel=0.1
    )
    assert 60 < planned.parts["cold start"] < 125
    steady = Assumptions((400.0, 400.0), scatter=NO_SCATTER)
    few, many = (
        plan(Case(200_000, 1000, size, "x86_64", "none", size // 4096), steady) for size in (16_384, 32_768)
    )
    assert many.parts["compute"] == pytest.approx(few.parts["compute"] / 2)


def test_vcpus_bound_the_ranks_on_batch_and_every_job_starts_cold() -> None:
    assumptions = Assumptions(max_vcpus=8)
    (option,) = options_on_batch(200_000, (1000,), [(4, 16_384)], ("arm64",), assumptions)
    assert option.obstacles[0].text.startswith(
        "4 ranks in 2 waves: 8 vCPUs run 2 at once; raise batch.max_vcpus"
    )
    assert option.seconds.p50 > 1.8 * plan(Case(200_000, 1000, 16_384, "arm64", "none", 4)).seconds.p50 - 30
    assert option.possible


def test_what_is_too_long_for_lambda_is_possible_on_batch() -> None:
    obstacles = [one.text for one in plan(Case(2_000_000, 20_000, 1769, "arm64")).obstacles]
    assert "or use AWS Batch (--backend batch)" in obstacles[0]
    planned = plan(Case(40_000_000, 200_000, 4096, "arm64", "none", 1))
    assert planned.possible
    assert any("set batch.timeout_seconds, which is 14,400 by default" in one.text for one in planned.obstacles)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "batch", "--vcpus", "3"], "3: Fargate has no 3 vCPUs here; give 1, 2, 4, 8, 16"),
        (
            ["--backend", "batch", "--vcpus", "4", "--memory-mb", "65536"],
            "65536: Fargate has no 65,536 MB for 4 vCPUs; give 8,192 to 30,720 in steps of 1,024",
        ),
        (["--memory-mb", "16384"], "16384: Lambda has 10,240 MB at most; give less, or --backend batch"),
    ],
)
def test_a_size_that_there_is_not_is_refused(options: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["plan", "--images", "1000", *options])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_a_plan_for_batch_says_that_spots_price_varies() -> None:
    result = CliRunner().invoke(app, ["plan", "--images", "1000000", "--backend", "batch", "--json"])
    output = json.loads(result.stdout)
    assert output["payload"]["backend"] == "batch"
    assert "the price of Fargate Spot changes with supply and demand" in output["notes"][0]
    assert {(one["vcpus"], one["memory_mb"]) for one in output["plans"]} == {(2, 4096), (4, 8192), (8, 16384)}


def test_a_measured_run_calibrates_it(tmp_path: Path) -> None:
    cost = pricing.Cost(
        gb_seconds=3538 / 1024 * 10, compute=1e-3, requests=0.0, step_functions=0.0, s3_requests=0.0,
        rendezvous_host=0.0, total=1e-3, prices_as_of="2026-11",
    )  # fmt: skip
    summary = Summary(
        run_id="r", started="2026-11-22T00:00:00Z", payload={}, world_size=5, finished_ranks=5,
        missing_ranks=[], failed_ranks={}, num_samples_from={"engine": 5}, input_bytes=1, cold_starts=5,
        metrics_source="rank infos", seconds={"duration": 10.0}, cost=cost,
        spread={
            "sample_persec": {"min": 1000.0, "p50": 1100.0, "p95": 1150.0, "max": 1200.0},
            "init (seconds)": {"min": 0.0, "p50": 0.9, "p95": 1.0, "max": 1.1},
        },
    )  # fmt: skip
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(summary.to_json()))
    assumptions = Assumptions.of_summary(path)
    assert assumptions.images_per_second_vcpu == (500.0, 600.0)
    assert assumptions.cold_start_seconds == (0.9, 1.1)
    path.write_text("{}")
    with pytest.raises(
        PlanningError, match=r"summary\.json is not the summary\.json of a run.*spread: is missing"
    ):
        Assumptions.of_summary(path)


def test_the_report_and_the_plan_name_the_same_published_runs() -> None:
    """Summarize imports nothing from outside its folder, so both have them."""
    from summarize.report import _PUBLISHED

    published = [(f"{run.partition_mb:g} MB partitions", run.ranks, run.usd) for run in PUBLISHED]
    assert published == [(name, ranks, usd) for name, ranks, _, usd, _ in _PUBLISHED]


@pytest.mark.parametrize("width", [80, 100, 60])
def test_a_table_of_plans_is_whole_on_a_narrow_terminal(width: int) -> None:
    """Without lines at 80 columns, and a value a line at 60."""
    plans = list(options(10**6, [25.0], [1769], ["arm64"], Assumptions()))
    file = io.StringIO()
    type(console)(file=file, width=width, force_terminal=True).print_table(table(plans, plans[0], 10**6))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    for text in ("collectives", "1,769", f"{plans[0].case.ranks:,}", usd_text(plans[0].total_usd.p50)[1:]):
        assert text in shown
    assert ("━" in shown) == (width == 100)
    assert ("collectives: " in shown) == (width == 60)
