"""cosmicai infer: the code of a rank on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import Progress

from cosmicai.cli.common import FROM_THE_START, RUN_FAILED, console, interruptible, tell_error
from cosmicai.cli.paths import USABLE_MODEL, InFolder, OutFolder, Source
from cosmicai.cli.values import Choices, NameList, Number, ShareOf, whole
from cosmicai.commands import command
from summarize.contract import classification, regression
from summarize.contract.event import DEFAULT_OUTPUTS, OUTPUTS
from summarize.contract.flags import BAD, FLAGS, name
from summarize.contract.mapping import CLASSIFICATION, REDSHIFT, REGRESSION
from summarize.contract.metrics import kind_of

if TYPE_CHECKING:
    from cosmicai.results.run_results import Results
    from summarize.contract.run_records import Summary

app = typer.Typer()

Json = dict[str, Any]
_SHOWN_FAILURES = 5  # failed partitions whose errors are shown
_MEASURES = {
    REDSHIFT: {
        "NMAD": "precision (NMAD)",
        "bias": "bias",
        "outlier fraction": "outlier fraction",
        "R2": "R2",
    },
    CLASSIFICATION: {name: name for name in classification.NAMES},
    REGRESSION: {name: name for name in regression.NAMES},
}
"""The measures that are printed, and their names in summary.json."""


@app.command()
@interruptible(FROM_THE_START)
def infer(
    sources: Annotated[
        list[str],
        typer.Argument(parser=Source(), help="Partition files, folders of them, or s3://bucket/prefix."),
    ],
    out: Annotated[
        Path, typer.Option(parser=OutFolder(), help="Folder to write to, laid out like a run.")
    ] = Path("results/local"),
    batch_size: Annotated[int, typer.Option(parser=whole(1, 65_536), help="Galaxies per batch.")] = 256,
    processes: Annotated[
        int, typer.Option(parser=whole(1, 1024), help="Partitions to process at once; they share the cores.")
    ] = 1,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Device that computes.")] = "cpu",
    engine: Annotated[
        Literal["auto", "onnxruntime", "torch"], typer.Option(help="Library that runs the network.")
    ] = "auto",
    precision: Annotated[
        Literal["auto", "float32", "int8", "bfloat16"],
        typer.Option(help="auto: of those that are admitted for the model, the fastest on this CPU."),
    ] = "auto",
    max_bad_fraction: Annotated[
        float,
        typer.Option(parser=Number(0, 1), help="Fraction of a partition's galaxies that may lack something."),
    ] = 0.05,
    model_folder: Annotated[
        Path | None,
        typer.Option("--model", parser=USABLE_MODEL, help="Model folder; default: the bundled model."),
    ] = None,
    outputs: Annotated[
        NameList,
        typer.Option(
            parser=Choices(OUTPUTS), metavar="NAME,…", help="What to write for each galaxy: pdf, embedding."
        ),
    ] = NameList(DEFAULT_OUTPUTS),  # noqa: B008
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the results of an earlier call.")
    ] = False,
    share: Annotated[
        Any,
        typer.Option(
            parser=ShareOf(), metavar="I/N", help="Compute share I of N, counted from 0; then `cosmicai merge`."
        ),
    ] = None,
) -> None:
    """Predicts redshifts on this machine with the code of a rank.

    Writes the files of a run, report.html among them, and the historic Results.json and inference.png.
    Partitions that fail are named in the report; the exit status is then 3. Other results in the folder are
    refused unless --overwrite replaces them; a user's own files stay. With --share, several calls on a cluster
    share the partitions, and each writes below OUT/shares.

    Example: cosmicai infer partitions --out results/mine
    """
    from cosmicai.runs import infer as local
    from cosmicai.runs.shares import EmptyShareError

    with Progress(console=console) as progress:
        task = progress.add_task("Partitions", total=None)

        def report(finished: int, total: int) -> None:
            progress.update(task, completed=finished, total=total)

        try:
            results = local.infer(
                sources,
                out,
                batch_size,
                processes,
                model_folder,
                device,
                engine,
                precision,
                report,
                max_bad_fraction,
                overwrite,
                lambda text: console.print(f"note: {text}"),
                outputs,
                share,
            )
        except EmptyShareError as error:
            console.print(f"nothing to do: {error}")
            return
    if share is None:
        _tell(results)
    else:
        console.print(
            f"share {share}: {results.summary.num_samples or 0:,} galaxies in {results.folder}; "
            f"{command('merge', out)} puts all shares together"
        )
    _fail_with_ranks(results.summary)


@app.command()
@interruptible(FROM_THE_START)
def merge(
    out: Annotated[
        Path, typer.Argument(parser=InFolder(), help="The folder that all shares were computed into.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results of another run.")] = False,
) -> None:
    """Puts the shares of `infer --share` together, as if one call had computed all partitions.

    The shares stay below OUT/shares; delete them when you no longer need them.

    Example: cosmicai merge results/mine
    """
    from cosmicai.runs.merging import merge as merge_shares

    results = merge_shares(out, overwrite)
    _tell(results)
    _fail_with_ranks(results.summary)


def _fail_with_ranks(summary: Summary) -> None:
    """Exits with RUN_FAILED where partitions failed."""
    failed = summary.failed_ranks
    if failed:
        for rank, record in list(failed.items())[:_SHOWN_FAILURES]:
            tell_error(f"rank {rank}: {record['error']}: {record['cause']}", lines=False)
        tell_error(f"{len(failed)} of {summary.world_size} partitions failed; the report has all errors")
        raise typer.Exit(RUN_FAILED)


def _tell(results: Results) -> None:
    summary = results.summary
    if not summary.finished_ranks:
        return  # a merge in which every partition failed
    rate = summary.spread["sample_persec"]["p50"]
    objects = "redshifts" if summary.predicted_redshifts is not None else "predictions"
    console.print(f"{summary.num_samples:,} {objects} in {results.folder}, {rate:,.0f} images/s per process")
    flags = {flag: count for flag, count in (summary.flags or {}).items() if count}
    if any(name(flag) in flags for flag in FLAGS if flag & BAD):
        counts = ", ".join(f"{flag} {count:,}" for flag, count in flags.items())
        console.print(f"galaxies with flags: {counts}")
    if summary.accuracy is not None:
        measures = _MEASURES[kind_of(summary.accuracy)]
        known = {name: summary.accuracy[key] for name, key in measures.items()}
        console.print(", ".join(f"{name} {value:.4f}" for name, value in known.items() if value is not None))
    console.print(f"open {results.report}")
