"""Numbers, lists and functions as FMI's Python binding describes them to its operations."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from numbers import Integral, Real
from operator import countOf
from typing import Any

import numpy as np
from numpy.typing import NDArray

Value = int | float | Sequence[int] | Sequence[float] | NDArray[Any]


class datatypes(Enum):
    """int is C's, 32 bits; double is IEEE's, 64 bits."""

    int = 0
    double = 1
    int_list = 2
    double_list = 3


class op(Enum):
    sum = 0
    prod = 1
    max = 2
    min = 3
    custom = 4


class hints(Enum):
    """What matters when a back end is chosen: the latency of an operation or its price."""

    fast = 0
    cheap = 1


@dataclass(frozen=True)
class types:
    """A datatype and, for lists, the number of values: `types(datatypes.int_list, 2)`.

    For a single int or double the count has no meaning. Raises TypeError or ValueError if the datatype or a
    list's count is missing or wrong.
    """

    datatype: datatypes
    count: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.datatype, datatypes):
            raise TypeError(
                f"types: {self.datatype!r} is not a datatype; give one such as fmi.datatypes.double"
            )
        if not self.is_list:
            return
        example = f"types(datatypes.{self.datatype.name}, 2)"
        if self.count is None:
            raise ValueError(f"types: {self.datatype.name} needs the number of values, as in {example}")
        if isinstance(self.count, bool) or not isinstance(self.count, Integral):
            raise TypeError(f"types: the count {self.count!r} is not a whole number; give one, as in {example}")
        if self.count < 0:
            raise ValueError(f"types: the count {self.count} is negative; give 0 or more, as in {example}")

    @cached_property
    def is_list(self) -> bool:
        return self.datatype in (datatypes.int_list, datatypes.double_list)

    @cached_property
    def length(self) -> int:
        """The number of values; 1 if it is not a list."""
        return int(self.count or 0) if self.is_list else 1

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("<i4" if self._whole else "<f8")

    @cached_property
    def nbytes(self) -> int:
        return self.length * self.dtype.itemsize

    @cached_property
    def _whole(self) -> bool:
        return self.datatype in (datatypes.int, datatypes.int_list)

    def __str__(self) -> str:
        return f"{self.datatype.name} of {self.length}" if self.is_list else self.datatype.name

    def array(self, value: Value | None) -> NDArray[Any]:
        """The value as an array of `length` numbers.

        Raises TypeError for another kind of value, ValueError for another length, and OverflowError for a whole
        number outside of 32 bits. A float is never cut to an int.
        """
        if not self.is_list:
            return self.numbers([value], "value")
        if isinstance(value, np.ndarray) and value.ndim == 1:
            if len(value) == self.length and self._holds(value):
                return value.astype(self.dtype)
            value = value.tolist()
        if not isinstance(value, list | tuple):
            raise TypeError(
                f"value: {reprlib.repr(value)} is not a list, but the type says {self}; give a list"
            )
        if len(value) != self.length:
            raise ValueError(
                f"value: got {len(value)} values, but the type says {self}; give {self.length} values, or "
                f"types(datatypes.{self.datatype.name}, {len(value)})"
            )
        return self.numbers(value, "value")

    def numbers(self, values: Sequence[Any], name: str) -> NDArray[Any]:
        """These numbers as an array; `name`: what they are, for errors."""
        usual = int if self._whole else float
        if countOf(map(type, values), usual) != len(values) and not set(map(type, values)) <= {int, usual}:
            values = [self._number(value, name) for value in values]
        try:
            return np.fromiter(values, self.dtype, len(values))
        except OverflowError:
            beyond = next(value for value in values if not self._fits(value))
            remedy = "use a double" if self._whole else "scale it down"
            bits = 8 * self.dtype.itemsize
            raise OverflowError(
                f"{name}: {reprlib.repr(beyond)} does not fit into the {bits} bits of {self.dtype}; {remedy}"
            ) from None

    def _holds(self, array: NDArray[Any]) -> bool:
        """Whether this type can hold each number of a numpy array unchanged."""
        if not self._whole:
            return array.dtype.kind in "iu" or array.dtype in (np.float16, np.float32, np.float64)
        return array.dtype.kind in "iu" and (
            not len(array) or (self._fits(int(array.min())) and self._fits(int(array.max())))
        )

    def _fits(self, value: int | float) -> bool:
        return -(2**31) <= value < 2**31 if self._whole else abs(value) <= sys.float_info.max

    def _number(self, value: Any, name: str) -> int | float:
        if not isinstance(value, bool | np.bool_):
            if isinstance(value, Integral):
                return int(value)
            if isinstance(value, Real) and not self._whole:
                return float(value)
        text, kind = reprlib.repr(value), type(value).__name__
        if isinstance(value, Real) and not isinstance(value, bool):
            remedy = "use a double, or round it yourself with int()"
        elif isinstance(value, list | tuple | np.ndarray):
            remedy = "use int_list or double_list with their count"
        else:
            remedy = f"give {'an int' if self._whole else 'a float'}"
        raise TypeError(f"{name}: {text} ({kind}) is not a number of the type {self}; {remedy}")

    def value(self, array: NDArray[Any]) -> Any:
        """A list, or a single number if the type is not a list."""
        values = array.reshape(-1).tolist()
        return values if self.is_list else values[0]


Combine = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
_NUMPY: dict[op, Combine] = {op.sum: np.add, op.prod: np.multiply, op.max: np.maximum, op.min: np.minimum}


class func:
    """How two values become one: `func(op.sum)`, or `func(op.custom, f, commutative, associative)`.

    f takes two numbers and returns one of the same type; lists are combined element by element. Unless both
    flags are true, values are combined in the order of the ranks, from the left.
    """

    def __init__(
        self,
        operation: op,
        f: Callable[[Any, Any], Any] | None = None,
        commutative: bool = False,
        associative: bool = False,
    ) -> None:
        if not isinstance(operation, op):
            raise TypeError(f"func: {operation!r} is not an operation; give one such as fmi.op.sum")
        if (operation is op.custom) != (f is not None):
            raise ValueError(
                f"func: op.{operation.name} with f = {f!r}; give f with op.custom, and only with that"
            )
        if f is not None and not callable(f):
            raise TypeError(f"func: {f!r} cannot be called; give a function of two numbers")
        self._operation, self._f = operation, f
        self.ordered = operation is op.custom and not (commutative and associative)

    def combine(self, kind: types) -> Combine:
        """The function over arrays of a type."""
        if self._f is None:
            return _NUMPY[self._operation]
        f = self._f

        def custom(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
            results = [f(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
            return kind.numbers(results, "the custom function's result")

        return custom
