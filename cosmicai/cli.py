"""The command line `cosmicai`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cosmicai.packaging import ROOT

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
data = typer.Typer(no_args_is_help=True, help="Making and looking at partitions.")
model = typer.Typer(no_args_is_help=True, help="Training networks.")
app.add_typer(data, name="data")
app.add_typer(model, name="model")

CACHE = ROOT / ".cosmicai" / "cache"
Cache = Annotated[Path, typer.Option(help="Where the catalogue and rendered galaxies are kept.")]
_console = Console()


@app.command()
def demo(cache: Cache = CACHE, results: Annotated[Path, typer.Option()] = ROOT / "results" / "demo") -> None:
    """The main job end to end on the embedded AWS: render, provision, upload, run, show."""
    from cosmicai.demo import demo as run_demo

    run_demo(cache, results, _console)


def main() -> None:
    """Runs the command line; an expected error is one message and exit status 1, not a traceback."""
    from cosmicai.data.dc2 import CatalogueError
    from cosmicai.demo import DemoError
    from cosmicai.deployment import DeploymentError
    from cosmicai.emulator import EmulatorError
    from cosmicai.packaging import PackagingError
    from inference.astromae import ConfigError
    from inference.partition import PartitionError

    expected = (
        CatalogueError,
        ConfigError,
        DemoError,
        DeploymentError,
        EmulatorError,
        PackagingError,
        PartitionError,
    )
    try:
        app()
    except expected as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; everything that was started has been stopped", file=sys.stderr)
        sys.exit(130)
