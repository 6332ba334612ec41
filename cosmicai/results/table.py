"""redshifts.csv: a row for each galaxy of a run, with everything that its ranks' predictions say of it."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosmicai.results.outputs import new_file

FILE = "redshifts.csv"
_FIRST = ("id", "ra", "dec", "z_pred", "z_true", "flags")
_PER_RANK = ("index", "files", "rows", "run_id", "z_grid")  # arrays that have no value for each galaxy
_ROWS = 4096  # made into text at once


class TableError(RuntimeError):
    """Predictions are not what a rank writes; the message names the file."""


def write(folder: Path, ranks: Sequence[int]) -> Path | None:
    """Writes redshifts.csv to a folder laid out like a run; None where no rank has saved predictions.

    A value that a rank does not have, and NaN, are blank. Identifiers and numbers are exact. Raises TableError
    and OutputError.
    """
    files = [folder / "predictions" / f"{rank}.npz" for rank in sorted(ranks)]
    files = [file for file in files if file.is_file()]
    if not files:
        return None
    columns = list(dict.fromkeys(name for file in files for name in _columns(file)))
    first = [name for name in _FIRST if name in columns]
    rest = [name for name in columns if name not in first]
    names = [*first, *sorted(name for name in rest if name.startswith("z_"))]
    names += [*(name for name in rest if not name.startswith("z_")), "file", "row"]
    with new_file(folder / FILE) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(names)
        for file in files:
            for block in _rows(file, names):
                writer.writerows(block)
    return folder / FILE


def _arrays(file: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        count, rows = len(arrays["z_pred"]), arrays["rows"]
        if int(rows.sum()) != count or len(arrays["files"]) != len(rows):
            raise ValueError("its partitions have other numbers of galaxies")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise TableError(f"{file} is not what a rank writes ({error}): download the run again") from error
    return arrays


def _columns(file: Path) -> list[str]:
    arrays = _arrays(file)
    shape = arrays["z_pred"].shape
    return [name for name, array in arrays.items() if name not in _PER_RANK and array.shape == shape]


def _rows(file: Path, names: Sequence[str]) -> Iterator[list[tuple[object, ...]]]:
    arrays = _arrays(file)
    count, counts = len(arrays["z_pred"]), arrays["rows"].astype(np.int64)
    arrays["file"] = np.repeat(arrays["files"], counts)
    arrays["row"] = np.concatenate([np.arange(one) for one in counts] or [counts])
    shown = {name: arrays[name] for name in names if name in arrays and arrays[name].shape == (count,)}
    for start in range(0, count, _ROWS):
        stop = min(start + _ROWS, count)
        blank = [""] * (stop - start)
        block = [_texts(shown[name][start:stop]) if name in shown else blank for name in names]
        yield list(zip(*block, strict=True))


def _texts(values: NDArray[np.generic]) -> list[str]:
    """As text that reads back as the same value; '' for NaN."""
    if values.dtype.kind == "f":
        missing = np.isnan(values)
        return ["" if gone else str(value) for value, gone in zip(values, missing, strict=True)]
    return [str(value) for value in values.tolist()]
