"""The command line `cosmicai`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

import cosmicai
from cosmicai.cli import (
    bench,
    calibrate,
    data,
    failing,
    import_onnx,
    infer,
    local,
    model,
    optimise,
    plan,
    results,
    runs,
    speed,
    sweep,
)
from cosmicai.cli.common import CACHE, Cache, console, interruptible, tell
from cosmicai.cli.paths import OutFolder


class _Commands(TyperGroup):
    """Says that Ctrl-C has ended a command which does not say it itself."""

    def invoke(self, ctx: Any) -> Any:
        with interruptible():
            return super().invoke(ctx)


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(runs.app)
app.add_typer(results.app)
app.add_typer(plan.app)
app.add_typer(sweep.app)
app.add_typer(infer.app)
app.command("bench")(bench.bench)
app.add_typer(local.app, name="local")
app.add_typer(data.app, name="data")
model.app.command("import-onnx")(import_onnx.model_import_onnx)
model.app.command("optimise")(optimise.model_optimise)
model.app.command("calibrate")(calibrate.model_calibrate)
model.app.command("speed")(speed.model_speed)
app.add_typer(model.app, name="model")


def _tell_version(asked: bool) -> None:
    if asked:
        tell(f"cosmicai {cosmicai.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Photometric redshifts for all your galaxies, on AWS Lambda or on this machine."""


@app.command()
def demo(
    cache: Cache = CACHE,
    results: Annotated[Path, typer.Option(parser=OutFolder(), help="Folder for the results.")] = Path(
        "results/demo"
    ),
) -> None:
    """Runs the main job end to end on an embedded AWS: render, deploy, upload, run, show.

    Example: cosmicai demo
    """
    with interruptible("everything that was started has been stopped"):
        from cosmicai.demo import demo as run_demo

        run_demo(cache, results, console)


@cache
def _command() -> Any:
    command = get_command(app)
    _join_lines(command)
    return command


def _join_lines(command: Any) -> None:
    """The lines of each paragraph of a help as one: the terminal breaks them at its own width."""
    paragraphs = (command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for one in getattr(command, "commands", {}).values():
        _join_lines(one)


def run(arguments: Sequence[str]) -> int:
    """Runs a command line; returns 0, 1 if it failed, 2 if it is wrong, 3 if a run failed, 130 on Ctrl-C."""
    command = _command()
    return failing.guarded(lambda: command.main(list(arguments), prog_name="cosmicai", standalone_mode=False))


def main() -> None:
    """Runs the command line of this process, and ends it with the exit status."""
    failing.show_everything(sys.stdout, sys.stderr)
    sys.exit(run(sys.argv[1:]))
