"""Parts of report.html for networks whose true values are not redshifts: tiles, and tables of classes."""

from __future__ import annotations

from typing import Any

from .contract.classification import DEFINITIONS as OF_CLASSES
from .contract.classification import NAMES as CLASS_MEASURES
from .contract.mapping import CLASSIFICATION, REDSHIFT, REGRESSION
from .contract.metrics import kind_of
from .contract.regression import DEFINITIONS as OF_NUMBERS
from .markup import table

Json = dict[str, Any]

EXPLAINED = {name: text[0].upper() + text[1:] + "." for name, text in (OF_CLASSES | OF_NUMBERS).items()}
"""What the tiles' labels mean."""

_TILES = {
    REDSHIFT: {"NMAD": "precision (NMAD)", "bias": "bias", "outliers": "outlier fraction", "R²": "R2"},
    CLASSIFICATION: {name: name for name in CLASS_MEASURES},
    REGRESSION: {"MAE": "MAE", "RMSE": "RMSE", "mean error": "bias", "R²": "R2"},
}
_AFTER_FIRST = slice(1, None)
_MOST_CLASSES = 30  # of a confusion matrix in the page


def tiles(accuracy: Json) -> dict[str, str]:
    """The measures of a run by the names of their tiles."""
    return {name: number(accuracy.get(key)) for name, key in _TILES.get(kind_of(accuracy), {}).items()}


def number(value: float | None) -> str:
    """'0.0312', or a dash for what is not defined."""
    return "–" if value is None else f"{value:.4f}"


def class_tables(accuracy: Json | None, source: str) -> list[str]:
    """The measures of each class, and the confusion matrix; [] of a run that has none."""
    if accuracy is None or kind_of(accuracy) != CLASSIFICATION:
        return []
    classes, column = accuracy["classes"], accuracy["column"]
    rows = [
        (
            one["class"],
            f"{one['count']:,}",
            f"{one['predicted']:,}",
            *(number(one[name]) for name in ("precision", "recall", "F1")),
        )
        for one in classes
    ]
    note = f"{accuracy['count']:,} objects whose class is known; metrics from {source}."
    heads = ("class", "true", "predicted", "precision", "recall", "F1")
    per_class = table(f"Classes of {column}", heads, rows, numbers=_AFTER_FIRST, note=note)
    if len(classes) > _MOST_CLASSES:
        return [per_class]
    names = [one["class"] for one in classes]
    counts = (
        (name, *(f"{count:,}" for count in row)) for name, row in zip(names, accuracy["confusion"], strict=True)
    )
    return [
        per_class,
        table(
            f"Confusion matrix of {column}",
            ("true ↓ predicted →", *names),
            counts,
            numbers=_AFTER_FIRST,
            note="Objects by their true class (a row each) and their predicted class (a column each).",
        ),
    ]
