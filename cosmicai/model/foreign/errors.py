"""The error for a refused checkpoint, and how messages show its contents."""

from __future__ import annotations

from collections.abc import Iterable

from inference.data.pickled import Global, Pairs, Record, printable
from inference.data.tensors import Tensor


class CheckpointError(ValueError):
    """A checkpoint is broken, hostile, ambiguous or not an AstroMAE; the message names file and fault."""


def shown(value: object) -> str:
    """A value of a file in a few printable words."""
    match value:
        case None | bool() | int() | float():
            return str(value)
        case str():
            return repr(printable(value, 40))
        case tuple() if len(value) <= 4 and all(isinstance(item, bool | int | float) for item in value):
            return str(value)
        case Record(dotted="torch._tensor._rebuild_from_type_v2", arguments=(_, Global(kind), *_)):
            return printable(kind)
        case Record() | Global():
            return printable(value.dotted)
        case Tensor():
            return f"a tensor of shape {value.shape}"
        case Pairs():
            return "a dict"
    return f"a {type(value).__name__}"


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Names of a file, joined; the first `limit` of them."""
    every = list(names)
    shortened = ", ".join(printable(name, 80) for name in every[:limit])
    return shortened + (f" and {len(every) - limit} more" if len(every) > limit else "")
