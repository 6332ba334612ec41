"""Pictures of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure  # not pyplot, whose backend is the caller's
from numpy.typing import NDArray

_BINS = 120


def predicted_against_true(
    predicted: NDArray[np.floating], true: NDArray[np.floating], accuracy: dict[str, Any], path: Path
) -> None:
    """A PNG of z_pred (N,) against known z (N,): density by colour, the diagonal and the outlier lines."""
    top = float(np.ceil(10 * max(np.quantile(predicted, 0.999), true.max())) / 10)
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    axes = figure.subplots()
    *_, image = axes.hist2d(true, predicted, bins=_BINS, range=[[0, top], [0, top]], cmin=1, cmap="viridis")
    line = np.array([0.0, top])
    axes.plot(line, line, "k--", lw=1)
    for sign in (-1, 1):
        axes.plot(line, line + sign * 0.15 * (1 + line), "k:", lw=0.8)
    axes.set(xlim=(0, top), ylim=(0, top), xlabel="true redshift", ylabel="predicted redshift", aspect="equal")
    axes.set_title(
        f"{len(true):,} galaxies   NMAD {accuracy['precision (NMAD)']:.4f}   "
        f"bias {accuracy['bias']:+.4f}   outliers {accuracy['outlier fraction']:.1%}",
        fontsize=9,
    )
    figure.colorbar(image, ax=axes, label="galaxies")
    figure.savefig(path, dpi=150)
