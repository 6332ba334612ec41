"""Pickles as data: their objects are read, and none of their classes or functions is imported or called.

A pickle is a program for a small stack machine, whose opcodes are described in Lib/pickletools.py of Python's
sources. The machine here makes real numbers, strings, tuples and lists, and stand-ins for everything else:
`Pairs` for dicts, `Record` for objects, `Global` for the classes and functions that are named. The opcodes that
change an object act only on such stand-ins and on lists, which every pickle makes for itself, so a file can
change only its own objects. Of a pickle's values only strings are hashed, and the number of opcodes is limited,
so that reading ends.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

_NAME_LIMIT = 500  # characters of a class's or function's dotted name
_NESTING = 1000  # marks that are open at once
_NEWEST_PROTOCOL = 5


def printable(text: str, limit: int = 120) -> str:
    """Text from a file for a message: without control characters, and cut after `limit` characters."""
    text = text[: limit + 1]
    escaped = text if text.isprintable() else ascii(text)[1:-1]
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


class TorchFileError(ValueError):
    """A file is damaged, hostile or not one of torch's; the message names the fault."""


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names."""

    dotted: str


@dataclass(slots=True, eq=False)
class Pairs:
    """A dict: the values under strings, and the pairs with other keys.

    used: it has become an object's state. Python copies a state, so a later change would not reach the object.
    """

    named: dict[str, Any] = field(default_factory=dict)
    others: list[tuple[object, object]] = field(default_factory=list)
    used: bool = False

    def __bool__(self) -> bool:
        return bool(self.named or self.others)

    def add(self, key: object, value: object) -> None:
        if type(key) is str:
            self.named[key] = value
        else:
            self.others.append((key, value))


@dataclass(slots=True, eq=False, repr=False)
class Record:
    """An object of a class that was not imported: the parts that the pickle makes it from."""

    dotted: str
    arguments: tuple[Any, ...] = ()
    state: object = None
    items: list[object] = field(default_factory=list)  # if it is a kind of list or set
    pairs: Pairs = field(default_factory=Pairs)  # if it is a kind of dict

    @property
    def name(self) -> str:
        """The class's name without its module."""
        return self.dotted.rpartition(".")[2]

    @property
    def attributes(self) -> dict[str, Any]:
        return self.state.named if isinstance(self.state, Pairs) else {}


Maker = Callable[[tuple[Any, ...]], object]
"""Makes the result of a call in a pickle from its arguments. Raises TorchFileError."""


@dataclass(frozen=True, repr=False, eq=False)
class Rules:
    """What a pickle may hold.

    opcodes: the largest number that is read; reading a million takes one to four seconds.
    makers: what makes the results of calls, by the function's dotted name; other calls become a Record.
    known: the only globals besides those of `makers` that may be named; None: any.
    persistent: resolves a reference to something outside the pickle (a storage of torch).
    """

    opcodes: int
    makers: Mapping[str, Maker] = field(default_factory=dict)
    known: Container[str] | None = None
    persistent: Callable[[object], object] | None = None


def read(data: bytes, rules: Rules, start: int = 0) -> tuple[object, int]:
    """The object of the pickle that begins at `start`, and where it ends. Raises TorchFileError."""
    machine = _Machine(data, start, rules)
    try:
        return machine.run(), machine.place
    except (struct.error, IndexError):
        raise TorchFileError(
            "its pickle is damaged: it ends early, or uses a value that it never made"
        ) from None
    except UnicodeDecodeError:
        raise TorchFileError("its pickle is damaged: one of its strings is not UTF-8") from None


class _Machine:
    def __init__(self, data: bytes, start: int, rules: Rules) -> None:
        self._data, self.place, self._rules = data, start, rules
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: list[Any] = []
        self._globals: dict[str, Global] = {}

    def run(self) -> object:
        data, operations = self._data, _OPERATIONS
        for _ in range(self._rules.opcodes):
            opcode, self.place = data[self.place], self.place + 1
            if opcode == _STOP:
                return self._stack.pop()
            operation = operations.get(opcode)
            if operation is None:
                raise TorchFileError(f"its pickle holds the opcode {opcode:#04x}, which torch never writes")
            operation(self)
        raise TorchFileError(f"its pickle has more than {self._rules.opcodes:,} opcodes, and no more are read")

    # The arguments of opcodes

    def _take(self, count: int) -> bytes:
        start, self.place = self.place, self.place + count
        if self.place > len(self._data):
            raise TorchFileError("its pickle is damaged: it ends inside a value")
        return self._data[start : self.place]

    def _number(self, form: struct.Struct) -> Any:
        return form.unpack(self._take(form.size))[0]

    def _line(self) -> str:
        end = self._data.find(b"\n", self.place, self.place + _NAME_LIMIT)
        if end < 0:
            raise TorchFileError("its pickle is damaged: a name in it does not end")
        return self._take(end + 1 - self.place)[:-1].decode()

    # Numbers, texts and constants

    def push(self, value: object) -> None:
        self._stack.append(value)

    def push_number(self, form: struct.Struct) -> None:
        self._stack.append(self._number(form))

    def push_long(self, form: struct.Struct) -> None:
        """Reads at most 64 bits: nothing that is read here uses larger numbers."""
        raw = self._take(self._number(form))
        self._stack.append(
            int.from_bytes(raw, "little", signed=True) if len(raw) <= 8 else Record("builtins.int")
        )

    def push_text(self, form: struct.Struct) -> None:
        self._stack.append(self._take(self._number(form)).decode("utf-8", "surrogatepass"))

    def push_old_text(self, form: struct.Struct) -> None:
        """What Python 2 called a string: text or bytes."""
        raw = self._take(self._number(form))
        try:
            self._stack.append(raw.decode())
        except UnicodeDecodeError:
            self._stack.append(raw)

    def push_bytes(self, form: struct.Struct) -> None:
        self._stack.append(self._take(self._number(form)))

    # The stack and the memo

    def mark(self) -> None:
        if len(self._marks) == _NESTING:
            raise TorchFileError(f"its pickle is nested more than {_NESTING} deep")
        self._marks.append(self._stack)
        self._stack = []

    def since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self.since_mark()

    def put(self, index: int) -> None:
        """Stores an object in the memo. Writers of pickles number its entries without gaps."""
        if index == len(self._memo):
            self._memo.append(self._stack[-1])
        elif index < len(self._memo):
            self._memo[index] = self._stack[-1]
        else:
            raise TorchFileError("its pickle is damaged: it leaves a gap in the numbers of its memo")

    def get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    # Containers

    def tuple_of(self, count: int) -> None:
        if count > len(self._stack):
            raise IndexError
        items = tuple(self._stack[len(self._stack) - count :])
        del self._stack[len(self._stack) - count :]
        self._stack.append(items)

    def append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is Record:
            target.items.extend(items)
        else:
            raise TorchFileError(f"its pickle adds items to a {type(target).__name__}")

    def set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        pairs = target.pairs if type(target) is Record else target
        if type(pairs) is not Pairs or len(items) % 2:
            raise TorchFileError(f"its pickle sets the items of a {type(target).__name__}")
        if pairs.used:
            raise TorchFileError("its pickle changes the state of an object after the object was made")
        for key, value in zip(items[::2], items[1::2], strict=True):
            pairs.add(key, value)

    def set_of(self, items: list[Any]) -> None:
        self._stack.append(Record("builtins.set", items=items))

    def dict_of(self, items: list[Any]) -> None:
        self._stack.append(Pairs())
        self.set_items(items)

    # Classes, functions and their objects

    def named(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str or len(module) + len(name) > _NAME_LIMIT:
            raise TorchFileError(
                "its pickle is damaged: it names a class by something other than a short string"
            )
        dotted, rules = f"{module}.{name}", self._rules
        if rules.known is not None and dotted not in rules.known and dotted not in rules.makers:
            raise TorchFileError(
                f"its pickle asks for {printable(dotted)}, which is not allowed; no part of it was run"
            )
        self._stack.append(self._globals.setdefault(dotted, Global(dotted)))

    def call(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if type(arguments) is not tuple or type(function) not in (Global, Record):
            raise TorchFileError(f"its pickle calls a {type(function).__name__}")
        maker = self._rules.makers.get(function.dotted) if type(function) is Global else None
        self._stack.append(maker(arguments) if maker else Record(function.dotted, arguments))

    def new_object(self, keywords: bool = False) -> None:
        """Makes an object without calling its class. torch never does so with a class of `makers`."""
        if keywords:
            self._stack.pop()
        kind = self._stack[-2]
        if type(kind) is Global and kind.dotted in self._rules.makers:
            raise TorchFileError(
                f"its pickle makes a {printable(kind.dotted)} without a call, as torch never does"
            )
        self.call()

    def build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if type(target) is Pairs:
            return  # attributes of an OrderedDict, such as the versions of a state dict's modules
        if type(target) is not Record or target.state is not None:
            raise TorchFileError(f"its pickle sets the state of a {type(target).__name__} that cannot be set")
        target.state = state
        if type(state) is Pairs:
            state.used = True

    def persistent(self) -> None:
        if self._rules.persistent is None:
            raise TorchFileError("its pickle refers to something outside the pickle, which is not allowed here")
        self._stack.append(self._rules.persistent(self._stack.pop()))


_STOP = ord(".")
_BYTE, _SHORT, _INT = struct.Struct("<B"), struct.Struct("<H"), struct.Struct("<i")
_UNSIGNED, _LENGTH, _FLOAT = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct(">d")


def _protocol(machine: _Machine) -> None:
    if machine._number(_BYTE) > _NEWEST_PROTOCOL:
        raise TorchFileError(f"its pickle has a protocol newer than {_NEWEST_PROTOCOL}")


_OPERATIONS: dict[int, Callable[[_Machine], object]] = {
    ord(code): operation
    for code, operation in {
        "\x80": _protocol,
        "\x95": lambda m: m._take(8),  # a frame's length
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "J": lambda m: m.push_number(_INT),
        "K": lambda m: m.push_number(_BYTE),
        "M": lambda m: m.push_number(_SHORT),
        "\x8a": lambda m: m.push_long(_BYTE),
        "\x8b": lambda m: m.push_long(_UNSIGNED),
        "G": lambda m: m.push_number(_FLOAT),
        "X": lambda m: m.push_text(_UNSIGNED),
        "\x8c": lambda m: m.push_text(_BYTE),
        "\x8d": lambda m: m.push_text(_LENGTH),
        "T": lambda m: m.push_old_text(_UNSIGNED),
        "U": lambda m: m.push_old_text(_BYTE),
        "B": lambda m: m.push_bytes(_UNSIGNED),
        "C": lambda m: m.push_bytes(_BYTE),
        "\x8e": lambda m: m.push_bytes(_LENGTH),
        "(": lambda m: m.mark(),
        "0": lambda m: m.pop(),
        "1": lambda m: m.since_mark(),
        "q": lambda m: m.put(m._number(_BYTE)),
        "r": lambda m: m.put(m._number(_UNSIGNED)),
        "\x94": lambda m: m.put(len(m._memo)),
        "h": lambda m: m.get(m._number(_BYTE)),
        "j": lambda m: m.get(m._number(_UNSIGNED)),
        ")": lambda m: m.push(()),
        "\x85": lambda m: m.tuple_of(1),
        "\x86": lambda m: m.tuple_of(2),
        "\x87": lambda m: m.tuple_of(3),
        "t": lambda m: m.push(tuple(m.since_mark())),
        "]": lambda m: m.push([]),
        "l": lambda m: m.push(m.since_mark()),
        "a": lambda m: m.append([m._stack.pop()]),
        "e": lambda m: m.append(m.since_mark()),
        "}": lambda m: m.push(Pairs()),
        "d": lambda m: m.dict_of(m.since_mark()),
        "s": lambda m: m.set_items([m._stack.pop(), m._stack.pop()][::-1]),
        "u": lambda m: m.set_items(m.since_mark()),
        "\x8f": lambda m: m.set_of([]),
        "\x91": lambda m: m.set_of(m.since_mark()),
        "\x90": lambda m: m.append(m.since_mark()),
        "c": lambda m: m.named(m._line(), m._line()),
        "\x93": lambda m: m.named(*[m._stack.pop(), m._stack.pop()][::-1]),
        "R": lambda m: m.call(),
        "\x81": lambda m: m.new_object(),
        "\x92": lambda m: m.new_object(keywords=True),
        "b": lambda m: m.build(),
        "Q": lambda m: m.persistent(),
    }.items()
}
