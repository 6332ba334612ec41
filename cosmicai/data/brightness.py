"""The magnitudes of a source in the order of the model's bands, with one rule for each missing value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosmicai.data import bands as bandnames
from cosmicai.data import units, values
from cosmicai.data.channels import Channels, check_conflicts
from cosmicai.data.choice import Choice
from cosmicai.data.layout import ModelLayout
from cosmicai.data.missing import Counts
from cosmicai.data.photometry import Described
from cosmicai.data.reading import Reading
from cosmicai.data.sources.base import ZERO_POINT, Column, SourceError, agree
from inference.contract.missing import BRIGHTEST, FAINTEST, FLUX_MARKERS, MAGNITUDE_MARKERS, Missing
from inference.data.missing import Hit, beyond, marked, settled

Doubles = NDArray[np.float64]
# The share of a band's values that may be beyond any survey; with more, the column holds something else.
_TOLERATED = 0.05
_ENOUGH_VALUES = 20  # if this many values all look like magnitudes, they are not fluxes


class Magnitudes:
    """Magnitudes (n, M), float32, NaN for what is not known.

    limits: by band, the magnitude of a galaxy that is not detected. implausible, known: values of each band
    so far.
    """

    def __init__(
        self,
        path: Path,
        choice: Choice,
        reading: Reading,
        layout: ModelLayout,
        channels: Channels,
        counts: Counts,
        described: Described = Described(),  # noqa: B008
    ) -> None:
        self._path, self._columns, self._reading, self._layout = path, choice.magnitudes, reading, layout
        self._counts = counts
        self.notes: list[str] = []
        self.fluxes = choice.fluxes
        vega = [one.label for one in self._columns if "vega" in f"{one.name} {one.unit}".lower()]
        if vega:
            self.notes.append(
                f"{', '.join(vega)} are read as AB magnitudes, but their names or units say Vega: convert them"
            )
        self.order = self._order(channels)
        self.names = layout.bands or channels.bands or tuple(f"magnitude {i}" for i in range(len(self.order)))
        self._limits_there = self._source_limits(described)
        self.limits = self._limits()
        table = FLUX_MARKERS if self.fluxes else MAGNITUDE_MARKERS
        # What the user says comes first; of two NaN, which are never equal, the first one counts.
        self._markers = {**reading.missing, **{m: k for m, k in table.items() if m not in reading.missing}}
        self._zero_points = self._flux_zero_points()
        self._implausible = np.zeros(len(self.order), np.int64)
        self._known = np.zeros(len(self.order), np.int64)

    def _order(self, channels: Channels) -> list[int | None]:
        """Which column, or which value of the one column, each band is."""
        if len(self._columns) == 1 and self._columns[0].shape:
            return self._order_of_values(self._columns[0], channels)
        if any(column.shape not in ((), (1,)) for column in self._columns):
            column = next(column for column in self._columns if column.shape not in ((), (1,)))
            raise SourceError(
                f"{self._path}: {column.described} has several values per galaxy, perhaps with its error: name "
                f"the first with --magnitudes '{column.name}[0],…'"
            )
        model_bands = self._layout.bands
        if model_bands is not None:
            spelt = [bandnames.named(column.name, model_bands) for column in self._columns]
            if any(spelt):
                try:
                    return bandnames.order(
                        [column.name for column in self._columns], model_bands, self._reading.filled
                    )
                except bandnames.BandError as error:
                    raise SourceError(f"{self._path}: magnitudes: {error}: give --magnitudes NAMES") from error
        if len(self._columns) != self._layout.magnitudes:
            raise SourceError(
                f"{self._path}: --magnitudes names {len(self._columns)} columns, the model takes "
                f"{self._layout.magnitudes}"
            )
        listed = ", ".join(column.label for column in self._columns)
        self.notes.append(f"magnitudes are in the order given: {listed}")
        return list(range(len(self._columns)))

    def _order_of_values(self, column: Column, channels: Channels) -> list[int | None]:
        """An array (N, M) has no names: it has the images' bands, if it has as many values."""
        if len(column.shape) != 1:
            raise SourceError(f"{self._path}: magnitudes are {column.described}, expected (N, M)")
        count, expected = column.shape[0], self._layout.magnitudes
        if expected == self._layout.channels and count == channels.count and channels.names is not None:
            if len(channels.columns) > 1 and channels.order != list(range(count)):
                raise SourceError(self._two_orders(column, channels))
            return channels.order
        if count == expected and (channels.count == count or channels.names is None):
            return list(range(count))
        if count == expected:
            listed = ", ".join(self._layout.bands or ())
            self.notes.append(
                f"{column.label} is assumed to be in the model's order {listed}, because it has as many "
                f"values; if it is not, give --magnitudes '{column.name}[0],…'"
            )
            return list(range(count))
        raise SourceError(
            f"{self._path}: magnitudes are {column.described}, the model takes {expected}: name them in the "
            f"order {', '.join(self._layout.bands or ())} with --magnitudes "
            f"'{column.name}[0],{column.name}[1],…'"
        )

    def _two_orders(self, column: Column, channels: Channels) -> str:
        """The message about an array that may be in the order of several images, or in that of the model."""
        names, bands = ", ".join(channels.names or ()), ", ".join(self._layout.bands or ())
        by_image = ",".join(f"{column.name}[{index}]" for index in channels.order if index is not None)
        by_model = ",".join(f"{column.name}[{index}]" for index in range(column.shape[0]))
        return (
            f"{self._path}: {column.described} could be in the order of the images, {names}, or of the model, "
            f"{bands}: give --magnitudes '{by_image}' for the first, or '{by_model}' for the second"
        )

    def _source_limits(self, described: Described) -> list[float | None]:
        """By band, the magnitude that stands for a non-detection in the source, from its photometry.json."""
        limits = described.photometry.magnitude_limits
        if limits is None or self.fluxes:
            return [None] * len(self.order)
        count = self._columns[0].shape[0] if self._columns[0].shape else len(self._columns)
        if len(limits) != count:
            raise SourceError(
                f"{described.place} has {len(limits)} magnitude_limits, but {self._path} has {count} "
                "magnitudes per galaxy: correct the file, or give the magnitudes that it describes"
            )
        return [None if index is None else limits[index] for index in self.order]

    def _limits(self) -> tuple[float, ...] | None:
        limits = self._reading.limits or self._layout.photometry.magnitude_limits
        if limits is None:
            there = [limit for limit in self._limits_there if limit is not None]
            limits = tuple(there) if len(there) == len(self.order) else None
        if limits is not None and len(limits) != len(self.order):
            raise SourceError(f"{self._path}: {len(limits)} limiting magnitudes for {len(self.order)} bands")
        return limits

    def _flux_zero_points(self) -> list[float] | None:
        zero_point = self._reading.flux_zero_point
        if zero_point is None:
            check_conflicts(self._path, self._columns, ZERO_POINT, "--flux-unit or --zero-point")
        if not self.fluxes:
            return None
        columns = self._columns * (len(self.order) if len(self._columns) == 1 else 1)
        stated = [column.ab_zero_point for column in columns]
        zero_points = [zero_point if zero_point is not None else stated[index or 0] for index in self.order]
        if any(one is None for one in zero_points):
            raise SourceError(
                f"{self._path}: the unit of the fluxes is not known: give --flux-unit or --zero-point"
            )
        known = [column for column in self._columns if column.ab_zero_point is not None]
        other = {one.unit for one in known if not agree(ZERO_POINT, one.ab_zero_point, zero_point)}
        if zero_point is not None and other:
            self.notes.append(
                f"{units.unit_of(zero_point)} is used as the option says, although the file states "
                f"{', '.join(sorted(map(str, other)))}"
            )
        listed = ", ".join(sorted({units.unit_of(one) for one in zero_points if one is not None}))
        self.notes.append(f"magnitudes are computed from fluxes: {listed}")
        return [one for one in zero_points if one is not None]

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Raises SourceError for text, and for values that are not magnitudes."""
        if len(self._columns) == 1 and self._columns[0].shape:
            table, masked = self._numbers(self._columns[0], start, stop)
            pairs = [(table[:, i], masked[:, i]) if i is not None else None for i in self.order]
        else:
            pairs = [None if i is None else self._numbers(self._columns[i], start, stop) for i in self.order]
        result = np.empty((stop - start, len(self.order)), np.float32)
        for band, pair in enumerate(pairs):
            if pair is None:
                result[:, band] = np.nan if self.limits is None else self.limits[band]
            else:
                result[:, band] = self._band(band, pair[0].reshape(-1), pair[1].reshape(-1))
        self._check()
        if self._reading.flux_zero_point is not None and not start:
            self._check_fluxes(pairs)
        return result

    def _check_fluxes(self, pairs: list[tuple[Doubles, NDArray[np.bool_]] | None]) -> None:
        """Raises SourceError if the first values all look like magnitudes, as fluxes of galaxies never do."""
        fluxes = np.concatenate([pair[0].reshape(-1) for pair in pairs if pair is not None])
        fluxes = fluxes[np.isfinite(fluxes)]
        if len(fluxes) >= _ENOUGH_VALUES and fluxes.min() >= BRIGHTEST and fluxes.max() <= FAINTEST:
            raise SourceError(
                f"{self._path}: the magnitude columns hold {fluxes.min():.4g} to {fluxes.max():.4g}, which "
                "look like magnitudes, but --flux-unit or --zero-point says fluxes: for the unit of the pixels "
                "give --pixel-unit or --pixel-zero-point"
            )

    def _numbers(self, column: Column, start: int, stop: int) -> tuple[Doubles, NDArray[np.bool_]]:
        try:
            return values.numbers(column.read(start, stop))
        except values.ValueFault as error:
            raise SourceError(f"{self._path}: {column.label}, rows from {start} on: {error}") from error

    def _band(self, band: int, measured: Doubles, masked: NDArray[np.bool_]) -> Doubles:
        name, limit = self.names[band], np.nan if self.limits is None else self.limits[band]
        hits = marked(measured, self._markers)
        limit_there = self._limits_there[band]
        if limit_there is not None and not np.isnan(limit):
            at_limit = np.float32(measured) == np.float32(limit_there)
            for hit in hits:
                at_limit &= ~hit.where
            hits.append(Hit("the limit in photometry.json", Missing.NOT_DETECTED, at_limit))
        result = measured
        if self._zero_points is not None:
            negative = (measured < 0) & np.isfinite(measured)
            for hit in hits:
                negative &= ~hit.where
            result = units.magnitudes(measured, self._zero_points[band])
            hits.append(Hit("a flux below 0", Missing.NOT_DETECTED, negative))
        known = np.ones(len(measured), bool)
        for marker, kind, where in hits:
            known &= ~where
            blank = where & masked
            self._counts.add(name, marker, kind, int(where.sum() - blank.sum()))
            self._counts.add(name, "masked or blank", kind, int(blank.sum()))
        odd, faint = beyond(result, hits, limit)
        self._known[band] += int(known.sum())
        self._implausible[band] += int(odd.where.sum())
        for hit in (odd, faint):
            self._counts.add(name, hit.marker, hit.kind, int(hit.where.sum()))
        self._note_range(band, measured[known])
        return settled(result, [*hits, odd, faint], limit)

    def _note_range(self, band: int, known: Doubles) -> None:
        if known.size:
            self._range = (float(known.min()), float(np.median(known)), float(known.max()))

    def _check(self) -> None:
        """Raises SourceError if too many values are not magnitudes."""
        for band, (odd, known) in enumerate(zip(self._implausible, self._known, strict=True)):
            if odd > _TOLERATED * known and (odd > 1 or odd == known):
                raise SourceError(
                    f"{self._path}: {odd} of {known} magnitudes in {self.names[band]} are outside "
                    f"{BRIGHTEST:g} to {FAINTEST:g}, the range of all surveys; {self._likely(band)}"
                )

    def _likely(self, band: int) -> str:
        least, median, greatest = self._range
        seen = f"the last ones read have {least:.4g} to {greatest:.4g}, median {median:.4g}"
        if self.fluxes:
            return f"{seen}: the zero point is likely wrong: check --flux-unit or --zero-point"
        if least < 0 and abs(median) < 5 and greatest < BRIGHTEST:
            return f"{seen}: likely colours or scaled values, not magnitudes: give other --magnitudes NAMES"
        return f"{seen}: likely fluxes: give --flux-unit nanomaggies, nJy, …, or --zero-point"
