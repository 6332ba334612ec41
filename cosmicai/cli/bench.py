"""cosmicai bench: which precision is faster on this kind of CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosmicai.cli.common import console, tell
from cosmicai.cli.paths import MODEL, OutFile
from cosmicai.packaging.places import BUNDLED_MODEL


def bench(
    model: Annotated[
        Path, typer.Option(parser=MODEL, help="A model folder with graphs in int8 or bfloat16.")
    ] = BUNDLED_MODEL,
    share: Annotated[
        Path | None,
        typer.Option(
            parser=OutFile(".json"),
            help="File for the table of measured CPUs with this one, to send to the project.",
        ),
    ] = None,
) -> None:
    """Measures float32, int8 and bfloat16 on one thread of this machine, if the model admits them.

    With `precision: auto`, a rank takes the precision that was measured to be fastest on its kind of CPU. The
    table of measured CPUs is functions/inference/engine/speeds.json. Run this on a processor that the table
    lacks, with nothing else running, and send the file that --share writes as a pull request.

    Example: cosmicai bench --share speeds.json
    """
    from cosmicai.model.bench import bench as measure
    from cosmicai.model.bench import share as write

    with console.status("measuring, about half a minute…"):
        measured = measure(model)
    record, rates = measured.record, measured.rates
    tell(f"{record['cpu']}, {record['instructions']}: {', '.join(record['features'])}")
    for name, rate in rates.items():
        tell(f"{name:>8}: {rate:,.0f} images/s per thread, {rate / rates['float32']:.2f} of float32")
    if share is not None:
        write(record, share)
        tell(f"{share}: the table of measured CPUs with this one")
