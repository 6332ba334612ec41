"""cosmicai plan: duration and cost before a run is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from cosmicai.cli.common import AsJson, console, print_json
from cosmicai.planning import (
    IMAGE_BYTES,
    MOST_RANKS,
    S3_GB_MONTH,
    Assumptions,
    Plan,
    PlanningError,
    beside_published,
    options,
    recommended,
)

app = typer.Typer()


@app.command()
def plan(
    data_gb: Annotated[float | None, typer.Option(help="Size of the data in GB.")] = None,
    images: Annotated[int | None, typer.Option(help="Number of galaxies, in place of --data-gb.")] = None,
    partition_mb: Annotated[
        str, typer.Option(help="Partition sizes to compare, with commas.")
    ] = "25,50,75,100",
    memory_mb: Annotated[str, typer.Option(help="Memory sizes of a rank to compare.")] = "1769,3538,5307",
    arch: Annotated[str, typer.Option(help="arm64, x86_64 or both.")] = "arm64,x86_64",
    target_seconds: Annotated[float | None, typer.Option(help="The cheapest within this time.")] = None,
    budget: Annotated[float | None, typer.Option(help="The fastest within so many USD.")] = None,
    collectives: Annotated[
        Literal["direct", "s3", "none"], typer.Option(help="direct waits for the rendezvous host.")
    ] = "direct",
    calibrate: Annotated[
        Path | None, typer.Option(help="summary.json of a run, for speed and cold starts.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="The account's quota of concurrent executions.")] = 1000,
    published: Annotated[
        bool, typer.Option("--published", help="Beside the runs that were published.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Predicts how long a run takes and what it costs, says what holds it up, and prints a payload.

    Example: cosmicai plan --data-gb 12.6 --target-seconds 60
    """
    from dataclasses import replace

    if published:
        _print_published(as_json)
        return
    if (data_gb is None) == (images is None):
        raise PlanningError("give --data-gb or --images")
    count = images if images is not None else int((data_gb or 0) * 1e9 / IMAGE_BYTES)
    given = Assumptions.of_summary(calibrate) if calibrate else Assumptions()
    given = replace(given, concurrency=concurrency)
    architectures = [name.strip() for name in arch.split(",")]
    if not set(architectures) <= {"arm64", "x86_64"}:
        raise PlanningError(f"arch: {arch} is not allowed; give arm64, x86_64 or both with a comma")
    sizes, memories = _numbers("partition_mb", partition_mb), _numbers("memory_mb", memory_mb)
    found = list(options(count, sizes, map(int, memories), architectures, given, collectives == "direct"))
    best = recommended(found, target_seconds, budget)
    payload = {
        "data_prefix": f"{best.case.partition_mb:g}MB",
        "result_path": f"results/{best.case.partition_mb:g}MB/1",
        "collectives": collectives,
    }
    if as_json:
        print_json(
            {"plans": [_content(one) for one in found], "recommended": _content(best), "payload": payload}
        )
        return
    console.print(_table(found, best, count))
    _print_best(best, count)
    console.print("Payload (memory and architecture belong into the team's tfvars):")
    console.print_json(json.dumps(payload))


def _numbers(name: str, text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) <= 0:
        raise PlanningError(f"{name}: {text} is not allowed; give numbers above 0 with commas")
    if name == "memory_mb" and not all(128 <= value <= 10_240 for value in found):
        raise PlanningError(f"{name}: {text} is not allowed; Lambda has 128 to 10240 MB")
    return found


def _content(one: Plan) -> dict[str, object]:
    case = one.case
    return {
        "partition_mb": case.partition_mb,
        "memory_mb": case.memory_mb,
        "architecture": case.architecture,
        "ranks": case.ranks,
        "seconds": round(one.seconds, 2),
        "usd": round(one.total_usd, 6),
        "usd by part": {name: round(value, 6) for name, value in one.usd.items()},
        "seconds by part": {name: round(value, 3) for name, value in one.parts.items()},
        "bottleneck": one.bottleneck,
        "obstacles": list(one.obstacles),
    }


def _table(plans: list[Plan], best: Plan, images: int) -> Table:
    table = Table(title=f"{images:,} galaxies, {images * IMAGE_BYTES / 1e9:,.1f} GB")
    for column in ("", "partition", "MB", "arch", "ranks", "s", "USD", "held up by"):
        text = column in ("", "arch", "held up by")
        table.add_column(column, justify="left" if text else "right", no_wrap=True)
    for one in plans:
        case = one.case
        table.add_row(
            "→" if one is best else "",
            f"{case.partition_mb:g} MB",
            f"{case.memory_mb:,}",
            case.architecture,
            f"{case.ranks:,}",
            f"{one.seconds:,.0f}",
            f"{one.total_usd:,.3f}",
            one.bottleneck + (" (!)" if one.obstacles else ""),
        )
    return table


def _print_best(best: Plan, images: int) -> None:
    parts = ", ".join(f"{name} {value:,.1f}" for name, value in best.parts.items() if value >= 0.05)
    console.print(f"Recommended: {best.seconds:,.0f} s ({parts})")
    costs = ", ".join(f"{name} {value:,.4f}" for name, value in best.usd.items() if value >= 5e-5)
    console.print(
        f"{best.total_usd:,.3f} USD ({costs}); to keep the data costs {_storage(images):,.2f} USD a month"
    )
    if best.bottleneck == "rendezvous host":
        console.print("The wait is for the rendezvous host: with --collectives s3 the ranks need none.")
    for obstacle in best.obstacles:
        console.print(obstacle, style="yellow")


def _storage(images: int) -> float:
    return images * IMAGE_BYTES / 1e9 * S3_GB_MONTH


def _print_published(as_json: bool) -> None:
    rows = beside_published()
    if as_json:
        print_json(
            [
                {"published": vars(earlier), "planned": _content(theirs), "ours": _content(ours)}
                for earlier, theirs, ours in rows
            ]
        )
        return
    table = Table(title="12.6 GB: published, planned by the published figures, and our way")
    for column in ("partition", "published, s", "planned, s", "error", "planned USD", "ours, s", "ours, USD"):
        table.add_column(column, justify="right")
    for earlier, theirs, ours in rows:
        middle = sum(earlier.seconds) / 2
        table.add_row(
            f"{earlier.partition_mb:g} MB",
            f"{earlier.seconds[0]:g} to {earlier.seconds[1]:g}",
            f"{theirs.seconds:.0f}",
            f"{theirs.seconds / middle - 1:+.0%}",
            f"{theirs.total_usd:.2f}",
            f"{ours.seconds:.0f}",
            f"{ours.total_usd:.3f}",
        )
    console.print(table)
    console.print(f"One run has {MOST_RANKS:,} ranks at most; prices as in functions/summarize/pricing.py.")
