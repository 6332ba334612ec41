"""Commands on the results of runs: download them, and write their report again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from cosmicai.cli.common import (
    FROM_THE_START,
    AsJson,
    Local,
    Profile,
    RunName,
    Team,
    console,
    deployment,
    interruptible,
    print_json,
    tell_error,
)
from cosmicai.cli.paths import InFolder, OutFolder
from cosmicai.cli.values import Choices, NameList
from cosmicai.printable import printable

if TYPE_CHECKING:
    from cosmicai.results.run_results import Results
    from summarize.contract.rank_info import RankInfo
    from summarize.contract.run_records import Grown, Summary

app = typer.Typer()

_SHOWN_RANKS = 10  # ranks whose wrong fields are named
_FORMATS = Choices(("csv", "parquet", "fits", "votable", "qp", "hats"))


@app.command()
@interruptible(FROM_THE_START)
def results(
    name: RunName = None,
    out: Annotated[
        Path | None, typer.Option(parser=OutFolder(), help="Folder to write to; default: results/NAME.")
    ] = None,
    format_: Annotated[
        NameList | None,
        typer.Option(
            "--format",
            parser=_FORMATS,
            metavar="NAME,…",
            help="Also write one catalogue: csv, parquet, fits, votable, qp, hats.",
        ),
    ] = None,
    copies: Annotated[
        bool,
        typer.Option("--copies", help="Also download the results of copies (repeat_data), to copies/."),
    ] = False,
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
    as_json: AsJson = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results of another run.")] = False,
) -> None:
    """Downloads the results of one run, and adds the historic Results.json and inference.png.

    Results of other runs at the same path are left out.

    Example: cosmicai results demo-20261122-101500 --out results/demo --format parquet,fits
    """
    run = deployment(team, local, profile).find(name)
    with Progress(console=console, disable=as_json) as progress:
        task = progress.add_task("downloading", total=None)

        def report(finished: int, total: int) -> None:
            progress.update(task, completed=finished, total=total)

        downloaded = run.results(out, overwrite, report, copies)
    _tell_not_downloaded(downloaded)
    catalogues = downloaded.write(*format_) if format_ else []
    _tell_downloaded(downloaded, as_json)
    if not as_json:
        _tell_catalogues(catalogues)


def _tell_catalogues(paths: list[Path]) -> None:
    for path in paths:
        console.print(f"{path}")


@app.command()
def catalogue(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=InFolder(what="a folder of results"),
            help="Results that were downloaded, or that `cosmicai infer` wrote.",
        ),
    ],
    format_: Annotated[
        NameList,
        typer.Option(
            "--format",
            parser=_FORMATS,
            metavar="NAME,…",
            help="csv, parquet, fits, votable, qp, hats, or several.",
        ),
    ],
) -> None:
    """Writes the predictions of all ranks as one catalogue, a row per galaxy.

    Example: cosmicai catalogue results/demo --format parquet,fits,qp
    """
    from cosmicai.runs.loading import load_results

    _tell_catalogues(load_results(folder).write(*format_))


def _tell_not_downloaded(downloaded: Results) -> None:
    from cosmicai.runs.download import OF_ANOTHER_RUN

    others = [address for address, reason in downloaded.left_out.items() if reason == OF_ANOTHER_RUN]
    if others:
        shown = ", ".join(others[:_SHOWN_RANKS]) + (", …" if len(others) > _SHOWN_RANKS else "")
        tell_error(f"left out {len(others)} objects of another run: {shown}", lines=False)
    for address, reason in downloaded.left_out.items():
        if reason != OF_ANOTHER_RUN:
            tell_error(f"left out: {address}: {reason}")


def _tell_downloaded(downloaded: Results, as_json: bool) -> None:
    from summarize.contract.images import counted, images_text

    files = len(downloaded.files)
    images, sources = counted(downloaded.ranks if downloaded.is_finished else [])
    if as_json:
        known = {"images": images, "images_from": sources} if downloaded.is_finished else {}
        print_json({"folder": str(downloaded.folder), "files": files, "left_out": downloaded.left_out, **known})
    elif not downloaded.is_finished:
        console.print(f"{files} files in {downloaded.folder}; the run has no summary.json: it did not finish")
    else:
        console.print(f"{files} files in {downloaded.folder}; open {downloaded.report}")
        shown = filter(None, (images_text(images, sources), downloaded.summary.times_text))
        console.print(f"images: {', '.join(shown)}")
        _tell_missing(downloaded.summary)
        _tell_catalogue(downloaded.summary.catalogue)
        _tell_left_out(downloaded.ranks)


def _tell_missing(summary: Summary) -> None:
    lacking = summary.world_size - summary.finished_ranks
    if lacking:
        console.print(
            f"{lacking:,} of {summary.world_size:,} ranks left no result: the report says why", style="red"
        )


def _tell_catalogue(grown: Grown | None) -> None:
    if grown is not None and grown.fault is not None:
        tell_error(f"the catalogue {grown.place} stays as it was: {grown.fault}", lines=False)
    elif grown is not None:
        text = f"version {grown.version} of {grown.place} holds its {grown.galaxies or 0:,} galaxies"
        console.print(printable(f"catalogue: {text}"))


def _tell_left_out(infos: list[RankInfo]) -> None:
    """Names the wrong fields of rank infos, for the first ranks that have any."""
    wrong = [(info.rank, info.left_out) for info in infos if info.left_out]
    for rank, faults in wrong[:_SHOWN_RANKS]:
        tell_error(f"left out of the info of rank {rank}: {'; '.join(faults)}", lines=False)
    if len(wrong) > _SHOWN_RANKS:
        tell_error(f"… and of {len(wrong) - _SHOWN_RANKS} more ranks: see combined_data.json")


@app.command()
@interruptible(FROM_THE_START)
def report(
    folder: Annotated[
        Path, typer.Argument(parser=InFolder(what="a folder of downloaded results"), help="Downloaded results.")
    ],
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Writes report.html, inference.png and Results.json from downloaded results.

    Example: cosmicai report results/demo --open
    """
    import webbrowser

    from cosmicai.results.report import write

    page = write(folder)
    console.print(f"{page}")
    if open_:
        webbrowser.open(page.resolve().as_uri())
