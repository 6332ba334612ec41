"""Records of a run: dataclasses whose fields say their names in JSON, their units and what they mean.

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
"""Keys of objects; a single one is a text in JSON, several are a list."""

_LARGEST_FIGURE = 1e15  # of seconds, megabytes, rates: more is no measurement, and sums would overflow
_LARGEST_COUNT = 2**53  # more is no count of galaxies


class RecordError(ValueError):
    """JSON is not the record that it should be; the message names every field at fault."""


@dataclass(frozen=True)
class Field:
    """What a field means, the rest of the sentence "it is …"; name: in JSON, where the attribute has another.

    signed: a number may be below 0. choices: the texts that are allowed. null: it stands in JSON as null where
    it has no value, while other fields are left out then.
    """

    meaning: str
    name: str = ""
    unit: str = ""
    signed: bool = False
    choices: tuple[str, ...] = ()
    null: bool = False


@dataclass(frozen=True)
class Described:
    """A field of a record. attribute: its name in Python. kind: its type, without None."""

    attribute: str
    name: str
    kind: Any
    required: bool
    field: Field

    @property
    def expected(self) -> str:
        """What a value has to be, for messages."""
        return f"one of {', '.join(self.field.choices)}" if self.field.choices else _words(self)

    def read(self, value: Any) -> Any:
        """The value of JSON as that of the attribute. Raises ValueError."""
        if value is None and not self.required:
            return None
        read = _read(self.kind, value, self.field.signed)
        if self.field.choices and read not in self.field.choices:
            raise ValueError(value)
        return read

    def fault(self, value: Any) -> str:
        """The sentence that names a value which cannot be read."""
        return f"{self.name}: {shown(value)} is not {self.expected}"


class Record:
    """Base of the dataclasses that stand for JSON objects. Each annotates its fields with `Field`."""

    @classmethod
    def described(cls) -> tuple[Described, ...]:
        """The fields of the JSON object, in its order."""
        if cls not in _DESCRIBED:
            _DESCRIBED[cls] = _described(cls)
        return _DESCRIBED[cls]

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Reads the object; fields of other names are not read. Raises RecordError."""
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
    """The values of the object's fields by attribute, and the sentences about faults by the fields' names."""
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
    """The number; None for anything else, and for one beyond any measurement."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= _LARGEST_FIGURE else None  # which NaN is not


def _count(value: Any) -> int | None:
    """A whole number from 0, also as text: a script may write what it read from its environment."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,16}", value):
        return int(value)
    given = number(value)
    return int(given) if given is not None and 0 <= given <= _LARGEST_COUNT and given % 1 == 0 else None


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
    return {int: "a whole number from 0", bool: "true or false", str: "a text", list: "a list"}.get(
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
"""Of each class, since its type hints take a while to read."""


def _described(record: Any) -> tuple[Described, ...]:
    hints = get_type_hints(record, include_extras=True)
    found = []
    for one in fields(record):
        if get_origin(hints[one.name]) is not Annotated:
            continue  # it does not stand in JSON
        kind, field = get_args(hints[one.name])
        if get_origin(kind) in (Union, UnionType):
            (kind,) = (part for part in get_args(kind) if part is not NoneType)
        required = one.default is MISSING and one.default_factory is MISSING
        found.append(Described(one.name, field.name or one.name, kind, required, field))
    return tuple(found)
