"""Compares the redshifts of two result folders: python scripts/compare.py OURS EXPECTED

Exits with a message where a rank is missing, or a redshift differs by more than float32 on another instruction
set can explain.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

TOLERANCE = 1e-4
"""Of a redshift: other instruction sets add up float32 in another order."""


def compare(ours: Path, expected: Path) -> str:
    """A sentence on what agrees. Raises ValueError for what does not."""
    names = sorted(path.name for path in (expected / "predictions").glob("*.npz"))
    files = sorted(path.name for path in (ours / "predictions").glob("*.npz"))
    if not names or files != names:
        raise ValueError(
            f"{ours} has predictions {', '.join(files) or 'of no rank'}, expected {', '.join(names)}"
        )
    count, largest = 0, 0.0
    for name in names:
        with np.load(ours / "predictions" / name) as one, np.load(expected / "predictions" / name) as other:
            mine, theirs = one["z_pred"], other["z_pred"]
        if mine.shape != theirs.shape or (np.isnan(mine) != np.isnan(theirs)).any():
            raise ValueError(f"{ours}/predictions/{name} has other galaxies with redshifts than {expected} has")
        count += len(mine)
        largest = max(largest, float(np.nanmax(np.abs(mine - theirs), initial=0.0)))
    if largest > TOLERANCE:
        raise ValueError(
            f"a redshift in {ours} differs by {largest:.2g}, more than {TOLERANCE:g} is not expected"
        )
    return f"{count} redshifts agree with those of this machine, the largest difference is {largest:.1g}"


if __name__ == "__main__":
    try:
        print(compare(*map(Path, sys.argv[1:3])))
    except ValueError as error:
        sys.exit(f"error: {error}")
