"""The command line `cosmicai`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import Progress

from cosmicai.cli import data, local, model, plan, runs, sweep
from cosmicai.cli.common import CACHE, Cache, console, tell_error
from cosmicai.packaging import ROOT

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(runs.app)
app.add_typer(plan.app)
app.add_typer(sweep.app)
app.add_typer(local.app, name="local")
app.add_typer(data.app, name="data")
app.add_typer(model.app, name="model")


@app.command()
def demo(cache: Cache = CACHE, results: Annotated[Path, typer.Option()] = ROOT / "results" / "demo") -> None:
    """The main job end to end on the embedded AWS: render, provision, upload, run, show."""
    from cosmicai.demo import demo as run_demo

    try:
        run_demo(cache, results, console)
    except KeyboardInterrupt:
        print("interrupted; everything that was started has been stopped", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def infer(
    sources: Annotated[
        list[str], typer.Argument(help="Partition files, folders of them, or s3://bucket/prefix.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to, in the layout of a run.")] = Path(
        "results/local"
    ),
    batch_size: Annotated[int, typer.Option(help="Galaxies per batch.")] = 256,
    processes: Annotated[int, typer.Option(help="Partitions at once; the cores are shared out.")] = 1,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="What computes.")] = "cpu",
    engine: Annotated[
        Literal["auto", "onnxruntime", "torch"], typer.Option(help="What executes the network.")
    ] = "auto",
    precision: Annotated[
        Literal["auto", "float32", "int8"], typer.Option(help="auto: int8 where the model admits it.")
    ] = "auto",
    model_folder: Annotated[
        Path | None, typer.Option("--model", help="Model folder; default: the bundle's.")
    ] = None,
) -> None:
    """Runs the code of a rank on this machine: redshifts, accuracy, Results.json and inference.png.

    Example: cosmicai infer partitions --out results/mine
    """
    from cosmicai import infer as local

    with Progress(console=console) as progress:
        task = progress.add_task("Partitions", total=None)

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        summary = local.infer(
            sources, out, batch_size, processes, model_folder, device, engine, precision, report
        )
    accuracy = summary["accuracy"]
    rate = summary["spread"]["sample_persec"]["p50"]
    console.print(f"{summary['num_samples']:,} redshifts in {out}, {rate:,.0f} images/s a process")
    if accuracy is not None:
        console.print(", ".join(f"{k} {v:.4f}" for k, v in accuracy.items() if isinstance(v, float)))


_OURS = ("cosmicai", "initialize", "inference", "rendezvous", "summarize")


def main() -> None:
    """Runs the command line. The exceptions of our own packages and of AWS are messages to the user: a line or
    two and exit status 1; anything else is a fault of ours, and keeps its traceback."""
    try:
        app()
    except Exception as error:
        from cosmicai.target import explained

        ours = type(error).__module__.partition(".")[0] in _OURS
        message = str(error) if ours else explained(error)
        if message is None:
            raise
        tell_error(f"error: {message}")
        sys.exit(1)
