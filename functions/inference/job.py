"""AWS Batch's entry point of the inference container: a job is one rank, as an invocation is on Lambda."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .contract.batch_jobs import FAILED, TRY_AGAIN
from .contract.batch_prices import CAPACITIES
from .contract.event import RankEvent
from .contract.s3_rest.choice import new_client
from .data.storage import ObjectError, Storage
from .machine import NOT_BILLED, Machine, device, instance_type, pull_started
from .rank import Rank
from .sandbox import Host, Sandbox

_MANIFEST, _INDEX = "MANIFEST", "AWS_BATCH_JOB_ARRAY_INDEX"


class JobError(ValueError):
    """A variable of the job is missing or wrong; the message names it."""


@dataclass(frozen=True)
class Job:
    """Which rank a job is, and what its container was given.

    manifest: bucket and key of manifest.json. index: of the rank's event in it; 0 if the job is not an array.
    memory_mb, vcpus: None for all that the machine has. device: cpu, cuda, or auto for cuda where there is a
    GPU. machine: what is billed.
    """

    manifest: tuple[str, str]
    index: int
    memory_mb: int | None = None
    vcpus: int | None = None
    device: str = "cpu"
    machine: Machine = NOT_BILLED

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Raises JobError."""
        place = environment.get(_MANIFEST, "")
        bucket, _, key = place.removeprefix("s3://").partition("/")
        if not place.startswith("s3://") or not bucket or not key:
            raise JobError(f"{_MANIFEST} is {place!r}; give s3://BUCKET/RESULT_PATH/manifest.json")
        vcpus = _number(environment, "VCPUS")
        return cls(
            (bucket, key),
            _number(environment, _INDEX) or 0,
            _number(environment, "MEMORY_MB"),
            vcpus,
            environment.get("DEVICE", "cpu"),
            _machine(environment, vcpus),
        )

    def host(self, event: RankEvent) -> Host:
        """What the job's rank has. onnxruntime computes on the CPU alone, and a script finds the GPU itself."""
        own = event.script is not None or event.engine == "onnxruntime"
        chosen = "cpu" if own else device(self.device)
        if self.device == "auto" and not own:
            _log("device", {"device": chosen})
        machine = Host.of_machine(Path(tempfile.gettempdir()), chosen)
        threads = min(self.vcpus or machine.threads, machine.threads)
        memory_mb = self.memory_mb or machine.memory_mb
        return Host(memory_mb, threads, machine.scratch, machine.device, machine=self.machine)

    def event(self, storage: Storage) -> RankEvent:
        """Raises ObjectError, JobError or EventError."""
        bucket, key = self.manifest
        events = json.loads(storage.read(bucket, key))
        if not self.index < len(events):
            raise JobError(f"{_INDEX} is {self.index}, but s3://{bucket}/{key} has {len(events)} ranks")
        return RankEvent.from_json(events[self.index])


def _machine(environment: Mapping[str, str], vcpus: int | None) -> Machine:
    """Raises JobError for a capacity that AWS Batch does not have."""
    capacity, public = environment.get("CAPACITY"), environment.get("PUBLIC_ADDRESS")
    if capacity is None:
        return Machine(vcpus=vcpus)
    if capacity not in CAPACITIES or capacity == "lambda":
        known = ", ".join(one for one in CAPACITIES if one != "lambda")
        raise JobError(f"CAPACITY is {capacity!r}; give one of {known}")
    kind = instance_type() if capacity.startswith("ec2") else None
    return Machine(capacity, vcpus, public == "true", pull_started(environment), kind)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if text is not None and not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise JobError(f"{name} is {text!r}, which is not a whole number")
    return None if text is None else int(text)


def run(environment: Mapping[str, str]) -> int:
    """Runs the rank; returns the exit status. Records a failure in S3, as the state machine does on Lambda."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))  # Spot takes the machine back
    client = new_client(environment)
    storage = Storage(client)
    try:
        job = Job.of(environment)
        event = job.event(storage)
    except (JobError, ObjectError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return TRY_AGAIN if isinstance(error, ObjectError) else FAILED
    _log("rank starts", {"rank": event.rank, "run_id": event.run_id})
    try:
        result = Rank(event, Sandbox(lambda: Storage(client), job.host(event))).run()
    except Exception as error:
        record = {
            "rank": event.rank,
            "run_id": event.run_id,
            "error": type(error).__name__,
            "cause": str(error),
        }
        _log("rank failed", record)
        storage.write_json(event.bucket, f"{event.result_path}/failures/{event.rank}.json", record)
        return TRY_AGAIN if isinstance(error, ObjectError) else FAILED
    _log("rank done", result)
    return 0


def _log(message: str, content: Mapping[str, Any]) -> None:
    print(json.dumps({"message": message, **content}), flush=True)
