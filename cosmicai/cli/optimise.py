"""cosmicai model optimise: the graphs that ranks run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cosmicai.cli.common import FROM_THE_START, console, interruptible
from cosmicai.cli.model import partition_files, tell_left_out
from cosmicai.cli.paths import MODEL, PARTITIONS
from cosmicai.results.outputs import copy, merge, new_folder

if TYPE_CHECKING:
    from cosmicai.model.optimise import Report


@interruptible(FROM_THE_START)
def model_optimise(
    folder: Annotated[
        Path, typer.Argument(parser=MODEL, help="A model folder (config.json, model.safetensors).")
    ],
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            parser=PARTITIONS,
            help="Folder of partitions, not trained on, to calibrate and judge int8 with; repeatable.",
        ),
    ] = None,
) -> None:
    """Writes the graphs that ranks run: float32 and, with calibration galaxies, int8 with its report.

    Ranks use int8 only if it is admitted: the report holds the differences and their limits.

    Example: cosmicai model optimise models/mine --calibration partitions
    """
    files = partition_files(calibration or [], folder)
    with new_folder(folder) as scratch:
        copy(folder, scratch)
        report = _optimised(scratch, files)
        merge(scratch, folder)
    if report is None:
        console.print(f"{folder}: float32 graph written; give --calibration for int8")
        return
    table = Table(title=f"int8 compared with float32, {report.galaxies:,} galaxies")
    for column in ("", "float32", "int8", "limit"):
        table.add_column(column, justify="right" if column else "left")
    limits = report.limits
    table.add_row("mean |Δz|/(1+z)", "", f"{report.mean_difference:.1e}", f"{limits.mean}")
    table.add_row("99.9th percentile", "", f"{report.percentile_999_difference:.1e}", f"{limits.percentile}")
    if report.accuracy_float32 is not None and report.accuracy_int8 is not None:
        allowed = {"NMAD": f"+{limits.nmad_growth:.0%}", "bias": "", "outliers": f"+{limits.outlier_growth}"}
        for name, limit in allowed.items():
            pair = (accuracy[name] for accuracy in (report.accuracy_float32, report.accuracy_int8))
            table.add_row(name, *(f"{value:.5f}" for value in pair), limit)
    if report.density_mean_difference is not None:
        table.add_row(
            "mean p(z) moves in ln(1+z)", "", f"{report.density_mean_difference:.1e}", f"{limits.mean}"
        )
        percentile = f"{report.density_percentile_999_difference:.1e}"
        table.add_row("99.9th percentile", "", percentile, f"{limits.percentile}")
    console.print_table(table)
    console.print("int8 is admitted" if report.admitted else "int8 is not admitted: ranks use float32")


def _optimised(folder: Path, files: list[Path]) -> Report | None:
    """Writes the graphs of a model folder; the report of int8 if there are galaxies to calibrate it with."""
    from cosmicai.model.optimise import optimise
    from cosmicai.model.usable import Needs, Tally, partitions, together, usable
    from inference.data.partition import PartitionError
    from inference.data.rules import Rules
    from inference.engine.choice import choose, read_graphs
    from inference.engine.loading import start

    galaxies = None
    if files:
        optimise(folder)
        layout = start(folder, choose(read_graphs(folder), "onnxruntime", "float32"), threads=1).layout
        tally = Tally()
        parts = usable(partitions(files, layout), Rules.of_folder(folder), tally, Needs(redshift=False))
        galaxies = together(list(parts))
        tell_left_out(tally)
        if not tally.used:
            raise PartitionError("calibration: no galaxy has an image and magnitudes that can be used")
    return optimise(folder, galaxies)
