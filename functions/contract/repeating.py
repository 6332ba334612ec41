"""Making an idempotent request again after its connection broke."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_ATTEMPTS = 5
_PAUSE = 0.1  # seconds, doubled each time


def repeated(request: Callable[[], T], broken: tuple[type[Exception], ...]) -> T:
    """The answer to an idempotent request, which is made up to five times while it raises one of `broken`."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return request()
        except broken:
            time.sleep(_PAUSE * 2**attempt)
    return request()
