"""cosmicai data: making and looking at partitions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import Progress
from rich.table import Table

from cosmicai.cli.common import console, interruptible, tell_error
from cosmicai.cli.data_copies import Overwrite, PartitionMb, dc2, tell_removed, upload
from cosmicai.cli.data_options import Source, reads
from cosmicai.cli.paths import Destination, OutFile, bucket_and_prefix
from cosmicai.cli.values import Refused
from cosmicai.printable import printable
from cosmicai.results.outputs import new_file

if TYPE_CHECKING:
    from cosmicai.data.reading import Reading
    from cosmicai.data.sets import Place
    from cosmicai.data.summary import Summary

app = typer.Typer(no_args_is_help=True, help="Making and looking at partitions.")


app.command("dc2")(dc2)


@app.command("prepare")
@reads
@interruptible("the same command continues from here")
def data_prepare(
    *,
    source: Source,
    out: Annotated[str, typer.Option(parser=Destination(), help="A folder or s3://bucket/prefix.")],
    partition_mb: PartitionMb = 25,
    model: Path | None,
    reading: Reading,
    bad_pixels: Annotated[
        Literal["keep", "zero"], typer.Option(help="NaN and masked pixels stay NaN, or become 0.")
    ] = "keep",
    drop_unusable: Annotated[
        bool,
        typer.Option("--drop-unusable", help="Leave out galaxies with bad pixels or without a magnitude."),
    ] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(parser=OutFile(".png"), help="Contact sheet to write; default: stamps.png in the folder."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Cuts a team's own data into partitions for a model; if interrupted, repeat the call to finish.

    It never guesses: if the source can be read in two ways, it stops and lists the options that choose between
    them. All partitions appear together at the end, followed by a summary and a contact sheet.

    Example: cosmicai data prepare galaxies.h5 --out s3://team3-cosmicai/25MB --magnitudes u,g,r,i,z
    """
    from cosmicai.data import layout, prepare
    from cosmicai.data.places import SHEET

    _check_apart(source, out)
    with Progress(console=console) as progress:
        task = progress.add_task("Galaxies", total=None)
        prepared = prepare.prepare(
            source,
            _place(out),
            partition_mb,
            replace(reading, bad_pixels=bad_pixels, drop_unusable=drop_unusable),
            model or layout.BUNDLED,
            lambda galaxies, total: progress.update(task, completed=galaxies, total=total),
            overwrite,
        )
    partitions = "1 partition" if prepared.partitions == 1 else f"{prepared.partitions:,} partitions"
    made = f"{partitions} of {prepared.galaxies:,} galaxies in {out}"
    same = prepared.partitions - prepared.written
    console.print(f"{made}, {same:,} of them already there" if same else made)
    tell_removed(prepared.removed)
    _show(prepared.summary)
    sheet = sheet or (None if out.startswith("s3://") else Path(out) / SHEET)
    if sheet is not None:
        with new_file(sheet) as scratch:
            prepared.summary.contact_sheet(scratch, source.name)
        console.print(f"stamps in {sheet}")


def _check_apart(source: Path, out: str) -> None:
    """Raises Refused if the partitions would be written over their source."""
    place = source if source.is_dir() else source.parent if source.suffix == ".pt" else None
    if place is not None and not out.startswith("s3://") and Path(out).resolve() == place.resolve():
        raise Refused(out, "the source is in it; give another folder", "--out")


def _show(summary: Summary) -> None:
    """The summary as tables and sentences."""
    facts = Table(title="What was read", show_header=False)
    for name, text in summary.facts:
        facts.add_row(name, printable(text))
    console.print_table(facts)
    ranges = Table(title="Magnitudes")
    for column in ("band", "0.1 %", "median", "99.9 %", "the model's training", "outside it"):
        ranges.add_column(column)
    for row in summary.ranges:
        ranges.add_row(*row.cells())
    console.print_table(ranges)
    if summary.missing:
        missing = Table(title="Missing values")
        for column in ("column", "marker", "read as", "count"):
            missing.add_column(column)
        for *texts, count in summary.missing:
            missing.add_row(*map(printable, texts), f"{count:,}")
        console.print_table(missing)
    for note in summary.notes:
        console.print(f"note: {note}")
    for warning in summary.warnings:
        console.print(f"warning: {warning}", style="yellow")


def _place(out: str) -> Place:
    from cosmicai.data.places import Bucket, Folder

    if not out.startswith("s3://"):
        return Folder(Path(out))
    import boto3

    return Bucket(boto3.client("s3"), *bucket_and_prefix(out))


app.command("upload")(upload)


@app.command("inspect")
@reads
def data_inspect(
    *,
    source: Source,
    model: Path | None,
    reading: Reading,
    sheet: Annotated[
        Path | None, typer.Option(parser=OutFile(".png"), help="PNG to write: stamps in colour.")
    ] = None,
) -> None:
    """Shows the columns of a source, what `data prepare` would read from it, and what looks wrong.

    Example: cosmicai data inspect partitions/1.pt --sheet stamps.png
    """
    from cosmicai.data import layout
    from cosmicai.data.inspect import describe, look
    from cosmicai.data.sources import SourceError

    folder = model or layout.BUNDLED
    table = Table(title=str(source))
    for column in ("array", "shape", "type", "least", "median", "greatest", "missing"):
        table.add_column(column)
    for row in describe(source, reading, folder):
        table.add_row(*map(printable, row))
    console.print_table(table)
    try:
        summary = look(source, reading, folder)
    except SourceError as error:
        tell_error(f"`data prepare` refuses it: {error}")
        raise typer.Exit(1) from error
    _show(summary)
    if sheet is not None:
        with new_file(sheet) as scratch:
            summary.contact_sheet(scratch, source.name)
        console.print(f"stamps in {sheet}")
