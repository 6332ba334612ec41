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
            help="Folder of partitions, not trained on, to judge int8 and bfloat16 with; repeatable.",
        ),
    ] = None,
) -> None:
    """Writes the graphs that ranks run: float32 and, with calibration galaxies, int8 and bfloat16 with reports.

    Ranks use int8 or bfloat16 only if it is admitted: its report holds the differences and their limits.

    Example: cosmicai model optimise models/mine --calibration partitions
    """
    files = partition_files(calibration or [], folder)
    with new_folder(folder) as scratch:
        copy(folder, scratch)
        reports = list(_optimised(scratch, files).values())
        merge(scratch, folder)
    if not reports:
        console.print(f"{folder}: float32 graph written; give --calibration for int8 and bfloat16")
        return
    console.print_table(_table(reports))
    for report in reports:
        console.print(f"{report.precision} is {'' if report.admitted else 'not '}admitted")
    if not any(report.admitted for report in reports):
        console.print("ranks use float32")


def _table(reports: list[Report]) -> Table:
    """What the reduced precisions change, and may change. All have been judged with the same galaxies."""
    first = reports[0]
    limits = first.limits
    names = [report.precision for report in reports]
    table = Table(title=f"{' and '.join(names)} compared with float32, {first.galaxies:,} galaxies")
    for column in ("", "float32", *names, "limit"):
        table.add_column(column, justify="right" if column else "left")

    def add(title: str, values: list[float | None], limit: float) -> None:
        table.add_row(title, "", *("" if value is None else f"{value:.1e}" for value in values), f"{limit}")

    add("mean |Δz|/(1+z)", [one.mean_difference for one in reports], limits.mean)
    add("99.9th percentile", [one.percentile_999_difference for one in reports], limits.percentile)
    if first.accuracy_float32 is not None:
        allowed = {"NMAD": f"+{limits.nmad_growth:.0%}", "bias": "", "outliers": f"+{limits.outlier_growth}"}
        accuracies = [first.accuracy_float32, *(one.accuracy_reduced or {} for one in reports)]
        for name, limit in allowed.items():
            table.add_row(name, *(f"{one[name]:.5f}" for one in accuracies), limit)
    if first.density_mean_difference is not None:
        add("mean p(z) moves in ln(1+z)", [one.density_mean_difference for one in reports], limits.mean)
        percentiles = [one.density_percentile_999_difference for one in reports]
        add("99.9th percentile", percentiles, limits.percentile)
    return table


def _optimised(folder: Path, files: list[Path]) -> dict[str, Report]:
    """Writes the graphs of a model folder; reports of reduced precisions if galaxies can judge them."""
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
