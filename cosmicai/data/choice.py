"""Which columns of a source are images, magnitudes, redshift and identifiers.

A column is chosen by its usual name, or because it is the only possible one. If several are possible, all are
listed and none is chosen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from cosmicai.data import bands as bandnames
from cosmicai.data.layout import ModelLayout
from cosmicai.data.objects import ObjectsError, column_name
from cosmicai.data.reading import Columns, Reading
from cosmicai.data.sources.base import DEC, IDS, RA, Column, SourceError, Table, either, names
from cosmicai.data.units import zero_point_of

IMAGES = (
    "images",
    "image",
    "stamps",
    "stamp",
    "cutouts",
    "cutout",
    "x",
    "image_array",
    "image.flux",
    "image.array",
)
MAGNITUDES = ("magnitudes", "magnitude", "mags", "mag")
FLUXES = ("fluxes", "flux")
REDSHIFTS = (
    *(
        "redshift",
        "redshifts",
        "z_spec",
        "zspec",
        "spec_z",
        "specz",
        "z_specz",
        "z_true",
        "ztrue",
        "true_redshift",
    ),
    *("redshift_true", "spec_redshift", "redshift_spec", "z_best", "zbest"),
)
LEAST_SIDE = 8  # pixels: an array with fewer along an axis is not a stamp
_NO_MAGNITUDE = re.compile(
    r"err|ivar|sigma|unc|flag|ext|ebv|snr|depth|nobs|psf_?fwhm|mask|radius|frac|rchisq|^a_|_e$|^e_",
    re.IGNORECASE,
)
_MAGNITUDE = re.compile(r"mag|dered|^m_?\{\}$|^\{\}$", re.IGNORECASE)
_NO_DEGREES = ("rad", "radian", "radians", "h", "hr", "hour", "hours", "hourangle", "arcmin", "arcsec", "mas")
_FLUX = re.compile(r"flux", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """images: one column with all channels, or one for each. magnitudes: one (N, M), or one for each band.

    fluxes: the magnitude columns hold fluxes. kept: by their names in partitions. notes: choices that
    no option made.
    """

    images: tuple[Column, ...]
    magnitudes: tuple[Column, ...]
    fluxes: bool
    redshift: Column | None
    mask: tuple[Column, ...] = ()
    ivar: tuple[Column, ...] = ()
    ids: Column | None = None
    ra: Column | None = None
    dec: Column | None = None
    kept: tuple[tuple[str, Column], ...] = ()
    notes: tuple[str, ...] = ()


def choose(table: Table, reading: Reading, layout: ModelLayout) -> Choice:
    """Raises SourceError that lists the possible columns and the option that chooses."""
    notes: list[str] = []
    columns = reading.columns
    images = _images(table, columns, layout, reading.bands, notes)
    magnitudes, fluxes = _magnitudes(table, reading, layout, images, notes)
    redshift = _redshift(table, columns.redshift, images, magnitudes, notes)
    ids = _identifier(table, columns.ids, images)
    ra, dec = (_in_degrees(table, usual) for usual in (RA, DEC))
    return Choice(
        images,
        magnitudes,
        fluxes,
        redshift,
        _several(table, columns.mask, "--mask"),
        _several(table, columns.ivar, "--ivar"),
        ids,
        ra,
        dec,
        _kept(table, columns.keep, (ids, ra, dec)),
        tuple(notes),
    )


def is_stamp(column: Column) -> bool:
    """Whether a row of the column can be an image."""
    sides = sorted(column.shape, reverse=True)[:2]
    return (
        len(column.shape) in (2, 3) and len(sides) == 2 and min(sides) >= LEAST_SIDE and column.dtype != "text"
    )


# Images


def _images(
    table: Table, columns: Columns, layout: ModelLayout, bands: tuple[str, ...] | None, notes: list[str]
) -> tuple[Column, ...]:
    if columns.images:
        return _several(table, columns.images, "--images")
    candidates = [column for column in table.columns if is_stamp(column)]
    units = [column for column in candidates if column.shown]
    if units:
        return _hdus(table, candidates, layout, bands)
    usual = [column for column in candidates if column.name.lower() in IMAGES and len(column.shape) == 3]
    if len(usual) > 1:
        raise SourceError(f"{table.path}: images could be {either(usual)}: give --images NAME")
    if usual:
        return (usual[0],)
    whole = [column for column in candidates if len(column.shape) == 3]
    if len(whole) == 1:
        notes.append(f"images are {whole[0].described}, the only column of stamps")
        return (whole[0],)
    families = _families(candidates, layout.bands or ())
    complete = [family for family in families.values() if len(family) == len(layout.bands or ())]
    if len(complete) == 1 and not whole:
        return tuple(complete[0].values())
    if not candidates:
        raise SourceError(
            f"{table.path}: no column holds images, with two or three axes per galaxy; it has "
            f"{names(table.columns)}: give --images NAME" + "".join(f"; {note}" for note in table.notes)
        )
    raise SourceError(
        f"{table.path}: images could be {either(candidates)}: give --images NAME, or a name for each band"
    )


def _hdus(
    table: Table, candidates: Sequence[Column], layout: ModelLayout, bands: tuple[str, ...] | None
) -> tuple[Column, ...]:
    """The one HDU that can hold the images, or those of the bands, if nothing else is possible."""
    if len(candidates) == 1:
        return tuple(candidates)
    flat = [column for column in candidates if len(column.shape) == 2]
    if len(flat) == len(candidates) and len({(column.rows, *column.shape) for column in flat}) == 1:
        spelt = [bandnames.is_known((column.bands or ("",))[0]) for column in flat]
        known = [bandnames.named((column.bands or ("",))[0], layout.bands or ()) for column in flat]
        if all(one or two for one, two in zip(spelt, known, strict=True)) or len(bands or ()) == len(flat):
            return tuple(flat)
    listed = ", ".join(column.described for column in candidates)
    raise SourceError(
        f"{table.path}: it has several images: {listed}. Give --images NAME, or a name for each band with "
        "commas; --mask and --ivar name the planes of bad pixels"
    )


def _several(
    table: Table, requested: tuple[str, ...] | None, option: str, images: bool = True
) -> tuple[Column, ...]:
    """The columns of these names; a name with * means all that match."""
    chosen: list[Column] = []
    for name in requested or ():
        if "*" not in name:
            chosen.append(table.find(name, option, images))
            continue
        fits = [
            column
            for column in table.columns
            if fnmatchcase(column.name.lower(), name.lower()) and (len(column.shape) > 1) == images
        ]
        if not fits:
            raise SourceError(f"{table.path}: {option} {name} fits none of {names(table.columns)}")
        chosen += fits
    return tuple(chosen)


def _families(columns: Sequence[Column], bands: Sequence[str]) -> dict[str, dict[str, Column]]:
    """Columns whose names differ by their band alone, by the name with {} for it; in the bands' order."""
    families: dict[str, dict[str, Column]] = {}
    for column in columns:
        hit = bandnames.named(column.name, bands)
        if hit is not None:
            families.setdefault(column.group + hit.template, {}).setdefault(hit.band, column)
    return {
        template: {band: family[band] for band in bands if band in family}
        for template, family in families.items()
    }


# Magnitudes


def _magnitudes(
    table: Table, reading: Reading, layout: ModelLayout, images: tuple[Column, ...], notes: list[str]
) -> tuple[tuple[Column, ...], bool]:
    """The columns, and whether they hold fluxes."""
    wants_fluxes = reading.flux_zero_point is not None
    if reading.columns.magnitudes:
        chosen = _several(table, reading.columns.magnitudes, "--magnitudes", images=False)
        return chosen, wants_fluxes or _are_fluxes(table, chosen)
    magnitudes, fluxes = _whole_and_families(table, layout, images)
    if wants_fluxes and fluxes:
        magnitudes = fluxes
    if len(magnitudes) > 1:
        listed = " or ".join(", ".join(column.label for column in one) for one in magnitudes)
        raise SourceError(f"{table.path}: magnitudes could be {listed}: give --magnitudes NAMES")
    if magnitudes:
        chosen = magnitudes[0]
        if len(chosen) > 1:
            notes.append(f"magnitudes are {', '.join(column.label for column in chosen)}")
        return chosen, wants_fluxes or _are_fluxes(table, chosen)
    if len(fluxes) == 1 and _are_fluxes(table, fluxes[0], ask=False):
        notes.append(
            f"magnitudes are computed from the fluxes {', '.join(column.label for column in fluxes[0])}"
        )
        return fluxes[0], True
    if fluxes:
        listed = " or ".join(", ".join(column.label for column in one) for one in fluxes)
        raise SourceError(
            f"{table.path}: no column for magnitudes, but fluxes: {listed}. Give --flux-unit nanomaggies, "
            "nJy, …, or --zero-point, to make magnitudes of them"
        )
    raise SourceError(
        f"{table.path}: no column for magnitudes among the usual names; it has {names(table.columns)}: "
        "give --magnitudes NAME, or a name for each band with commas"
    )


def _whole_and_families(
    table: Table, layout: ModelLayout, images: tuple[Column, ...]
) -> tuple[list[tuple[Column, ...]], list[tuple[Column, ...]]]:
    """All that can be the magnitudes, and all that can be fluxes."""
    near = _in_their_group(table, images, [column for column in table.columns if len(column.shape) <= 1])
    magnitudes: list[tuple[Column, ...]] = [
        (column,) for column in near if column.name.lower() in MAGNITUDES and column.shape
    ]
    fluxes: list[tuple[Column, ...]] = [
        (column,) for column in near if column.name.lower() in FLUXES and column.shape
    ]
    for template, family in _families(
        [column for column in near if not column.shape], layout.bands or ()
    ).items():
        if len(family) < len(layout.bands or ()) or _NO_MAGNITUDE.search(template):
            continue
        if _FLUX.search(template):
            fluxes.append(tuple(family.values()))
        elif _MAGNITUDE.search(template.rpartition("/")[2].rpartition(".")[2]):
            magnitudes.append(tuple(family.values()))
    return magnitudes, fluxes


def _in_their_group(table: Table, images: tuple[Column, ...], columns: list[Column]) -> list[Column]:
    """Those of the images' own group if it has any with their rows (`train/`, not `test/`), else all."""
    own = [column for column in columns if images[0].group and column.group == images[0].group]
    return own if any(column.rows == images[0].rows for column in own) else columns


def _are_fluxes(table: Table, columns: Sequence[Column], ask: bool = True) -> bool:
    """Whether the file's units say so. ask: raise SourceError if only a name says so."""
    known = [column.unit is not None and zero_point_of(column.unit) is not None for column in columns]
    if all(known):
        return True
    named = [column.label for column in columns if _FLUX.search(column.name)]
    if named and ask:
        raise SourceError(
            f"{table.path}: {', '.join(named)} are fluxes by their names: give --flux-unit nanomaggies, nJy, "
            "…, or --zero-point"
        )
    return False


# Redshift


def _redshift(
    table: Table,
    requested: str | None,
    images: tuple[Column, ...],
    magnitudes: tuple[Column, ...],
    notes: list[str],
) -> Column | None:
    if requested is not None and requested.lower() == "none":
        return None
    if requested is not None:
        column = table.find(requested, "--redshift")
        if column in magnitudes:
            raise SourceError(
                f"{table.path}: {column.label} is a magnitude already: give another --redshift NAME"
            )
        return _single(table, column)
    usual = [
        column for column in table.columns if column.name.lower() in REDSHIFTS and column not in magnitudes
    ]
    usual = _in_their_group(table, images, usual)
    if len(usual) > 1:
        raise SourceError(f"{table.path}: redshift could be {either(usual)}: give --redshift NAME, or none")
    if usual:
        return _single(table, usual[0])
    return _bare_z(table, magnitudes, notes)


def _bare_z(table: Table, magnitudes: tuple[Column, ...], notes: list[str]) -> Column | None:
    """A column that is called z alone: a redshift only if no other is called u, g, r, i or y."""
    bare = [column for column in table.columns if column.name.lower() == "z" and len(column.shape) <= 1]
    if len(bare) != 1 or bare[0] in magnitudes:
        return None
    others = [
        column.label
        for column in table.columns
        if column.name.lower() in ("u", "g", "r", "i", "y") and len(column.shape) <= 1
    ]
    if others:
        notes.append(
            f"no redshifts: {bare[0].label} is next to {', '.join(others)} and so counts as a band; "
            "if it is the redshift, give --redshift NAME"
        )
        return None
    notes.append(f"{bare[0].label} counts as the redshift, because no column is called u, g, r or i")
    return _single(table, bare[0])


def _single(table: Table, column: Column, option: str = "--redshift") -> Column:
    """The column if it has one value per galaxy. Raises SourceError."""
    if column.shape in ((), (1,)):
        return column
    raise SourceError(
        f"{table.path}: {column.described} has {' × '.join(map(str, column.shape))} values per galaxy, perhaps "
        f"with its error: give {option} '{column.name}[0]' for the first"
    )


def _identifier(table: Table, requested: str | None, images: tuple[Column, ...]) -> Column | None:
    """The column of identifiers; None if rows are counted instead. Raises SourceError for several."""
    if requested is not None:
        return None if requested.lower() == "none" else _single(table, table.find(requested, "--id"), "--id")
    usual = [column for column in table.columns if column.name.lower() in IDS and column.shape in ((), (1,))]
    usual = _in_their_group(table, images, usual)
    if len(usual) > 1:
        raise SourceError(
            f"{table.path}: identifiers could be {either(usual)}: give --id NAME, or --id none for row numbers"
        )
    return usual[0] if usual else None


def _kept(
    table: Table, requested: tuple[str, ...] | None, others: tuple[Column | None, ...]
) -> tuple[tuple[str, Column], ...]:
    """(name in partitions, column) of the other columns to keep. Raises SourceError."""
    kept: dict[str, Column] = {}
    for column in _several(table, requested, "--keep", images=False):
        if column in others or column in kept.values():
            continue
        try:
            kept[column_name(column.name, tuple(kept))] = _single(table, column, "--keep")
        except ObjectsError as error:
            raise SourceError(f"{table.path}: --keep: {error}: keep one of them") from error
    return tuple(kept.items())


def _in_degrees(table: Table, usual: Sequence[str]) -> Column | None:
    """The first of the usual names that one column alone has. Raises SourceError if it is not in degrees."""
    for name in usual:
        hits = [column for column in table.columns if column.name.lower() == name and not column.shape]
        if len(hits) == 1 and (hits[0].unit or "").strip().lower() in _NO_DEGREES:
            raise SourceError(f"{table.path}: {hits[0].label} is in {hits[0].unit}: convert it to degrees")
        if len(hits) == 1:
            return hits[0]
    return None
