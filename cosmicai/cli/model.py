"""cosmicai model: training, importing and optimising networks."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cosmicai.cli.common import console
from cosmicai.model.recipe import Recipe

app = typer.Typer(no_args_is_help=True, help="Training, importing and optimising networks.")


@app.command("train")
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
    without_images: Annotated[
        bool, typer.Option(help="Train by magnitudes alone, to measure what the images add.")
    ] = False,
    bands: Annotated[str | None, typer.Option(help="Bands in the order of the channels: u,g,r,i,z.")] = None,
    zero_point: Annotated[float | None, typer.Option(help="AB magnitude of a flux of 1.")] = None,
    pixel_scale: Annotated[float | None, typer.Option(help="Arcsec per pixel.")] = None,
    flux_unit: Annotated[str | None, typer.Option(help="Unit of the pixels: nanomaggies, nJy, …")] = None,
    seed: Annotated[int, typer.Option()] = Recipe.seed,
    images_weight: Annotated[
        float, typer.Option(help="Weight of the loss of redshifts by images alone; 1 is that of both.")
    ] = Recipe.images_weight,
    start: Annotated[
        Path | None, typer.Option("--from", help="A model folder to train further; its config is kept.")
    ] = None,
    encoder: Annotated[Path | None, typer.Option(help="A folder of `model pretrain` to begin with.")] = None,
    freeze_encoder: Annotated[bool, typer.Option(help="Keep that encoder as it is.")] = False,
    mixed_precision: Annotated[
        bool, typer.Option(help="The encoder in bfloat16: twice as fast where the CPU or GPU has it.")
    ] = False,
) -> None:
    """Trains a network on partitions and writes its model folder with a card.

    Several renderings of the same galaxies (other seeds of `data dc2`) teach it what is noise. A call that
    was cut off goes on where it was when it is made again. The card says what the numbers mean: from the
    partitions' photometry.json or the options; what neither says is named as unknown.
    Example: cosmicai model train partitions --out models/mine --config config.json --epochs 40
    """
    from cosmicai.data.photometry import Photometry, common
    from cosmicai.model import training
    from cosmicai.model.optimise import optimise
    from inference import astromae

    if start is not None and (config is not None or encoder is not None):
        raise typer.BadParameter("--from brings its config and its encoder; leave out --config and --encoder")
    stated = Photometry(tuple(bands.split(",")) if bands else None, zero_point, pixel_scale, flux_unit)
    photometry = common(partitions)
    photometry = replace(photometry, **{k: v for k, v in asdict(stated).items() if v is not None})
    if photometry.unknown:
        names = ", ".join(name.replace("_", " ") for name in photometry.unknown)
        console.print(
            f"unknown, and so in the card: {names} (--bands, --zero-point, --pixel-scale, --flux-unit)"
        )
    galaxies = training.read_galaxies(_partition_files(partitions))
    recipe = Recipe(
        seed=seed,
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        learning_rate=learning_rate,
        magnitude_noise=magnitude_noise,
        without_images=without_images,
        images_weight=images_weight,
        freeze_encoder=freeze_encoder,
        mixed_precision=mixed_precision,
    )
    wanted = astromae.Config() if config is None else astromae.Config.read(config)
    resume = out.with_name(f"{out.name}.resume.pt")
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console
    ) as progress:
        task = progress.add_task("training", total=epochs)

        def report(epoch: training.Epoch) -> None:
            alone = f"images alone {epoch.nmad_images_alone:.4f}, magnitudes {epoch.nmad_magnitudes_alone:.4f}"
            text = f"epoch {epoch.number}: loss {epoch.validation_loss:.4f}, NMAD {epoch.nmad:.4f} ({alone})"
            progress.update(task, advance=1, description=text)

        network, history = training.train(wanted, galaxies, recipe, report, encoder, resume, start)
    astromae.save(network, out)
    optimise(out)
    resume.unlink(missing_ok=True)
    command = shlex.join(["cosmicai", *sys.argv[1:]])
    training.write_card(out, recipe, galaxies, history, [command], photometry)
    console.print(f"model folder {out}: {astromae.parameter_count(network):,} parameters")


def _partition_files(folders: list[Path]) -> list[Path]:
    from inference.partition import PartitionError
    from initialize.plan import natural

    files = [path for folder in folders for path in sorted(folder.glob("*.pt"), key=lambda p: natural(p.name))]
    if not files:
        raise PartitionError(f"{', '.join(map(str, folders))}: no .pt file")
    return files


@app.command("optimise")
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
        console.print(f"{folder}: float32 graph written; give --calibration for int8")
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
    console.print(table)
    console.print("int8 is admitted" if report.admitted else "int8 is not admitted: ranks use float32")


@app.command("pretrain")
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
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console
    ) as progress:
        task = progress.add_task("pretraining", total=epochs)

        def report(epoch: int, loss: float) -> None:
            progress.update(task, advance=1, description=f"epoch {epoch}: error {loss:.3f}")

        network = pretraining.pretrain(wanted, galaxies, recipe, report)
    astromae.save(network, out)
    console.print(f"model folder {out}: give it to `cosmicai model train --encoder`")


@app.command("import")
def model_import(
    checkpoint: Annotated[Path, typer.Argument(help="A .pt (module or state dict) or .safetensors file.")],
    out: Annotated[Path, typer.Argument(help="Model folder to write.")],
    expected: Annotated[
        Path | None,
        typer.Option(help="An .npz of images, magnitudes and your own code's outputs, to check the import by."),
    ] = None,
    outputs: Annotated[str | None, typer.Option(help="Which array of it holds the outputs.")] = None,
    heads: Annotated[
        int | None, typer.Option(help="Attention heads; a state dict does not tell them (published: 6).")
    ] = None,
    norm_eps: Annotated[
        float | None, typer.Option(help="eps of the blocks' LayerNorms, for a state dict (published: 1e-6).")
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="Activation of the blocks' MLPs, for a state dict (published: gelu).")
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE", help="Any other field that a state dict does not tell; repeatable."
        ),
    ] = None,
    select: Annotated[str | None, typer.Option(help="Which network, where a file holds several.")] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PUBLISHED", help="A name in the file and the published one; repeatable."),
    ] = None,
    classes_by_name: Annotated[
        bool,
        typer.Option("--classes-by-name", help="Take AstroMAE's and timm's classes in any module for them."),
    ] = False,
) -> None:
    """Turns a user's checkpoint into a model folder, without running anything of it.

    Give --expected: what the file cannot tell is assumed as published, and only outputs show that it holds.
    Example: cosmicai model import astromae.pt models/astromae --expected outputs.npz
    """
    from cosmicai.model.foreign.reading import Choices
    from cosmicai.model.importing import import_checkpoint, told

    named = {"heads": heads, "norm_eps": norm_eps, "mlp_activation": activation}
    fields = {name: str(value) for name, value in named.items() if value is not None}
    choices = Choices(fields | _pairs("--assume", assume), select, _pairs("--rename", rename), classes_by_name)
    card = import_checkpoint(
        checkpoint, out, choices, shlex.join(["cosmicai", *sys.argv[1:]]), expected, outputs
    )
    for line in told(card, out):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    for text in texts or ():
        if "=" not in text:
            raise typer.BadParameter(f"{option} {text}: write NAME=VALUE")
    return dict(text.split("=", 1) for text in texts or ())


@app.command("show")
def model_show(folder: Annotated[Path, typer.Argument(help="A model folder.")]) -> None:
    """Prints a model folder's architecture and card."""
    for name in ("config.json", "card.json"):
        console.print_json((folder / name).read_text())
