"""Runs of more ranks than can run at once, or than one page can show."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inference.contract.accuracy import Metrics, Predicted
from initialize.contract.limits import MOST_AT_ONCE
from initialize.deployed import Deployed
from initialize.payload import PayloadError
from initialize.run import start
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import Run
from summarize.gather import summarize_run
from summarize.lean import Lean
from summarize.report import report
from summarize.report_data import chart_data
from summarize.states import States
from summarize.summary import summary

BUCKET = "team3-cosmicai"
PAYLOAD = {"bucket": BUCKET, "data_prefix": "25MB", "result_path": "r", "repeat_data": 5_000}
DEPLOYED = Deployed(
    allow_scripts=False, has_redis=False, concurrency=lambda: 50_000, is_running=lambda name: False,
    memory_mb=3538,
)  # fmt: skip
Json = dict[str, Any]


def _info(rank: int) -> RankInfo:
    """With every field that Summarize may keep, drop or share."""
    rng = np.random.default_rng(rank)
    true = rng.uniform(0, 3, 20)
    guess = true + rng.normal(0, 0.1, 20)
    content = {
        "rank": rank, "run_id": "r", "num_samples": 20, "cold_start": rank % 2 == 0, "memory_limit (MB)": 3538,
        "init (seconds)": 1.0 + rank, "duration (seconds)": 5.0 + rank, "ended (unix seconds)": 1795305610.0,
        "architecture": "arm64", "capacity": "lambda", "s3_num_requests": 9 + rank, "sample_persec": 700.0,
        "total_process_memory (MB)": 160.0 + rank, "data_path": [f"25MB/{rank}.pt", "25MB/x.pt"],
        "engine": "native", "instructions": "neon", "cpu": "Graviton3", "cpu_features": ["dotprod", "i8mm"],
        "versions": {"python": "3.12", "numpy": "2.1"}, "precision": "int8", "precision_reason": "fastest",
        "flags": {"bad_image": rank}, "MAE": 0.1, "collectives": {"partners": [1]}, "temperature": 9,
        "script_values": {"duration (seconds)": 1}, "threads": -3 if rank == 1 else 2,
        "accuracy_state": Metrics.of(guess, true, rng.uniform(17, 25, 20)).to_json(),
        "predicted_redshifts": Predicted.of(guess.tolist()).to_json(),
    }  # fmt: skip
    return RankInfo.from_json(content)


def _run(ranks: int) -> Run:
    return Run(
        run_id="r", started="2026-11-22T00:00:00Z", payload={"result_path": "r"}, world_size=ranks, bytes=ranks,
        collectives={"channel": "s3"},
    )  # fmt: skip


def test_lean_infos_give_the_same_summary_and_page() -> None:
    infos, run, lean, states = [_info(rank) for rank in range(5)], _run(6), Lean(), States(_run(6))
    failures = {5: {"error": "E", "cause": "c"}}
    kept = []
    for info in infos:
        states.add(info)
        kept.append(lean.of(info))
    expected = summary(run, infos, failures)
    assert summary(run, kept, failures, states) == expected
    assert report(expected, kept) == report(expected, infos)
    assert expected.left_out == {"1": ["threads: -3 is not a whole number from 0"]}
    assert kept[0].accuracy_state is None
    assert kept[0].versions is kept[4].versions
    assert kept[0].cpu_features is kept[4].cpu_features


def test_no_more_ranks_are_started_than_a_map_runs_at_once(s3: Any) -> None:
    for number in range(4):
        s3.put_object(Bucket=BUCKET, Key=f"25MB/{number}.pt", Body=b"galaxies")
    plan = start(s3, PAYLOAD, "run-1", "2026-11-22T00:00:00Z", DEPLOYED)
    assert (plan["world_size"], plan["jobs"], plan["max_concurrency"]) == (20_000, 20_000, MOST_AT_ONCE)
    events = json.load(s3.get_object(Bucket=BUCKET, Key="r/manifest.json")["Body"])
    assert sorted(event["RANK"] for event in events) == list(range(20_000))
    assert plan["collectives"] in ("s3", "none")  # not all can meet


def test_more_missing_ranks_than_an_array_has_are_not_resumed_on_batch(s3: Any) -> None:
    """AWS Batch would refuse the array, after the run's plan had been replaced."""
    for number in range(4):
        s3.put_object(Bucket=BUCKET, Key=f"25MB/{number}.pt", Body=b"galaxies")
    start(s3, PAYLOAD, "run-1", "2026-11-22T00:00:00Z", DEPLOYED)
    plan = s3.get_object(Bucket=BUCKET, Key="r/run.json")["ETag"]
    payload = {**PAYLOAD, "resume": True, "backend": "batch"}
    with pytest.raises(PayloadError, match=r"^backend: 20000 ranks have no result, more than the 10000 of one"):
        start(s3, payload, "run-2", "2026-11-22T00:00:00Z", replace(DEPLOYED, has_batch=True))
    assert s3.get_object(Bucket=BUCKET, Key="r/run.json")["ETag"] == plan


def test_the_page_of_many_ranks_stays_small_and_says_what_it_leaves_out() -> None:
    info = _info(0)
    infos = [RankInfo.from_json({**info.to_json(), "rank": rank}) for rank in range(12_000)]
    failures = {rank: {"error": "E", "cause": "c" * 300} for rank in range(12_000, 16_000)}
    content = summary(_run(16_000), infos, failures, States(_run(16_000)))
    page = report(content, infos)
    assert [row[0] for row in chart_data(content, infos)["ranks"]] == list(range(0, 12_000, 3))
    assert "One rank of 3 is drawn; the table below has the slowest ranks." in page
    assert "4,000 ranks without a result" in page
    assert "The first 2,000; summary.json names all." in page
    assert page.count("c" * 300) == 2_000
    assert len(page) < 6e6


@pytest.mark.parametrize("drawn", [1, 5_000])
def test_every_rank_of_a_smaller_run_is_drawn(drawn: int) -> None:
    infos = [RankInfo.from_json({**_info(0).to_json(), "rank": rank}) for rank in range(drawn)]
    content = summary(_run(drawn), infos, {}, States(_run(drawn)))
    assert len(chart_data(content, infos)["ranks"]) == drawn
    assert "is drawn;" not in report(content, infos)


def test_the_causes_of_many_failures_are_shortened(s3: Any) -> None:
    for number in range(4):
        s3.put_object(Bucket=BUCKET, Key=f"25MB/{number}.pt", Body=b"galaxies")
    payload = {**PAYLOAD, "repeat_data": 300, "tolerated_failure_percentage": 100}
    plan = start(s3, payload, "run-1", "2026-11-22T00:00:00Z", DEPLOYED)
    cause = "begins " + "x" * 5_000 + " ends"
    for rank in range(1_200):
        folder = "r" if rank < 4 else "r/copies"
        record = {"rank": rank, "run_id": "run-1", "error": "E", "cause": cause}
        s3.put_object(Bucket=BUCKET, Key=f"{folder}/failures/{rank}.json", Body=json.dumps(record).encode())
    summarize_run(s3, plan)
    failed = json.load(s3.get_object(Bucket=BUCKET, Key="r/summary.json")["Body"])["failed_ranks"]
    assert len(failed) == 1_200
    assert failed["3"]["cause"] == cause
    last = failed["1199"]["cause"]
    assert last.startswith("begins ")
    assert last.endswith(" ends")
    assert len(last) < 500
