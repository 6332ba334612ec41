"""Bands by the names that files give to channels, columns and HDUs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_TOKEN = re.compile(r"[A-Z]+(?![a-z])\d*[A-Z]?|[A-Z]?[a-z]+\d*|\d+")
_RUN_TOGETHER = re.compile(r"^(?P<band>[ugrizyJHK])_?(?:mag|flux|Mag|Flux)$")
KNOWN = ("u", "g", "r", "i", "z", "y", "Y", "J", "H", "K", "Ks", "W1", "W2", "W3", "W4", "NUV", "FUV")


class BandError(ValueError):
    """Channels cannot be put in the order of the model's bands; the message says what is missing."""


@dataclass(frozen=True)
class Named:
    """A name that holds a band: the band, and the name with {} in its place."""

    band: str
    template: str


def named(name: str, bands: Sequence[str]) -> Named | None:
    """The one of `bands` that a name holds as a word of its own; None if it holds none or several.

    HSC-G, MAG_AUTO_G, modelMag_g, g_cmodel_mag, gmag and `g DECam SDSS c0001` all hold g. Case is ignored only
    if no band matches exactly.
    """
    run_together = _RUN_TOGETHER.match(name)
    places = [run_together.span("band")] if run_together else _words(name)
    for same in (str.__eq__, lambda a, b: a.lower() == b.lower()):
        hits = [(start, stop, band) for start, stop in places for band in bands if same(name[start:stop], band)]
        if hits:
            hit_bands = {band for *_, band in hits}
            if len(hit_bands) > 1:
                return None
            start, stop, band = hits[0]
            return Named(band, f"{name[:start]}{{}}{name[stop:]}")
    return None


def _words(name: str) -> list[tuple[int, int]]:
    """Places of the words of a name: the whole, what separators divide, and what capitals divide."""
    whole = [(0, len(name))]
    divided = [match.span() for match in re.finditer(r"[A-Za-z0-9']+", name)]
    capitals = [match.span() for match in _TOKEN.finditer(name)]
    return list(dict.fromkeys(whole + divided + capitals))


def order(names: Sequence[str], bands: Sequence[str], filled: Sequence[str] = ()) -> list[int | None]:
    """Which of the named channels each band is; None for a band that is to be filled.

    Raises BandError, which names all bands, if one is missing or occurs twice.
    """
    places: dict[str, list[int]] = {band: [] for band in bands}
    for index, name in enumerate(names):
        hit = named(name, bands)
        if hit is not None:
            places[hit.band].append(index)
    twice = [band for band, indices in places.items() if len(indices) > 1]
    if twice:
        of = ", ".join(names[index] for index in places[twice[0]])
        raise BandError(f"band {twice[0]} occurs {len(places[twice[0]])} times: {of}")
    missing = [band for band in bands if not places[band] and band not in filled]
    if missing:
        raise BandError(
            f"there is no band {' or '.join(missing)} among {', '.join(names)}; the model takes "
            f"{', '.join(bands)}"
        )
    return [places[band][0] if places[band] else None for band in bands]


def is_known(name: str) -> bool:
    """Whether a name holds a band of the usual ones, the model's or not."""
    return named(name, KNOWN) is not None
