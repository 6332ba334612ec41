"""Runs whose ranks reduce their metrics among themselves, and what happens when the means for it fail."""

from __future__ import annotations

import html
import json
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosmicai.deploy.terraform import emulated_variables
from cosmicai.emulator import Emulator
from cosmicai.emulator.localstack import free_port
from tests.unit.rendezvous import Host

from .conftest import Cloud, Json, Ran, deployed
from .test_faults import kill_a_busy_rank

Run = Callable[[Json], Ran]
Partitions = Callable[..., dict[str, bytes]]


def _documents(ran: Ran) -> tuple[Json, Json]:
    """metrics.json and summary.json."""
    return ran.read("metrics.json"), ran.read("summary.json")


def test_sixteen_ranks_reduce_directly_to_what_summarize_computes(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(16, rows=40))
    ran = run(cloud.payload(prefix, collectives="direct"))
    assert ran.status == "SUCCEEDED", ran.cause
    metrics, summary = _documents(ran)
    assert metrics["accuracy"] == summary["accuracy"]
    assert metrics["ranks"] == list(range(16))
    assert metrics["num_samples"] == summary["num_samples"] == 16 * 40
    assert summary["metrics_source"] == "collectives (direct) of 16 ranks"
    assert summary["cost"]["rendezvous host (USD)"] > 0


def test_the_same_run_without_collectives_gives_the_same_metrics(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(5, rows=40))
    direct = run(cloud.payload(prefix, collectives="direct"))
    assert direct.status == "SUCCEEDED", direct.cause
    metrics, whole = _documents(direct)
    assert metrics["accuracy"] == whole["accuracy"]
    for rank in range(5):
        collectives = direct.read(f"{rank}.json")["collectives"]
        assert (collectives["channel"], collectives["relayed"], collectives["faults"]) == ("direct", [], {})
        assert collectives["partners"] == ([1, 2, 3, 4] if rank == 0 else [0])
        assert collectives["sent (bytes)"] > 0
    none = run({**cloud.payload(prefix, collectives="none"), "result_path": "results/none"})
    assert none.status == "SUCCEEDED", none.cause
    summary = none.read("summary.json")
    assert summary["accuracy"] == metrics["accuracy"]  # bit-identical in any order of the sums
    assert summary["metrics_source"] == "rank infos"
    assert "metrics.json" not in none.objects()


def test_a_small_run_has_no_collectives_unless_it_asks_and_says_why(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    """The host is up here; the next run of the model is planned with the speed of this one."""
    cloud.put_all(prefix, partitions(2, rows=40))
    first = run(cloud.payload(prefix))
    assert first.status == "SUCCEEDED", first.cause
    summary = first.read("summary.json")
    assert summary["metrics_source"] == "rank infos"
    chosen = summary["collectives"]
    assert chosen == first.read("run.json")["collectives"]
    assert (chosen["channel"], set(chosen["candidates"])) == ("none", {"none", "s3", "direct"})
    assert f"the rendezvous host at {cloud.aws.rendezvous} is up" in chosen["reason"]
    assert first.read("0.json")["collectives"] == {"channel": "none"}
    assert html.escape(chosen["reason"]) in first.summaries()["report.html"].decode()
    second = run({**cloud.payload(prefix), "result_path": f"results/{prefix}/second"})
    reason = second.read("run.json")["collectives"]["reason"]
    assert f"the speed of this model's last run, {first.execution['name']}: " in reason


def test_nothing_of_the_runs_secret_is_left(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(2))
    ran = run(cloud.payload(prefix, collectives="direct"))
    assert ran.status == "SUCCEEDED", ran.cause
    metrics, summary = _documents(ran)
    assert metrics["accuracy"] == summary["accuracy"]
    assert cloud.keys(cloud.bucket, f".cosmicai/{ran.read('run.json')['run_id']}/") == set()


@pytest.mark.fault(
    "more ranks than may run at once",
    "20 ranks with a limit of 16, and 3 ranks with a limit of 1",
    "they reduce over S3, and children run before their parents",
    "nothing",
)
def test_more_ranks_than_can_run_at_once_reduce_over_s3(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(20))
    ran = run(cloud.payload(prefix, collectives="direct"))
    assert ran.status == "SUCCEEDED", ran.cause
    metrics, summary = _documents(ran)
    assert metrics["accuracy"] == summary["accuracy"]
    assert metrics["ranks"] == list(range(20))
    assert summary["metrics_source"] == "collectives (s3) of 20 ranks"
    assert summary["collectives"]["reason"] == "only 16 of 20 ranks can run at once, so messages wait in S3"
    payload = cloud.payload(prefix, collectives="direct", max_concurrency=1, file_limit=3)
    one = run({**payload, "result_path": "results/one-by-one"})
    assert one.status == "SUCCEEDED", one.cause
    metrics, summary = _documents(one)
    assert metrics["accuracy"] == summary["accuracy"]
    assert summary["metrics_source"] == "collectives (s3) of 3 ranks"


def test_a_rank_that_fails_is_missing_in_both(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, {**partitions(4), "2.pt": b"no partition"})
    ran = run(cloud.payload(prefix, collectives="direct", tolerated_failure_percentage=25))
    assert ran.status == "SUCCEEDED", ran.cause
    metrics, summary = _documents(ran)
    assert metrics["accuracy"] == summary["accuracy"]
    assert metrics["ranks"] == [0, 2, 3]
    assert summary["metrics_source"] == "collectives (direct) of 3 ranks"
    assert ran.read("0.json")["communication (seconds)"] < 5  # nobody waited for it


@pytest.mark.fault(
    "a rank dies in a reduction",
    "SIGKILL to its process",
    "it is started again and joins; metrics.json covers all ranks",
    "nothing",
)
def test_a_killed_rank_is_started_again_and_joins(
    cloud: Cloud, partitions: Partitions, prefix: str, tmp_path: Path
) -> None:
    cloud.put_all(prefix, partitions(3, rows=5000))
    payload = cloud.payload(prefix, collectives="direct")
    (tmp_path / "payload.json").write_text(json.dumps(payload))
    execution = cloud.start(tmp_path / "payload.json")
    kill_a_busy_rank(cloud)
    ran = cloud.wait(execution, payload)
    assert ran.status == "SUCCEEDED", ran.cause
    metrics, summary = _documents(ran)
    assert metrics["accuracy"] == summary["accuracy"]
    assert summary["num_samples"] == 15_000


def test_redis_is_refused_where_there_is_none(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(2))
    ran = run(cloud.payload(prefix, collectives="redis"))
    assert ran.status == "FAILED"
    assert "collectives: redis needs a Redis that the ranks reach; set redis_host" in ran.cause


@pytest.fixture(scope="module")
def hostless(aws: Emulator) -> tuple[Cloud, int]:
    """A deployment and the port where its rendezvous host would be; a run waits for it for some seconds."""
    port = free_port()
    variables = emulated_variables(
        "hostless", aws, rendezvous={"address": f"127.0.0.1:{port}", "wait_seconds": 4}
    )
    return deployed(aws, "hostless", variables), port


@pytest.fixture
def run_hostless(hostless: tuple[Cloud, int], tmp_path: Path) -> Callable[..., Ran]:
    cloud, _ = hostless

    def run(payload: Json, meanwhile: Callable[[], Any] = lambda: None) -> Ran:
        file = tmp_path / "payload.json"
        file.write_text(json.dumps(payload))
        execution = cloud.start(file)
        meanwhile()
        return cloud.wait(execution, payload)

    return run


@pytest.mark.fault(
    "no rendezvous host, or one that never answers",
    "a closed port; a listener that never sends anything",
    "after the configured wait, messages go through S3; the rank infos say so",
    "nothing",
)
def test_without_a_host_the_messages_go_through_s3(
    hostless: tuple[Cloud, int], run_hostless: Callable[..., Ran], partitions: Partitions, prefix: str
) -> None:
    cloud, port = hostless
    cloud.put_all(prefix, partitions(3))
    ran = run_hostless(cloud.payload(prefix, collectives="direct"))
    assert ran.status == "SUCCEEDED", ran.cause
    metrics, summary = _documents(ran)
    assert metrics["accuracy"] == summary["accuracy"]
    assert metrics["ranks"] == [0, 1, 2]
    collectives = ran.read("1.json")["collectives"]
    assert (collectives["channel"], collectives["reason"]) == ("s3", "the rendezvous host could not be reached")
    with socket.create_server(("127.0.0.1", port)):  # one that never answers
        ran = run_hostless({**cloud.payload(prefix, collectives="direct"), "result_path": "results/silent"})
    assert ran.status == "SUCCEEDED", ran.cause
    metrics, summary = _documents(ran)
    assert metrics["accuracy"] == summary["accuracy"]
    assert summary["metrics_source"] == "collectives (s3) of 3 ranks"


@pytest.mark.fault(
    "the rendezvous host dies during a run",
    "SIGKILL, and a new host one second later",
    "ranks connect to the new host; metrics.json covers all ranks",
    "nothing",
)
def test_a_host_that_is_killed_and_comes_back_fails_no_rank(
    hostless: tuple[Cloud, int], run_hostless: Callable[..., Ran], partitions: Partitions, prefix: str
) -> None:
    cloud, port = hostless
    cloud.put_all(prefix, partitions(4, rows=4000))
    hosts = [Host(port)]

    def restart() -> None:
        deadline = time.monotonic() + 60
        while not hosts[0].health()["paired"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        hosts[0].stop(signal.SIGKILL)
        time.sleep(1)
        hosts.append(Host(port))

    try:
        ran = run_hostless(cloud.payload(prefix, collectives="direct"), restart)
    finally:
        hosts[-1].stop()
    assert ran.status == "SUCCEEDED", ran.cause
    metrics, summary = _documents(ran)
    assert metrics["accuracy"] == summary["accuracy"]
    assert metrics["ranks"] == [0, 1, 2, 3]
    assert summary["num_samples"] == 16_000


def test_the_deployments_own_host_is_started_and_stopped(
    aws: Emulator, partitions: Partitions, tmp_path: Path
) -> None:
    """The module applied for real. An instance is only a record here, so the ranks continue over S3."""
    variables = emulated_variables("own", aws, rendezvous={"address": None, "wait_seconds": 2})
    cloud = deployed(aws, "own", variables)
    ec2 = aws.client("ec2")

    def instance() -> Json:
        names = [{"Name": "tag:Name", "Values": ["own-cosmicai-rendezvous-host"]}]
        (reservation,) = ec2.describe_instances(Filters=names)["Reservations"]
        return dict(reservation["Instances"][0])

    assert instance()["InstanceType"] == "t4g.nano"
    cloud.put_all("own", partitions(2))
    payload = cloud.payload("own", collectives="direct")
    (tmp_path / "payload.json").write_text(json.dumps(payload))
    ran = cloud.wait(cloud.start(tmp_path / "payload.json"), payload)
    assert ran.status == "SUCCEEDED", ran.cause
    metrics, summary = _documents(ran)
    assert metrics["accuracy"] == summary["accuracy"]
    assert summary["metrics_source"] == "collectives (s3) of 2 ranks"
    history = cloud.stepfunctions.get_execution_history(executionArn=ran.execution["executionArn"])["events"]
    entered = [event.get("stateEnteredEventDetails", {}).get("name") for event in history]
    assert [name for name in entered if name and "Rendezvous" in name] == [
        "NeedsRendezvous", "StartRendezvous", "AwaitRendezvous", "WithoutRendezvous",
    ]  # fmt: skip
    assert instance()["State"]["Name"] == "running"  # the next run meets it; it stops by itself when idle
