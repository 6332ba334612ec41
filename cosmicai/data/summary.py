"""What was read of a source, for a look before a run: bands, ranges, missing values, warnings, stamps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosmicai.data import checks
from cosmicai.data.galaxies import Block, Galaxies
from inference.contract.missing import Missing

SHEET = 8  # stamps along each side of a contact sheet
_SAMPLED = 2048  # galaxies whose pixels are looked at
_BINS = np.arange(-10.0, 60.0, 0.01)
_RED, _GREEN, _BLUE = 3, 2, 1  # i, r and g of ugriz


@dataclass(frozen=True)
class BandRange:
    """Magnitudes at 0.1, 50 and 99.9 percent, and the first and last of these for the model's training."""

    band: str
    low: float
    median: float
    high: float
    trained: tuple[float, float] | None
    outside: int

    def cells(self) -> tuple[str, ...]:
        trained = "" if self.trained is None else f"{self.trained[0]:.2f} to {self.trained[1]:.2f}"
        return (
            self.band,
            f"{self.low:.2f}",
            f"{self.median:.2f}",
            f"{self.high:.2f}",
            trained,
            f"{self.outside:,}",
        )


@dataclass(frozen=True)
class Summary:
    """facts: (name, text) in order. ranges: a row for each band. missing: column, marker, kind, count. notes:
    choices that no option made. warnings: what looks wrong. stamps: the first, with redshifts."""

    facts: tuple[tuple[str, str], ...]
    ranges: tuple[BandRange, ...]
    missing: tuple[tuple[str, str, str, int], ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    stamps: NDArray[np.float32]
    redshifts: NDArray[np.float32] | None = field(default=None)

    def contact_sheet(self, path: Path, title: str) -> None:
        """A PNG of the first 64 stamps in colour, each stretched by its own noise, with its redshift.

        Three bands from red to blue are red, green and blue (Lupton et al. 2004, PASP 116, 133).
        """
        contact_sheet(self.stamps, self.redshifts, path, title)


class Sample:
    """Gathers a summary, block by block; pixels of the first galaxies, magnitudes and redshifts of all."""

    def __init__(self, galaxies: Galaxies) -> None:
        self._galaxies = galaxies
        bands = galaxies.bands or tuple(f"channel {n}" for n in range(len(galaxies.channels.order)))
        self._bands = bands
        self._count = 0
        self._stamps: list[NDArray[np.float32]] = []
        self._stamp_redshifts: list[NDArray[np.float32]] = []
        self._light: list[NDArray[np.float64]] = []
        self._magnitudes: list[NDArray[np.float32]] = []
        self._zeros = np.zeros(len(bands), np.int64)
        self._saturated = 0
        self._histogram: NDArray[np.int64] | None = None
        self._outside: NDArray[np.int64] | None = None
        self._redshifts: list[tuple[int, float, float]] = []
        self._ids: tuple[str, str] | None = None
        stated = galaxies.layout.photometry.zero_point
        self._zero_point = stated if stated is not None else galaxies.photometry.zero_point

    def add(self, block: Block) -> None:
        if not len(block):
            return
        self._add_pixels(block)
        self._add_magnitudes(block.magnitudes)
        if block.redshift is not None:
            known = block.redshift[np.isfinite(block.redshift)]
            bounds = (float(known.min()), float(known.max())) if known.size else (np.inf, -np.inf)
            self._redshifts.append((known.size, *bounds))
        if self._ids is None:
            ids = block.objects["id"]
            self._ids = str(ids[0]), "text" if ids.dtype.kind == "U" else str(ids.dtype)
        self._count += len(block)

    def _add_pixels(self, block: Block) -> None:
        held = sum(map(len, self._stamps))
        if held < SHEET**2:
            self._stamps.append(block.images[: SHEET**2 - held].copy())
            if block.redshift is not None:
                self._stamp_redshifts.append(block.redshift[: SHEET**2 - held])
        room = _SAMPLED - sum(map(len, self._magnitudes))
        if room <= 0:
            return
        images = block.images[:room]
        self._zeros += (images == 0).all((2, 3)).sum(0)
        self._saturated += int(checks.flat_cores(images).sum())
        self._light.append(checks.stamp_magnitudes(images, 0.0))
        self._magnitudes.append(block.magnitudes[:room])

    def _add_magnitudes(self, magnitudes: NDArray[np.float32]) -> None:
        if self._histogram is None or self._outside is None:
            self._histogram = np.zeros((magnitudes.shape[1], len(_BINS) + 1), np.int64)
            self._outside = np.zeros(magnitudes.shape[1], np.int64)
        ranges = self._galaxies.layout.ranges
        for band in range(magnitudes.shape[1]):
            known = magnitudes[:, band][np.isfinite(magnitudes[:, band])]
            places = np.searchsorted(_BINS, known)
            self._histogram[band] += np.bincount(places, minlength=len(_BINS) + 1)
            if ranges is not None and len(ranges[0]) == magnitudes.shape[1]:
                low, high = (np.float32(bound[band]) for bound in ranges)
                self._outside[band] += int(((known < low) | (known > high)).sum())

    # The summary

    def summary(self) -> Summary:
        galaxies = self._galaxies
        stamps = np.concatenate(self._stamps) if self._stamps else np.empty((0, 1, 1, 1), np.float32)
        return Summary(
            tuple(self._facts()),
            tuple(self._ranges()),
            tuple(galaxies.counts.rows()),
            tuple(galaxies.notes),
            tuple(self._warnings()),
            stamps,
            np.concatenate(self._stamp_redshifts) if self._stamp_redshifts else None,
        )

    def _facts(self) -> list[tuple[str, str]]:
        galaxies, choice, channels = self._galaxies, self._galaxies.choice, self._galaxies.channels
        facts = [
            ("galaxies", f"{self._count:,}"),
            ("model", f"{galaxies.layout.name}: {galaxies.layout.described()}"),
            ("images", ", ".join(column.described for column in choice.images)),
            ("bands", ", ".join(self._bands) + self._from_names()),
            ("stamps", channels.plan.described()),
            ("pixel scale", "not known" if channels.new_scale is None else f'{channels.new_scale:.4g}"'),
            ("pixels", self._pixels()),
            ("magnitudes", ", ".join(column.described for column in choice.magnitudes)),
            ("redshift", self._redshift()),
            ("identifiers", self._identifiers()),
            ("kept", ", ".join(self._kept())),
        ]
        if galaxies.bad_images:
            treatment = "set to 0" if galaxies.reading.bad_pixels == "zero" else "left as NaN"
            facts.append(
                (
                    "bad pixels",
                    f"in {galaxies.bad_images:,} galaxies, the first in row {galaxies.first_bad}, {treatment}",
                )
            )
        if galaxies.dropped:
            facts.append(("left out", f"{galaxies.dropped:,} galaxies with bad pixels or without a magnitude"))
        return facts

    def _from_names(self) -> str:
        names = self._galaxies.channels.names
        return (
            "" if names is None or tuple(names) == tuple(self._bands) else f" (in the file: {', '.join(names)})"
        )

    def _pixels(self) -> str:
        channels, model_zero_point = self._galaxies.channels, self._galaxies.layout.photometry.zero_point
        stated = channels.zero_point_text
        if stated is None:
            return (
                "unit not known"
                if model_zero_point is None
                else f"assumed to have zero point {model_zero_point:g}, the model's"
            )
        factors = self._galaxies.factors
        scaled = (
            ""
            if (factors == 1).all()
            else f", multiplied by {', '.join(f'{one:.6g}' for one in np.unique(factors))}"
        )
        return f"zero point {stated}{scaled}"

    def _redshift(self) -> str:
        column = self._galaxies.choice.redshift
        if column is None:
            return "none"
        known = sum(count for count, *_ in self._redshifts)
        if not known:
            return f"{column.label}: none known"
        low, high = min(one[1] for one in self._redshifts), max(one[2] for one in self._redshifts)
        trained = self._galaxies.layout.redshifts
        training = "" if trained is None else f"; the model's training {trained[0]:.3g} to {trained[1]:.3g}"
        return f"{column.label}: {known:,} known, {low:.4g} to {high:.4g}{training}"

    def _identifiers(self) -> str:
        column = self._galaxies.choice.ids
        if column is None or self._ids is None:
            return "none: row numbers"
        return f"{column.label} ({self._ids[1]}), the first {self._ids[0]}"

    def _kept(self) -> list[str]:
        choice = self._galaxies.choice
        positions = [column.label for column in (choice.ra, choice.dec) if column is not None]
        return [*positions, *(column.label for _, column in choice.kept)] or ["no other columns"]

    def _ranges(self) -> list[BandRange]:
        if self._histogram is None or self._outside is None:
            return []
        trained = self._galaxies.layout.ranges
        rows = []
        for band, counts in enumerate(self._histogram):
            known = trained if trained is not None and len(trained[0]) == len(self._histogram) else None
            rows.append(
                BandRange(
                    self._galaxies.magnitudes.names[band],
                    _quantile(counts, 0.001),
                    _quantile(counts, 0.5),
                    _quantile(counts, 0.999),
                    None if known is None else (known[0][band], known[1][band]),
                    int(self._outside[band]),
                )
            )
        return rows

    def _warnings(self) -> list[str]:
        galaxies = self._galaxies
        warnings = []
        if self._magnitudes:
            zero_point = self._zero_point if self._zero_point is not None else np.nan
            light = np.concatenate(self._light) + zero_point
            magnitudes = np.concatenate(self._magnitudes).astype(np.float64)
            warnings += checks.warnings(
                light, magnitudes, self._bands, zero_point, self._saturated, [int(n) for n in self._zeros]
            )
            warnings += checks.repeated_extremes(
                magnitudes.astype(np.float32), galaxies.magnitudes.names, galaxies.magnitudes.limits
            )
        undetected = galaxies.counts.total(Missing.NOT_DETECTED)
        if undetected and galaxies.magnitudes.limits is None:
            warnings.append(
                f"{undetected:,} magnitudes are not detected and become NaN, because no limits are known; give "
                "--limits"
            )
        unknown = galaxies.counts.total(Missing.NOT_OBSERVED) + galaxies.counts.total(Missing.UNUSABLE)
        if unknown:
            warnings.append(f"{unknown:,} magnitudes are not known: NaN in the partitions")
        if galaxies.unusable:
            warnings.append(
                f"{galaxies.unusable:,} galaxies hold NaN; a run flags them and uses what is left of each, if "
                "the network can: --drop-unusable leaves them out, --bad-pixels zero sets pixels to 0"
            )
        warnings += [
            f"{row.outside:,} magnitudes in {row.band} are outside those of the model's training"
            for row in self._ranges()
            if row.outside > max(1, 0.05 * self._count)
        ]
        return warnings


def _quantile(counts: NDArray[np.int64], share: float) -> float:
    """By the histogram over _BINS, to 0.01."""
    total = counts.sum()
    if not total:
        return float("nan")
    place = int(np.searchsorted(np.cumsum(counts), share * total, side="left"))
    return float(_BINS[min(place, len(_BINS) - 1)])


def contact_sheet(
    stamps: NDArray[np.float32], redshifts: NDArray[np.float32] | None, path: Path, title: str
) -> None:
    """See Summary.contact_sheet."""
    from astropy.visualization import make_lupton_rgb
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 8.6), layout="constrained")
    axes = figure.subplots(SHEET, SHEET)
    for place in axes.flat:
        place.axis("off")
    channels = stamps.shape[1]
    colours = (_RED, _GREEN, _BLUE) if channels >= 5 else (channels - 1, channels // 2, 0)
    for index, place in enumerate(axes.flat[: len(stamps)]):
        bands = np.nan_to_num(np.asarray(stamps[index], np.float64))[list(colours)]
        noise = 1.48 * float(np.median(np.abs(bands - np.median(bands)))) or 1.0
        place.imshow(make_lupton_rgb(*bands, stretch=6 * noise, Q=8, minimum=-noise), origin="lower")
        if redshifts is not None:
            place.set_title(f"z {redshifts[index]:.2f}", fontsize=7, pad=2)
    figure.suptitle(f"{title}: the first {len(stamps)} galaxies")
    figure.savefig(path, dpi=120)
