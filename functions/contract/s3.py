"""Requests to AWS over connections that break. One file for all functions: the others have links to it.

botocore repeats a request until its answer begins. What breaks off behind that, in a body or in the body of an
error, is raised, the latter as urllib3's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from botocore.exceptions import HTTPClientError, IncompleteReadError
from urllib3.exceptions import HTTPError

T = TypeVar("T")

BROKEN: tuple[type[Exception], ...] = (HTTPClientError, IncompleteReadError, HTTPError)
"""What a connection raises that broke off; the request may be made again."""

_ATTEMPTS = 5
_PAUSE = 0.1  # seconds, doubled each time


def repeated(request: Callable[[], T]) -> T:
    """What an idempotent request gives, made again while its connection breaks. May raise one of BROKEN."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return request()
        except BROKEN:
            time.sleep(_PAUSE * 2**attempt)
    return request()
