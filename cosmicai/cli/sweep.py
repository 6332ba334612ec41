"""cosmicai sweep: an experiment over batch sizes, partition sizes and amounts of data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from cosmicai.cli.common import Local, Profile, Team, console, deployment, interruptible
from cosmicai.cli.paths import OutFolder
from cosmicai.cli.plan import PARTITION_MB
from cosmicai.cli.values import Number, NumberList, Numbers, Prefix, whole
from cosmicai.printable import printable

app = typer.Typer()


@app.command()
def sweep(
    batch_sizes: Annotated[
        NumberList,
        typer.Option(parser=Numbers(whole(1, 65_536)), metavar="N,…", help="Batch sizes to compare."),
    ] = NumberList((32, 64, 128, 256, 512)),  # noqa: B008
    partitions_mb: Annotated[
        NumberList,
        typer.Option(
            parser=Numbers(PARTITION_MB),
            metavar="MB,…",
            help="Partition sizes to compare; those of N MB have the prefix NMB.",
        ),
    ] = NumberList((25, 50, 75, 100)),  # noqa: B008
    data_gb: Annotated[
        NumberList | None,
        typer.Option(
            parser=Numbers(Number(0, 1e6, above=True)),
            metavar="GB,…",
            help="Amounts of data to compare; default: all there is. For more, partitions are computed "
            "several times.",
        ),
    ] = None,
    repeat: Annotated[int, typer.Option(parser=whole(1, 1000), help="Runs of each case.")] = 3,
    out: Annotated[Path, typer.Option(parser=OutFolder(), help="Folder for CSVs, plots and the page.")] = Path(
        "results/sweep"
    ),
    prefix: Annotated[
        str, typer.Option(parser=Prefix(), help="Folder in the bucket where the runs write.")
    ] = "results",
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
) -> None:
    """Runs an experiment, one run after the other, says which case won, and plots the results.

    If a sweep is interrupted, the same command continues it: a run that has succeeded is not repeated, and no
    two runs share a result path. If an amount is larger than the data, every partition is computed several
    times (repeat_data); the command says how often.

    Example: cosmicai sweep --batch-sizes 64,256 --partitions-mb 25,50 --repeat 3 --local
    """
    from cosmicai.experiments import sweep as experiment

    amounts: tuple[float | None, ...] = (None,) if data_gb is None else tuple(data_gb)
    grid = experiment.Grid(tuple(map(int, batch_sizes)), tuple(partitions_mb), amounts, repeat, prefix)
    target = deployment(team, local, profile).target
    columns = (
        SpinnerColumn("line"),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("runs", total=len(grid.cases()))

        def report(finished: int, total: int, what: str) -> None:
            progress.update(task, completed=finished, total=total, description=printable(what))

        def say(sentence: str) -> None:
            console.print(printable(sentence), style="yellow")

        with interruptible("the same command continues from here"):
            swept = experiment.sweep(target, grid, out, report, say)
    for sentence in swept.verdicts:
        console.print(sentence)
    console.print(f"open {swept.page}; CSVs and plots are in the same folder")
