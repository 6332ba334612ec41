"""Records of a run: dataclasses whose fields state their names in JSON, their units and what they mean.

The types, the checks of what others wrote and docs/reference.md all follow from this one definition.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Self, Union, get_args, get_origin, get_type_hints

from .untrusted import shown

Json = dict[str, Any]
Keys = tuple[str, ...]
"""Keys of objects; in JSON a single one is a string, several are a list."""

_LARGEST_FIGURE = 1e15  # of seconds, megabytes, rates: more cannot be a measurement, and sums would overflow
_LARGEST_COUNT = 2**53  # more cannot be a count of galaxies


class RecordError(ValueError):
    """JSON does not match the record that it should be; the message names every wrong field."""


@dataclass(frozen=True, repr=False, eq=False)
class Field:
    """What a field means, as the end of a sentence "it is …"; name: in JSON, if the attribute's is different.

    signed: whether a number may be below 0. choices: the allowed strings. null: whether a missing value is
    written as null; otherwise the field is left out then.
    """

    meaning: str
    name: str = ""
    unit: str = ""
    signed: bool = False
    choices: tuple[str, ...] = ()
    null: bool = False


@dataclass(frozen=True, repr=False, eq=False)
class Described:
    """A field of a record. attribute: its name in Python. kind: its type, without None."""

    attribute: str
    name: str
    kind: Any
    required: bool
    field: Field

    @property
    def expected(self) -> str:
        """What a value must be, for messages."""
        return f"one of {', '.join(self.field.choices)}" if self.field.choices else _words(self)

    def read(self, value: Any) -> Any:
        """The attribute's value from the JSON value. Raises ValueError."""
        if value is None and not self.required:
            return None
        read = _read(self.kind, value, self.field.signed)
        if self.field.choices and read not in self.field.choices:
            raise ValueError(value)
        return read

    def fault(self, value: Any) -> str:
        """The message about a value that cannot be read."""
        return f"{self.name}: {shown(value)} is not {self.expected}"


class Record:
    """Base of the dataclasses that represent JSON objects. Each annotates its fields with `Field`."""

    __slots__ = ()

    @classmethod
    def described(cls) -> tuple[Described, ...]:
        """The fields of the JSON object, in its order."""
        if cls not in _DESCRIBED:
            _DESCRIBED[cls] = _described(cls)
        return _DESCRIBED[cls]

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Reads the object; unknown fields are ignored. Raises RecordError."""
        values, faults = read_fields(cls, content)
        if faults:
            raise RecordError("; ".join(faults.values()))
        return cls(**values)

    def to_json(self) -> Json:
        """The object, with its fields in the order of the class."""
        return {
            one.name: _written(value)
            for one in self.described()
            if (value := getattr(self, one.attribute)) is not None or self._has_null(one)
        }

    def _has_null(self, one: Described) -> bool:
        """Whether a field without a value is written as null."""
        return one.field.null


def read_fields(record: type[Record], content: Any) -> tuple[Json, dict[str, str]]:
    """The object's values by attribute, and a message for each faulty field by its name in JSON."""
    if not isinstance(content, Mapping):
        return {}, {"": "it is not a JSON object"}
    values: Json = {}
    faults: dict[str, str] = {}
    for one in record.described():
        if one.name not in content:
            if one.required:
                faults[one.name] = f"{one.name}: is missing"
            continue
        try:
            values[one.attribute] = one.read(content[one.name])
        except ValueError:
            faults[one.name] = one.fault(content[one.name])
    return values, faults


def number(value: Any) -> float | None:
    """The number; None for anything else, and for a number too large to be a measurement."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= _LARGEST_FIGURE else None  # which NaN is not


def _count(value: Any) -> int | None:
    """A whole number from 0, also as text: a script may write what it read from its environment."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,16}", value):
        return int(value)
    count = number(value)
    return int(count) if count is not None and 0 <= count <= _LARGEST_COUNT and count % 1 == 0 else None


def _read(kind: Any, value: Any, signed: bool) -> Any:
    """The value as one of the kind: Any, a scalar type, Keys, or lists and dicts of them. Raises ValueError."""
    if kind is Any:
        return value
    if kind in (int, float):
        read = _count(value) if kind is int else number(value)
        if read is None or not (signed or read >= 0):
            raise ValueError(value)
        return read
    if kind == Keys:
        return (value,) if isinstance(value, str) else tuple(_read(list[str], value, signed))
    plain = get_origin(kind) or kind
    if issubclass(plain, Record):
        return plain.from_json(value)
    if not isinstance(value, plain):
        raise ValueError(value)
    inner = get_args(kind)
    if plain is list:
        return [_read(inner[0], one, signed) for one in value]
    if plain is dict:
        return {_read(inner[0], name, signed): _read(inner[1], one, signed) for name, one in value.items()}
    return value


def _words(one: Described) -> str:
    if one.kind is float:
        return "a number within bounds" if one.field.signed else "a number from 0 within bounds"
    if one.kind == Keys:
        return "a key or a list of keys"
    plain = get_origin(one.kind) or one.kind
    return {int: "a whole number from 0", bool: "true or false", str: "a string", list: "a list"}.get(
        plain, "a JSON object"
    )


def _written(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, tuple):
        return value[0] if len(value) == 1 else list(value)
    if isinstance(value, list):
        return [_written(one) if isinstance(one, Record) else one for one in value]
    return value


_DESCRIBED: dict[type[Record], tuple[Described, ...]] = {}
"""By class: kept, because reading type hints is slow."""


def _described(record: Any) -> tuple[Described, ...]:
    hints = get_type_hints(record, include_extras=True)
    described = []
    for one in fields(record):
        if get_origin(hints[one.name]) is not Annotated:
            continue  # not part of the JSON
        kind, field = get_args(hints[one.name])
        if get_origin(kind) in (Union, UnionType):
            (kind,) = (part for part in get_args(kind) if part is not NoneType)
        required = one.default is MISSING and one.default_factory is MISSING
        described.append(Described(one.name, field.name or one.name, kind, required, field))
    return tuple(described)
