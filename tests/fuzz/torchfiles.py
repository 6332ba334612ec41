"""torch's files in a form that is easy to change: pickles, and how large each storage is.

An input is a line (`zip` or `legacy`, then KEY:COUNT:WIDTH for each storage) and the pickles after it. What is
read is a sound file around them, with checksums, so that a changed pickle is not refused for its wrapping. The
storages' values are made up: numbers that are finite in every type that torch has.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from tests.fuzz.grammar import Grammar
from tests.fuzz.opcodes import Op, parse, written

_MOST_BYTES = 1 << 18  # of all storages
_LONGEST_TEXT = 100  # bytes, in a seed
_LEGACY_PICKLES = 5  # magic number, version, machine, object, keys


@dataclass(frozen=True)
class TorchFile:
    """kind: zip or legacy. storages: number of values and bytes of each, by key."""

    kind: str
    storages: dict[str, tuple[int, int]]
    pickles: bytes

    @classmethod
    def parse(cls, data: bytes) -> TorchFile | None:
        """None where it is something else."""
        line, end, pickles = data.partition(b"\n")
        kind, *entries = line.decode("latin-1").split(" ")
        parts = [entry.split(":") for entry in entries if entry]
        if kind not in ("zip", "legacy") or not end or not all(_is_entry(part) for part in parts):
            return None
        return cls(kind, {key: (int(count), int(width)) for key, count, width in parts}, pickles)

    @classmethod
    def of(cls, file: bytes) -> TorchFile:
        """Of a file that torch has written."""
        if file[:2] == b"PK":
            archive = zipfile.ZipFile(io.BytesIO(file))
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            sizes = {n[5:]: archive.getinfo(names[n]).file_size for n in names if n.startswith("data/")}
            return cls("zip", {key: (size, 1) for key, size in sizes.items()}, archive.read(names["data.pkl"]))
        return _legacy_of(file)

    def written(self) -> bytes:
        entries = [f"{key}:{count}:{width}" for key, (count, width) in self.storages.items()]
        return " ".join([self.kind, *entries]).encode("latin-1") + b"\n" + self.pickles

    def file(self) -> bytes:
        """A whole file, as torch would read it."""
        return self._zip() if self.kind == "zip" else self._legacy()

    def _zip(self) -> bytes:
        body = io.BytesIO()
        with zipfile.ZipFile(body, "w") as archive:
            archive.writestr("archive/data.pkl", self.pickles)
            archive.writestr("archive/byteorder", "little")
            for key, size in self._sizes().items():
                archive.writestr(f"archive/data/{key}", _values(key, size))
            archive.writestr("archive/version", "3\n")
        return body.getvalue()

    def _legacy(self) -> bytes:
        """The storages follow in the order that the last pickle says."""
        ops, _ = parse(self.pickles)
        stops = [place for place, one in enumerate(ops) if one.name == "STOP"]
        last = ops[stops[-2] + 1 :] if len(stops) > 1 else ()
        keys = [one.argument.decode("utf-8", "replace") for one in last if one.name == "BINUNICODE"]
        sizes, parts = self._sizes(), [self.pickles]
        for key in keys:
            if key in sizes:
                parts += [self.storages[key][0].to_bytes(8, "little"), _values(key, sizes[key])]
        return b"".join(parts)

    def _sizes(self) -> dict[str, int]:
        """In bytes; nothing of what is beyond the limit."""
        left, sizes = _MOST_BYTES, dict[str, int]()
        for key, (count, width) in self.storages.items():
            sizes[key] = min(count * width, left)
            left -= sizes[key]
        return sizes


def _is_entry(parts: list[str]) -> bool:
    return len(parts) == 3 and parts[0].isalnum() and all(n.isdecimal() and len(n) < 10 for n in parts[1:])


def _values(key: str, size: int) -> bytes:
    """The same for the same key: positive and finite in every type, in float32 between 1/8 and 2."""
    raw = bytearray(Random(zlib.crc32(key.encode())).randbytes(size))
    raw[1::2] = bytes(0x30 + byte % 16 for byte in raw[1::2])
    raw[3::4] = bytes(0x3E + byte % 2 for byte in raw[3::4])
    return bytes(raw)


def _legacy_of(file: bytes) -> TorchFile:
    """Its pickles are the first five; each storage follows after the number of its values."""
    ops, _ = parse(file)
    stops = [place for place, one in enumerate(ops) if one.name == "STOP"][:_LEGACY_PICKLES]
    pickles = written(_without_sources(ops[: stops[-1] + 1]))
    keys = [one.argument.decode() for one in ops[stops[-2] : stops[-1]] if one.name == "BINUNICODE"]
    storages = _fitting(file, keys, len(written(ops[: stops[-1] + 1])))
    if storages is None:
        raise ValueError("is not a file that torch wrote before version 1.6")
    return TorchFile("legacy", storages, pickles)


def _without_sources(ops: Sequence[Op]) -> list[Op]:
    """Such files hold the source code of every class; it is not needed, and long."""
    return [Op(one.code, one.argument[:_LONGEST_TEXT]) if one.name == "BINUNICODE" else one for one in ops]


def _fitting(file: bytes, keys: list[str], place: int) -> dict[str, tuple[int, int]] | None:
    """Of the widths that numbers may have, those with which the storages end where the file does."""
    if not keys:
        return {} if place == len(file) else None
    count = int.from_bytes(file[place : place + 8], "little")
    for width in (4, 8, 2, 1):
        end = place + 8 + count * width
        rest = _fitting(file, keys[1:], end) if end <= len(file) else None
        if rest is not None:
            return {keys[0]: (count, width), **rest}
    return None


@dataclass(frozen=True)
class Mutator:
    """Changes inputs of this form; others byte by byte, by `otherwise`."""

    grammar: Grammar

    @classmethod
    def of(cls, seeds: list[bytes]) -> Mutator:
        files = [file for seed in seeds if (file := TorchFile.parse(seed))]
        return cls(Grammar([parse(file.pickles)[0] for file in files]))

    def mutated(self, data: bytes, dice: Random) -> bytes | None:
        """None for what is not of this form."""
        file = TorchFile.parse(data)
        if file is None:
            return None
        if dice.random() < 0.1:
            file = replace(file, storages=_resized(file.storages, dice))
        ops, _ = parse(file.pickles)
        return replace(file, pickles=written(self.grammar.mutated(ops, dice))).written()

    def spliced(self, data: bytes, other: bytes, dice: Random) -> bytes | None:
        """The first with an object of the second."""
        files = [TorchFile.parse(one) for one in (data, other)]
        if files[0] is None or files[1] is None:
            return None
        first, second = (parse(file.pickles)[0] for file in files if file)
        if not first or not second:
            return None
        storages = {**files[1].storages, **files[0].storages}
        pickles = written(self.grammar.spliced(first, second, dice))
        return TorchFile(files[0].kind, storages, pickles).written()


def _resized(storages: dict[str, tuple[int, int]], dice: Random) -> dict[str, tuple[int, int]]:
    changed = dict(storages)
    for key in dice.sample(list(changed), min(1, len(changed))):
        count, width = changed[key]
        changed[key] = (
            max(0, dice.choice((count - 1, count + 1, 0, count * 2))),
            dice.choice((width, 1, 2, 4, 8)),
        )
    return changed
