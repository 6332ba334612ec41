"""What attacks are made of: tensors of any shape, doubled, nested, colliding and cyclic objects."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.fuzz.opcodes import Op, objects, op
from tests.fuzz.vocabulary import (
    GLOBALS,
    NUMBERS,
    PUTS,
    STORAGES,
    TEXTS,
    Ops,
    called,
    get,
    index_of,
    named,
    number,
    put,
    remembered,
    storage,
    text,
    tuple_of,
)


def _numbers(dice: Random, count: int) -> list[Ops]:
    return [[number(dice.choice(NUMBERS) if dice.random() < 0.3 else dice.randrange(5))] for _ in range(count)]


def _flags(dice: Random) -> Ops:
    name, value = dice.choice(("neg", "neg", "conj", "zero")), dice.choice(("NEWTRUE", "NEWFALSE", "NONE"))
    return [op("EMPTY_DICT"), text(name), op(value), op("SETITEM")]


def _tensor(ops: Ops, dice: Random) -> Ops:
    dimensions = dice.choice((0, 1, 1, 2, 2, 4, 9))
    kind = f"torch {dice.choice(STORAGES)}Storage"
    parts = [
        storage(kind, dice.choice("01235"), dice.choice((0, 1, 4, 8, 64, 65, dice.choice(NUMBERS)))),
        [number(dice.choice((0, 0, 0, 1, dice.choice(NUMBERS))))],
        tuple_of(*_numbers(dice, dimensions)),
        tuple_of(*_numbers(dice, dimensions)),
        [op("NEWFALSE")],
        called("collections OrderedDict"),
    ]
    return called("torch._utils _rebuild_tensor_v2", *parts, *([_flags(dice)] if dice.random() < 0.5 else []))


def _another_reference(ops: Ops, dice: Random) -> Ops:
    """To a storage that others refer to, as one of other numbers."""
    return storage(f"torch {dice.choice(STORAGES)}Storage", dice.choice("0123"), dice.randrange(70))


def _parameter(ops: Ops, dice: Random) -> Ops:
    state = [op("EMPTY_DICT"), text(dice.choice(("data", "real", "x"))), *_tensor(ops, dice), op("SETITEM")]
    parts = [_tensor(ops, dice), [op("NEWFALSE")], called("collections OrderedDict"), state]
    return called("torch._utils _rebuild_parameter_with_state", *parts)


def _doubling(ops: Ops, dice: Random) -> Ops:
    """A tuple of 2^3, 2^20 or 2^60 parts, alone or as a key."""
    index, times = remembered(ops), dice.choice((3, 20, 60))
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
    index = remembered(ops)
    if dice.random() < 0.5:
        return [op("EMPTY_LIST"), put(index), get(index), op("APPEND")]
    key = text(dice.choice(("_modules", "0", "model")))
    return [op("EMPTY_DICT"), put(index), key, get(index), op("SETITEM")]


def _change_remembered(ops: Ops, dice: Random) -> Ops:
    """What is remembered is changed after it was used, by a name and an object of the same pickle."""
    spans = objects(ops)
    start, stop = dice.choice(spans) if spans else (0, 0)
    texts = [one for one in ops if one.name == "BINUNICODE"]
    key = dice.choice(texts) if texts and dice.random() < 0.7 else text(dice.choice(TEXTS))
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
    puts = [ops[place + 1] for place in places if place + 1 < len(ops) and ops[place + 1].code in PUTS]
    return get(int.from_bytes(dice.choice(puts).argument, "little") if puts else index_of(ops, dice))


def _build_class(ops: Ops, dice: Random) -> Ops:
    """A state for a class itself."""
    state = [op("EMPTY_DICT"), text(dice.choice(TEXTS)), number(1), op("SETITEM")]
    return [named(dice.choice(GLOBALS)), *state, op("BUILD")]


GADGETS: tuple[Callable[[Ops, Random], Ops], ...] = (
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
