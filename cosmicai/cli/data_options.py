"""The options of `cosmicai data prepare`, which `data inspect` shares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cosmicai.cli.paths import InFile, InPath, ModelOrConfig
from cosmicai.cli.values import PAIR, Number, NumberList, Numbers, Text

_NAME = Text("a name")
_NAMES = Text("names with commas", most=4000)
_MAGNITUDE = Number(-100, 100)
Source = Annotated[
    Path,
    typer.Argument(
        parser=InPath(),
        help="FITS, HDF5, Parquet, .npz, .npy, .pt, a table of paths, or a folder of cut-outs or frames.",
    ),
]
Model = Annotated[
    Path | None,
    typer.Option(
        parser=ModelOrConfig(),
        help="Model folder, or the config.json of one to train: bands, size, pixels. Default: the bundled.",
    ),
]
Images = Annotated[
    str | None,
    typer.Option(parser=_NAMES, help="Name of the images; one per band with commas; SCI_* for all that fit."),
]
Bands = Annotated[
    str | None,
    typer.Option(
        parser=_NAMES, help="Bands of the source's channels in their order, if it does not say: g,r,i,z."
    ),
]
MagnitudeNames = Annotated[
    str | None,
    typer.Option(
        "--magnitudes",
        parser=_NAMES,
        help="One name, or one per band with commas: u,g,r,i,z or mags[0],mags[1],…",
    ),
]
RedshiftName = Annotated[
    str | None, typer.Option("--redshift", parser=_NAME, help="Name of the redshifts; none: leave them out.")
]
IdName = Annotated[
    str | None,
    typer.Option("--id", parser=_NAME, help="Name of the identifiers; none: row numbers are identifiers."),
]
Keep = Annotated[
    str | None,
    typer.Option(parser=_NAMES, help="Columns for the results, beside id, ra and dec; with commas, * for any."),
]
Mask = Annotated[str | None, typer.Option(parser=_NAMES, help="Planes of bad pixels: those that are not 0.")]
Ivar = Annotated[str | None, typer.Option(parser=_NAMES, help="Inverse variances: pixels of 0 are bad.")]
Catalogue = Annotated[
    Path | None,
    typer.Option(
        parser=InFile(),
        help="A table of the same galaxies: by rows, by the files' names, or by ra and dec in frames.",
    ),
]
FitHow = Annotated[
    Literal["scale", "crop", "resize"],
    typer.Option(
        help="Other sizes: by the pixel scales; the central pixels as they are; the whole stamp squeezed."
    ),
]
Pad = Annotated[bool, typer.Option("--pad", help="Surround smaller stamps with zeros.")]
PixelScale = Annotated[
    float | None, typer.Option(parser=Number(0.001, 100), help="Of the source's pixels, arcsec.")
]
PixelUnit = Annotated[
    str | None,
    typer.Option(parser=_NAME, help="Of the source's pixels: nanomaggies, nJy, uJy, mJy, Jy, maggies."),
]
PixelZeroPoint = Annotated[
    float | None, typer.Option(parser=_MAGNITUDE, help="AB magnitude of a pixel value of 1.")
]
FluxUnit = Annotated[
    str | None,
    typer.Option(parser=_NAME, help="The magnitude columns hold fluxes in this unit: nanomaggies, nJy, …"),
]
ZeroPoint = Annotated[
    float | None,
    typer.Option(parser=_MAGNITUDE, help="The magnitude columns hold fluxes; the AB magnitude of a flux of 1."),
]
MissingMarks = Annotated[
    list[str] | None,
    typer.Option(
        "--missing",
        parser=PAIR,
        help="VALUE=not-detected or VALUE=not-observed, such as nan=not-detected; repeatable.",
    ),
]
Limits = Annotated[
    NumberList | None,
    typer.Option(
        parser=Numbers(_MAGNITUDE, once=False),
        metavar="MAG,…",
        help="Magnitudes that undetected galaxies get, per band: 24.1,25.3,…; default: the model's.",
    ),
]
FillBands = Annotated[
    str | None, typer.Option(parser=_NAMES, help="Bands that the source may lack: zeros, and the limit.")
]
BadPixels = Annotated[
    Literal["keep", "zero"], typer.Option(help="NaN and masked pixels stay NaN, or become 0.")
]
DropUnusable = Annotated[
    bool, typer.Option("--drop-unusable", help="Leave out galaxies with bad pixels or without a magnitude.")
]
