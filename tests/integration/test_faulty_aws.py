"""AWS on a bad day: a slow and broken S3, throttling, too little memory, Summarize killed, a run stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import psutil
import pytest

from .conftest import Cloud, Json, Ran, no_ranks
from .faulty_s3 import FaultyS3

Run = Callable[[Json], Ran]
Start = Callable[[Json], str]
Partitions = Callable[..., dict[str, bytes]]
Reference = Callable[[bytes], np.ndarray]
SPOILT = ("slow down", "reset", "short", "stall")


@contextmanager
def configured(
    cloud: Cloud, function: str, variables: dict[str, str] | None = None, **fields: Any
) -> Iterator[None]:
    """Another configuration of a function meanwhile."""
    client, name = cloud.aws.client("lambda"), cloud.outputs.function_names[function]
    before = client.get_function_configuration(FunctionName=name)
    kept = before.get("Environment", {}).get("Variables", {})
    old = {"Environment": {"Variables": kept}, "MemorySize": before["MemorySize"]}
    try:
        _configure(client, name, {**old, "Environment": {"Variables": {**kept, **(variables or {})}}, **fields})
        yield
    finally:
        _configure(client, name, old)


def _configure(client: Any, name: str, fields: Json) -> None:
    client.update_function_configuration(FunctionName=name, **fields)
    client.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})


@pytest.mark.fault(
    "S3 fails or is slow",
    "a proxy: the first answer to every request is 503, reset, cut short, delayed or lost",
    "each request is repeated; the predictions are the same",
    "nothing",
)
def test_a_run_goes_through_a_bad_s3(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str, reference: Reference
) -> None:
    files = partitions(4, rows=150)  # 3 MB: several ranged reads
    cloud.put_all(prefix, files)
    turn = iter(range(1_000_000))

    def spoil(method: str, path: str, times: int) -> str | None:
        if times > 1 or "/models/" in path:
            return None
        if path.endswith("/run.json") and method == "PUT":
            return "lost"  # asked again, S3 says that there is one: it is the run's own
        if method == "GET":
            return SPOILT[next(turn) % 4]
        return ("slow down", "lost")[next(turn) % 2]

    with FaultyS3(cloud.aws.endpoint, spoil).running() as proxy, ExitStack() as stack:
        for function in ("initialize", "inference", "summarize"):
            stack.enter_context(configured(cloud, function, {"AWS_ENDPOINT_URL_S3": proxy.url}))
        ran = run(cloud.payload(prefix, collectives="s3", precision="float32"))
    assert ran.status == "SUCCEEDED", ran.cause
    assert all(proxy.injected[kind] >= 2 for kind in (*SPOILT, "lost")), proxy.injected
    for rank, name in enumerate(files):
        assert ran.predictions(rank)["z_pred"] == pytest.approx(reference(files[name]), abs=1e-5)
    assert ran.read("summary.json")["finished_ranks"] == 4


@pytest.mark.fault(
    "throttled invocations",
    "the inference function has no concurrency in the first seconds of the run",
    "Step Functions retries, with longer and longer waits",
    "nothing",
)
def test_throttled_ranks_are_asked_again(
    cloud: Cloud, start: Start, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(3))
    payload = cloud.payload(prefix, collectives="none")
    with no_ranks(cloud):
        execution = start(payload)
        deadline = time.monotonic() + 30
        while "manifest.json" not in cloud.keys(cloud.bucket, f"results/{prefix}/"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(2)
        assert not {"0.json", "1.json", "2.json"} & cloud.keys(cloud.bucket, f"results/{prefix}/")
    ran = cloud.wait(execution, payload)
    assert ran.status == "SUCCEEDED", ran.cause
    assert ran.read("summary.json")["failed_ranks"] == {}


@pytest.mark.fault(
    "a rank needs more memory than its function has",
    "a script that takes 300 MB, in a function of 128 MB",
    "Lambda ends the rank, and the run names it; resumed with more memory, it succeeds",
    "nothing",
)
def test_a_rank_out_of_memory_is_named_and_resumed_with_more(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    """By a script, since the engine itself is content with 128 MB."""
    cloud.put_all(prefix, partitions(2))
    cloud.put("large/run.py", b"held = bytearray(b'x') * (300 << 20)")
    script = {"object_type": "folder", "S3_object_name": "large", "script": "/tmp/large/run.py"}  # noqa: S108
    payload = cloud.payload(prefix, collectives="none", **script)
    with configured(cloud, "initialize", {"ALLOW_SCRIPTS": "true"}):
        with configured(cloud, "inference", MemorySize=128):
            failed = run(payload)
        resumed = run({**payload, "resume": True})
    assert failed.status == "FAILED"
    assert "Runtime.OutOfMemory" in failed.cause
    assert resumed.status == "SUCCEEDED", resumed.cause
    assert [info["engine"] for info in resumed.read("combined_data.json")] == ["script", "script"]


@pytest.mark.fault(
    "Summarize dies while it writes",
    "SIGKILL while it writes summary.json",
    "it is called again, and then once more: it writes the same bytes",
    "nothing",
)
def test_summarize_killed_half_way_is_called_again(
    cloud: Cloud, start: Start, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(3, rows=20))
    payload = cloud.payload(prefix, collectives="none")

    def spoil(method: str, path: str, times: int) -> str | None:
        return "hold" if method == "PUT" and path.endswith("/summary.json") and times == 1 else None

    with (
        FaultyS3(cloud.aws.endpoint, spoil).running() as proxy,
        configured(cloud, "summarize", {"AWS_ENDPOINT_URL_S3": proxy.url}),
    ):
        execution = start(payload)
        assert proxy.held.wait(60)
        for process in psutil.process_iter(["cmdline", "environ"]):
            mine = (process.info["environ"] or {}).get("AWS_ENDPOINT_URL_S3") == proxy.url
            if mine and "summarize.handler.handler" in (process.info["cmdline"] or []):
                process.kill()
        assert "summary.json" not in cloud.keys(cloud.bucket, f"results/{prefix}/")
        ran = cloud.wait(execution, payload)
    assert ran.status == "SUCCEEDED", ran.cause
    before = ran.summaries()
    ran.summarise_again()
    assert ran.summaries() == before


@pytest.mark.fault(
    "the user stops a run",
    "a stop after the first results, with one rank at a time",
    "after a resume, only the missing ranks are computed",
    "nothing",
)
def test_a_stopped_run_is_resumed_without_computing_anything_again(
    cloud: Cloud, run: Run, start: Start, partitions: Partitions, prefix: str
) -> None:
    ranks = 24  # one at a time, of a quarter of a second each: some are left when the run is stopped
    cloud.put_all(prefix, partitions(ranks, rows=300))
    payload = cloud.payload(prefix, collectives="none", max_concurrency=1)
    execution = start(payload)

    def result_names() -> set[str]:
        return {f"{rank}.json" for rank in range(ranks)} & cloud.keys(cloud.bucket, f"results/{prefix}/")

    deadline = time.monotonic() + 60
    while not result_names():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with no_ranks(cloud):  # so that some are left
        cloud.stepfunctions.stop_execution(executionArn=execution, cause="enough")
        assert cloud.wait(execution, payload).status == "ABORTED"
        time.sleep(3)  # what was under way then ends
    before = {name: cloud.get(cloud.bucket, f"results/{prefix}/{name}") for name in result_names()}
    assert 0 < len(before) < ranks
    resumed = run({**payload, "resume": True})
    assert resumed.status == "SUCCEEDED", resumed.cause
    assert {name: cloud.get(cloud.bucket, f"results/{prefix}/{name}") for name in before} == before
    assert len(resumed.read("manifest.json")) == ranks - len(before)
    assert resumed.read("summary.json")["finished_ranks"] == ranks


@pytest.mark.fault(
    "a rank's clock is wrong",
    "a rank info with an end one hour in the future",
    "the run's duration follows S3's clock; the report shows the rank at the right time",
    "nothing",
)
def test_a_clock_that_is_wrong_does_not_stretch_the_run(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(2, rows=20))
    ran = run(cloud.payload(prefix, collectives="none"))
    before, info = ran.read("summary.json"), ran.read("1.json")
    info["ended (unix seconds)"] += 3600
    cloud.put(f"results/{prefix}/1.json", json.dumps(info).encode())
    ran.summarise_again()
    after = ran.read("summary.json")
    assert after["wall (seconds)"] == pytest.approx(before["wall (seconds)"], abs=30)
    assert after["accuracy"] == before["accuracy"]
    assert ran.read("combined_data.json")[1] == info  # as the rank has written it
