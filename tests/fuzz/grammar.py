"""Changes whole opcodes of a pickle, their arguments and the objects that they make.

A changed byte leaves most pickles broken at the next opcode. What is made here mostly stays a program that the
stack machine runs to its end, with other numbers, texts, classes, storages and references in it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from tests.fuzz.gadgets import GADGETS
from tests.fuzz.opcodes import Op, objects, op
from tests.fuzz.vocabulary import (
    ALIKE,
    FLOATS,
    GETS,
    GLOBALS,
    NUMBERS,
    PLAIN,
    PUTS,
    STOP,
    TEXTS,
    Ops,
    get,
    index_of,
    named,
    number,
    put,
    text,
)

_MOST_OPS = 60_000
_SOUND = (
    0.9  # the share of changed pickles whose memo has no gaps, and nothing is taken from it before it is there
)


T = TypeVar("T")


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
        kinds = [(place, kind) for place, one in enumerate(ops) for kind in ALIKE if one.name in kind]
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
        made = dice.choice(GADGETS)(ops, dice)
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
        if one.code in PUTS:
            changed.append(put(numbers.setdefault(int.from_bytes(one.argument, "little"), len(numbers))))
        elif one.code in GETS:
            index = numbers.get(int.from_bytes(one.argument, "little"))
            changed.append(get(dice.randrange(len(numbers) or 1) if index is None else index))
        else:
            changed.append(one)
        if one.code == STOP:
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
            return named(dice.choice(GLOBALS)) if dice.random() < 0.7 else dice.choice(_like(one, ops))
        case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
            return text(dice.choice(TEXTS)) if dice.random() < 0.5 else dice.choice(_like(one, ops))
        case "BINGET" | "LONG_BINGET" | "BINPUT" | "LONG_BINPUT":
            index = int.from_bytes(one.argument, "little")
            index = dice.choice((index + 1, index - 1, dice.randrange(index + 2), 0, 255, 2**31))
            return get(max(0, index)) if "GET" in one.name else put(max(0, index))
        case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4":
            value = int.from_bytes(one.argument, "little", signed=one.name not in ("BININT1", "BININT2"))
            return number(
                dice.choice((value + 1, value - 1, -value, value * 2, value << 32, dice.choice(NUMBERS)))
            )
        case "BINFLOAT":
            return op("BINFLOAT", struct.pack(">d", dice.choice(FLOATS)))
    raw = bytearray(one.argument)
    raw[dice.randrange(len(raw))] = dice.randrange(256)
    return Op(one.code, bytes(raw))


def _like(one: Op, ops: Ops) -> Ops:
    return [other for other in ops if other.code == one.code]


def _any_op(ops: Ops, dice: Random) -> Op:
    kinds: tuple[Callable[[], Op], ...] = (
        lambda: op(dice.choice(PLAIN)),
        lambda: op(dice.choice(PLAIN)),
        lambda: number(dice.choice(NUMBERS)),
        lambda: text(dice.choice(TEXTS)),
        lambda: named(dice.choice(GLOBALS)),
        lambda: get(index_of(ops, dice)),
        lambda: put(index_of(ops, dice)),
        lambda: dice.choice(ops),
    )
    return dice.choice(kinds)()


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
