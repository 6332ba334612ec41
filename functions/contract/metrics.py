"""What networks are measured by, according to what they give. Uses only the standard library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .accuracy import Metrics
from .classification import Classification
from .mapping import CLASSIFICATION, REDSHIFT, REGRESSION
from .regression import Regression

AnyMetrics = Metrics | Classification | Regression
"""Of redshifts, of classes, or of another quantity: each has add, report and to_json."""


def kind_of(content: Any) -> str:
    """Of a state or a report; one that does not say it is of redshifts."""
    kind = content.get("kind", REDSHIFT) if isinstance(content, dict) else REDSHIFT
    return kind if isinstance(kind, str) else ""


_READERS: dict[str, Callable[[Any], AnyMetrics]] = {
    REDSHIFT: Metrics.from_json,
    REGRESSION: Regression.from_json,
    CLASSIFICATION: Classification.from_json,
}


def read_metrics(content: Any) -> AnyMetrics:
    """A state as `to_json` has made it. Raises ValueError for anything else."""
    reader = _READERS.get(kind_of(content))
    if reader is None:
        raise ValueError("metrics of an unknown kind")
    return reader(content)


def added(total: AnyMetrics | None, more: AnyMetrics | None) -> AnyMetrics | None:
    """Adds `more` to `total`, where there is one. Raises ValueError for metrics of different kinds."""
    if total is None or more is None:
        return more if total is None else total
    match total, more:
        case Metrics(), Metrics():
            total.add(more)
        case Classification(), Classification():
            total.add(more)
        case Regression(), Regression():
            total.add(more)
        case _:
            raise ValueError("metrics of different kinds: the ranks ran different models")
    return total
