"""Commands on the results of runs: download them, and write their report again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from cosmicai.cli.common import (
    AsCsv,
    AsJson,
    Local,
    Profile,
    RunName,
    Team,
    console,
    deployment,
    print_json,
    tell_error,
)
from cosmicai.cli.paths import InFolder, OutFolder

if TYPE_CHECKING:
    from cosmicai.runs.client import Downloaded
    from summarize.contract.rank_info import RankInfo

app = typer.Typer()

Json = dict[str, Any]
_TOLD_RANKS = 10  # whose wrong fields are named


@app.command()
def results(
    name: RunName = None,
    out: Annotated[
        Path | None, typer.Option(parser=OutFolder(), help="Folder to write to; default: results/NAME.")
    ] = None,
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Downloads the results of a run, and adds the historic Results.json and inference.png.

    Example: cosmicai results demo-20261122-101500 --out results/demo
    """
    from cosmicai.results import table
    from cosmicai.results.report import historic_of
    from cosmicai.runs import client as runs
    from inference.contract.paths import below

    target = deployment(team, local, profile)
    execution = target.client("stepfunctions").describe_execution(executionArn=runs.execution_arn(target, name))
    payload = json.loads(execution["input"])
    folder = out or below(Path("results"), execution["name"])
    infos: list[RankInfo] | None = None

    def add_historic(scratch: Path) -> None:
        nonlocal infos
        infos = historic_of(scratch)
        if as_csv and infos is not None:
            table.write(scratch, [info.rank for info in infos])

    with Progress(console=console, disable=as_json) as progress:
        task = progress.add_task("downloading", total=None)

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        prefix = str(payload["result_path"]).rstrip("/")
        s3 = target.client("s3")
        downloaded = runs.download(s3, payload["bucket"], prefix, folder, report, add_historic)
    for key, reason in downloaded.left_out.items():
        tell_error(f"left out: s3://{payload['bucket']}/{key}: {reason}")
    if not downloaded.files:
        raise runs.RunError(f"s3://{payload['bucket']}/{prefix}/ is empty: the run has left nothing")
    _tell_downloaded(folder, downloaded, infos, as_json)


def _tell_downloaded(folder: Path, downloaded: Downloaded, infos: list[RankInfo] | None, as_json: bool) -> None:
    from summarize.contract.images import counted, images_text

    images, sources = counted(infos or [])
    files = len(downloaded.files)
    if as_json:
        known = {"images": images, "images_from": sources} if infos is not None else {}
        print_json({"folder": str(folder), "files": files, "left_out": downloaded.left_out, **known})
    elif infos is None:
        console.print(f"{files} files in {folder}; the run has no summary.json: it did not finish")
    else:
        console.print(f"{files} files in {folder}; open {folder / 'report.html'}")
        console.print(f"images: {images_text(images, sources)}")
        _tell_left_out(infos)


def _tell_left_out(infos: list[RankInfo]) -> None:
    """Names the wrong fields of rank infos, for the first ranks that have any."""
    wrong = [(info.rank, info.left_out) for info in infos if info.left_out]
    for rank, faults in wrong[:_TOLD_RANKS]:
        tell_error(f"left out of the info of rank {rank}: {'; '.join(faults)}", lines=False)
    if len(wrong) > _TOLD_RANKS:
        tell_error(f"… and of {len(wrong) - _TOLD_RANKS} more ranks: see combined_data.json")


@app.command()
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
