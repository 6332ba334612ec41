"""Runs of two ranks on the embedded AWS, and the plan's figures of this machine that follow from them.

Ranks with one galaxy show what a rank takes besides its galaxies, and the difference to ranks with many shows
their speed. All ranks share the machine, so each figure is brought to a rank that runs alone (`Machine`).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cosmicai.data.dc2 import write_partition
from cosmicai.deploy.target import Target
from cosmicai.experiments.cases import Assumptions, Machine
from cosmicai.experiments.scatter import NO_SCATTER, Scatter
from cosmicai.runs import client
from summarize.contract.channels import HostState
from summarize.contract.estimate import SUMMARIZE_RANKS_PER_SECOND, Architecture, vcpus
from summarize.contract.run_records import last_run_key

RANKS = 2
REPEATS = 3  # of the runs that are timed
LEAST_GALAXIES, MOST_GALAXIES = 256, 1278  # of a rank whose speed is measured; 25 MB
_POLL_SECONDS = 0.1
_LOOKS = 5  # at other programs, before each run

Json = dict[str, Any]
Progress = Callable[[int, int], None]


class ProbeError(RuntimeError):
    """The probe's runs failed or show nothing; the message says what to do."""


@dataclass(frozen=True)
class Ran:
    """Seconds of a run of the probe.

    before, after: its ranks, without them. rank: the mean rank, without its cold start. starts: cold starts.
    """

    before: float
    rank: float
    after: float
    starts: tuple[float, ...]


@dataclass(frozen=True)
class Probe:
    """What was measured.

    memory_mb, architecture: of the ranks. cold: the run in new sandboxes. small, large: the runs of one galaxy
    and of `galaxies` per rank. read_bytes_per_second: of the embedded S3, for one reader. others: the mean
    number of other programs that computed before each run.
    """

    memory_mb: int
    architecture: Architecture
    galaxies: int
    cold: Ran
    small: tuple[Ran, ...]
    large: tuple[Ran, ...]
    read_bytes_per_second: float
    others: float

    def assumptions(self, concurrency: int, host: HostState) -> Assumptions:
        """The figures of a plan for this machine. concurrency: ranks at once. Raises ProbeError."""
        machine, threads = Machine(os.cpu_count() or 1, self.others), max(1.0, vcpus(self.memory_mb))
        warm = [*self.small, *self.large]
        fixed = median(one.rank for one in self.small)
        busy = [one.rank - fixed for one in self.large]
        if min(busy) <= 0:
            raise ProbeError(
                f"ranks of {self.galaxies:,} galaxies took no longer than ranks of one: is this machine busy? "
                "try again"
            )
        crowding, rate = machine.crowding(float(RANKS), 1.0), (self.galaxies - 1) / median(busy)
        speed = rate * machine.crowding(float(RANKS), threads) / threads
        after = median(one.after for one in warm)
        return Assumptions(
            images_per_second_vcpu=(speed, speed),
            cold_start_seconds=(min(self.cold.starts) / crowding, max(self.cold.starts) / crowding),
            init_limit_seconds=math.inf,  # the emulator does not start an init phase again
            concurrency=concurrency,
            host=host,
            initialize_seconds=median(one.before for one in warm),
            summarize_seconds=max(0.0, after - RANKS / SUMMARIZE_RANKS_PER_SECOND),
            machine=replace(
                machine,
                warm=RANKS,
                rank_seconds=fixed / crowding,
                read_bytes_per_second=self.read_bytes_per_second,
            ),
            scatter=_scatter(busy, [one.before + one.after for one in warm]),
            source=f"a probe of {RANKS} ranks of {self.galaxies:,} galaxies on this machine ({machine.cores} "
            f"cores, {self.others:.1f} other programs)",
        )


def _scatter(busy: list[float], services: list[float]) -> Scatter:
    """As far apart as the probe's own runs were."""
    typical, service = median(busy), median(services)
    return Scatter(
        speed_level=(typical / max(busy), typical / min(busy)),
        start_sigma=NO_SCATTER.start_sigma,
        network_level=NO_SCATTER.network_level,
        service_level=(min(services) / service, max(services) / service),
        host_level=NO_SCATTER.host_level,
        slow_rank_share=NO_SCATTER.slow_rank_share,
        slow_rank_factor=NO_SCATTER.slow_rank_factor,
        source=f"the probe's {len(busy)} to {len(services)} runs",
    )


def probe(target: Target, galaxies: int, collectives: str, progress: Progress = lambda ran, of: None) -> Probe:
    """Runs two ranks several times. galaxies: of a rank whose speed is measured. target: of the embedded AWS.

    What it writes to the bucket, it deletes. Raises ProbeError if a run fails, or if another one runs.
    """
    galaxies = min(max(galaxies, LEAST_GALAXIES), MOST_GALAXIES)
    s3, (memory_mb, architecture) = target.client("s3"), _new_sandboxes(target)
    with _folder(target, s3) as folder:
        _put(s3, target.bucket, f"{folder}/small", 1)
        read = _put(s3, target.bucket, f"{folder}/large", galaxies)
        ran, others = [], []
        for number, size in enumerate(("small", *["small", "large"] * REPEATS)):
            progress(number, 2 * REPEATS + 1)
            others.append(_others())
            ran.append(_run(target, s3, f"{folder}/{size}", f"{folder}/results-{number}", collectives))
        progress(2 * REPEATS + 1, 2 * REPEATS + 1)
    if len(ran[0].starts) < RANKS:
        raise ProbeError(
            "the probe's first ranks were not in new sandboxes: did another run end just now? try again"
        )
    return Probe(
        memory_mb,
        architecture,
        galaxies,
        ran[0],
        tuple(ran[1::2]),
        tuple(ran[2::2]),
        read,
        float(np.mean(others)),
    )


def _others() -> float:
    """Sessions of other programs in which a thread wants to run: the mean of some looks; 0 without /proc."""
    looks = []
    for _ in range(_LOOKS):
        states = (_state(path) for path in Path("/proc").glob("[0-9]*/task/[0-9]*/stat"))
        looks.append(len({session for state, session in states if state == "R"} - {0, os.getsid(0)}))
        time.sleep(_POLL_SECONDS)
    return float(np.mean(looks))


def _state(stat: Path) -> tuple[str, int]:
    """Of a thread: R if it runs or wants to, and its session (proc_pid_stat(5)); '' of one that has ended."""
    try:
        fields = stat.read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[3])


@contextmanager
def _folder(target: Target, s3: Any) -> Iterator[str]:
    """A prefix of the probe's own in the bucket; at the end the bucket is as it was.

    Each run replaces the record of the model's last one, by which Initialize chooses collectives.
    """
    folder, record = f"probes/{time.time_ns()}", {"Bucket": target.bucket, "Key": last_run_key(None)}
    try:
        earlier = s3.get_object(**record)["Body"].read()
    except s3.exceptions.NoSuchKey:
        earlier = None
    try:
        yield folder
    finally:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=target.bucket, Prefix=f"{folder}/")
        keys = [{"Key": one["Key"]} for page in pages for one in page.get("Contents", [])]
        s3.delete_objects(Bucket=target.bucket, Delete={"Objects": [*keys, {"Key": record["Key"]}]})
        if earlier is not None:
            s3.put_object(**record, Body=earlier)


def _new_sandboxes(target: Target) -> tuple[int, Architecture]:
    """Memory in MB and architecture of the ranks, whose next sandboxes will be new. Raises ProbeError."""
    running = target.client("stepfunctions").list_executions(
        stateMachineArn=target.state_machine_arn, statusFilter="RUNNING", maxResults=1
    )["executions"]
    if running:
        raise ProbeError(f"{running[0]['name']} is running, and would slow the probe: wait until it ends")
    functions, name = target.client("lambda"), target.inference_function
    settings = functions.get_function_configuration(FunctionName=name)
    memory_mb, architecture = settings["MemorySize"], settings["Architectures"][0]
    functions.update_function_configuration(FunctionName=name, MemorySize=memory_mb)  # a new revision
    functions.get_waiter("function_updated_v2").wait(FunctionName=name)
    return memory_mb, architecture


def _put(s3: Any, bucket: str, prefix: str, galaxies: int) -> float:
    """Writes a partition for each rank; returns the bytes per second at which one is read: a median."""
    dice = np.random.default_rng(0)
    images = dice.normal(0, 0.1, (galaxies, 5, 32, 32)).astype(np.float32)
    magnitudes = dice.normal(24, 1, (galaxies, 5)).astype(np.float32)
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "1.pt"
        write_partition(path, images, magnitudes, dice.uniform(0.1, 2, galaxies).astype(np.float32))
        body = path.read_bytes()
    for rank in range(RANKS):
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{rank + 1}.pt", Body=body)
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        s3.get_object(Bucket=bucket, Key=f"{prefix}/1.pt")["Body"].read()
        seconds.append(time.perf_counter() - began)
    return len(body) / median(seconds)


def _run(target: Target, s3: Any, data: str, results: str, collectives: str) -> Ran:
    """One run of RANKS ranks. Raises ProbeError."""
    payload = {
        "bucket": target.bucket, "data_prefix": data, "result_path": results, "collectives": collectives
    }  # fmt: skip
    machine = target.client("stepfunctions")
    arn = client.start(target, payload, f"probe-{time.time_ns()}")
    ended = client.follow(machine, s3, arn, payload, lambda ended, ranks: None, _POLL_SECONDS)
    if not ended.succeeded:
        raise ProbeError(f"a run of the probe ended as {ended.status}: {ended.error}: {ended.cause[:500]}")
    execution = machine.describe_execution(executionArn=arn)
    infos = json.load(s3.get_object(Bucket=target.bucket, Key=f"{results}/combined_data.json")["Body"])
    ends = [info["ended (unix seconds)"] for info in infos]
    begins = [end - info["duration (seconds)"] for end, info in zip(ends, infos, strict=True)]
    return Ran(
        before=min(begins) - execution["startDate"].timestamp(),
        rank=float(np.mean([info["duration (seconds)"] - info["init (seconds)"] for info in infos])),
        after=execution["stopDate"].timestamp() - max(ends),
        starts=tuple(info["init (seconds)"] for info in infos if info["cold_start"]),
    )
