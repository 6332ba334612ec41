"""cosmicai plan: duration and cost before a run is started."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from rich.table import Table

from cosmicai.cli.common import AsJson, console, print_json
from cosmicai.cli.paths import JsonFile
from cosmicai.cli.values import Choices, NameList, Number, NumberList, Numbers, Refused, whole
from cosmicai.experiments import fargate
from cosmicai.experiments.comparing import options, options_on_batch, recommended
from cosmicai.experiments.planning import S3_GB_MONTH, Assumptions, Plan
from cosmicai.experiments.published import compare_published
from summarize.contract.batch_prices import SPOT_NOTE
from summarize.contract.channels import HostState
from summarize.contract.estimate import IMAGE_BYTES, Architecture
from summarize.contract.figures import usd_text
from summarize.contract.limits import MOST_RANKS

app = typer.Typer()

_ARCHITECTURES: tuple[Architecture, ...] = ("arm64", "x86_64")
_MEMORIES_MB = (1769, 3538, 5307)
_MOST_LAMBDA_MB = 10_240
PARTITION_MB = Number(0.02, 10_240)  # one galaxy, and a Lambda's largest memory


@app.command()
def plan(
    data_gb: Annotated[
        float | None, typer.Option(parser=Number(0, 1e6, above=True), help="Size of the data in GB.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(parser=whole(1, 10**11), help="Number of galaxies; instead of --data-gb.")
    ] = None,
    partition_mb: Annotated[
        NumberList,
        typer.Option(parser=Numbers(PARTITION_MB), metavar="MB,…", help="Partition sizes to compare."),
    ] = NumberList((25, 50, 75, 100)),  # noqa: B008
    backend: Annotated[
        Literal["lambda", "batch"], typer.Option(help="What runs the ranks: Lambda, or AWS Batch on Fargate.")
    ] = "lambda",
    memory_mb: Annotated[
        NumberList | None,
        typer.Option(
            parser=Numbers(whole(128, 122_880)),
            metavar="MB,…",
            help="Memory sizes of a rank to compare; default: 1769,3538,5307 on Lambda, and on AWS Batch the "
            "smallest for its vCPUs.",
        ),
    ] = None,
    vcpus: Annotated[
        NumberList,
        typer.Option(
            parser=Numbers(whole(1, 16)), metavar="N,…", help="vCPUs of a rank on AWS Batch to compare."
        ),
    ] = NumberList((2, 4, 8)),  # noqa: B008
    max_vcpus: Annotated[
        int,
        typer.Option(parser=whole(1, 10**6), help="vCPUs of all ranks on AWS Batch together: batch.max_vcpus."),
    ] = fargate.MOST_VCPUS,
    arch: Annotated[
        NameList,
        typer.Option(parser=Choices(_ARCHITECTURES), metavar="arm64,x86_64", help="Architectures to compare."),
    ] = NameList(_ARCHITECTURES),  # noqa: B008
    target_seconds: Annotated[
        float | None,
        typer.Option(parser=Number(0, above=True), help="Recommend the cheapest within this time."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            parser=Number(0, above=True), help="Recommend the fastest run that costs at most this many USD."
        ),
    ] = None,
    collectives: Annotated[
        Literal["auto", "direct", "s3", "none"],
        typer.Option(help="How ranks reduce their metrics; auto: by the time and cost of each."),
    ] = "auto",
    host: Annotated[HostState, typer.Option(help="The rendezvous host when the run starts.")] = "stopped",
    calibrate: Annotated[
        Path | None,
        typer.Option(parser=JsonFile(), help="summary.json of a run: use its speed and cold starts."),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(parser=whole(1, 10**6), help="The account's quota of concurrent executions.")
    ] = 1000,
    published: Annotated[bool, typer.Option("--published", help="Compare with the published runs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Predicts the duration and cost of a run, names the bottleneck, and prints a payload.

    Example: cosmicai plan --data-gb 12.6 --target-seconds 60

    Example: cosmicai plan --data-gb 5000 --partition-mb 2000 --backend batch --vcpus 4,8
    """
    if published:
        _print_published(as_json)
        return
    if (data_gb is None) == (images is None):
        raise typer.BadParameter("give one of --data-gb and --images")
    count = images if images is not None else max(1, int((data_gb or 0) * 1e9 / IMAGE_BYTES))
    assumptions = Assumptions.of_summary(calibrate) if calibrate else Assumptions()
    assumptions = replace(assumptions, concurrency=concurrency, host=host, max_vcpus=max_vcpus)
    architectures = cast("list[Architecture]", arch)  # the option takes no other text
    if backend == "batch":
        sizes = _sizes(vcpus, memory_mb)
        plans = list(options_on_batch(count, partition_mb, sizes, architectures, assumptions))
    else:
        memories = _on_lambda(memory_mb or _MEMORIES_MB)
        plans = list(options(count, partition_mb, memories, architectures, assumptions, collectives))
    best = recommended(plans, target_seconds, budget)
    payload = {
        "data_prefix": f"{best.case.partition_mb:g}MB",
        "result_path": f"results/{best.case.partition_mb:g}MB/1",
        **({"backend": "batch"} if backend == "batch" else {"collectives": collectives}),
    }
    notes = [SPOT_NOTE] if backend == "batch" else []
    if as_json:
        listing = {"plans": [_content(one) for one in plans], "recommended": _content(best), "payload": payload}
        print_json({**listing, "notes": notes})
        return
    console.print_table(_table(plans, best, count))
    _print_best(best, count)
    for note in notes:
        console.print(f"{note[0].upper()}{note[1:]}.")
    console.print("Payload (memory and architecture are set in the team's tfvars):")
    console.print_json(json.dumps(payload))


def _on_lambda(memories_mb: Iterable[float]) -> list[int]:
    if max(memories_mb) > _MOST_LAMBDA_MB:
        reason = f"Lambda has {_MOST_LAMBDA_MB:,} MB at most; give less, or --backend batch"
        raise Refused(NumberList(memories_mb), reason, "--memory-mb")
    return list(map(int, memories_mb))


def _sizes(vcpus: Iterable[float], memories_mb: Iterable[float] | None) -> list[tuple[int, int]]:
    """vCPUs and MB of the ranks to compare: every combination, each of which Fargate must have."""
    requested = [(int(count), list(map(int, memories_mb or ()))) for count in vcpus]
    chosen = [
        (count, memory) for count, memories in requested for memory in memories or [fargate.smallest(count)]
    ]
    faults = [fault for size in chosen if (fault := fargate.size_fault(*size)) is not None]
    if faults:
        option = "--vcpus" if memories_mb is None else "--memory-mb"
        raise Refused(NumberList(memories_mb or vcpus), "; ".join(faults), option)
    return chosen


def _content(one: Plan) -> dict[str, object]:
    case = one.case
    known = not math.isinf(one.seconds)
    return {
        "partition_mb": case.partition_mb,
        "memory_mb": case.memory_mb,
        "vcpus": case.vcpus,
        "architecture": case.architecture,
        "ranks": case.ranks,
        "seconds": round(one.seconds, 2) if known else None,
        "usd": round(one.total_usd, 6) if known else None,
        "usd by part": {name: round(value, 6) for name, value in one.usd.items()},
        "seconds by part": {name: round(value, 3) for name, value in one.parts.items()},
        "bottleneck": one.bottleneck,
        "collectives": None if one.channel is None else one.channel.channel,
        "why these collectives": None if one.channel is None else one.channel.reason,
        "possible": one.possible,
        "obstacles": [obstacle.text for obstacle in one.obstacles],
    }


def _table(plans: list[Plan], best: Plan, images: int) -> Table:
    table = Table(title=f"{images:,} galaxies, {images * IMAGE_BYTES / 1e9:,.4g} GB")
    columns = (
        "", "partition\nMB", "memory\nMB", "arch", "ranks", "collectives", "seconds", "USD", "bottleneck"
    )  # fmt: skip
    for column in columns:
        text = column in ("", "arch", "collectives", "bottleneck")
        table.add_column(column, justify="left" if text else "right")
    for one in plans:
        case, known = one.case, not math.isinf(one.seconds)
        table.add_row(
            "best" if one is best else "" if one.possible else "no",
            f"{case.partition_mb:,g}",
            f"{case.memory_mb:,}" + ("" if case.vcpus is None else f", {case.vcpus} vCPUs"),
            case.architecture,
            f"{case.ranks:,}",
            "-" if one.channel is None else one.channel.channel,
            f"{one.seconds:,.0f}" if known else "-",
            usd_text(one.total_usd).removeprefix("$") if known else "-",
            one.bottleneck,
        )
    return table


def _print_best(best: Plan, images: int) -> None:
    parts = ", ".join(f"{name} {value:,.1f}" for name, value in best.parts.items() if value >= 0.05)
    console.print(f"Recommended: {best.seconds:,.0f} s ({parts})")
    costs = ", ".join(f"{name} {usd_text(value)}" for name, value in best.usd.items() if value >= 5e-5)
    console.print(
        f"{usd_text(best.total_usd)} ({costs}); storing the data costs {usd_text(_storage(images))} a month"
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


def _storage(images: int) -> float:
    return images * IMAGE_BYTES / 1e9 * S3_GB_MONTH


def _print_published(as_json: bool) -> None:
    rows = compare_published()
    if as_json:
        print_json(
            [
                {"published": vars(earlier), "planned": _content(theirs), "ours": _content(ours)}
                for earlier, theirs, ours in rows
            ]
        )
        return
    table = Table(title="12.6 GB: as published, planned from the published figures, and planned our way")
    for column in ("partition", "published, s", "planned, s", "error", "planned, USD", "ours, s", "ours, USD"):
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
    console.print_table(table)
    console.print(f"One run has {MOST_RANKS:,} ranks at most; prices: functions/contract/pricing.py.")
