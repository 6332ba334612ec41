"""JSON that others wrote, read without assuming anything about it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

_DEEPEST = 32  # lists and objects in each other
_MOST_FAULTS = 20  # that are named
_PLAIN = frozenset((int, float, bool, type(None)))  # of which nothing is left out: floats are finite here
_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"000000000")
_SHOWN = 60  # characters of a name or value in a fault


class UntrustedError(ValueError):
    """A text cannot be used at all; the message says why."""


class _Refused:
    """Holds a refused number until its place in the JSON is known."""

    def __init__(self, text: str) -> None:
        self.text = text


def load(body: bytes, most_bytes: int, most_digits: int) -> tuple[Any, list[str]]:
    """The content of the JSON, and a message with the place of each value that was left out.

    Numbers that are not finite or have more than `most_digits` digits become null, and so does what is nested
    deeper than 32 levels. Lone surrogates, which UTF-8 cannot carry, become U+FFFD. Raises UntrustedError.
    """
    if len(body) > most_bytes:
        raise UntrustedError(f"it has more than {most_bytes:,} bytes")
    try:
        content = json.loads(
            body, parse_int=_integers(body, most_digits), parse_float=_float, parse_constant=_Refused
        )
    except RecursionError:
        raise UntrustedError("it is nested too deeply") from None
    except ValueError as error:
        raise UntrustedError(f"it is not JSON: {error}") from error
    faults: list[str] = []
    cleaned = _cleaned(content, "", 0, faults)
    more = len(faults) - _MOST_FAULTS
    return cleaned, faults[:_MOST_FAULTS] + ([f"and {more} more"] if more > 0 else [])


def shown(value: object) -> str:
    """A value for a message: short, and printable since it is a repr. value: cleaned, so not nested deeply."""
    text = repr(value[:_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _integers(body: bytes, most_digits: int) -> Callable[[str], Any] | None:
    """What makes a number of digits; None, for int itself, where no number of the body has more."""
    utf8 = b"\0" not in body  # else the bytes of a number may be apart
    if utf8 and b"0" * (most_digits + 1) not in body.translate(_DIGITS_AS_0):
        return None
    return lambda text: int(text) if len(text.lstrip("-")) <= most_digits else _Refused(text)


def _float(text: str) -> Any:
    value = float(text)
    return value if math.isfinite(value) else _Refused(text)


def _cleaned(value: Any, place: str, depth: int, faults: list[str]) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, str):
        return _encodable(value)
    if isinstance(value, _Refused):
        faults.append(f"{place or 'the whole'}: {value.text[:_SHOWN]} is not a finite number within bounds")
        return None
    if isinstance(value, dict | list) and depth == _DEEPEST:
        faults.append(f"{place}: is nested deeper than {_DEEPEST} levels")
        return None
    if isinstance(value, list):
        if _PLAIN.issuperset(map(type, value)):
            return value
        return [_cleaned(one, place, depth + 1, faults) for one in value]
    if isinstance(value, dict):
        if not "".join(value).isascii():
            value = {_encodable(name): one for name, one in value.items()}
        return {  # without a call for each plain value, in half of the time
            name: one if type(one) in _PLAIN else _cleaned(one, place or name[:_SHOWN], depth + 1, faults)
            for name, one in value.items()
        }
    return value


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
