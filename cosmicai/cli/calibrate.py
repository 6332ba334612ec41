"""cosmicai model calibrate: probabilities for a network that predicts redshifts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cosmicai.cli.common import FROM_THE_START, console, interruptible
from cosmicai.cli.model import Seed, partition_files
from cosmicai.cli.paths import MODEL, PARTITIONS
from cosmicai.results.outputs import copy, merge, new_folder


@interruptible(FROM_THE_START)
def model_calibrate(
    folder: Annotated[Path, typer.Argument(parser=MODEL, help="A model folder.")],
    calibration: Annotated[
        list[Path],
        typer.Option(
            parser=PARTITIONS,
            help="Folder of partitions with redshifts, not trained on; repeatable.",
        ),
    ],
    seed: Seed = 0,
) -> None:
    """Writes calibration.json, with which ranks compute p(z), its mean, median, mode and quantiles.

    Any AstroMAE will do; it is not trained again. Half of the galaxies fit the densities and the other half
    calibrates them: each quantile then has its nominal coverage for galaxies drawn from the same population.
    It also writes novelty.json, with which ranks flag galaxies unlike these.

    Example: cosmicai model calibrate models/mine --calibration partitions
    """
    from cosmicai.model.calibrating import calibrate_folder

    command = shlex.join(["cosmicai", *sys.argv[1:]])
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with new_folder(folder) as scratch, Progress(*columns, console=console) as progress:
        copy(folder, scratch)
        task = progress.add_task("calibrating", total=None)

        def report(finished: int, total: int) -> None:
            progress.update(task, completed=finished, total=total)

        def tell(note: str) -> None:
            progress.console.print(f"note: {note}")

        made = calibrate_folder(scratch, partition_files(calibration, folder), command, seed, report, tell)
        merge(scratch, folder)
    console.print(
        f"{folder}: densities fitted to {made.fitted:,} galaxies, and calibrated on {made.calibrated:,} others"
    )
