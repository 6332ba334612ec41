"""cosmicai plan: duration and cost before a run is started."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from cosmicai.cli.common import AsJson, Local, console, print_json
from cosmicai.cli.paths import JsonFile
from cosmicai.cli.values import Choices, NameList, Number, NumberList, Numbers, Refused, whole
from cosmicai.experiments import fargate
from summarize.contract.batch_prices import SPOT_NOTE
from summarize.contract.channels import HostState
from summarize.contract.estimate import IMAGE_BYTES, Architecture
from summarize.contract.limits import MOST_RANKS

if TYPE_CHECKING:
    from cosmicai.experiments.cases import Assumptions

app = typer.Typer()

_ARCHITECTURES: tuple[Architecture, ...] = ("arm64", "x86_64")
_MEMORIES_MB = (1769, 3538, 5307)
_MOST_LAMBDA_MB = 10_240
PARTITION_MB = Number(0.02, 10_240)  # one galaxy, and a Lambda's largest memory


@app.command()
def plan(
    ctx: typer.Context,
    data_gb: Annotated[
        float | None, typer.Option(parser=Number(0, 1e6, above=True), help="Size of the data in GB.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(parser=whole(1, 10**11), help="Number of galaxies; instead of --data-gb.")
    ] = None,
    repeat_data: Annotated[
        int, typer.Option(parser=whole(1, MOST_RANKS), help="How many times every partition is computed.")
    ] = 1,
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
        typer.Option(
            parser=Number(0, above=True),
            help="Recommend the cheapest that ends within this time in nine of ten runs.",
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            parser=Number(0, above=True),
            help="Recommend the fastest that costs at most this many USD in nine of ten runs.",
        ),
    ] = None,
    collectives: Annotated[
        Literal["auto", "direct", "s3", "none"],
        typer.Option(help="How ranks reduce their metrics; auto: chosen by the time and cost of each."),
    ] = "auto",
    host: Annotated[HostState, typer.Option(help="State of the rendezvous host at the start.")] = "stopped",
    calibrate: Annotated[
        Path | None,
        typer.Option(parser=JsonFile(), help="summary.json of a run: use its speed and cold starts."),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(parser=whole(1, 10**6), help="The account's quota of concurrent executions.")
    ] = 1000,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="With --local: run two ranks several times, and plan from what they take."
        ),
    ] = False,
    local: Local = False,
    published: Annotated[bool, typer.Option("--published", help="Compare with the published runs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Predicts the duration and cost of a run, names the bottleneck, and prints a payload.

    Example: cosmicai plan --data-gb 12.6 --target-seconds 60

    Example: cosmicai plan --data-gb 5000 --partition-mb 2000 --backend batch --vcpus 4,8

    Example: cosmicai plan --images 10224 --partition-mb 25 --probe --local
    """
    # What imports numpy is imported here, since every command imports this module.
    from cosmicai.cli import plan_text
    from cosmicai.experiments.cases import Assumptions
    from cosmicai.experiments.comparing import options, options_on_batch, recommended

    if published:
        plan_text.print_published(as_json)
        return
    if (data_gb is None) == (images is None):
        raise typer.BadParameter("give one of --data-gb and --images")
    count = images if images is not None else max(1, int((data_gb or 0) * 1e9 / IMAGE_BYTES))
    if probe or local:
        _refuse_what_is_probed(ctx, probe and local)
        memories, architectures, assumptions = _probed(count, partition_mb, collectives)
    else:
        assumptions = Assumptions.of_summary(calibrate) if calibrate else Assumptions()
        assumptions = replace(assumptions, concurrency=concurrency, host=host, max_vcpus=max_vcpus)
        architectures = cast("list[Architecture]", arch)  # the option takes no other text
        memories = _on_lambda(memory_mb or _MEMORIES_MB) if backend == "lambda" else []
    if backend == "batch":
        sizes = _sizes(vcpus, memory_mb)
        plans = list(options_on_batch(count, partition_mb, sizes, architectures, assumptions, repeat_data))
    else:
        plans = list(
            options(count, partition_mb, memories, architectures, assumptions, collectives, repeat_data)
        )
    best = recommended(plans, target_seconds, budget)
    payload = {
        "data_prefix": f"{best.case.partition_mb:g}MB",
        "result_path": f"results/{best.case.partition_mb:g}MB/1",
        **({} if repeat_data == 1 else {"repeat_data": repeat_data}),
        **({"backend": "batch"} if backend == "batch" else {"collectives": collectives}),
    }
    notes = [SPOT_NOTE] if backend == "batch" else [_AS_LAMBDA] if probe else []
    if as_json:
        listing = {"plans": [plan_text.content(one) for one in plans], "recommended": plan_text.content(best)}
        print_json({**listing, "payload": payload, "basis": plan_text.basis(assumptions), "notes": notes})
        return
    console.print_table(plan_text.table(plans, best, count))
    plan_text.print_best(best, count)
    plan_text.print_basis(assumptions)
    for note in notes:
        console.print(f"{note[0].upper()}{note[1:]}.")
    set_elsewhere = "" if probe else " (memory and architecture are set in the team's tfvars)"
    console.print(f"Payload{set_elsewhere}:")
    console.print_json(json.dumps(payload))


_AS_LAMBDA = "USD are what AWS Lambda would bill for these seconds"
_PROBED = ("backend", "memory_mb", "vcpus", "max_vcpus", "arch", "host", "calibrate", "concurrency")
"""Options of what the probe measures or the embedded AWS has."""


def _refuse_what_is_probed(ctx: typer.Context, both: bool) -> None:
    """Refuses --probe without --local, and options that contradict them. both: whether both are given."""
    if not both:
        raise typer.BadParameter(
            "--probe and --local belong together: they plan for this machine's embedded AWS; to plan for AWS "
            "by a run there, give --calibrate"
        )
    sources = {name: ctx.get_parameter_source(name) for name in _PROBED}
    for name, source in sources.items():
        if source is not None and source.name == "COMMANDLINE":
            option = "--" + name.replace("_", "-")
            raise typer.BadParameter(f"{option} is not for --probe, which takes it from the embedded AWS")


def _probed(
    images: int, partitions_mb: Iterable[float], collectives: str
) -> tuple[list[int], list[Architecture], Assumptions]:
    """Memory sizes, architectures and figures of the embedded AWS that runs. Raises ProbeError, TargetError."""
    from cosmicai.deploy import local
    from cosmicai.deploy.target import TargetError, local_folder, local_target
    from cosmicai.experiments.cases import Case
    from cosmicai.experiments.probing import probe

    state = local.status(local_folder(os.environ))
    if state is None:
        raise TargetError("the embedded AWS is not running: start it with `cosmicai local up`")
    smallest = min(Case(images, size, 1769, "arm64").images_per_partition for size in partitions_mb)
    with console.status("") as status:
        measured = probe(
            local_target(state),
            min(images, smallest),
            collectives,
            lambda ran, of: status.update(f"run {ran + 1} of {of} of the probe…"),
        )
    figures = measured.assumptions(state["concurrency"], "up" if state.get("rendezvous") else "absent")
    return [measured.memory_mb], [measured.architecture], figures


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
