"""The fuzzers' targets hold on their seeds and near them; `make fuzz` continues from there, guided by coverage.

And the fuzzers see what they are there for: a wrong value, a changed module, too much time or memory.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest

from inference.data import tensors
from inference.data.partition import Partition, PartitionError, read
from tests.fuzz import files, seeds
from tests.fuzz.grammar import Grammar
from tests.fuzz.guard import Broken, bounded, unchanged
from tests.fuzz.opcodes import objects, parse, written
from tests.fuzz.targets import TARGETS, mutated
from tests.fuzz.torchfiles import TorchFile


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", list(TARGETS))
def test_foreign_bytes_give_named_errors_or_sound_results(name: str) -> None:
    target, dice = TARGETS[name], Random(0)
    for seed in target.seeds():
        target.run(seed)
        for _ in range(target.mutants):
            target.run(target.mutant(seed, dice))


PICKLES = [file.pickles for seed in seeds.partitions() + seeds.checkpoints() if (file := TorchFile.parse(seed))]


def test_pickles_are_parsed_and_written_without_loss() -> None:
    for pickle in PICKLES:
        ops, rest = parse(pickle)
        assert written(ops) + rest == pickle
        assert not rest


def test_objects_are_what_a_pickle_makes() -> None:
    """The last one of each pickle is all of it but its first opcode and STOP."""
    for pickle in PICKLES:
        ops = parse(pickle[: pickle.index(b".") + 1])[0] if pickle.count(b"\x80\x02") > 1 else parse(pickle)[0]
        assert (1, len(ops) - 1) in objects(ops)


def test_changed_opcodes_are_read_further_than_changed_bytes() -> None:
    """Of changed partitions, what is not found to be damaged: it reaches what comes after the stack machine."""
    seed, dice = seeds.partitions()[0], Random(0)

    def sound(change: Callable[[bytes, Random], bytes]) -> int:
        return sum(_is_sound(change(seed, dice)) for _ in range(1000))

    def by_opcodes(data: bytes, dice: Random) -> bytes:
        file = TorchFile.parse(data)
        assert file is not None
        ops = Grammar([parse(file.pickles)[0]]).mutated(parse(file.pickles)[0], dice)
        return TorchFile(file.kind, file.storages, written(ops)).written()

    assert sound(by_opcodes) > 2 * sound(mutated)


def _is_sound(data: bytes) -> bool:
    file = TorchFile.parse(data)
    try:
        return file is not None and bool(read(file.file(), "1.pt", seeds.LAYOUT))
    except PartitionError as error:
        return not any(word in str(error) for word in ("damaged", "cut short", "opcode", "protocol"))


# What breaks a promise is seen


def test_a_wrong_value_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> Partition:
        galaxies = read(*arguments)
        images = galaxies.images.copy()
        images.flat[-1] = np.nextafter(images.flat[-1], np.float32(1))
        return Partition(images, galaxies.magnitudes, galaxies.redshift)

    monkeypatch.setattr(files, "read", wrong)
    with pytest.raises(Broken, match="a column is float32"):
        files.partition(seeds.partitions()[0])


@pytest.mark.parametrize("place", [0, 2, 4, 7], ids=["module", "in a list", "state dict", "old form"])
def test_a_wrong_network_is_seen(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose weights are a thousandth too large."""
    seed = seeds.models()[place]
    files.model(seed)
    exact = tensors.Tensor.read
    monkeypatch.setattr(tensors.Tensor, "read", lambda *arguments: exact(*arguments) * np.float32(1.001))
    with pytest.raises(Broken, match="the imported network gives"):
        files.model(seed)


def test_a_changed_module_is_seen() -> None:
    """Whatever a pickle could reach: a table, a class, a constant, an object of ours."""
    with pytest.raises(Broken, match=r"changed inference\.data\.tensors\._NUMBERS"), unchanged("inference."):
        tensors._NUMBERS["float31"] = np.dtype("<f4")
    del tensors._NUMBERS["float31"]
    with pytest.raises(Broken, match=r"changed inference\.data\.pickled\.Record"), unchanged("inference."):
        tensors.Record.name = "x"  # type: ignore[assignment]
    monkey = property(lambda self: self.dotted.rpartition(".")[2])
    tensors.Record.name = monkey  # type: ignore[assignment, method-assign]


def test_objects_of_other_tests_take_no_time_of_a_reading() -> None:
    """Full collections of their objects would: 20 of them take a second and more."""
    others = [[[]] for _ in range(1_000_000)]
    with bounded(0, 0.5):
        for _ in range(20):
            gc.collect()
    assert len(others) == 1_000_000


def test_too_much_time_and_memory_are_seen() -> None:
    with pytest.raises(Broken, match="more than 0 s"), bounded(0, 0):
        sum(range(100_000))
    with pytest.raises(MemoryError), bounded(0, 10):
        np.empty(1 << 28, np.uint8)
