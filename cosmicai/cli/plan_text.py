"""How plans are printed: as tables, sentences and JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rich.table import Table

from cosmicai.cli.common import console, print_json
from cosmicai.experiments.cases import Assumptions, Case
from cosmicai.experiments.planning import S3_GB_MONTH, Plan
from cosmicai.experiments.published import compare_published
from cosmicai.experiments.scatter import RUNS, Band
from summarize.contract import batch_prices, pricing
from summarize.contract.estimate import IMAGE_BYTES
from summarize.contract.figures import usd_text
from summarize.contract.limits import MOST_RANKS


def prices_as_of(case: Case) -> str:
    """The month of the list prices, the oldest of them."""
    return pricing.AS_OF if case.vcpus is None else min(pricing.AS_OF, batch_prices.AS_OF)


def content(one: Plan) -> dict[str, Any]:
    """A plan as JSON."""
    case = one.case
    return {
        "partition_mb": case.partition_mb,
        "memory_mb": case.memory_mb,
        "vcpus": case.vcpus,
        "architecture": case.architecture,
        "ranks": case.ranks,
        "seconds": _band(one.seconds, 2),
        "usd": _band(one.total_usd, 6),
        "prices as of": prices_as_of(case),
        "usd by part": {name: round(value, 6) for name, value in one.usd.items()},
        "seconds by part": {name: round(value, 3) for name, value in one.parts.items()},
        "bottleneck": one.bottleneck,
        "collectives": None if one.channel is None else one.channel.channel,
        "why these collectives": None if one.channel is None else one.channel.reason,
        "possible": one.possible,
        "obstacles": [obstacle.text for obstacle in one.obstacles],
    }


def basis(assumptions: Assumptions) -> dict[str, Any]:
    """What plans rest on, as JSON: the ranks' figures, and what varies."""
    return {
        "images per second and vCPU": assumptions.images_per_second_vcpu,
        "cold start (seconds)": assumptions.cold_start_seconds,
        "source": assumptions.source,
        "simulated runs": RUNS,
        "varies": [vars(one) for one in assumptions.scatter.described(assumptions.source)],
    }


def _band(band: Band, digits: int) -> dict[str, float] | None:
    return None if math.isinf(band.p50) else {name: round(value, digits) for name, value in vars(band).items()}


def _seconds(band: Band) -> str:
    """'10 (9 to 12)': the median, p10 and p90."""
    return _text(band, lambda value: f"{value:,.0f}")


def _usd(band: Band) -> str:
    """'0.0494 (0.0459 to 0.0526)', with as many digits as amounts in the report have."""
    return _text(band, _amount)


def _amount(usd: float) -> str:
    return usd_text(usd).removeprefix("$")


def _text(band: Band, written: Callable[[float], str]) -> str:
    if math.isinf(band.p50):
        return "-"
    return f"{written(band.p50)} ({written(band.p10)} to {written(band.p90)})"


def table(plans: list[Plan], best: Plan, images: int) -> Table:
    """A row for each plan, with medians."""
    times = best.case.times
    size = images * times * IMAGE_BYTES / 1e9
    computed = f", each computed {times:,} times" if times > 1 else ""
    rows = Table(title=f"{images:,} galaxies{computed}, {size:,.4g} GB: medians")
    columns = (
        "", "partition\nMB", "memory\nMB", "arch", "ranks", "collectives", "seconds", "USD", "bottleneck"
    )  # fmt: skip
    for column in columns:
        text = column in ("", "arch", "collectives", "bottleneck")
        rows.add_column(column, justify="left" if text else "right")
    for one in plans:
        case, known = one.case, not math.isinf(one.seconds.p50)
        rows.add_row(
            "best" if one is best else "" if one.possible else "no",
            f"{case.partition_mb:,g}",
            f"{case.memory_mb:,}" + ("" if case.vcpus is None else f", {case.vcpus} vCPUs"),
            case.architecture,
            f"{case.ranks:,}",
            "-" if one.channel is None else one.channel.channel,
            f"{one.seconds.p50:,.0f}" if known else "-",
            _amount(one.total_usd.p50) if known else "-",
            one.bottleneck,
        )
    return rows


def print_best(best: Plan, images: int) -> None:
    """The recommended plan, part by part."""
    parts = ", ".join(f"{name} {value:,.1f}" for name, value in best.parts.items() if value >= 0.05)
    console.print(f"Recommended: {_seconds(best.seconds)} s; the median: {parts}")
    costs = ", ".join(f"{name} {usd_text(value)}" for name, value in best.usd.items() if value >= 5e-5)
    storage = images * IMAGE_BYTES / 1e9 * S3_GB_MONTH
    console.print(
        f"{_usd(best.total_usd)} USD; the median: {costs}; list prices of {prices_as_of(best.case)}; storing "
        f"the data costs {usd_text(storage)} a month"
    )
    if best.channel is not None and best.channel.reason:
        console.print(
            f"Collectives, by Initialize's simpler estimate: {best.channel.channel}: {best.channel.reason}"
        )
    if best.bottleneck == "rendezvous host":
        console.print(
            "Most of the time is the rendezvous host's start: with --collectives auto no host is needed."
        )
    for obstacle in best.obstacles:
        console.print(obstacle.text, style="yellow")


def print_basis(assumptions: Assumptions) -> None:
    """Where the figures are from, and which variations are only assumed."""
    least, most = assumptions.images_per_second_vcpu
    start = "{:.1f} to {:.1f} s".format(*assumptions.cold_start_seconds)
    console.print(
        f"Ranks: {assumptions.source}, {least:,.0f} to {most:,.0f} images/s per vCPU; cold starts of {start}"
    )
    varying = assumptions.scatter.described(assumptions.source)
    assumed = "; ".join(f"{one.figure} ({one.distribution})" for one in varying if one.assumed)
    rest = f"These variations are assumed: {assumed}" if assumed else "Their variations were measured."
    console.print(f"The median (p10 to p90) is that of {RUNS} simulated runs. {rest}")


def print_published(as_json: bool) -> None:
    """The published runs beside their plans."""
    rows = compare_published()
    if as_json:
        print_json(
            [
                {"published": vars(earlier), "planned": content(theirs), "ours": content(ours)}
                for earlier, theirs, ours in rows
            ]
        )
        return
    names = ("partition", "published, s", "planned, s", "error", "planned, USD", "ours, s", "ours, USD")
    comparison = Table(
        title="12.6 GB: published runs, plans of them, and plans of this bundle; median (p10 to p90)"
    )
    for column in names:
        comparison.add_column(column, justify="right")
    for earlier, theirs, ours in rows:
        middle = sum(earlier.seconds) / 2
        comparison.add_row(
            f"{earlier.partition_mb:g} MB",
            f"{earlier.seconds[0]:g} to {earlier.seconds[1]:g}",
            _seconds(theirs.seconds),
            f"{theirs.seconds.p50 / middle - 1:+.0%}",
            _usd(theirs.total_usd),
            _seconds(ours.seconds),
            _usd(ours.total_usd),
        )
    console.print_table(comparison)
    console.print(f"One run has {MOST_RANKS:,} ranks at most; list prices of {pricing.AS_OF}.")
