"""The command line `cosmicai`."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from cosmicai.model.recipe import Recipe
from cosmicai.packaging import ROOT

if TYPE_CHECKING:
    from cosmicai.data.prepare import Target

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

    with Progress(console=_console) as progress:
        task = progress.add_task("Partitions", total=None)

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        summary = local.infer(
            sources, out, batch_size, processes, model_folder, device, engine, precision, report
        )
    accuracy = summary["accuracy"]
    rate = summary["spread"]["sample_persec"]["p50"]
    _console.print(f"{summary['num_samples']:,} redshifts in {out}, {rate:,.0f} images/s a process")
    if accuracy is not None:
        _console.print(", ".join(f"{k} {v:.4f}" for k, v in accuracy.items() if isinstance(v, float)))


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


@data.command("prepare")
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
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=_console) as progress:
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
    _console.print(
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


@data.command("inspect")
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
    _console.print(table)
    if sheet is not None:
        contact_sheet(source, sheet)
        _console.print(f"stamps in {sheet}")


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
    encoder: Annotated[Path | None, typer.Option(help="A folder of `model pretrain` to begin with.")] = None,
    freeze_encoder: Annotated[bool, typer.Option(help="Keep that encoder as it is.")] = False,
    mixed_precision: Annotated[
        bool, typer.Option(help="The encoder in bfloat16: twice as fast where the CPU or GPU has it.")
    ] = False,
) -> None:
    """Trains a network on partitions and writes its model folder with a card.

    Several renderings of the same galaxies (other seeds of `data dc2`) teach it what is noise. A call that
    was cut off goes on where it was when it is made again.
    Example: cosmicai model train partitions --out models/mine --config config.json --epochs 40
    """
    from cosmicai.model import training
    from cosmicai.model.optimise import optimise
    from inference import astromae

    galaxies = training.read_galaxies(_partition_files(partitions))
    recipe = Recipe(
        seed=seed,
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        learning_rate=learning_rate,
        magnitude_noise=magnitude_noise,
        freeze_encoder=freeze_encoder,
        mixed_precision=mixed_precision,
    )
    wanted = astromae.Config() if config is None else astromae.Config.read(config)
    resume = out.with_name(f"{out.name}.resume.pt")
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=_console
    ) as progress:
        task = progress.add_task("training", total=epochs)

        def report(epoch: training.Epoch) -> None:
            text = f"epoch {epoch.number}: loss {epoch.validation_loss:.4f}, NMAD {epoch.nmad:.4f}"
            progress.update(task, advance=1, description=text)

        network, history = training.train(wanted, galaxies, recipe, report, encoder, resume)
    astromae.save(network, out)
    optimise(out)
    resume.unlink(missing_ok=True)
    training.write_card(out, recipe, galaxies, history, [shlex.join(["cosmicai", *sys.argv[1:]])])
    _console.print(f"model folder {out}: {astromae.parameter_count(network):,} parameters")


def _partition_files(folders: list[Path]) -> list[Path]:
    from inference.partition import PartitionError
    from initialize.plan import natural

    files = [path for folder in folders for path in sorted(folder.glob("*.pt"), key=lambda p: natural(p.name))]
    if not files:
        raise PartitionError(f"{', '.join(map(str, folders))}: no .pt file")
    return files


@model.command("optimise")
def model_optimise(
    folder: Annotated[Path, typer.Argument(help="A model folder (config.json, model.safetensors).")],
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of partitions, not trained on, to calibrate and judge int8 by; may be repeated."
        ),
    ] = None,
) -> None:
    """Writes the graphs that ranks run: float32 and, with calibration galaxies, int8 with its report.

    int8 is used by ranks only if it is admitted: the report holds what it changes, and the limits.
    Example: cosmicai model optimise models/mine --calibration partitions
    """
    import numpy as np

    from cosmicai.model.optimise import optimise
    from inference.engine import choose, read_graphs, start
    from inference.partition import Partition, read

    galaxies = None
    if calibration:
        optimise(folder)
        layout = start(folder, choose(read_graphs(folder), "onnxruntime", "float32"), threads=1).layout
        parts = [read(path.read_bytes(), str(path), layout) for path in _partition_files(calibration)]
        known = all(part.redshift is not None for part in parts)
        galaxies = Partition(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.magnitudes for part in parts]),
            np.concatenate([part.redshift for part in parts if part.redshift is not None]) if known else None,
        )
    report = optimise(folder, galaxies)
    if report is None:
        _console.print(f"{folder}: float32 graph written; give --calibration for int8")
        return
    table = Table(title=f"int8 beside float32, {report.galaxies:,} galaxies")
    for column in ("", "float32", "int8", "limit"):
        table.add_column(column)
    limits = report.limits
    table.add_row("mean |Δz|/(1+z)", "", f"{report.mean_difference:.1e}", f"{limits.mean}")
    table.add_row("99.9th percentile", "", f"{report.percentile_999_difference:.1e}", f"{limits.percentile}")
    if report.accuracy_float32 is not None and report.accuracy_int8 is not None:
        allowed = {"NMAD": f"+{limits.nmad_growth:.0%}", "bias": "", "outliers": f"+{limits.outlier_growth}"}
        for name, limit in allowed.items():
            pair = (accuracy[name] for accuracy in (report.accuracy_float32, report.accuracy_int8))
            table.add_row(name, *(f"{value:.5f}" for value in pair), limit)
    _console.print(table)
    _console.print("int8 is admitted" if report.admitted else "int8 is not admitted: ranks use float32")


@model.command("pretrain")
def model_pretrain(
    partitions: Annotated[list[Path], typer.Argument(help="Folders with partitions.")],
    out: Annotated[Path, typer.Option(help="Model folder to write; only its encoder is trained.")],
    config: Annotated[Path | None, typer.Option(help="config.json; default: the published widths.")] = None,
    epochs: Annotated[int, typer.Option()] = Recipe.epochs,
    batch_size: Annotated[int, typer.Option()] = Recipe.batch_size,
    learning_rate: Annotated[float, typer.Option()] = Recipe.learning_rate,
    seed: Annotated[int, typer.Option()] = Recipe.seed,
) -> None:
    """Trains the encoder as a masked autoencoder, 75 % of the patches hidden; redshifts are not used.

    Example: cosmicai model pretrain partitions --out models/encoder --epochs 100
    """
    from cosmicai.model import pretraining, training
    from inference import astromae

    galaxies = training.read_galaxies(_partition_files(partitions))
    recipe = Recipe(seed=seed, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate)
    wanted = astromae.Config() if config is None else astromae.Config.read(config)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=_console
    ) as progress:
        task = progress.add_task("pretraining", total=epochs)

        def report(epoch: int, loss: float) -> None:
            progress.update(task, advance=1, description=f"epoch {epoch}: error {loss:.3f}")

        network = pretraining.pretrain(wanted, galaxies, recipe, report)
    astromae.save(network, out)
    _console.print(f"model folder {out}: give it to `cosmicai model train --encoder`")


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


_OURS = ("cosmicai", "initialize", "inference", "summarize")


def main() -> None:
    """Runs the command line. The exceptions of our own packages are messages to the user: one message and
    exit status 1; anything else is a fault of ours, and keeps its traceback."""
    try:
        app()
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _OURS:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
