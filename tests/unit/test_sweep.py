"""What a sweep takes from earlier runs, and what it calls the data of a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from cosmicai.deploy.target import Target
from cosmicai.experiments import sweep as module
from cosmicai.experiments.sweep import Grid, SweepError, sweep
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import Run
from summarize.summary import summary

BUCKET = "team3-cosmicai"
MACHINE = "arn:aws:states:us-east-1:123456789012:stateMachine:team3-cosmicai"
Json = dict[str, Any]


@pytest.fixture
def target(s3: Any) -> Target:
    """With four partitions of 1,000,000 bytes."""
    for number in range(4):
        s3.put_object(Bucket=BUCKET, Key=f"1MB/{number}.pt", Body=b"x" * 10**6)
    return Target("team3", BUCKET, MACHINE, boto3.Session())


def _grid(data_gb: float | None, repeat: int = 2) -> Grid:
    return Grid((64,), (1.0,), (data_gb,), repeat, "sweep")


def _ran(s3: Any, path: str, files: int, size: int = 10**6) -> None:
    """A run of as many partitions with this result path, as Summarize leaves it."""
    run = Run(
        run_id=f"run-{path}", started="2026-11-22T00:00:00Z", payload={"batch_size": 64}, world_size=files,
        bytes=files * size, collectives={"channel": "s3"},
    )  # fmt: skip
    infos = [
        RankInfo(
            rank=rank, run_id=run.run_id, num_samples=9, memory_limit=1769, duration=2.0, ended=1795305700.0,
            sample_persec=700.0, throughput_bps=9e6, total_process_memory=150.0, architecture="arm64",
        )
        for rank in range(files)
    ]  # fmt: skip
    body = json.dumps(summary(run, infos, {}).to_json()).encode()
    s3.put_object(Bucket=BUCKET, Key=f"sweep/1MB/{path}/summary.json", Body=body)


def _rows(out: Path) -> list[Json]:
    return list(csv.DictReader((out / "result_stats.csv").read_text().splitlines()))


def test_runs_that_are_not_repeated_are_named(target: Target, s3: Any, tmp_path: Path) -> None:
    for number in (1, 2):
        _ran(s3, f"all/batch-64/{number}", 4)
    sentences: list[str] = []
    sweep(target, _grid(None), tmp_path / "out", lambda *_: None, sentences.append)
    assert sentences == [
        "2 of 2 runs have succeeded before, the first on 2026-11-22. Their results are used; give another "
        "--prefix to run them again"
    ]
    assert [row["data_gb"] for row in _rows(tmp_path / "out")] == ["0.004", "0.004"]


@pytest.mark.parametrize(("files", "size"), [(3, 10**6), (4, 10**6 + 1)])
def test_a_run_of_other_partitions_is_made_again(
    target: Target, s3: Any, tmp_path: Path, files: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ran(s3, "all/batch-64/1", files, size)
    paths = []

    def runs(stepfunctions: Any, target: Target, case: module.Case, payload: Json) -> None:
        paths.append(payload["result_path"])
        _ran(s3, "all/batch-64/1", 4)

    monkeypatch.setattr(module, "_run", runs)
    sentences: list[str] = []
    sweep(target, _grid(None, 1), tmp_path / "out", lambda *_: None, sentences.append)
    assert (paths, sentences) == (["sweep/1MB/all/batch-64/1"], [])


def test_an_amount_that_whole_partitions_do_not_give_is_said_and_not_claimed(
    target: Target, s3: Any, tmp_path: Path
) -> None:
    """A sweep of 0.0004 GB over partitions of 0.001 GB computes 0.001 GB."""
    _ran(s3, "0.0004GB/batch-64/1", 1)
    sentences: list[str] = []
    sweep(target, _grid(0.0004, 1), tmp_path / "out", lambda *_: None, sentences.append)
    assert sentences[0] == (
        f"0.0004 GB are not whole partitions of the 0.004 GB in s3://{BUCKET}/1MB/: 1 partition is computed, "
        "which is 0.001 GB"
    )
    assert [row["data_gb"] for row in _rows(tmp_path / "out")] == ["0.001"]


def test_an_amount_that_partitions_give_keeps_its_name(target: Target, s3: Any, tmp_path: Path) -> None:
    _ran(s3, "0.00204GB/batch-64/1", 2)
    sentences: list[str] = []
    sweep(target, _grid(0.00204, 1), tmp_path / "out", lambda *_: None, sentences.append)
    assert ["whole" in sentence for sentence in sentences] == [False]
    assert [row["data_gb"] for row in _rows(tmp_path / "out")] == ["0.00204"]


def test_a_run_that_leaves_no_summary_is_an_error(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_run", lambda *_: None)
    with pytest.raises(SweepError, match="has no summary of a run that succeeded"):
        sweep(target, _grid(None, 1), tmp_path / "out", lambda *_: None, lambda _: None)
