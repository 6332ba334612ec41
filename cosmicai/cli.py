"""The command line `cosmicai`."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cosmicai.model.recipe import Recipe
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

    try:
        run_demo(cache, results, _console)
    except KeyboardInterrupt:
        print("interrupted; everything that was started has been stopped", file=sys.stderr)
        raise typer.Exit(130) from None


@data.command("dc2")
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

    with Progress(console=_console) as progress:
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
    _console.print(f"{len(list(out.glob('*.pt')))} partitions in {out}")


@model.command("train")
def model_train(
    partitions: Annotated[list[Path], typer.Argument(help="Folders with partitions that have redshifts.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    config: Annotated[Path | None, typer.Option(help="config.json; default: the published widths.")] = None,
    epochs: Annotated[int, typer.Option()] = Recipe.epochs,
    patience: Annotated[
        int, typer.Option(help="Epochs without improvement before it stops.")
    ] = Recipe.patience,
    batch_size: Annotated[int, typer.Option()] = Recipe.batch_size,
    learning_rate: Annotated[float, typer.Option()] = Recipe.learning_rate,
    magnitude_noise: Annotated[
        float, typer.Option(help="Noise added in training, mag.")
    ] = Recipe.magnitude_noise,
    seed: Annotated[int, typer.Option()] = Recipe.seed,
) -> None:
    """Trains a network on partitions and writes its model folder with a card.

    Several renderings of the same galaxies (other seeds of `data dc2`) teach it what is noise.
    Example: cosmicai model train partitions --out models/mine --config config.json --epochs 40
    """
    from cosmicai.model import training
    from inference import astromae, partition
    from initialize.plan import natural

    files = [
        path
        for folder in partitions
        for path in sorted(folder.glob("*.pt"), key=lambda path: natural(path.name))
    ]
    if not files:
        raise partition.PartitionError(f"{', '.join(map(str, partitions))}: no .pt file")
    galaxies = training.read_galaxies(files)
    recipe = Recipe(
        seed=seed,
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        learning_rate=learning_rate,
        magnitude_noise=magnitude_noise,
    )
    wanted = astromae.Config() if config is None else astromae.Config.read(config)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=_console
    ) as progress:
        task = progress.add_task("training", total=epochs)

        def report(epoch: training.Epoch) -> None:
            text = f"epoch {epoch.number}: loss {epoch.validation_loss:.4f}, NMAD {epoch.nmad:.4f}"
            progress.update(task, advance=1, description=text)

        network, history = training.train(wanted, galaxies, recipe, report)
    astromae.save(network, out)
    training.write_card(out, recipe, galaxies, history, [shlex.join(["cosmicai", *sys.argv[1:]])])
    _console.print(f"model folder {out}: {astromae.parameter_count(network):,} parameters")


@model.command("import")
def model_import(
    checkpoint: Annotated[Path, typer.Argument(help="A .pt (module or state dict) or .safetensors file.")],
    out: Annotated[Path, typer.Argument(help="Model folder to write.")],
    heads: Annotated[int | None, typer.Option(help="Attention heads, where the file does not say.")] = None,
) -> None:
    """Turns a user's checkpoint into a model folder, without running anything of it.

    Example: cosmicai model import astromae.pt models/astromae
    """
    from cosmicai.model.importing import import_checkpoint

    card = import_checkpoint(checkpoint, out, heads, shlex.join(["cosmicai", *sys.argv[1:]]))
    _console.print(f"model folder {out}: {card['parameters']:,} parameters from a {card['source kind']}")


@model.command("show")
def model_show(folder: Annotated[Path, typer.Argument(help="A model folder.")]) -> None:
    """Prints a model folder's architecture and card."""
    for name in ("config.json", "card.json"):
        _console.print_json((folder / name).read_text())


def main() -> None:
    """Runs the command line; an expected error is one message and exit status 1, not a traceback."""
    from cosmicai.data.dc2 import CatalogueError
    from cosmicai.demo import DemoError
    from cosmicai.deployment import DeploymentError
    from cosmicai.emulator import EmulatorError
    from cosmicai.model.checkpoint import CheckpointError
    from cosmicai.packaging import PackagingError
    from inference.astromae import ConfigError
    from inference.partition import PartitionError

    expected = (
        CatalogueError,
        CheckpointError,
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
