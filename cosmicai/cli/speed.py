"""cosmicai model speed: how fast a network is, for the plan of its first run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from cosmicai.cli.common import FROM_THE_START, console, interruptible
from cosmicai.cli.model import partition_files
from cosmicai.cli.paths import MODEL, PARTITIONS
from cosmicai.results.outputs import copy, merge, new_folder


@interruptible(FROM_THE_START)
def model_speed(
    folder: Annotated[Path, typer.Argument(parser=MODEL, help="A model folder.")],
    partitions: Annotated[list[Path], typer.Argument(parser=PARTITIONS, help="Folders of partitions.")],
) -> None:
    """Measures images/s of one thread of this machine, and writes them to the model's card.

    Before the model's first run, Initialize uses them as the speed of a vCPU when it chooses the collectives.
    Run this on a processor like Lambda's, with nothing else running.

    Example: cosmicai model speed models/mine partitions
    """
    from cosmicai.model.speed import measure, write

    measured = measure(folder, partition_files(partitions, folder))
    with new_folder(folder) as scratch:
        copy(folder, scratch)
        write(scratch, measured, shlex.join(["cosmicai", *sys.argv[1:]]))
        merge(scratch, folder)
    console.print(
        f"{folder}: {measured.rate:,.0f} images/s per thread, {measured.precision}, on {measured.machine}"
    )
