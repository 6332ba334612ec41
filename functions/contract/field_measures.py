"""The point measures of the field under RAIL's names (rail.evaluation.metrics.pointestimates).

With ez = (z_pred - z) / (1 + z). Merged ranks have only a histogram of ez, so each measure may be off by about
one bin; a rank computes them exactly from its own galaxies. Standard library only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

DEFINITIONS = {
    "median bias": "median of ez",
    "sigma_IQR": "(75th percentile of ez - 25th percentile) / 1.349",
    "sigma_MAD": "1.4826 median |ez - median ez|",
    "outlier rate": "share of |ez| > max(0.06, 3 sigma_IQR)",
}
"""ez = (z_pred - z) / (1 + z); percentiles are linear between order statistics, as numpy's."""

_IQR_OF_NORMAL = 1.349
_MAD_OF_NORMAL = 1.4826
_LEAST_CUT = 0.06

Measures = dict[str, float | None]


def field_measures(histogram: Mapping[Any, int], bin_width: float) -> Measures:
    """The measures of a histogram {bin: galaxies} of ez; the middle of bin i is i bin_width.

    All are None if there is no galaxy.
    """
    total = sum(histogram.values())
    if not total:
        return dict.fromkeys(DEFINITIONS)
    ordered = sorted(histogram.items())
    middle = _quantile(ordered, 0.5)
    deviations: Counter[float] = Counter()
    for index, galaxies in ordered:
        deviations[abs(index - middle)] += galaxies
    width = (_quantile(ordered, 0.75) - _quantile(ordered, 0.25)) * bin_width / _IQR_OF_NORMAL
    cut = max(_LEAST_CUT, 3.0 * width)
    outliers = sum(galaxies for index, galaxies in ordered if abs(index * bin_width) > cut)
    values = (
        middle * bin_width,
        width,
        _MAD_OF_NORMAL * _quantile(sorted(deviations.items()), 0.5) * bin_width,
        outliers / total,
    )
    return dict(zip(DEFINITIONS, values, strict=True))


def exact_field_measures(predicted: Iterable[float], true: Iterable[float]) -> Measures:
    """The measures from the galaxies themselves; those without a known redshift, above -1, are left out."""
    pairs = zip(predicted, true, strict=True)
    scaled = Counter((guess - z) / (1.0 + z) for guess, z in pairs if -1.0 < z < math.inf)
    return field_measures(scaled, 1.0)  # each value is a bin of its own


def _quantile(ordered: list[tuple[Any, int]], share: float) -> float:
    """Between the two order statistics around share (n - 1), as numpy.quantile; ordered: (value, how often)."""
    place = share * (sum(count for _, count in ordered) - 1)
    orders = (math.floor(place), math.ceil(place))
    statistics: list[Any] = []
    seen = 0
    for value, count in ordered:
        before, seen = seen, seen + count
        statistics += [value for order in orders if before <= order < seen]
    return float(statistics[0] + (statistics[1] - statistics[0]) * (place - orders[0]))
