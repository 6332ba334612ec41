"""cosmicai data: making and looking at partitions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from cosmicai.cli.common import CACHE, Cache, Local, Profile, Team, console

if TYPE_CHECKING:
    from cosmicai.data.prepare import Target

app = typer.Typer(no_args_is_help=True, help="Making and looking at partitions.")


@app.command("dc2")
def data_dc2(
    out: Annotated[Path, typer.Argument(help="Folder to write 1.pt, 2.pt, … to.")],
    split: Annotated[
        Literal["training", "validation"], typer.Option(help="10,225 or 20,449 galaxies.")
    ] = "validation",
    galaxies: Annotated[int, typer.Option(help="How many of them.")] = 5112,
    partition_mb: Annotated[float, typer.Option(help="Size of a partition; 25 MB hold 1,278 galaxies.")] = 25,
    seed: Annotated[int, typer.Option(help="Of shapes and noise.")] = 0,
    cache: Cache = CACHE,
) -> None:
    """Renders galaxies of the DC2 catalogue as partitions, with true redshifts.

    Example: cosmicai data dc2 partitions --split training --galaxies 10225
    """
    from cosmicai.data import dc2

    with Progress(console=console) as progress:
        task = progress.add_task("Rendering", total=galaxies)
        folder = dc2.partitions(
            split,
            galaxies,
            partition_mb,
            cache,
            seed,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    shutil.copytree(folder, out, dirs_exist_ok=True)
    console.print(f"{len(list(out.glob('*.pt')))} partitions in {out}")


@app.command("prepare")
def data_prepare(
    source: Annotated[Path, typer.Argument(help="One .pt (TensorDataset), .npz, .h5 or .fits file.")],
    out: Annotated[str, typer.Option(help="A folder or s3://bucket/prefix.")],
    partition_mb: Annotated[float, typer.Option(help="Size of a partition.")] = 25,
    fit: Annotated[
        Literal["crop", "resize"], typer.Option(help="What is done to stamps larger than 32×32.")
    ] = "crop",
    images: Annotated[
        str | None, typer.Option(help="Name of the images, where it is none of the usual.")
    ] = None,
    magnitudes: Annotated[
        str | None, typer.Option(help="One name, or one per band with commas: u,g,r,i,z.")
    ] = None,
    redshift: Annotated[str | None, typer.Option(help="Name of the redshifts.")] = None,
) -> None:
    """Cuts a team's own file into partitions; a call that was cut off is finished by the same call again.

    Example: cosmicai data prepare galaxies.h5 --out s3://team3-cosmicai/25MB --magnitudes u,g,r,i,z
    """
    from cosmicai.data import prepare
    from cosmicai.data.sources import Columns

    columns = Columns(images, tuple(magnitudes.split(",")) if magnitudes else None, redshift)
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("Galaxies", total=None)
        done = prepare.prepare(
            source,
            _target(out),
            partition_mb,
            columns,
            fit,
            lambda galaxies, total: progress.update(task, completed=galaxies, total=total),
        )
    same = done.partitions - done.written
    console.print(
        f"{done.partitions} partitions of {done.galaxies:,} galaxies in {out}; {same} were there already"
    )


def _target(out: str) -> Target:
    from cosmicai.data.prepare import Bucket, Folder

    if not out.startswith("s3://"):
        return Folder(Path(out))
    import boto3

    bucket, _, prefix = out.removeprefix("s3://").partition("/")
    if not prefix.strip("/"):
        raise typer.BadParameter("needs a prefix: s3://bucket/prefix", param_hint="--out")
    return Bucket(boto3.client("s3"), bucket, prefix.strip("/"))


@app.command("upload")
def data_upload(
    folder: Annotated[Path, typer.Argument(help="Folder with partitions 1.pt, 2.pt, …")],
    prefix: Annotated[str, typer.Argument(help="Where in the deployment's bucket: the payload's data_prefix.")],
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
) -> None:
    """Uploads partitions into a deployment's bucket.

    Example: cosmicai data upload partitions 25MB --local
    """
    from cosmicai.runs import upload_partitions
    from cosmicai.target import find
    from inference.partition import PartitionError

    if not list(folder.glob("*.pt")):
        raise PartitionError(f"{folder} holds no .pt file")
    target = find(team, local, profile)
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("uploading", total=None)

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        sent = upload_partitions(target.client("s3"), folder, target.bucket, prefix.strip("/"), report)
    console.print(f"{sent / 1e6:,.1f} MB in s3://{target.bucket}/{prefix.strip('/')}/")


@app.command("inspect")
def data_inspect(
    source: Annotated[Path, typer.Argument(help="A partition or any source of `data prepare`.")],
    sheet: Annotated[Path | None, typer.Option(help="PNG to write: stamps in colour.")] = None,
) -> None:
    """Shows shapes, ranges and NaNs of a file, and a contact sheet of its stamps.

    Example: cosmicai data inspect partitions/1.pt --sheet stamps.png
    """
    from cosmicai.data.inspect import contact_sheet, describe

    table = Table(title=str(source))
    for column in ("array", "shape", "type", "least", "median", "greatest", "not finite"):
        table.add_column(column)
    for row in describe(source):
        table.add_row(*row)
    console.print(table)
    if sheet is not None:
        contact_sheet(source, sheet)
        console.print(f"stamps in {sheet}")
