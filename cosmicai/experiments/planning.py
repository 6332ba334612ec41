"""Duration and cost of a run before it is started: a simulation of dispatch, cold starts, network and compute.

Every figure that the user does not give is in `Assumptions`, with its source; `Assumptions.of_summary` takes
the ranks' figures from a run that was measured.
"""

from __future__ import annotations

import heapq
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cosmicai.experiments import fargate
from summarize.contract import pricing
from summarize.contract.channels import (
    Choice,
    Host,
    HostState,
    choose,
    host_seconds,
    host_usd,
    reduction_seconds,
    reduction_usd,
)
from summarize.contract.dispatch import STARTS_PER_SECOND, Children, children
from summarize.contract.estimate import (
    ASSUMED,
    IMAGE_BYTES,
    INITIALIZE_SECONDS,
    SUMMARIZE_RANKS_PER_SECOND,
    SUMMARIZE_SECONDS,
    Architecture,
    Ranks,
    Speed,
    gets_of,
    network_seconds,
)
from summarize.contract.limits import MB_PER_VCPU, MOST_RANKS
from summarize.contract.run_records import Summary

Json = dict[str, Any]

MIB = 1024 * 1024
MOST_SECONDS = 900  # of a Lambda (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html)
S3_GB_MONTH = 0.023  # USD, https://aws.amazon.com/s3/pricing, Standard


class PlanningError(ValueError):
    """No run can meet the request; the message says why and what is possible."""


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
            )
            if not (
                0 < measured.images_per_second_vcpu[0] < math.inf and 0 <= measured.cold_start_seconds[0] < 900
            ):
                raise ValueError("its speed or its cold starts are not measurements")
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise PlanningError(
                f"{path} is not the summary.json of a run whose ranks were measured ({reason})"
            ) from error
        return measured


def _threads(gb_seconds: float, seconds: float) -> float:
    """vCPUs of the run's ranks, from the memory that they were billed for."""
    return max(1.0, round(gb_seconds / seconds * 1024 / MB_PER_VCPU))


@dataclass(frozen=True)
class Case:
    """One way to run the data.

    collectives: as in a payload. vcpus: of a rank on AWS Batch; None if it runs on Lambda.
    """

    images: int
    partition_mb: float
    memory_mb: int
    architecture: Architecture
    collectives: Literal["auto", "direct", "s3", "none"] = "auto"
    vcpus: int | None = None

    @property
    def images_per_partition(self) -> int:
        return max(1, int(self.partition_mb * MIB // IMAGE_BYTES))

    @property
    def ranks(self) -> int:
        return math.ceil(self.images / self.images_per_partition)

    @property
    def threads(self) -> float:
        """vCPUs that compute; on Lambda they follow from the memory."""
        return self.vcpus or max(1.0, self.memory_mb / MB_PER_VCPU)

    def at_once(self, assumptions: Assumptions) -> int:
        """The ranks that can run at the same time."""
        return assumptions.concurrency if self.vcpus is None else max(1, assumptions.max_vcpus // self.vcpus)

    def starts_per_second(self, assumptions: Assumptions) -> float:
        return fargate.STARTS_PER_SECOND if self.vcpus else STARTS_PER_SECOND[self.children(assumptions)]

    def children(self, assumptions: Assumptions) -> Children:
        """As what its ranks on Lambda are started."""
        largest = min(self.images, self.images_per_partition) * IMAGE_BYTES
        return assumptions.children or children(largest, self.memory_mb, self.ranks, script=False)[0]

    def estimated(self, assumptions: Assumptions) -> Ranks:
        """Its ranks as Initialize estimates them."""
        return Ranks(
            count=self.ranks,
            bytes=self.images * IMAGE_BYTES,
            largest=min(self.images, self.images_per_partition) * IMAGE_BYTES,
            at_once=min(self.ranks, assumptions.concurrency),
            memory_mb=self.memory_mb,
            architecture=self.architecture,
            children=self.children(assumptions),
            speed=Speed(
                assumptions.images_per_second_vcpu, assumptions.cold_start_seconds, "the speed of this plan"
            ),
        )

    def channel(self, assumptions: Assumptions) -> Choice:
        """By which its ranks reduce their metrics, as Initialize would choose."""
        if self.collectives == "auto":
            return choose(
                self.estimated(assumptions),
                Host(assumptions.host, f"the rendezvous host is {assumptions.host}"),
            )
        if self.collectives == "direct" and self.ranks > assumptions.concurrency:
            return Choice("s3", "not all ranks can run at once")
        return Choice(self.collectives, "")


@dataclass(frozen=True)
class Obstacle:
    """A limit that a case meets. prevents: it cannot be run at all; otherwise it only takes longer."""

    text: str
    prevents: bool


@dataclass(frozen=True)
class Plan:
    """Duration and cost of a case, its bottleneck, and the limits it meets.

    channel: by which the ranks reduce their metrics. seconds: from start to end. parts: seconds before the
    ranks, of the rank that ends last, and after the ranks. usd: by what is billed. A case of more ranks than
    one run can have is not simulated: its seconds and cost are infinite, and it has no channel.
    """

    case: Case
    seconds: float
    parts: dict[str, float]
    usd: dict[str, float]
    bottleneck: str
    obstacles: tuple[Obstacle, ...]
    channel: Choice | None = None

    @property
    def total_usd(self) -> float:
        return sum(self.usd.values()) if self.usd else math.inf

    @property
    def possible(self) -> bool:
        """Whether no limit prevents it."""
        return not any(obstacle.prevents for obstacle in self.obstacles)


def plan(case: Case, assumptions: Assumptions = Assumptions(), seed: int = 0) -> Plan:
    """Simulates one run."""
    if case.images < 1:
        raise PlanningError(f"images: {case.images} is not allowed; give at least 1")
    if case.ranks > MOST_RANKS:
        return Plan(case, math.inf, {}, {}, "number of ranks", (_too_many_ranks(case),))
    ranks = _simulate(case, assumptions, random.Random(seed))  # noqa: S311 - no secret
    last = max(ranks, key=lambda rank: rank["end"])
    choice, estimated = case.channel(assumptions), case.estimated(assumptions)
    waiting = host_seconds(choice.channel, assumptions.host)
    reducing = reduction_seconds(choice.channel, estimated)
    after = SUMMARIZE_SECONDS + case.ranks / SUMMARIZE_RANKS_PER_SECOND
    parts = {
        "initialize": INITIALIZE_SECONDS,
        "rendezvous host": waiting,
        "dispatch": last["dispatched"],
        "concurrency quota": last["start"] - last["dispatched"],
        "cold start": last["cold"],
        "network": last["network"],
        "compute": last["compute"],
        "metrics": reducing,
        "summarize": after,
    }
    seconds = INITIALIZE_SECONDS + waiting + last["end"] + reducing + after
    usd = _usd(case, assumptions, ranks)
    if case.vcpus is None:  # ranks on AWS Batch reduce nothing among themselves
        usd["metrics"] = reduction_usd(choice.channel, estimated)
        usd["rendezvous host"] = host_usd(choice.channel, estimated, assumptions.host)
    bottleneck = max(parts, key=lambda name: parts[name])
    return Plan(case, seconds, parts, usd, bottleneck, _obstacles(case, assumptions, ranks), choice)


def _simulate(case: Case, assumptions: Assumptions, dice: random.Random) -> list[dict[str, float]]:
    """Times of every rank, in seconds from the first dispatch."""
    at_once, starts_per_second = case.at_once(assumptions), case.starts_per_second(assumptions)
    free: list[float] = []  # when each sandbox that is busy will be free again
    ranks, left = [], case.images
    for number in range(case.ranks):
        images = min(case.images_per_partition, left)
        left -= images
        dispatched = number / starts_per_second
        start, cold = dispatched, True
        if free and free[0] <= dispatched:
            heapq.heappop(free)  # a warm one
            cold = case.vcpus is not None
        elif len(free) >= at_once:
            start, cold = heapq.heappop(free), case.vcpus is not None
        elif case.vcpus is None:
            ramp = (
                max(0.0, len(free) + 1 - assumptions.sandboxes_at_once) / assumptions.new_sandboxes_per_second
            )
            start = max(dispatched, ramp)
        wait = _cold_start(case, assumptions, dice) if cold else 0.0
        size = images * IMAGE_BYTES
        network = network_seconds(size)
        compute = images / (dice.uniform(*assumptions.images_per_second_vcpu) * case.threads)
        run = wait + max(network, compute)  # they overlap
        heapq.heappush(free, start + run)
        ranks.append({
            "dispatched": dispatched, "start": start, "end": start + run, "billed": run, "cold": wait,
            "network": max(network - compute, 0.0), "compute": compute, "bytes": size,
        })  # fmt: skip
    return ranks


def _cold_start(case: Case, assumptions: Assumptions, dice: random.Random) -> float:
    """Seconds; every job of AWS Batch has one."""
    wait = dice.uniform(*assumptions.cold_start_seconds)
    if case.vcpus is not None:
        return wait + dice.uniform(*assumptions.job_start_seconds)
    return wait + (assumptions.init_limit_seconds if wait > assumptions.init_limit_seconds else 0.0)


def _usd(case: Case, assumptions: Assumptions, ranks: list[dict[str, float]]) -> dict[str, float]:
    billed = [rank["billed"] for rank in ranks]
    gets = sum(gets_of(rank["bytes"]) + pricing.GETS_OF_SUMMARIZE_PER_RANK for rank in ranks)
    s3 = pricing.PUTS_PER_RANK * len(ranks) * pricing.S3_PUT + gets * pricing.S3_GET
    if case.vcpus is not None:
        return {
            "AWS Batch compute": fargate.usd(case.vcpus, case.memory_mb, case.architecture, billed),
            "Step Functions": pricing.step_functions(0, 0.0, "standard"),
            "S3 requests": s3,
        }
    return {
        "Lambda compute": sum(billed) * case.memory_mb / 1024 * pricing.GB_SECOND[case.architecture],
        "Lambda requests": len(ranks) * pricing.LAMBDA_REQUEST,
        "Step Functions": pricing.step_functions(len(ranks), sum(billed), case.children(assumptions)),
        "S3 requests": s3,
    }


def _too_many_ranks(case: Case) -> Obstacle:
    need = math.ceil(case.images * IMAGE_BYTES / MOST_RANKS / MIB)
    most = (
        f"one Distributed Map has {MOST_RANKS:,} children"
        if case.vcpus is None
        else f"an array has {MOST_RANKS:,} jobs"
    )
    return Obstacle(
        f"{case.ranks:,} ranks: {most} at most; cut partitions of "
        f"{need:,} MB or more, give a smaller world_size, or make several runs",
        prevents=True,
    )


def _obstacles(case: Case, assumptions: Assumptions, ranks: list[dict[str, float]]) -> tuple[Obstacle, ...]:
    on_batch, at_once, obstacles = case.vcpus is not None, case.at_once(assumptions), []
    if case.ranks > at_once:
        waves = math.ceil(case.ranks / at_once)
        more = (
            f"{assumptions.max_vcpus:,} vCPUs run {at_once:,} at once; raise batch.max_vcpus and, if that is "
            "less, the account's quota (Service Quotas: AWS Fargate, vCPU resource count)"
            if on_batch
            else f"the account runs {at_once:,} at once; ask for more (Service Quotas: Lambda, concurrent "
            "executions); they cannot meet directly"
        )
        obstacles.append(Obstacle(f"{case.ranks:,} ranks in {waves} waves: {more}", prevents=False))
    longest = max(rank["billed"] for rank in ranks)
    if on_batch and longest > fargate.MOST_SECONDS:
        default = f"{fargate.MOST_SECONDS:,} by default"
        text = f"a rank takes {longest:,.0f} s: set batch.timeout_seconds, which is {default}"
        obstacles.append(Obstacle(text, prevents=False))
    if not on_batch and longest > MOST_SECONDS:
        text = (
            f"a rank takes {longest:,.0f} s: Lambda ends it after {MOST_SECONDS} s; cut smaller partitions, "
            "give more ranks or more memory, or use AWS Batch (--backend batch)"
        )
        obstacles.append(Obstacle(text, prevents=True))
    return tuple(obstacles)
