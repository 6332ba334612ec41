"""What a plan is about: a way to run the data, and the figures that its simulation assumes.

Every figure that the user does not give is in `Assumptions`, with its source, and in its `Scatter`;
`Assumptions.of_summary` takes the ranks' figures from a run that was measured.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from cosmicai.experiments import fargate
from cosmicai.experiments.scatter import LAMBDA_SCATTER, Floats, Scatter
from summarize.contract.channels import Choice, Host, HostState, choose
from summarize.contract.dispatch import STARTS_PER_SECOND, Children, children
from summarize.contract.estimate import (
    ASSUMED,
    IMAGE_BYTES,
    INITIALIZE_SECONDS,
    SUMMARIZE_SECONDS,
    Architecture,
    Ranks,
    Speed,
)
from summarize.contract.limits import MB_PER_VCPU, MOST_AT_ONCE
from summarize.contract.run_records import Summary

MIB = 1024 * 1024
Number = TypeVar("Number", float, Floats)


class PlanningError(ValueError):
    """No run can meet the request; the message says why and what is possible."""


@dataclass(frozen=True)
class Machine:
    """One machine on which all ranks run, as on the embedded AWS.

    cores: which the ranks share with `others`, the number of other programs that compute. warm: sandboxes that
    are started already. rank_seconds: of a rank besides its start and its galaxies, if it runs alone.
    read_bytes_per_second: of the one process that serves S3.
    """

    cores: int
    others: float
    warm: int = 0
    rank_seconds: float = 0.0
    read_bytes_per_second: float = math.inf

    def crowding(self, beside: Number, threads: float) -> Number:
        """How many times longer a rank takes with `beside` ranks at once than on cores of its own.

        Linux gives each session, as a rank or another program is, the same share of the cores (sched(7)).
        """
        return np.maximum(1.0, (beside + self.others) * min(threads, self.cores) / self.cores)


@dataclass(frozen=True)
class Assumptions:
    """The figures of the simulation. Pairs are (least, most): ranks are spread evenly between them."""

    images_per_second_vcpu: tuple[float, float] = ASSUMED.images_per_second_vcpu
    cold_start_seconds: tuple[float, float] = ASSUMED.start_seconds
    init_limit_seconds: float = 10.0
    """After this time, Lambda starts the init phase a second time, within the invocation
    (https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html)."""
    concurrency: int = 1000
    """The default quota of an account."""
    max_vcpus: int = fargate.MOST_VCPUS
    """Of all ranks on AWS Batch together, batch.max_vcpus of the tfvars."""
    sandboxes_at_once: int = 1000
    new_sandboxes_per_second: float = 100.0
    """A function gets 1,000 sandboxes at once and another 1,000 every 10 s, if the quota allows it
    (https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html)."""
    children: Children | None = None
    """Of the Distributed Map; None: as Initialize would choose."""
    host: HostState = "stopped"
    """The rendezvous host when the run starts."""
    job_start_seconds: tuple[float, float] = (60.0, 120.0)
    """Of a job of AWS Batch, mostly the download of its image, which is billed; an estimate, no account was at
    hand. That Fargate's network is as fast as a function's was not measured either."""
    initialize_seconds: float = INITIALIZE_SECONDS
    summarize_seconds: float = SUMMARIZE_SECONDS
    """Without what Summarize takes for each rank."""
    machine: Machine | None = None
    """None: on AWS, where no two ranks share vCPUs."""
    scatter: Scatter = LAMBDA_SCATTER
    source: str = ASSUMED.source
    """Where the ranks' speed and cold starts are from."""

    @classmethod
    def of_summary(cls, path: Path) -> Assumptions:
        """The ranks' speed and cold starts from a run's summary.json. Raises PlanningError."""
        try:
            summary = Summary.from_json(json.loads(path.read_text(encoding="utf-8")))
            if summary.cost is None:
                raise ValueError("`cosmicai infer` wrote it, not a run on Lambda")
            if summary.cost.batch is not None:
                raise ValueError("its ranks ran on AWS Batch, whose vCPUs do not follow from their memory")
            spread = summary.spread
            threads = _threads(summary.cost.gb_seconds, summary.seconds["duration"])
            speed, init = spread["sample_persec"], spread["init (seconds)"]
            measured = cls(
                images_per_second_vcpu=(speed["min"] / threads, speed["max"] / threads),
                cold_start_seconds=(min(init["p50"], init["max"]), init["max"]),
                source=f"the speed of run {summary.run_id[:80]}{_on_cpus(summary.cpus)}",
            )
            if not (
                0 < measured.images_per_second_vcpu[0] < math.inf and 0 <= measured.cold_start_seconds[0] < 900
            ):
                raise ValueError("its speed or its cold starts are impossible")
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise PlanningError(
                f"{path} is not the summary.json of a run whose ranks were measured ({reason})"
            ) from error
        return measured


def _on_cpus(cpus: dict[str, int]) -> str:
    """' on 3 ranks of aarch64 implementer 0x41 part 0xd40: dotprod, i8mm, bf16', the most frequent first."""
    named = [
        f"{count:,} {'rank' if count == 1 else 'ranks'} of {name[:160]}"
        for name, count in list(cpus.items())[:3]
    ]
    return f", on {'; '.join(named)}" if named else ""


def _threads(gb_seconds: float, seconds: float) -> float:
    """vCPUs of the run's ranks, from the memory that they were billed for."""
    return max(1.0, round(gb_seconds / seconds * 1024 / MB_PER_VCPU))


ASSUMPTIONS = Assumptions()
"""The assumptions for a run on AWS about which nothing is known."""


@dataclass(frozen=True)
class Case:
    """One way to run the data.

    collectives: as in a payload. vcpus: of a rank on AWS Batch; None if it runs on Lambda. times: how often the
    images are computed, repeat_data of a payload.
    """

    images: int
    partition_mb: float
    memory_mb: int
    architecture: Architecture
    collectives: Literal["auto", "direct", "s3", "none"] = "auto"
    vcpus: int | None = None
    times: int = 1

    @property
    def images_per_partition(self) -> int:
        return max(1, int(self.partition_mb * MIB // IMAGE_BYTES))

    @property
    def originals(self) -> int:
        """The ranks that compute the images for the first time."""
        return math.ceil(self.images / self.images_per_partition)

    @property
    def ranks(self) -> int:
        return self.originals * self.times

    @property
    def images_of_last(self) -> int:
        """Of the last of the originals, and of each of its copies; the other ranks have a full partition."""
        return self.images - self.images_per_partition * (self.originals - 1)

    @property
    def threads(self) -> float:
        """vCPUs that compute; on Lambda they follow from the memory."""
        return self.vcpus or max(1.0, self.memory_mb / MB_PER_VCPU)

    def at_once(self, assumptions: Assumptions) -> int:
        """The ranks that can run at the same time."""
        on_lambda = min(assumptions.concurrency, MOST_AT_ONCE)
        return on_lambda if self.vcpus is None else max(1, assumptions.max_vcpus // self.vcpus)

    def starts_per_second(self, assumptions: Assumptions) -> float:
        if assumptions.machine is not None:
            return math.inf  # the time of the starts is part of the probe's time before its ranks
        return fargate.STARTS_PER_SECOND if self.vcpus else STARTS_PER_SECOND[self.children(assumptions)]

    def children(self, assumptions: Assumptions) -> Children:
        """The type of child executions as which its ranks on Lambda are started."""
        largest = min(self.images, self.images_per_partition) * IMAGE_BYTES
        return assumptions.children or children(largest, self.memory_mb, self.ranks, script=False)[0]

    def estimated(self, assumptions: Assumptions) -> Ranks:
        """Its ranks as Initialize estimates them."""
        return Ranks(
            count=self.ranks,
            bytes=self.images * self.times * IMAGE_BYTES,
            largest=min(self.images, self.images_per_partition) * IMAGE_BYTES,
            at_once=min(self.ranks, self.at_once(assumptions)),
            memory_mb=self.memory_mb,
            architecture=self.architecture,
            children=self.children(assumptions),
            speed=Speed(assumptions.images_per_second_vcpu, assumptions.cold_start_seconds, assumptions.source),
        )

    def channel(self, assumptions: Assumptions) -> Choice:
        """The channel by which its ranks reduce their metrics, as Initialize would choose it."""
        if self.collectives == "auto":
            return choose(
                self.estimated(assumptions),
                Host(assumptions.host, f"the rendezvous host is {assumptions.host}"),
            )
        if self.collectives == "direct" and self.ranks > self.at_once(assumptions):
            return Choice("s3", "not all ranks can run at once")
        return Choice(self.collectives, "")
