"""cosmicai sweep: an experiment over batch sizes, partition sizes and amounts of data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cosmicai.cli.common import Local, Profile, Team, console
from cosmicai.printable import printable

app = typer.Typer()


@app.command()
def sweep(
    batch_sizes: Annotated[str, typer.Option(help="With commas.")] = "32,64,128,256,512",
    partitions_mb: Annotated[
        str, typer.Option(help="With commas; partitions of N MB lie under the prefix NMB.")
    ] = "25,50,75,100",
    data_gb: Annotated[str | None, typer.Option(help="With commas; default: all that is there.")] = None,
    repeat: Annotated[int, typer.Option(help="Runs of each case.", min=1)] = 3,
    out: Annotated[Path, typer.Option(help="Folder for CSVs, plots and the page.")] = Path("results/sweep"),
    prefix: Annotated[str, typer.Option(help="Where in the bucket the runs write.")] = "results",
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
) -> None:
    """Runs what is missing of an experiment, one run after the other, and draws it.

    A sweep that was cut off goes on where it was when the same command is given again: a run that has succeeded
    is never made twice, and no two share a result path.

    Example: cosmicai sweep --batch-sizes 64,256 --partitions-mb 25,50 --repeat 3 --local
    """
    from cosmicai import sweep as experiment
    from cosmicai.target import find

    grid = experiment.Grid.parse(batch_sizes, partitions_mb, data_gb, repeat, prefix)
    target = find(team, local, profile)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("runs", total=len(grid.cases()))

        def report(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, description=printable(what))

        try:
            page = experiment.sweep(target, grid, out, report)
        except KeyboardInterrupt:
            print("interrupted: the same command goes on from here", file=sys.stderr)
            raise typer.Exit(130) from None
    console.print(f"{page}, with CSVs and plots beside it")
