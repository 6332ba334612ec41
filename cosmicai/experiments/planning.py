"""Duration and cost of a run before it is started: simulated dispatch, cold starts, network and compute."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cosmicai.commands import command
from cosmicai.experiments import fargate
from cosmicai.experiments.cases import ASSUMPTIONS, MIB, Assumptions, Case, PlanningError
from cosmicai.experiments.scatter import RUNS, Band, Draws, Floats, draw
from cosmicai.experiments.simulation import Sandboxes, Times, schedule
from summarize.contract import pricing
from summarize.contract.channels import Choice, host_seconds, host_usd, reduction_seconds, reduction_usd
from summarize.contract.estimate import (
    IMAGE_BYTES,
    INITIALIZE_PARTITIONS_PER_SECOND,
    SUMMARIZE_RANKS_PER_SECOND,
    gets_of,
    network_seconds,
)
from summarize.contract.limits import MOST_AT_ONCE, most_ranks

MOST_SECONDS = 900  # of a Lambda (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html)
S3_GB_MONTH = 0.023  # USD, https://aws.amazon.com/s3/pricing, Standard


@dataclass(frozen=True)
class Obstacle:
    """A limit that a case meets. prevents: it cannot be run at all; otherwise it only takes longer."""

    text: str
    prevents: bool


@dataclass(frozen=True)
class Plan:
    """Duration and cost of a case, its bottleneck, and the limits it meets.

    seconds: from start to end. parts: in the run with the median time, the seconds before the ranks, of the
    rank that ends last, and after the ranks. total_usd: the cost; usd: by what is billed, in the run with the
    median cost. channel: by which the ranks reduce their metrics. A case of more ranks than one run can have
    is not simulated: its seconds and cost are infinite, and it has no channel.
    """

    case: Case
    seconds: Band
    parts: dict[str, float]
    total_usd: Band
    usd: dict[str, float]
    bottleneck: str
    obstacles: tuple[Obstacle, ...]
    channel: Choice | None = None

    @property
    def possible(self) -> bool:
        """Whether no limit prevents it."""
        return not any(obstacle.prevents for obstacle in self.obstacles)


def plan(case: Case, assumptions: Assumptions = ASSUMPTIONS, seed: int = 0) -> Plan:
    """Simulates RUNS runs; the same seed gives the same plan."""
    if case.images < 1:
        raise PlanningError(f"images: {case.images} is not allowed; give at least 1")
    if case.ranks > most_ranks(case.vcpus is not None):
        never = Band(math.inf, math.inf, math.inf)
        return Plan(case, never, {}, never, {}, "number of ranks", (_too_many_ranks(case),))
    draws = draw(assumptions.scatter, case.ranks, seed)
    ranks = _simulate(case, assumptions, draws)
    choice, estimated = case.channel(assumptions), case.estimated(assumptions)
    waiting = host_seconds(choice.channel, assumptions.host) * draws.host[:, 0]
    reducing = reduction_seconds(choice.channel, estimated)
    listing = case.originals / INITIALIZE_PARTITIONS_PER_SECOND
    before = assumptions.initialize_seconds * draws.service[:, 0] + listing
    after = assumptions.summarize_seconds * draws.service[:, 0] + case.ranks / SUMMARIZE_RANKS_PER_SECOND
    seconds = before + waiting + ranks.times.end.max(axis=1) + reducing + after
    typical = _middle(seconds)
    parts = {
        "initialize": float(before[typical]),
        "rendezvous host": float(waiting[typical]),
        **ranks.of_the_last(typical),
        "metrics": reducing,
        "summarize": float(after[typical]),
    }
    usd = _usd(case, assumptions, ranks.times.billed)
    if case.vcpus is None:  # ranks on AWS Batch reduce nothing among themselves
        usd["metrics"] = np.full(RUNS, reduction_usd(choice.channel, estimated))
        usd["rendezvous host"] = np.full(RUNS, host_usd(choice.channel, estimated, assumptions.host))
    total = sum(usd.values(), np.zeros(RUNS))
    billed = {name: float(amounts[_middle(total)]) for name, amounts in usd.items()}
    bottleneck = max(parts, key=lambda name: parts[name])
    longest = Band.of(ranks.times.billed.max(axis=1)).p90
    obstacles = _obstacles(case, assumptions, longest)
    return Plan(case, Band.of(seconds), parts, Band.of(total), billed, bottleneck, obstacles, choice)


def _middle(values: Floats) -> int:
    """The run with the median."""
    return int(np.argsort(values, kind="stable")[len(values) // 2])


@dataclass(frozen=True)
class _SimulatedRanks:
    """dispatched: (ranks,), times, and what they did meanwhile, (RUNS, ranks), in seconds."""

    dispatched: Floats
    times: Times
    network: Floats
    compute: Floats

    def of_the_last(self, run: int) -> dict[str, float]:
        """The parts of the time until the rank of this run that ends last has ended."""
        times, rank = self.times, int(self.times.end[run].argmax())
        dispatched = float(self.dispatched[rank])
        return {
            "dispatch": dispatched,
            "concurrency quota": float(times.start[run, rank]) - dispatched,
            "cold start": float(times.cold[run, rank]),
            "network": float(max(self.network[run, rank] - self.compute[run, rank], 0.0)),
            "compute": float(self.compute[run, rank]),
        }


def _simulate(case: Case, assumptions: Assumptions, draws: Draws) -> _SimulatedRanks:
    images = np.full(case.ranks, case.images_per_partition)
    images[case.originals - 1 :: case.originals] = case.images_of_last
    least, most = assumptions.images_per_second_vcpu
    rates = (least + (most - least) * draws.shares) * draws.speed * case.threads
    compute, cold = images / rates, _cold_starts(case, assumptions, draws)
    at_once, machine = min(case.ranks, case.at_once(assumptions)), assumptions.machine
    if machine is None:
        sizes = {
            one: network_seconds(one * IMAGE_BYTES) for one in {case.images_per_partition, case.images_of_last}
        }
        network = np.array([sizes[one] for one in images.tolist()])
        ready = _ramp(at_once, assumptions) if case.vcpus is None else np.zeros(at_once)
        sandboxes = Sandboxes(ready, keep=case.vcpus is None)
    else:
        beside = _beside(case.ranks, at_once)
        crowding = machine.crowding(beside, 1.0)
        compute = compute * machine.crowding(beside, case.threads) + machine.rank_seconds * crowding
        network = images * IMAGE_BYTES / machine.read_bytes_per_second * beside
        cold, sandboxes = cold * crowding, Sandboxes(np.zeros(at_once), warm=min(at_once, machine.warm))
    compute, network = compute * draws.slow, network / draws.network * draws.slow
    dispatched = np.arange(case.ranks) / case.starts_per_second(assumptions)
    busy = np.maximum(network, compute)  # they overlap
    return _SimulatedRanks(dispatched, schedule(dispatched, sandboxes, cold, busy), network, compute)


def _ramp(at_once: int, assumptions: Assumptions) -> Floats:
    """(at_once,): the second from which Lambda has each sandbox."""
    beyond = np.arange(at_once) + 1.0 - assumptions.sandboxes_at_once
    return np.maximum(0.0, beyond / assumptions.new_sandboxes_per_second)


def _beside(ranks: int, at_once: int) -> Floats:
    """(ranks,): how many ranks run at the same time as each, itself included; the last ones may be fewer."""
    wave = np.arange(ranks) // at_once * at_once
    return np.minimum(at_once, ranks - wave).astype(float)


def _cold_starts(case: Case, assumptions: Assumptions, draws: Draws) -> Floats:
    """Seconds; every job of AWS Batch has one."""
    least, most = assumptions.cold_start_seconds
    waits: Floats = (least + (most - least) * draws.starts) * draws.start
    if case.vcpus is not None:
        least, most = assumptions.job_start_seconds
        return waits + least + (most - least) * draws.shares[:, ::-1]
    return waits + np.where(waits > assumptions.init_limit_seconds, assumptions.init_limit_seconds, 0.0)


def _usd(case: Case, assumptions: Assumptions, billed: Floats) -> dict[str, Floats]:
    """By what is billed, of each run. billed: (RUNS, ranks), seconds."""
    full, last = (gets_of(one * IMAGE_BYTES) for one in (case.images_per_partition, case.images_of_last))
    read = (full * (case.originals - 1) + last) * case.times
    gets = read + pricing.GETS_OF_SUMMARIZE_PER_RANK * case.ranks
    s3 = np.full(RUNS, pricing.PUTS_PER_RANK * case.ranks * pricing.S3_PUT + gets * pricing.S3_GET)
    seconds = billed.sum(axis=1)
    if case.vcpus is not None:
        return {
            "AWS Batch compute": fargate.usd(case.vcpus, case.memory_mb, case.architecture, billed),
            "Step Functions": np.full(RUNS, pricing.step_functions(0, 0.0, "standard")),
            "S3 requests": s3,
        }
    kind = case.children(assumptions)
    return {
        "Lambda compute": seconds * case.memory_mb / 1024 * pricing.GB_SECOND[case.architecture],
        "Lambda requests": np.full(RUNS, case.ranks * pricing.LAMBDA_REQUEST),
        "Step Functions": np.array([pricing.step_functions(case.ranks, one, kind) for one in seconds]),
        "S3 requests": s3,
    }


def _too_many_ranks(case: Case) -> Obstacle:
    on_batch = case.vcpus is not None
    most = most_ranks(on_batch)
    has = f"an array of jobs has {most:,}" if on_batch else f"a run has {most:,}"
    if case.times > most:
        remedy = f"compute every partition {most:,} times or fewer"
    else:
        need = math.ceil(case.images * IMAGE_BYTES / (most // case.times) / MIB)
        remedy = f"cut partitions of {need:,} MB or more, give a smaller world_size"
    return Obstacle(f"{case.ranks:,} ranks: {has} at most; {remedy}, or make several runs", prevents=True)


def _obstacles(case: Case, assumptions: Assumptions, longest: float) -> tuple[Obstacle, ...]:
    """longest: seconds of the rank that takes longest, in nine of ten runs."""
    on_batch, at_once, obstacles = case.vcpus is not None, case.at_once(assumptions), []
    if case.ranks > at_once:
        waves = f"{case.ranks:,} ranks in {math.ceil(case.ranks / at_once)} waves"
        obstacles.append(Obstacle(f"{waves}: {_more_at_once(case, assumptions)}", prevents=False))
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


def _more_at_once(case: Case, assumptions: Assumptions) -> str:
    """How many ranks can run at once, and what to do for more."""
    at_once = f"{case.at_once(assumptions):,} at once"
    if case.vcpus is not None:
        return (
            f"{assumptions.max_vcpus:,} vCPUs run {at_once}; raise batch.max_vcpus and, if that is less, the "
            "account's quota (Service Quotas: AWS Fargate, vCPU resource count)"
        )
    if assumptions.machine is not None:
        again = f"{command('local', 'down')}, then {command('local', 'up', '--concurrency', 'NUMBER')}"
        return f"the embedded AWS runs {at_once}; for more, start it again: {again}"
    if assumptions.concurrency >= MOST_AT_ONCE:
        return f"Step Functions runs {at_once}, whatever the account's quota; they cannot meet directly"
    return (
        f"the account runs {at_once}; ask for more (Service Quotas: Lambda, concurrent executions); they "
        "cannot meet directly"
    )
