"""Changes whole opcodes of a pickle, their arguments and the objects that they make.

A changed byte leaves most pickles broken at the next opcode. What is made here mostly stays a program that the
stack machine runs to its end, with other numbers, texts, classes, storages and references in it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import TypeVar

from tests.fuzz.opcodes import CODES, Op, objects, op, written

_NUMBERS = (
    *range(-2, 10), 16, 31, 32, 63, 64, 127, 128, 255, 256, 1000, 65535, 65536,
    *(2**n + d for n in (31, 32, 53, 62, 63, 64) for d in (-1, 0, 1)),
    -(2**31), -(2**63), -(2**64), 10**30, 2**2000,
)  # fmt: skip
_FLOATS = (0.0, -0.0, 1.0, -1.5, 1e-6, 1e-5, 1e300, float("inf"), float("nan"), 5e-324)
_TEXTS = (
    "", "0", "1", "2", "3", "storage", "module", "cpu", "tensors", "neg", "conj", "data", "real", "grad",
    "requires_grad", "_backward_hooks", "_parameters", "_buffers", "_modules", "_forward_hooks", "__class__",
    "__dict__", "__setstate__", "weight", "bias", "named", "others", "state", "dotted", "model", "state_dict",
    "same", "valid", "é", "\ud800", "x" * 300,
)  # fmt: skip
_STORAGES = (
    "Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "ComplexFloat",
    "QInt8",
)  # fmt: skip
_GLOBALS = (
    *(f"torch {kind}Storage" for kind in _STORAGES),
    "torch.storage UntypedStorage", "torch.storage TypedStorage",
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state",
    "torch._tensor _rebuild_from_type_v2", "torch Tensor", "torch FloatTensor", "torch Size", "torch float32",
    "torch.nn.parameter Parameter", "torch.utils.data.dataset TensorDataset", "torch.nn.modules.linear Linear",
    "torch.nn.modules.container Sequential", "torch.nn.parallel.data_parallel DataParallel",
    "torch._dynamo.eval_frame OptimizedModule", "collections OrderedDict", "collections defaultdict",
    "collections Counter", "builtins set", "builtins list", "builtins dict", "builtins complex",
    "builtins getattr", "builtins bytearray", "_codecs encode", "copy_reg _reconstructor", "os system",
)  # fmt: skip
_PLAIN = (
    "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "MARK", "POP",
    "POP_MARK", "DUP", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LIST", "DICT", "FROZENSET", "APPEND", "APPENDS",
    "SETITEM", "SETITEMS", "ADDITEMS", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "BINPERSID", "STACK_GLOBAL",
    "MEMOIZE", "STOP",
)  # fmt: skip
_ALIKE = (  # opcodes that take and leave as many objects
    ("REDUCE", "NEWOBJ", "BUILD", "APPEND", "TUPLE2", "STACK_GLOBAL"),
    ("TUPLE", "LIST", "DICT", "FROZENSET"),
    ("APPENDS", "SETITEMS", "ADDITEMS"),
    ("NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
    ("SETITEM", "TUPLE3", "NEWOBJ_EX"),
    ("BINPERSID", "TUPLE1"),
)
_MOST_OPS = 60_000
_SOUND = (
    0.9  # the share of changed pickles whose memo has no gaps, and nothing is taken from it before it is there
)

_PUTS, _GETS = ({CODES[name], CODES[f"LONG_{name}"]} for name in ("BINPUT", "BINGET"))
_STOP = CODES["STOP"]

Ops = list[Op]
T = TypeVar("T")


def number(value: int) -> Op:
    """The shortest opcode for a whole number."""
    if 0 <= value < 256:
        return op("BININT1", value.to_bytes())
    if 0 <= value < 65536:
        return op("BININT2", value.to_bytes(2, "little"))
    if -(1 << 31) <= value < 1 << 31:
        return op("BININT", value.to_bytes(4, "little", signed=True))
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return op("LONG1" if len(raw) < 256 else "LONG4", raw)


def text(value: str) -> Op:
    return op("BINUNICODE", value.encode("utf-8", "surrogatepass"))


def named(dotted: str) -> Op:
    """dotted: module and name, with a space between."""
    module, _, name = dotted.rpartition(" ")
    return op("GLOBAL", f"{module}\n{name}\n".encode())


@lru_cache(4096)
def put(index: int) -> Op:
    return op("BINPUT", index.to_bytes()) if index < 256 else op("LONG_BINPUT", index.to_bytes(4, "little"))


@lru_cache(4096)
def get(index: int) -> Op:
    return op("BINGET", index.to_bytes()) if index < 256 else op("LONG_BINGET", index.to_bytes(4, "little"))


def tuple_of(*parts: Ops) -> Ops:
    return [op("MARK"), *(one for part in parts for one in part), op("TUPLE")]


def called(function: str, *arguments: Ops) -> Ops:
    return [named(function), *tuple_of(*arguments), op("REDUCE")]


def storage(kind: str, key: str, count: int) -> Ops:
    parts = ([text("storage")], [named(kind)], [text(key)], [text("cpu")], [number(count)])
    return [*tuple_of(*parts), op("BINPERSID")]


@dataclass(frozen=True)
class Grammar:
    """Changes pickles. donors: other pickles, of which parts are taken."""

    donors: Sequence[Sequence[Op]]

    def mutated(self, ops: Sequence[Op], dice: Random) -> Ops:
        """Another pickle, by one to eight changes. ops: stays as it is."""
        changed = list(ops)
        for _ in range(dice.choice((1, 1, 1, 2, 2, 4, 8))):
            change = dice.choices(_CHANGES, _WEIGHTS)[0]
            changed = change(self, changed, dice) if changed else self._donor(dice)
        return (renumbered(changed, dice) if dice.random() < _SOUND else changed)[:_MOST_OPS]

    def spliced(self, first: Sequence[Op], second: Sequence[Op], dice: Random) -> Ops:
        """The first pickle with a part of the second."""
        return renumbered(Grammar([second])._graft(list(first), dice), dice)

    def _donor(self, dice: Random) -> Ops:
        return list(dice.choice(self.donors)) if self.donors else [op("EMPTY_DICT"), op("STOP")]

    # Opcodes

    def _change_argument(self, ops: Ops, dice: Random) -> Ops:
        places = [place for place, one in enumerate(ops) if one.argument]
        for place in _some(places, dice):
            ops[place] = _changed(ops[place], ops, dice)
        return ops

    def _delete(self, ops: Ops, dice: Random) -> Ops:
        place, length = _run(ops, dice)
        return ops[:place] + ops[place + length :]

    def _duplicate(self, ops: Ops, dice: Random) -> Ops:
        place, length = _run(ops, dice)
        times = dice.choice((1, 1, 1, 2, 30, 1000)) if length < 5 else 1
        return ops[:place] + ops[place : place + length] * times + ops[place:]

    def _swap(self, ops: Ops, dice: Random) -> Ops:
        first, second = dice.randrange(len(ops)), dice.randrange(len(ops))
        ops[first], ops[second] = ops[second], ops[first]
        return ops

    def _insert(self, ops: Ops, dice: Random) -> Ops:
        place = dice.randrange(len(ops) + 1)
        return ops[:place] + [_any_op(ops, dice) for _ in range(dice.choice((1, 1, 2, 3)))] + ops[place:]

    def _exchange(self, ops: Ops, dice: Random) -> Ops:
        """One opcode for another that takes as many objects."""
        kinds = [(place, kind) for place, one in enumerate(ops) for kind in _ALIKE if one.name in kind]
        for place, kind in _some(kinds, dice):
            ops[place] = op(dice.choice(kind))
        return ops

    # Objects

    def _replace(self, ops: Ops, dice: Random) -> Ops:
        """An object by another one of the same pickle."""
        return _replaced(ops, ops, dice)

    def _graft(self, ops: Ops, dice: Random) -> Ops:
        """An object by one of another pickle."""
        return _replaced(ops, self._donor(dice), dice)

    def _swap_objects(self, ops: Ops, dice: Random) -> Ops:
        spans = objects(ops)
        if len(spans) < 2:
            return ops
        first, second = sorted(dice.sample(spans, 2))
        if first[1] > second[0]:
            return ops
        (a, b), (c, d) = first, second
        return ops[:a] + ops[c:d] + ops[b:c] + ops[a:b] + ops[d:]

    def _drop_object(self, ops: Ops, dice: Random) -> Ops:
        """Several objects at once: a key and its value, or some of a tuple's items."""
        for start, stop in _some(objects(ops), dice):
            end = stop
            for _ in range(dice.choice((0, 0, 1))):
                end = next((span[1] for span in objects(ops[end:]) if span[0] == 0), 0) + end
            return ops[:start] + ops[end:]
        return ops

    # What attacks are made of

    def _put_gadget(self, ops: Ops, dice: Random) -> Ops:
        """Something that nobody would write, in place of an object or between two."""
        made = dice.choice(_GADGETS)(ops, dice)
        spans = objects(ops)
        if spans and dice.random() < 0.6:
            start, stop = dice.choice(spans)
            return ops[:start] + made + ops[stop:]
        place = dice.randrange(len(ops))
        return ops[:place] + made + [op("POP")] * dice.choice((0, 1, 1)) + ops[place:]


def renumbered(ops: Ops, dice: Random) -> Ops:
    """With a memo that is numbered as writers number it; what is taken from it was put there before."""
    numbers: dict[int, int] = {}  # as they were, and as they are now
    changed: Ops = []
    for one in ops:
        if one.code in _PUTS:
            changed.append(put(numbers.setdefault(int.from_bytes(one.argument, "little"), len(numbers))))
        elif one.code in _GETS:
            index = numbers.get(int.from_bytes(one.argument, "little"))
            changed.append(get(dice.randrange(len(numbers) or 1) if index is None else index))
        else:
            changed.append(one)
        if one.code == _STOP:
            numbers = {}
    return changed


def _some(places: Sequence[T], dice: Random) -> list[T]:
    return [dice.choice(places)] if places else []


def _run(ops: Ops, dice: Random) -> tuple[int, int]:
    return dice.randrange(len(ops)), dice.choice((1, 1, 1, 2, 3, 8, 40))


def _replaced(ops: Ops, donor: Sequence[Op], dice: Random) -> Ops:
    targets, sources = objects(ops), objects(donor)
    if not targets or not sources:
        return ops
    start, stop = dice.choice(targets)
    alike = [span for span in sources if donor[span[1] - 1].code == ops[stop - 1].code]
    first, last = dice.choice(alike if alike and dice.random() < 0.5 else sources)
    return [*ops[:start], *donor[first:last], *ops[stop:]]


def _changed(one: Op, ops: Ops, dice: Random) -> Op:
    """With an argument that its opcode may have."""
    match one.name:
        case "GLOBAL" | "INST":
            return named(dice.choice(_GLOBALS)) if dice.random() < 0.7 else dice.choice(_like(one, ops))
        case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
            return text(dice.choice(_TEXTS)) if dice.random() < 0.5 else dice.choice(_like(one, ops))
        case "BINGET" | "LONG_BINGET" | "BINPUT" | "LONG_BINPUT":
            index = int.from_bytes(one.argument, "little")
            index = dice.choice((index + 1, index - 1, dice.randrange(index + 2), 0, 255, 2**31))
            return get(max(0, index)) if "GET" in one.name else put(max(0, index))
        case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4":
            value = int.from_bytes(one.argument, "little", signed=one.name not in ("BININT1", "BININT2"))
            return number(
                dice.choice((value + 1, value - 1, -value, value * 2, value << 32, dice.choice(_NUMBERS)))
            )
        case "BINFLOAT":
            return op("BINFLOAT", struct.pack(">d", dice.choice(_FLOATS)))
    raw = bytearray(one.argument)
    raw[dice.randrange(len(raw))] = dice.randrange(256)
    return Op(one.code, bytes(raw))


def _like(one: Op, ops: Ops) -> Ops:
    return [other for other in ops if other.code == one.code]


def _any_op(ops: Ops, dice: Random) -> Op:
    kinds: tuple[Callable[[], Op], ...] = (
        lambda: op(dice.choice(_PLAIN)),
        lambda: op(dice.choice(_PLAIN)),
        lambda: number(dice.choice(_NUMBERS)),
        lambda: text(dice.choice(_TEXTS)),
        lambda: named(dice.choice(_GLOBALS)),
        lambda: get(_index(ops, dice)),
        lambda: put(_index(ops, dice)),
        lambda: dice.choice(ops),
    )
    return dice.choice(kinds)()


def _index(ops: Ops, dice: Random) -> int:
    """Of something that the pickle remembers, or the next one."""
    return dice.randrange(_remembered(ops) + 1)


def _remembered(ops: Ops) -> int:
    return max((int.from_bytes(one.argument, "little") + 1 for one in ops if one.code in _PUTS), default=0)


# What attacks are made of


def _numbers(dice: Random, count: int) -> list[Ops]:
    return [[number(dice.choice(_NUMBERS) if dice.random() < 0.3 else dice.randrange(5))] for _ in range(count)]


def _flags(dice: Random) -> Ops:
    name, value = dice.choice(("neg", "neg", "conj", "zero")), dice.choice(("NEWTRUE", "NEWFALSE", "NONE"))
    return [op("EMPTY_DICT"), text(name), op(value), op("SETITEM")]


def _tensor(ops: Ops, dice: Random) -> Ops:
    dimensions = dice.choice((0, 1, 1, 2, 2, 4, 9))
    kind = f"torch {dice.choice(_STORAGES)}Storage"
    parts = [
        storage(kind, dice.choice("01235"), dice.choice((0, 1, 4, 8, 64, 65, dice.choice(_NUMBERS)))),
        [number(dice.choice((0, 0, 0, 1, dice.choice(_NUMBERS))))],
        tuple_of(*_numbers(dice, dimensions)),
        tuple_of(*_numbers(dice, dimensions)),
        [op("NEWFALSE")],
        called("collections OrderedDict"),
    ]
    return called("torch._utils _rebuild_tensor_v2", *parts, *([_flags(dice)] if dice.random() < 0.5 else []))


def _another_reference(ops: Ops, dice: Random) -> Ops:
    """To a storage that others refer to, as one of other numbers."""
    return storage(f"torch {dice.choice(_STORAGES)}Storage", dice.choice("0123"), dice.randrange(70))


def _parameter(ops: Ops, dice: Random) -> Ops:
    state = [op("EMPTY_DICT"), text(dice.choice(("data", "real", "x"))), *_tensor(ops, dice), op("SETITEM")]
    parts = [_tensor(ops, dice), [op("NEWFALSE")], called("collections OrderedDict"), state]
    return called("torch._utils _rebuild_parameter_with_state", *parts)


def _doubling(ops: Ops, dice: Random) -> Ops:
    """A tuple of 2^3, 2^20 or 2^60 parts, alone or as a key."""
    index, times = _remembered(ops), dice.choice((3, 20, 60))
    twice = [get(index), get(index), op("TUPLE2"), put(index), op("POP")]
    made = [op("EMPTY_TUPLE"), put(index), op("POP"), *twice * times, get(index)]
    return made if dice.random() < 0.5 else [op("EMPTY_DICT"), *made, op("NONE"), op("SETITEM")]


def _nested(ops: Ops, dice: Random) -> Ops:
    depth = dice.choice((3, 50, 1100, 3000))
    kind = dice.choice(("TUPLE1", "LIST", "DICT"))
    if kind == "TUPLE1":
        return [op("EMPTY_TUPLE"), *[op("TUPLE1")] * depth]
    if kind == "LIST":
        return [*[op("EMPTY_LIST")] * depth, *[op("APPEND")] * (depth - 1)]
    return [op("EMPTY_DICT"), *[text("_modules"), op("EMPTY_DICT")] * depth, *[op("SETITEM")] * depth]


def _colliding(ops: Ops, dice: Random) -> Ops:
    """Keys that CPython hashes alike."""
    count = dice.choice((5, 300))
    return [
        op("EMPTY_DICT"),
        op("MARK"),
        *(one for n in range(count) for one in (number(n * (2**61 - 1)), op("NONE"))),
        op("SETITEMS"),
    ]


def _cycle(ops: Ops, dice: Random) -> Ops:
    index = _remembered(ops)
    if dice.random() < 0.5:
        return [op("EMPTY_LIST"), put(index), get(index), op("APPEND")]
    key = text(dice.choice(("_modules", "0", "model")))
    return [op("EMPTY_DICT"), put(index), key, get(index), op("SETITEM")]


def _change_remembered(ops: Ops, dice: Random) -> Ops:
    """What is remembered is changed after it was used, by a name and an object of the same pickle."""
    spans = objects(ops)
    start, stop = dice.choice(spans) if spans else (0, 0)
    texts = [one for one in ops if one.name == "BINUNICODE"]
    key = dice.choice(texts) if texts and dice.random() < 0.7 else text(dice.choice(_TEXTS))
    value = ops[start:stop] if dice.random() < 0.5 else dice.choice((_tensor, _cycle))(ops, dice)
    changes = (
        [*value, op("APPEND")],
        [key, *value, op("SETITEM")],
        [key, *value, op("SETITEM")],
        [op("EMPTY_DICT"), key, *value, op("SETITEM"), op("BUILD")],
        [*tuple_of(value), op("REDUCE")],
        [op("BINPERSID")],
    )
    return [_container(ops, dice), *dice.choice(changes)]


def _container(ops: Ops, dice: Random) -> Op:
    """What takes a dict or a list from the memo, where there is one; or anything."""
    places = [
        place for place, one in enumerate(ops) if one.name in ("EMPTY_DICT", "EMPTY_LIST", "REDUCE", "NEWOBJ")
    ]
    puts = [ops[place + 1] for place in places if place + 1 < len(ops) and ops[place + 1].code in _PUTS]
    return get(int.from_bytes(dice.choice(puts).argument, "little") if puts else _index(ops, dice))


def _build_class(ops: Ops, dice: Random) -> Ops:
    """A state for a class itself."""
    state = [op("EMPTY_DICT"), text(dice.choice(_TEXTS)), number(1), op("SETITEM")]
    return [named(dice.choice(_GLOBALS)), *state, op("BUILD")]


_GADGETS: tuple[Callable[[Ops, Random], Ops], ...] = (
    _tensor,
    _tensor,
    _another_reference,
    _parameter,
    _doubling,
    _nested,
    _colliding,
    _cycle,
    _change_remembered,
    _change_remembered,
    _build_class,
)
_CHANGES = (
    Grammar._change_argument,
    Grammar._delete,
    Grammar._duplicate,
    Grammar._swap,
    Grammar._insert,
    Grammar._exchange,
    Grammar._replace,
    Grammar._graft,
    Grammar._swap_objects,
    Grammar._drop_object,
    Grammar._put_gadget,
)
_WEIGHTS = (6, 2, 2, 1, 2, 2, 4, 3, 2, 2, 4)


def pickle_of(*parts: Ops) -> bytes:
    """A pickle of protocol 2 that is written by hand."""
    return written([op("PROTO", b"\2"), *(one for part in parts for one in part), op("STOP")])
