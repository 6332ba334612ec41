"""Plans of many ways to run the data, and the one that is recommended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Literal

from cosmicai.experiments.cases import ASSUMPTIONS, Assumptions, Case, PlanningError
from cosmicai.experiments.planning import Plan, plan
from summarize.contract.estimate import Architecture


def options(
    images: int, partitions_mb: Iterable[float], memories_mb: Iterable[int],
    architectures: Iterable[Architecture], assumptions: Assumptions = ASSUMPTIONS,
    collectives: Literal["auto", "direct", "s3", "none"] = "auto", times: int = 1,
) -> Iterator[Plan]:  # fmt: skip
    """A plan for each combination. times: how often the images are computed."""
    for partition_mb, memory_mb, architecture in product(partitions_mb, memories_mb, architectures):
        yield plan(Case(images, partition_mb, memory_mb, architecture, collectives, times=times), assumptions)


def options_on_batch(
    images: int, partitions_mb: Iterable[float], sizes: Iterable[tuple[int, int]],
    architectures: Iterable[Architecture], assumptions: Assumptions = ASSUMPTIONS, times: int = 1,
) -> Iterator[Plan]:  # fmt: skip
    """The same for ranks on AWS Batch, which reduce nothing among themselves. sizes: vCPUs and MB of a rank."""
    for partition_mb, (vcpus, memory_mb), architecture in product(partitions_mb, sizes, architectures):
        yield plan(Case(images, partition_mb, memory_mb, architecture, "none", vcpus, times), assumptions)


def recommended(plans: list[Plan], target_seconds: float | None, budget_usd: float | None) -> Plan:
    """The best of the plans that can be run.

    That is the cheapest within the target time, the fastest within the budget, or otherwise the one with the
    smallest product of time and cost. A plan is within a limit if nine of ten of its simulated runs are. Raises
    PlanningError if none fits, and names the one that comes closest.
    """
    possible = [one for one in plans if one.possible]
    if not possible:
        obstacles = "; ".join(obstacle.text for obstacle in plans[0].obstacles)
        raise PlanningError(f"none of these can be run: {obstacles}")
    fitting = [
        one
        for one in possible
        if (target_seconds is None or one.seconds.p90 <= target_seconds)
        and (budget_usd is None or one.total_usd.p90 <= budget_usd)
    ]
    if not fitting:
        raise PlanningError(_none_fits(possible, target_seconds, budget_usd))
    if target_seconds is not None:
        return min(fitting, key=lambda one: one.total_usd.p50)
    if budget_usd is not None:
        return min(fitting, key=lambda one: one.seconds.p50)
    return min(fitting, key=lambda one: one.seconds.p50 * one.total_usd.p50)


def _none_fits(possible: list[Plan], target_seconds: float | None, budget_usd: float | None) -> str:
    """Why no plan is within the target and the budget, and what the nearest one takes."""
    fastest = min(possible, key=lambda one: one.seconds.p90)
    cheapest = min(possible, key=lambda one: one.total_usd.p90)
    if target_seconds is not None and fastest.seconds.p90 > target_seconds:
        return (
            f"--target-seconds {target_seconds:g} cannot be met; the fastest takes {_time_and_cost(fastest)}; "
            f"its bottleneck is: {fastest.bottleneck}"
        )
    if budget_usd is not None and cheapest.total_usd.p90 > budget_usd:
        return f"--budget {budget_usd:g} is too small; the cheapest takes {_time_and_cost(cheapest)}"
    within = [one for one in possible if target_seconds is None or one.seconds.p90 <= target_seconds]
    best = min(within, key=lambda one: one.total_usd.p90)
    return (
        "--target-seconds and --budget cannot both be met; the cheapest plan within that time takes "
        f"{_time_and_cost(best)}"
    )


def _time_and_cost(one: Plan) -> str:
    return f"up to {one.seconds.p90:,.0f} s and {one.total_usd.p90:.4g} USD in nine of ten runs"
