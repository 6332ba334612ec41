"""cosmicai model: training, importing and optimising networks."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from cosmicai.cli.common import FROM_THE_START, console, interruptible
from cosmicai.cli.paths import MODEL, PARTITIONS, USABLE_MODEL, InFile, JsonFile, OutFolder
from cosmicai.cli.values import PAIR, NameList, Names, Number, Refused, Text, whole
from cosmicai.commands import command
from cosmicai.model.recipe import DENSITY_BINS, Recipe
from cosmicai.results.outputs import made, merge, new_folder, writing

if TYPE_CHECKING:
    from cosmicai.data.photometry import Photometry
    from cosmicai.model.galaxies import Galaxies
    from cosmicai.model.usable import Tally
    from inference.engine import astromae

app = typer.Typer(no_args_is_help=True, help="Training, importing and optimising networks.")

Config = Annotated[
    Path | None,
    typer.Option(parser=JsonFile(), help="config.json of the network; default: the published one."),
]
Epochs = Annotated[int, typer.Option(parser=whole(1, 100_000), help="Passes over the galaxies, at most.")]
BatchSize = Annotated[int, typer.Option(parser=whole(1, 65_536), help="Galaxies per step.")]
LearningRate = Annotated[
    float, typer.Option(parser=Number(0, 1, above=True), help="Highest learning rate of the schedule.")
]
Seed = Annotated[int, typer.Option(parser=whole(0, 2**32 - 1), help="Seed of weights, order and noise.")]


@app.command("train")
def model_train(
    partitions: Annotated[
        list[Path],
        typer.Argument(parser=PARTITIONS, help="Folders of partitions whose galaxies have redshifts."),
    ],
    out: Annotated[Path, typer.Option(parser=OutFolder(new=True), help="Model folder to write.")],
    config: Config = None,
    epochs: Epochs = Recipe.epochs,
    patience: Annotated[
        int, typer.Option(parser=whole(1, 100_000), help="Epochs without improvement before it stops.")
    ] = Recipe.patience,
    batch_size: BatchSize = Recipe.batch_size,
    learning_rate: LearningRate = Recipe.learning_rate,
    magnitude_noise: Annotated[
        float, typer.Option(parser=Number(0, 10), help="Noise added to magnitudes in training, mag.")
    ] = Recipe.magnitude_noise,
    pdf: Annotated[
        bool,
        typer.Option("--pdf", help="Add a second head that gives p(z); `model calibrate` then calibrates it."),
    ] = False,
    without_images: Annotated[
        bool,
        typer.Option("--without-images", help="Train on magnitudes alone, to measure what the images add."),
    ] = False,
    bands: Annotated[
        NameList | None,
        typer.Option(parser=Names(), metavar="NAME,…", help="Bands in the order of the channels: u,g,r,i,z."),
    ] = None,
    zero_point: Annotated[
        float | None, typer.Option(parser=Number(-100, 100), help="AB magnitude of a flux of 1.")
    ] = None,
    pixel_scale: Annotated[
        float | None, typer.Option(parser=Number(0, 1000, above=True), help="Arcsec per pixel.")
    ] = None,
    flux_unit: Annotated[
        str | None, typer.Option(parser=Text("a unit"), help="Unit of the pixels: nanomaggies, nJy, …")
    ] = None,
    seed: Seed = Recipe.seed,
    images_weight: Annotated[
        float,
        typer.Option(
            parser=Number(0, 1000),
            help="Weight of the loss of redshifts from images alone; the loss from both has weight 1.",
        ),
    ] = Recipe.images_weight,
    start: Annotated[
        Path | None,
        typer.Option("--from", parser=MODEL, help="A model folder to train further; its config is kept."),
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(
            parser=MODEL, help="A folder of `model pretrain` to begin with; its config is the default."
        ),
    ] = None,
    freeze_encoder: Annotated[
        bool, typer.Option("--freeze-encoder", help="Keep that encoder as it is.")
    ] = False,
    mixed_precision: Annotated[
        bool,
        typer.Option(
            "--mixed-precision", help="The encoder in bfloat16: twice as fast if the CPU or GPU has it."
        ),
    ] = False,
) -> None:
    """Trains a network on partitions and writes its model folder with a card.

    Several renderings of the same galaxies (`data dc2` with other seeds) teach it what is noise. An
    interrupted call continues when it is repeated. The card describes the photometry, from the partitions'
    photometry.json or the options; what neither gives is listed as unknown.

    Example: cosmicai model train partitions --out models/mine --config config.json --epochs 40
    """
    from cosmicai.data.photometry import Photometry, stated_for
    from cosmicai.model import training
    from cosmicai.model.calibrating import drop_calibration
    from cosmicai.model.card import write_card
    from cosmicai.model.galaxies import read_galaxies
    from cosmicai.model.optimise import optimise
    from cosmicai.model.usable import Needs
    from inference.engine import astromae

    if start is not None and (config is not None or encoder is not None):
        raise typer.BadParameter("--from brings its config and its encoder; leave out --config and --encoder")
    stated = Photometry(tuple(bands) if bands else None, zero_point, pixel_scale, flux_unit)
    photometry = stated_for(partitions, stated, start)
    _tell_photometry(photometry)
    network_config = _config(config or _config_beside(start or encoder))
    files, needs = partition_files(partitions, start), Needs(images=not without_images)
    galaxies = read_galaxies(files, network_config, photometry.magnitude_limits, needs)
    tell_left_out(galaxies.tally)
    network_config = _with_density(network_config, galaxies) if pdf else network_config
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
    resume = out.with_name(f"{out.name}.resume.pt")
    with Progress(*_columns(), console=console) as progress:
        task = progress.add_task("training", total=epochs)

        def report(epoch: training.Epoch) -> None:
            alone = f"images alone {epoch.nmad_images_alone:.4f}, magnitudes {epoch.nmad_magnitudes_alone:.4f}"
            text = f"epoch {epoch.number}: loss {epoch.validation_loss:.4f}, NMAD {epoch.nmad:.4f} ({alone})"
            progress.update(task, advance=1, description=text)

        with interruptible(lambda: _remains(resume)), writing(resume), made(out.absolute().parent):
            network, history = training.train(network_config, galaxies, recipe, report, encoder, resume, start)
    with new_folder(out) as scratch:
        drop_calibration(out)
        astromae.save(network, scratch)
        optimise(scratch)
        typed = shlex.join(["cosmicai", *sys.argv[1:]])
        write_card(scratch, recipe, galaxies, history, [typed], photometry)
        merge(scratch, out)
    resume.unlink(missing_ok=True)
    _tell_made(out, astromae.parameter_count(network), with_density=network.density is not None)


def _remains(resume: Path) -> str:
    return f"the same command continues from {resume}" if resume.exists() else "no epoch has ended"


def _columns() -> tuple[ProgressColumn, ...]:
    return TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()


def _tell_made(out: Path, parameters: int, with_density: bool) -> None:
    calibrate = command("model", "calibrate", out, "--calibration", "PARTITIONS")
    then = f"; for p(z), calibrate it with {calibrate}" if with_density else ""
    console.print(f"model folder {out}: {parameters:,} parameters{then}")


def _with_density(config: astromae.Config, galaxies: Galaxies) -> astromae.Config:
    """A config with a head for p(z), for redshifts a little beyond the highest."""
    if config.density_bins:
        return config
    highest = float(galaxies.redshift.max())
    return replace(config, density_bins=DENSITY_BINS, density_to=round(1.05 * highest + 0.005, 2))


def _tell_photometry(photometry: Photometry) -> None:
    """What the card will state, and what it cannot."""
    if photometry.described():
        console.print(f"by photometry.json and the options: {photometry.described()}")
    if photometry.unknown:
        names = ", ".join(name.replace("_", " ") for name in photometry.unknown)
        unknown = f"not known, and so listed on the card: {names}"
        options = "--bands, --zero-point, --pixel-scale, --flux-unit"
        console.print(f"{unknown} (give {options}, or write the partitions' photometry.json)")


def tell_left_out(tally: Tally) -> None:
    for note in tally.notes():
        console.print(f"note: {note}")


def _config_beside(network: Path | None) -> Path | None:
    """The config of the network that training begins with."""
    return None if network is None else network / "config.json"


def _config(path: Path | None) -> astromae.Config:
    """The network's config, or the published one. Raises Refused."""
    from inference.engine import astromae

    try:
        return astromae.Config() if path is None else astromae.Config.read(path)
    except astromae.ConfigError as error:
        raise Refused(path, str(error), "--config") from error


def partition_files(folders: list[Path], model: Path | None) -> list[Path]:
    """The partitions in the folders, as a run reads them; prints a note on files that are left out.

    Raises PhotometryError where photometry.json of two folders, or the model's card, contradict each other.
    """
    from cosmicai.data.listing import partitions_in
    from cosmicai.data.photometry import beside, check

    check([one for folder in folders for one in beside(folder)], model)
    listings = {folder: partitions_in(folder) for folder in folders}
    for folder, listing in listings.items():
        note = listing.note(str(folder))
        if note:
            console.print(f"note: {note}")
    return [folder / file.key for folder, listing in listings.items() for file in listing.files]


@app.command("pretrain")
def model_pretrain(
    partitions: Annotated[list[Path], typer.Argument(parser=PARTITIONS, help="Folders of partitions.")],
    out: Annotated[
        Path,
        typer.Option(parser=OutFolder(new=True), help="Model folder to write; only its encoder is trained."),
    ],
    config: Config = None,
    epochs: Epochs = Recipe.epochs,
    batch_size: BatchSize = Recipe.batch_size,
    learning_rate: LearningRate = Recipe.learning_rate,
    seed: Seed = Recipe.seed,
) -> None:
    """Trains the encoder as a masked autoencoder that hides 75 % of the patches; redshifts are not used.

    Example: cosmicai model pretrain partitions --out models/encoder --epochs 100
    """
    from cosmicai.model import pretraining
    from cosmicai.model.galaxies import read_galaxies
    from cosmicai.model.usable import Needs
    from inference.engine import astromae

    network_config = _config(config)
    needs = Needs(magnitudes=False, redshift=False)
    galaxies = read_galaxies(partition_files(partitions, None), network_config, needs=needs)
    tell_left_out(galaxies.tally)
    recipe = Recipe(seed=seed, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate)
    with Progress(*_columns(), console=console) as progress:
        task = progress.add_task("pretraining", total=epochs)

        def report(epoch: int, loss: float) -> None:
            progress.update(task, advance=1, description=f"epoch {epoch}: error {loss:.3f}")

        network = pretraining.pretrain(network_config, galaxies, recipe, report)
    with new_folder(out) as scratch:
        astromae.save(network, scratch)
        merge(scratch, out)
    train = command("model", "train", "PARTITIONS", "--out", "MODEL", "--encoder", out)
    console.print(f"model folder {out}: train a network with this encoder with {train}")


@app.command("import")
@interruptible(FROM_THE_START)
def model_import(
    checkpoint: Annotated[
        Path,
        typer.Argument(parser=InFile(), help="A .pt (module or state dict) or .safetensors file."),
    ],
    out: Annotated[Path, typer.Argument(parser=OutFolder(new=True), help="Model folder to write.")],
    expected: Annotated[
        Path | None,
        typer.Option(
            parser=InFile(),
            help="An .npz of images, magnitudes and your own code's outputs, to check the import against.",
        ),
    ] = None,
    outputs: Annotated[
        str | None, typer.Option(parser=Text("a name"), help="Name of the outputs' array in that file.")
    ] = None,
    heads: Annotated[
        int | None,
        typer.Option(
            parser=whole(1, 1024), help="Attention heads, which a state dict does not record (published: 6)."
        ),
    ] = None,
    norm_eps: Annotated[
        float | None,
        typer.Option(
            parser=Number(0, 1, above=True),
            help="eps of the blocks' LayerNorms, for a state dict (published: 1e-6).",
        ),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(
            parser=Text("a name"), help="Activation of the blocks' MLPs, for a state dict (published: gelu)."
        ),
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            parser=PAIR,
            metavar="FIELD=VALUE",
            help="Any other field that a state dict does not record; repeatable.",
        ),
    ] = None,
    select: Annotated[
        str | None, typer.Option(parser=Text("a name"), help="Which network, if a file holds several.")
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            parser=PAIR,
            metavar="NAME=PUBLISHED",
            help="A name in the file and the published one; repeatable.",
        ),
    ] = None,
    classes_by_name: Annotated[
        bool,
        typer.Option(
            "--classes-by-name", help="Accept classes by AstroMAE's and timm's names from any module."
        ),
    ] = False,
) -> None:
    """Turns a checkpoint into a model folder; none of its code is run.

    Give --expected: what the file does not record is assumed as published, and only outputs can confirm it.

    Example: cosmicai model import astromae.pt models/astromae --expected outputs.npz
    """
    from cosmicai.model.foreign.reading import Choices
    from cosmicai.model.importing import import_checkpoint, report_lines

    named = {"heads": heads, "norm_eps": norm_eps, "mlp_activation": activation}
    fields = {name: str(value) for name, value in named.items() if value is not None}
    choices = Choices(fields | _pairs(assume), select, _pairs(rename), classes_by_name)
    typed = shlex.join(["cosmicai", *sys.argv[1:]])
    with writing(out), made(out.absolute().parent):
        card = import_checkpoint(checkpoint, out, choices, typed, expected, outputs)
    for line in report_lines(card, out):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _pairs(texts: list[str] | None) -> dict[str, str]:
    return dict(text.split("=", 1) for text in texts or ())


@app.command("show")
def model_show(folder: Annotated[Path, typer.Argument(parser=USABLE_MODEL, help="A model folder.")]) -> None:
    """Prints the architecture and the card of a model folder; for a network from ONNX only the card.

    Example: cosmicai model show models/mine
    """
    for name in ("config.json", "card.json") if (folder / "config.json").exists() else ("card.json",):
        try:
            text = (folder / name).read_text(encoding="utf-8")
            json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Refused(folder, f"its {name} is not JSON ({error})", "FOLDER") from error
        console.print_json(text)
