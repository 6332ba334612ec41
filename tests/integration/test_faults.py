"""Runs that go wrong: what fails says so, and nothing else is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
from torch.utils.data import TensorDataset

from .conftest import Cloud, Json, Ran, no_ranks

Run = Callable[[Json], Ran]
Start = Callable[[Json], str]
Partitions = Callable[..., dict[str, bytes]]
Save = Callable[[object], bytes]


def test_a_payload_with_three_faults_lists_all_three_and_starts_nothing(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(1))
    ran = run(cloud.payload(prefix, world_size="eleven", batch_size=0, file_limt=3))
    assert ran.status == "FAILED"
    for field in ("world_size", "batch_size", "file_limt: unknown field; did you mean file_limit?"):
        assert field in ran.cause
    assert ran.objects() == set()


def test_an_empty_prefix_is_named(cloud: Cloud, run: Run, prefix: str) -> None:
    ran = run(cloud.payload(prefix))
    assert ran.status == "FAILED"
    assert f"s3://{cloud.bucket}/{prefix}/ holds no .pt file" in ran.cause


def test_a_model_that_is_not_there_is_named_before_a_rank_starts(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(1))
    ran = run(cloud.payload(prefix, model="models/nime"))
    assert ran.status == "FAILED"
    assert f"model: s3://{cloud.bucket}/models/nime/ holds no file" in ran.cause
    assert ran.objects() == set()


def test_a_missing_bucket_is_named(cloud: Cloud, run: Run, prefix: str) -> None:
    ran = run(cloud.payload(prefix, data_bucket="there-is-none"))
    assert ran.status == "FAILED"
    assert "data_bucket: there-is-none cannot be listed (NoSuchBucket)" in ran.cause


def test_a_result_bucket_that_is_none_is_named(cloud: Cloud, run: Run, prefix: str) -> None:
    ran = run(cloud.payload(prefix, bucket="there-is-none"))
    assert ran.status == "FAILED"
    assert "bucket: there-is-none cannot be read (NoSuchBucket); give this deployment's own bucket" in ran.cause


def test_more_ranks_than_files_are_as_many_ranks_as_files(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(2))
    ran = run(cloud.payload(prefix, world_size=3))
    assert ran.status == "SUCCEEDED", ran.cause
    assert ran.read("summary.json")["world_size"] == 2
    assert ran.read("run.json")["notes"] == [
        "world_size is 3, but there are only 2 partition files: 2 ranks run"
    ]


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (self.marker,)


@pytest.mark.fault(
    "partitions that are cut short, hostile, or full of NaN",
    "such files are mixed with good ones",
    "these ranks fail and name their file; no code in a file is executed",
    "nothing: the other ranks' results are kept",
)
def test_broken_and_hostile_files_fail_alone(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str, saved: Save, tmp_path: Path
) -> None:
    """Truncated, malicious and NaN partitions among good ones: three ranks fail by name, two results stay."""
    files = partitions(5)
    files["2.pt"] = files["2.pt"][:-500]
    files["3.pt"] = saved(_Hostile(tmp_path / "executed"))
    files["5.pt"] = saved(TensorDataset(torch.full((2, 5, 32, 32), float("nan")), torch.ones(2, 5)))
    cloud.put_all(prefix, files)
    ran = run(cloud.payload(prefix))
    assert ran.status == "FAILED"
    assert ran.execution["error"] == "RanksFailed"
    assert "3 of 5 ranks left no result: 1, 2, 4." in ran.cause
    assert not (tmp_path / "executed").exists()
    summary = ran.read("summary.json")
    assert list(summary["failed_ranks"]) == ["1", "2", "4"]
    for rank, name, fault in (
        ("1", "2.pt", "is cut short"),
        ("2", "3.pt", "asks for posix.mkdir"),
        ("4", "5.pt", "2 of 2 galaxies lack something (2: the image holds NaN"),
    ):
        failure = summary["failed_ranks"][rank]
        assert failure["error"] == "PartitionError"
        assert f"s3://{cloud.bucket}/{prefix}/{name}" in failure["cause"]
        assert fault in failure["cause"]
    assert [info["rank"] for info in ran.read("combined_data.json")] == [0, 3]
    assert {"predictions/0.npz", "predictions/3.npz"} <= ran.objects()


def test_within_the_tolerance_a_run_succeeds_and_still_reports(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    files = partitions(4)
    files["1.pt"] = b"not a partition"
    cloud.put_all(prefix, files)
    ran = run(cloud.payload(prefix, tolerated_failure_percentage="25"))
    assert ran.status == "SUCCEEDED", ran.cause
    assert list(ran.read("summary.json")["failed_ranks"]) == ["0"]


@pytest.mark.fault(
    "a rank fails in every attempt",
    "a file that is not a partition",
    "the run fails and names the rank; after a resume, only that rank is computed",
    "nothing",
)
def test_a_failed_run_is_resumed_with_the_missing_ranks_alone(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    files = partitions(3)
    cloud.put_all(prefix, {**files, "2.pt": b"not yet uploaded"})
    payload = cloud.payload(prefix)
    failed = run(payload)
    assert failed.status == "FAILED"
    before = failed.read("0.json")
    cloud.put(f"{prefix}/2.pt", files["2.pt"])
    resumed = run({**payload, "resume": True})
    assert resumed.status == "SUCCEEDED", resumed.cause
    assert resumed.read("0.json") == before
    assert [event["RANK"] for event in resumed.read("manifest.json")] == [1]
    assert [info["rank"] for info in resumed.read("combined_data.json")] == [0, 1, 2]
    assert resumed.read("summary.json")["failed_ranks"] == {}


def test_resuming_with_another_payload_is_refused(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(1))
    assert "there is no run" in run(cloud.payload(prefix, resume=True)).cause
    assert run(cloud.payload(prefix)).status == "SUCCEEDED"
    changed = run(cloud.payload(prefix, resume=True, batch_size=7))
    assert changed.status == "FAILED"
    assert "resume: batch_size differ from the run to resume" in changed.cause


@pytest.mark.fault(
    "two executions at one result path",
    "a second execution starts while the first runs",
    "the second is refused; its error names the first",
    "nothing: results are never mixed",
)
def test_of_two_runs_on_one_result_path_the_second_is_refused(
    cloud: Cloud, run: Run, start: Start, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(2))
    payload = cloud.payload(prefix)
    with no_ranks(cloud):
        first = start(payload)
        deadline = time.monotonic() + 60
        while "run.json" not in cloud.keys(cloud.bucket, f"results/{prefix}/"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = run({**payload, "batch_size": 7})
    assert second.status == "FAILED"
    assert f"result_path: the run {first.rpartition(':')[2]} writes to s3://" in second.cause
    assert cloud.wait(first, payload).status == "SUCCEEDED"
    assert run({**payload, "batch_size": 7}).status == "SUCCEEDED"  # it has ended


def test_of_two_runs_at_the_very_same_moment_one_goes_on(
    cloud: Cloud, start: Start, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(2))
    payload = cloud.payload(prefix)
    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(start, [payload] * 4))
    ended = [cloud.wait(arn, payload) for arn in started]
    won = [ran for ran in ended if ran.status == "SUCCEEDED"]
    assert won
    for ran in ended:
        assert ran in won or "result_path: " in ran.cause
    assert won[-1].read("summary.json")["run_id"] in {ran.execution["name"] for ran in won}


@pytest.mark.fault(
    "a rank dies while it computes",
    "SIGKILL to its process",
    "it is started again, and the run succeeds",
    "nothing",
)
def test_a_rank_that_is_killed_is_tried_again_and_the_run_succeeds(
    cloud: Cloud, start: Start, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(2, rows=6000))
    payload = cloud.payload(prefix)
    execution = start(payload)
    killed = kill_a_busy_rank(cloud)
    ran = cloud.wait(execution, payload)
    assert ran.status == "SUCCEEDED", ran.cause
    assert [info["num_samples"] for info in ran.read("combined_data.json")] == [6000, 6000]
    group = f"/aws/lambda/{cloud.outputs.function_names['inference']}"
    pages = cloud.logs.get_paginator("filter_log_events").paginate(logGroupName=group)
    messages = [event["message"] for page in pages for event in page["events"]]
    assert any("SIGKILL" in message for message in messages), f"process {killed} was not seen to die"


def kill_a_busy_rank(cloud: Cloud) -> int:
    """Kills a process of the inference function once it is seen to work."""
    spent: dict[int, float] = {}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for process in _ranks(cloud):
            try:
                now = process.cpu_times().user
                if now - spent.setdefault(process.pid, now) > 0.3:
                    process.kill()
                    return process.pid
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.02)
    pytest.fail("no rank became busy within a minute")


def _ranks(cloud: Cloud) -> list[psutil.Process]:
    processes = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        mine = (process.info["environ"] or {}).get("AWS_ENDPOINT_URL") == cloud.aws.endpoint
        if mine and "inference.handler.handler" in (process.info["cmdline"] or []):
            processes.append(process)
    return processes


@pytest.mark.fault(
    "Summarize is called again, in a folder with foreign files",
    "a second call; files of other programs next to the results",
    "it writes the same bytes again",
    "nothing",
)
def test_summarize_again_gives_the_same_bytes(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(3, rows=20))
    for name, body in (("99.json", b"{}"), ("7.json", b"no JSON"), ("notes.txt", b"mine"), ("failures/x", b"")):
        cloud.put(f"results/{prefix}/{name}", body)
    ran = run(cloud.payload(prefix))
    assert ran.status == "SUCCEEDED", ran.cause
    assert ran.read("summary.json")["finished_ranks"] == 3
    before = ran.summaries()
    ran.summarise_again()
    assert ran.summaries() == before
