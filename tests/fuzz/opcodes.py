"""Pickles as lists of opcodes: parsed, written again, and cut into the objects that they make.

pickletools says for every opcode what its argument looks like and what it takes from and leaves on the stack.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

_NEWLINES = {pickletools.stringnl_noescape_pair: 2}  # GLOBAL and INST take two lines, other texts one
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
OPCODES = {ord(code): info for code, info in pickletools.code2op.items()}
CODES = {info.name: code for code, info in OPCODES.items()}


class _Effect(NamedTuple):
    """What an opcode does to the stack: whether it opens a mark, whether it takes all objects down to a mark,
    how many it takes otherwise, and whether it leaves one."""

    opens: bool
    closes: bool
    takes: int
    leaves: bool


def _effect(info: pickletools.OpcodeInfo) -> _Effect:
    if info.name in ("PUT", "BINPUT", "LONG_BINPUT"):  # as if they took and left what they remember
        return _Effect(False, False, 1, True)
    before, mark = info.stack_before, pickletools.markobject
    takes = before.index(mark) if mark in before else len(before)
    return _Effect(mark in info.stack_after, mark in before, takes, bool(info.stack_after))


_EFFECTS = {code: _effect(info) for code, info in OPCODES.items()}


class Op(NamedTuple):
    """An opcode and its argument, without the length that is written before some."""

    code: int
    argument: bytes = b""

    @property
    def name(self) -> str:
        return OPCODES[self.code].name


Span = tuple[int, int]
"""The opcodes from the first number to before the second, which together make one object."""


def op(name: str, argument: bytes = b"") -> Op:
    return Op(CODES[name], argument)


@lru_cache(64)  # the same inputs are changed again and again
def parse(data: bytes) -> tuple[Sequence[Op], bytes]:
    """The opcodes of one or several pickles in a row, and the bytes after the last whole opcode."""
    ops: list[Op] = []
    place = 0
    while place < len(data):
        info = OPCODES.get(data[place])
        operand = None if info is None else _argument(data, place + 1, info.arg)
        if operand is None:
            break
        argument, end = operand
        ops.append(Op(data[place], argument))
        place = end
    return tuple(ops), data[place:]


def _argument(data: bytes, place: int, kind: pickletools.ArgumentDescriptor | None) -> tuple[bytes, int] | None:
    """An argument and where it ends; None where the data end first."""
    if kind is None:
        return b"", place
    end = place + kind.n
    if kind.n == pickletools.UP_TO_NEWLINE:
        end = place
        for _ in range(_NEWLINES.get(kind, 1)):
            end = data.find(b"\n", end) + 1
            if not end:
                return None
    elif kind.n in _LENGTHS:
        length = data[place : place + _LENGTHS[kind.n]]
        place += _LENGTHS[kind.n]
        end = place + int.from_bytes(length, "little")
    return (data[place:end], end) if end <= len(data) else None


def written(ops: Iterable[Op]) -> bytes:
    """The pickle of these opcodes; an argument that is too long for its opcode is cut."""
    parts: list[bytes] = []
    for code, argument in ops:
        kind = OPCODES[code].arg
        parts.append(code.to_bytes())
        if kind is not None and kind.n in _LENGTHS:
            width = _LENGTHS[kind.n]
            argument = argument[: (1 << 8 * width) - 1]
            parts.append(len(argument).to_bytes(width, "little"))
        parts.append(argument)
    return b"".join(parts)


def objects(ops: Sequence[Op]) -> list[Span]:
    """The opcodes of every object that is whole: from the first that it is made of to the last."""
    spans: list[Span] = []
    stack: list[Span] = []
    marks: list[tuple[int, list[Span]]] = []
    for place, (code, _) in enumerate(ops):
        opens, closes, takes, leaves = _EFFECTS[code]
        start = place
        if opens:
            marks.append((place, stack))
            stack = []
            continue
        if closes:
            start, stack = marks.pop() if marks else (0, [])
        for _ in range(takes):
            part = stack.pop() if stack else None
            start = start if part is None else part[0]
        if leaves:
            made = (start, place + 1)
            stack.append(made)
            spans.append(made)
    return spans
