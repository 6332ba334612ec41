"""cosmicai data dc2 and upload: sets of partitions that are copied to a folder or bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import Progress

from cosmicai.cli.common import CACHE, Cache, Local, Profile, Team, console, deployment
from cosmicai.cli.paths import PARTITIONS, OutFolder
from cosmicai.cli.values import Number, Prefix, Refused, whole
from cosmicai.results.outputs import writing

PartitionMb = Annotated[
    float,
    typer.Option(parser=Number(0.02, 10_240), help="Size of a partition in MB; 25 MB hold 1,278 galaxies."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace another set of partitions that is there.")
]
_GALAXIES = {"training": 10_225, "validation": 20_449}


def dc2(
    out: Annotated[Path, typer.Argument(parser=OutFolder(), help="Folder to write 1.pt, 2.pt, … to.")],
    split: Annotated[
        Literal["training", "validation"],
        typer.Option(help="Which of the two catalogues: 10,225 or 20,449 galaxies."),
    ] = "validation",
    galaxies: Annotated[int, typer.Option(parser=whole(1, 20_449), help="Number of galaxies.")] = 5112,
    partition_mb: PartitionMb = 25,
    seed: Annotated[int, typer.Option(parser=whole(0, 2**32 - 1), help="Seed of shapes and noise.")] = 0,
    cache: Cache = CACHE,
    overwrite: Overwrite = False,
) -> None:
    """Renders galaxies of the DC2 catalogue as partitions, with true redshifts.

    Example: cosmicai data dc2 partitions --split training --galaxies 10225
    """
    from cosmicai.data import copying
    from cosmicai.data.dc2 import partitions
    from cosmicai.data.places import Folder

    if galaxies > _GALAXIES[split]:
        raise Refused(galaxies, f"the {split} catalogue has {_GALAXIES[split]:,}", "--galaxies")
    with Progress(console=console) as progress:
        task = progress.add_task("Rendering", total=galaxies)

        def report(finished: int, total: int) -> None:
            progress.update(task, completed=finished, total=total)

        with writing(cache):
            folder = partitions(split, galaxies, partition_mb, cache, seed, report)
    copied = copying.copy(folder, Folder(out), overwrite)
    console.print(f"{copied.partitions} partitions in {out}")
    tell_removed(copied.removed)


def tell_removed(names: list[str]) -> None:
    if names:
        console.print(f"{len(names):,} partitions of the earlier set were removed, the first {names[0]}")


def upload(
    folder: Annotated[Path, typer.Argument(parser=PARTITIONS, help="Folder with partitions 1.pt, 2.pt, …")],
    prefix: Annotated[
        str,
        typer.Argument(parser=Prefix(), help="Folder in the deployment's bucket: the payload's data_prefix."),
    ],
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
    overwrite: Overwrite = False,
) -> None:
    """Uploads the partitions of a folder and its subfolders to a deployment's bucket.

    Example: cosmicai data upload partitions 25MB --local
    """
    from cosmicai.data import copying
    from cosmicai.data.places import Bucket

    target = deployment(team, local, profile).target
    place = Bucket(target.client("s3"), target.bucket, prefix)
    with Progress(console=console) as progress:
        task = progress.add_task("uploading", total=None)

        def report(finished: int, total: int) -> None:
            progress.update(task, completed=finished, total=total)

        copied = copying.copy(folder, place, overwrite, report)
    console.print(f"{copied.bytes / 1e6:,.1f} MB in {copied.partitions:,} partitions in {place}")
    tell_removed(copied.removed)
    if copied.note:
        console.print(f"note: {copied.note}")
