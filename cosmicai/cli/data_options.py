"""How a source is read, as options: those that `cosmicai data prepare` and `data inspect` share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from cosmicai.cli.paths import InFile, InPath, ModelOrConfig
from cosmicai.cli.values import PAIR, Number, NumberList, Numbers, Refused, Text

if TYPE_CHECKING:
    from cosmicai.data.reading import Reading

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
        help="Model folder, or the config.json of a network to train, for which the data are prepared. "
        "Default: the bundled model.",
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        parser=_NAMES,
        help="Name of the images, or a name per band separated by commas; SCI_* means all that match.",
    ),
]
Bands = Annotated[
    str | None,
    typer.Option(
        parser=_NAMES,
        help="Bands of the channels in the source's order, if the source does not name them: g,r,i,z.",
    ),
]
MagnitudeNames = Annotated[
    str | None,
    typer.Option(
        "--magnitudes",
        parser=_NAMES,
        help="Name of the magnitudes, or a name per band separated by commas: u,g,r,i,z or mags[0],mags[1],…",
    ),
]
RedshiftName = Annotated[
    str | None,
    typer.Option("--redshift", parser=_NAME, help="Name of the redshift column; none: leave redshifts out."),
]
IdName = Annotated[
    str | None,
    typer.Option("--id", parser=_NAME, help="Name of the identifier column; none: use row numbers."),
]
Keep = Annotated[
    str | None,
    typer.Option(
        parser=_NAMES,
        help="Columns to copy to the results besides id, ra and dec, separated by commas; * matches any text.",
    ),
]
Mask = Annotated[
    str | None,
    typer.Option(
        parser=_NAMES, help="Mask planes, separated by commas; a pixel is bad where its mask is not 0."
    ),
]
Ivar = Annotated[
    str | None,
    typer.Option(
        parser=_NAMES,
        help="Inverse variances, separated by commas; a pixel is bad where its inverse variance is 0.",
    ),
]
Catalogue = Annotated[
    Path | None,
    typer.Option(
        parser=InFile(),
        help="A table of the same galaxies, matched by row, by file name, or by ra and dec in frames.",
    ),
]
FitHow = Annotated[
    Literal["scale", "crop", "resize"],
    typer.Option(help="How stamps of another size fit: resample by pixel scale, crop, or resize as a whole."),
]
Pad = Annotated[bool, typer.Option("--pad", help="Surround smaller stamps with zeros.")]
PixelScale = Annotated[
    float | None, typer.Option(parser=Number(0.001, 100), help="Pixel scale of the source, arcsec.")
]
PixelUnit = Annotated[
    str | None,
    typer.Option(
        parser=_NAME, help="Unit of the source's pixel values: nanomaggies, nJy, uJy, mJy, Jy, maggies."
    ),
]
PixelZeroPoint = Annotated[
    float | None, typer.Option(parser=_MAGNITUDE, help="AB magnitude of a pixel value of 1.")
]
FluxUnit = Annotated[
    str | None,
    typer.Option(parser=_NAME, help="Unit of the magnitude columns, if they hold fluxes: nanomaggies, nJy, …"),
]
ZeroPoint = Annotated[
    float | None,
    typer.Option(parser=_MAGNITUDE, help="AB magnitude of a flux of 1, if the magnitude columns hold fluxes."),
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
        help="Magnitudes for non-detections, one per band: 24.1,25.3,…; default: the model's.",
    ),
]
FillBands = Annotated[
    str | None,
    typer.Option(
        parser=_NAMES,
        help="Bands that the source may lack; their pixels become 0 and their magnitudes the limit.",
    ),
]


def reading_of(
    *,
    model: Model = None,
    images: Images = None,
    bands: Bands = None,
    magnitudes: MagnitudeNames = None,
    redshift: RedshiftName = None,
    identifiers: IdName = None,
    keep: Keep = None,
    catalogue: Catalogue = None,
    mask: Mask = None,
    ivar: Ivar = None,
    fit: FitHow = "scale",
    pad: Pad = False,
    pixel_scale: PixelScale = None,
    pixel_unit: PixelUnit = None,
    pixel_zero_point: PixelZeroPoint = None,
    flux_unit: FluxUnit = None,
    zero_point: ZeroPoint = None,
    missing: MissingMarks = None,
    limits: Limits = None,
    fill_bands: FillBands = None,
) -> Reading:
    """The options as the record that readers take. Raises BadParameter for two that exclude each other."""
    from cosmicai.data import layout
    from cosmicai.data.missing import parse_markers
    from cosmicai.data.reading import Columns, Reading

    return Reading(
        columns=Columns(
            _names(images), _names(magnitudes), redshift, _names(mask), _names(ivar), identifiers, _names(keep)
        ),
        bands=_names(bands),
        fit=fit,
        pad=pad,
        pixel_scale=pixel_scale,
        pixel_zero_point=_zero_point(pixel_unit, pixel_zero_point, "--pixel-unit", "--pixel-zero-point"),
        flux_zero_point=_zero_point(flux_unit, zero_point, "--flux-unit", "--zero-point"),
        missing=parse_markers(missing or []),
        limits=limits,
        filled=_bands_to_fill(fill_bands, model or layout.BUNDLED),
        catalogue=catalogue,
    )


def reads(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command that takes `model` and `reading` the options of `reading_of` in their place.

    Typer builds a command's options from its signature, so the options are written into it.
    """
    own = inspect.signature(command).parameters
    hints = get_type_hints(command, localns={"Reading": object}, include_extras=True)
    options = inspect.signature(reading_of, eval_str=True, locals={"Reading": object}).parameters
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        if name == "reading":
            parameters += options.values()
        elif name != "model":
            parameters.append(parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY))

    def run(**values: Any) -> None:
        chosen = {name: values.pop(name) for name in options}
        command(model=chosen["model"], reading=reading_of(**chosen), **values)

    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else None


def _bands_to_fill(text: str | None, model: Path) -> tuple[str, ...]:
    """The names of --fill-bands. Raises Refused for a name that the model has no band for."""
    from cosmicai.data import layout

    names = _names(text) or ()
    bands = layout.read(model).bands or () if names else ()
    unknown = [name for name in names if name not in bands]
    if unknown:
        has = f"its bands are {', '.join(bands)}" if bands else "it does not name its bands"
        raise Refused(unknown[0], f"is not a band of the model; {has}", "--fill-bands")
    return names


def _zero_point(unit: str | None, zero_point: float | None, unit_option: str, option: str) -> float | None:
    from cosmicai.data.units import ZERO_POINTS, zero_point_of

    if unit is None:
        return zero_point
    if zero_point is not None:
        raise typer.BadParameter(f"and {option} exclude each other; give one", param_hint=unit_option)
    known = zero_point_of(unit)
    if known is None:
        raise typer.BadParameter(f"{unit}: give one of {', '.join(ZERO_POINTS)}", param_hint=unit_option)
    return known
