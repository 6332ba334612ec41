"""Partitions and checkpoints with hostile pickles, as a zip and in the form that torch had before version 1.6.

Each is written opcode by opcode, and read as a rank or `cosmicai model import` reads it: within a second of
processor time, within memory that goes by the file's size, and with nothing of our modules changed. What holds
Python's own unpickler up for ever is shown to do so.
"""

from __future__ import annotations

import io
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from cosmicai.model.foreign.errors import CheckpointError
from cosmicai.model.foreign.reading import Choices
from cosmicai.model.foreign.reading import read as read_checkpoint
from inference.data.partition import Layout, PartitionError, read
from tests import foreign
from tests.fuzz.guard import bounded, unchanged
from tests.fuzz.opcodes import op
from tests.fuzz.torchfiles import TorchFile
from tests.fuzz.vocabulary import Ops, called, get, named, number, pickle_of, put, storage, text, tuple_of
from tests.threads import one_thread  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")

SECOND = 2.0  # one, and as much again for a machine that does other things
FORMS = ("zip", "legacy")
TINY = Layout((2, 4, 4), 2)
SEQUENTIAL, WRAPPER = "torch.nn.modules.container Sequential", "torch.nn.parallel.data_parallel DataParallel"
DATASET = "torch.utils.data.dataset TensorDataset"


def _file(form: str, ops: Ops, sizes: dict[str, int] | None = None) -> bytes:
    """sizes: how many values each storage has, by key."""
    storages = {key: (count, 4) for key, count in (sizes or {}).items()}
    if form == "zip":
        return TorchFile("zip", storages, pickle_of(ops)).file()
    magic, version = [op("LONG1", bytes.fromhex("6cfc9c46f9206aa85019"))], [number(1001)]
    machine = _dict({"protocol_version": [number(1001)], "little_endian": [op("NEWTRUE")]})
    keys = [op("EMPTY_LIST"), op("MARK"), *map(text, storages), op("APPENDS")]
    pickles = [pickle_of(part) for part in (magic, version, machine, ops, keys)]
    return TorchFile("legacy", storages, b"".join(pickles)).file()


def _dict(entries: dict[str, Ops]) -> Ops:
    items = [one for name, value in entries.items() for one in (text(name), *value)]
    return [op("EMPTY_DICT"), op("MARK"), *items, op("SETITEMS")]


def _tensor(key: str, count: int, shape: list[int], steps: list[int], *flags: Ops) -> Ops:
    parts = [storage("torch FloatStorage", key, count), [number(0)]]
    parts += [tuple_of(*([number(n)] for n in numbers)) for numbers in (shape, steps)]
    hooks = called("collections OrderedDict")
    return called("torch._utils _rebuild_tensor_v2", *parts, [op("NEWFALSE")], hooks, *flags)


def _dataset(*tensors: Ops) -> Ops:
    return [
        named(DATASET),
        op("EMPTY_TUPLE"),
        op("NEWOBJ"),
        *_dict({"tensors": tuple_of(*tensors)}),
        op("BUILD"),
    ]


def _module(kind: str, children: dict[str, Ops], attributes: dict[str, Ops] | None = None) -> Ops:
    empty: Ops = [op("EMPTY_DICT")]
    state = {"_parameters": empty, "_buffers": empty, "_modules": _dict(children), **(attributes or {})}
    return [named(kind), op("EMPTY_TUPLE"), op("NEWOBJ"), *_dict(state), op("BUILD")]


def _read_partition(file: bytes) -> object:
    with unchanged("inference."), bounded(len(file), SECOND):
        try:
            return read(file, "1.pt", TINY)
        except PartitionError as error:
            return error


def _import(file: bytes, folder: Path) -> object:
    path = folder / "checkpoint.pt"
    path.write_bytes(file)
    with unchanged("inference.", "cosmicai.model.foreign."), bounded(len(file), SECOND):
        try:
            return read_checkpoint(path, Choices({"heads": "3"}))
        except CheckpointError as error:
            return error


def _faults_of_refusals(file: bytes, folder: Path) -> list[str]:
    """What is wrong with the way in which the file is refused, as a partition and as a checkpoint.

    Each refuses it twice alike, in a message that fits a screen and names the file.
    """
    faults = []
    for name, once in (("1.pt", _read_partition), ("checkpoint.pt", lambda data: _import(data, folder))):
        first, second = once(file), once(file)
        faults += [
            f"{name} is {fault}: {str(first)[:1000]}"
            for fault, present in (
                ("read", not isinstance(first, PartitionError | CheckpointError)),
                ("refused in other words the second time", str(first) != str(second)),
                ("not named", name not in str(first)),
                ("refused at too great length", len(str(first)) >= 1000 + len(str(folder))),
            )
            if present
        ]
    return faults


# A pickle changes only the objects that it makes


CHANGES: dict[str, Ops] = {
    "a state": [*_dict({"dtype": [number(1)], "dotted": [text("x")], "__call__": [number(1)]}), op("BUILD")],
    "a state of slots": [*tuple_of([op("NONE")], _dict({"dotted": [text("x")]})), op("BUILD")],
    "an item": [text("x"), number(1), op("SETITEM")],
    "items": [op("MARK"), text("x"), number(1), op("SETITEMS")],
    "an element": [number(1), op("APPEND")],
    "elements": [op("MARK"), number(1), op("ADDITEMS")],
}
TARGETS: dict[str, Ops] = {
    "a class": [named(DATASET)],
    "a type of storage": [named("torch FloatStorage")],
    "a function": [named("torch._utils _rebuild_tensor_v2")],
    "a storage": storage("torch FloatStorage", "0", 64),
    "a tensor": _tensor("0", 64, [2, 2, 4, 4], [32, 16, 4, 1]),
    "a number": [number(1)],
    "a text": [text("x")],
    "a tuple": [op("EMPTY_TUPLE")],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("target", TARGETS)
def test_what_all_files_share_is_not_changed(target: str, change: str, form: str, tmp_path: Path) -> None:
    """A state for a shared class once gave wrong redshifts to honest runs in the same warm sandbox."""
    sizes = {"0": 64, "1": 4}
    honest = _file(form, _dataset(TARGETS["a tensor"], _tensor("1", 4, [2, 2], [2, 1])), sizes)
    before = read(honest, "1.pt", TINY).images.tobytes()
    attack = [*TARGETS[target], *CHANGES[change], op("POP")]
    dataset = _dataset(TARGETS["a tensor"], _tensor("1", 4, [2, 2], [2, 1]))
    assert _faults_of_refusals(_file(form, [*attack, *dataset], sizes), tmp_path) == []
    assert read(honest, "1.pt", TINY).images.tobytes() == before


# Reading ends


def _doubled(times: int) -> Ops:
    """A tuple that holds the one before it twice, and so on."""
    twice = [get(0), get(0), op("TUPLE2"), put(0), op("POP")]
    return [op("EMPTY_TUPLE"), put(0), op("POP"), *twice * times, get(0)]


BOMBS: dict[str, Callable[[], Ops]] = {
    "a tuple of 2^60 parts as a key": lambda: [op("EMPTY_DICT"), *_doubled(60), op("NONE"), op("SETITEM")],
    "a tuple of 2^60 parts in a set": lambda: [op("EMPTY_SET"), op("MARK"), *_doubled(60), op("ADDITEMS")],
    "a tuple of 2^60 parts in a frozen set": lambda: [op("MARK"), *_doubled(60), op("FROZENSET")],
    "numbers of one hash as keys": lambda: [
        op("EMPTY_DICT"),
        op("MARK"),
        *(one for n in range(1, 40_000) for one in (number(n * (2**61 - 1)), op("NONE"))),
        op("SETITEMS"),
    ],
    "tuples in tuples": lambda: [op("EMPTY_TUPLE"), *[op("TUPLE1")] * 140_000],
    "lists in lists": lambda: [*[op("EMPTY_LIST")] * 70_000, *[op("APPEND")] * 69_999],
    "dicts in dicts": lambda: [
        *[op("EMPTY_DICT"), text("model")] * 40_000,
        op("NONE"),
        *[op("SETITEM")] * 40_000,
    ],
    "open marks": lambda: [op("MARK")] * 140_000,
    "calls of calls": lambda: [named("models Net"), *[op("EMPTY_TUPLE"), op("REDUCE")] * 70_000],
    "opcodes without end": lambda: [op("NONE")] * 1_000_000,
    "a list in itself": lambda: [op("EMPTY_LIST"), put(0), get(0), op("APPEND")],
    "a dict in itself": lambda: [op("EMPTY_DICT"), put(0), text("model"), get(0), op("SETITEM")],
    "a tuple in itself": lambda: [op("EMPTY_LIST"), put(0), *tuple_of([get(0)]), put(1), op("APPEND"), get(1)],
    "numbers of a megabyte": lambda: [op("LONG4", b"\x7f" * (1 << 20)), op("POP")] * 8,
    "a text of exabytes": lambda: [op("BINUNICODE8", b"x" * 100)],
    "a name of a megabyte before 60,000 lists": lambda: _dict(
        {"n" * 1_000_000: [op("EMPTY_LIST"), op("MARK"), *[op("EMPTY_LIST")] * 60_000, op("APPENDS")]}
    ),
    "30,000 networks": lambda: [
        *_tensor("0", 64, [1, 1, 1, 1], [1, 1, 1, 1]),
        put(0),
        op("POP"),
        op("EMPTY_LIST"),
        op("MARK"),
        *[op("EMPTY_DICT"), text("w"), get(0), op("SETITEM")] * 30_000,
        op("APPENDS"),
    ],
    "20,000 names of 130 parts": lambda: [
        *_tensor("0", 64, [1, 1, 1, 1], [1, 1, 1, 1]),
        put(0),
        op("POP"),
        *_dict({"a." * 130 + f"patch_embed.proj.weight{n or ''}": [get(0)] for n in range(20_000)}),
    ],
    "a module within itself": lambda: [
        named(SEQUENTIAL),
        op("EMPTY_TUPLE"),
        op("NEWOBJ"),
        put(0),
        *_module(SEQUENTIAL, {"0": [get(0)]})[3:],
    ],
    "a wrapper of itself with 30,000 attributes": lambda: [
        named(WRAPPER),
        op("EMPTY_TUPLE"),
        op("NEWOBJ"),
        put(0),
        *_module(WRAPPER, {"module": [get(0)]}, {f"x{n}": [op("NONE")] for n in range(30_000)})[3:],
    ],
    "modules in modules": lambda: [*[named(SEQUENTIAL), op("EMPTY_TUPLE"), op("NEWOBJ")] * 40_000, op("MARK")],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bomb", BOMBS)
def test_reading_ends_within_a_second(bomb: str, form: str, tmp_path: Path) -> None:
    ops = BOMBS[bomb]()
    sizes = {"0": 64} if op("BINPERSID") in ops else {}  # the old form may hold no storage without a tensor
    assert _faults_of_refusals(_file(form, ops, sizes), tmp_path) == []


_NAIVE = """
import io, pickle, sys
class Made:
    def __init__(self, *arguments): self.state = {}
    def __call__(self, *arguments): return Made()
    def append(self, item): pass
class Naive(pickle.Unpickler):
    def find_class(self, module, name): return Made
    def persistent_load(self, reference): return Made()
value = Naive(sys.stdin.buffer).load()
hash(value) if isinstance(value, tuple) else None
repr(value)
"""
_HELD_UP = (
    "a tuple of 2^60 parts as a key", "a tuple of 2^60 parts in a set", "a tuple of 2^60 parts in a frozen set",
    "numbers of one hash as keys", "tuples in tuples", "lists in lists", "dicts in dicts",
)  # fmt: skip


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (3, 3))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))


@pytest.mark.parametrize("bomb", _HELD_UP)
def test_a_naive_reader_is_held_up_or_falls(bomb: str) -> None:
    """So the test above can fail: Python's own unpickler, with inert classes, does not end or is killed."""
    command = [sys.executable, "-c", _NAIVE]
    ended = subprocess.run(
        command, input=pickle_of(BOMBS[bomb]()), preexec_fn=_limited, capture_output=True, check=False
    )
    held_up = ended.returncode in (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGSEGV)
    assert held_up or ended.stderr.strip().splitlines()[-1].startswith((b"RecursionError", b"MemoryError"))


def _shared(depth: int) -> nn.Module:
    """Two to the power of `depth` layers, if each were looked at wherever it stands."""
    layer: nn.Module = nn.Linear(24, 24)
    for _ in range(depth):
        layer = nn.Sequential(layer, layer)
    return layer


def _many_of_many() -> nn.Module:
    """4,000 times the same container, which has 20,000 places for children."""
    inner = nn.Sequential()
    inner._modules = dict.fromkeys(map(str, range(20_000)))  # type: ignore[assignment]
    outer = nn.Sequential()
    outer._modules = dict.fromkeys(map(str, range(4_000)), inner)  # type: ignore[assignment]
    return outer


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("made", "limit"),
    [
        pytest.param(lambda: _shared(40), "is nested more than 20 deep", id="2^40 layers"),
        pytest.param(lambda: _shared(15), "has more than 5000 modules", id="2^15 layers"),
        pytest.param(_many_of_many, "has more than 200,000 attributes", id="80,000,000 children"),
    ],
)
def test_modules_that_share_structure(
    made: Callable[[], nn.Module], limit: str, form: str, tmp_path: Path
) -> None:
    model = foreign.astromae(depth=1)
    model.vit_block = made()
    path = foreign.save(model, tmp_path, _use_new_zipfile_serialization=form == "zip")
    error = _import(path.read_bytes(), tmp_path)
    assert isinstance(error, CheckpointError)
    assert limit in str(error)


# Numbers that are too large, and tensors of more than the file has


def _flagged(flag: Ops, value: Ops) -> Ops:
    return _tensor("0", 64, [1], [1], [op("EMPTY_DICT"), *flag, *value, op("SETITEM")])


TRUE: Ops = [op("NEWTRUE")]
FALSE: Ops = [op("NEWFALSE")]
TENSORS: dict[str, tuple[Ops, str]] = {
    "a product of huge numbers": (_tensor("0", 64, [2**63 - 1] * 8, [0] * 8), "more values than the file has"),
    "a number of 255 bytes": (_tensor("0", 64, [2**2030], [1]), "something other than a storage and whole"),
    "900 dimensions": (_tensor("0", 64, [1] * 900, [1] * 900), "a tensor of 900 dimensions"),
    "galaxies by steps of zero": (_tensor("0", 64, [10**9, 2, 4, 4], [0] * 4), "more values than the file has"),
    "galaxies beyond bytes": (_tensor("0", 64, [100_000, 2, 4, 4], [0, 0, 0, 1]), "more values than the file"),
    "a step beyond the storage": (_tensor("0", 64, [2, 2, 4, 4], [2**62, 1, 1, 1]), "reaches beyond its 64"),
    "a shape beyond the storage": (_tensor("0", 64, [3, 2, 4, 4], [32, 16, 4, 1]), "reaches beyond its 64"),
    "a negative step": (_tensor("0", 64, [2], [-1]), "something other than a storage and whole numbers"),
    "a storage of exabytes": (_tensor("0", 2**61, [2], [1]), "data/0 has 256 bytes|cut short inside storage 0"),
    "conjugated": (_flagged([text("conj")], TRUE), "as conjugated"),
    "negated by a number": (_flagged([text("neg")], [number(1)]), "metadata that is not known"),
    "negated by False, which torch takes for True": (
        _flagged([text("neg")], FALSE),
        "metadata that is not known",
    ),
    "of unknown metadata": (_flagged([text("zero")], TRUE), "metadata that is not known"),
    "of metadata under a number": (_flagged([number(1)], TRUE), "metadata that is not known"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_not_what_torch_writes(name: str, form: str, tmp_path: Path) -> None:
    tensor, message = TENSORS[name]
    file = _file(form, _dataset(tensor, _tensor("1", 4, [2, 2], [2, 1])), {"0": 64, "1": 4})
    assert _faults_of_refusals(file, tmp_path) == []
    with pytest.raises(PartitionError, match=message):
        read(file, "1.pt", TINY)
    imported = _import(_file(form, _dict({"patch_embed.proj.weight": tensor}), {"0": 64}), tmp_path)
    assert isinstance(imported, CheckpointError)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_negated_column_keeps_its_sign(legacy: bool) -> None:
    """torch's lazy negation once gave redshifts that were wrong by 1.26 without a word."""
    images, magnitudes, redshift = torch.rand(3, 2, 4, 4), torch.rand(3, 2), torch.rand(3)
    for column in range(3):
        tensors = [images, magnitudes, redshift]
        tensors[column] = torch._neg_view(-tensors[column])
        body = io.BytesIO()
        torch.save(TensorDataset(*tensors), body, _use_new_zipfile_serialization=not legacy)
        rows = read(body.getvalue(), "1.pt", TINY)
        assert rows.redshift is not None
        for ours, theirs in zip(
            (rows.images, rows.magnitudes, rows.redshift), (images, magnitudes, redshift), strict=True
        ):
            assert np.array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("legacy", [False, True])
def test_a_negated_weight_keeps_its_sign(legacy: bool, tmp_path: Path) -> None:
    model = foreign.astromae(depth=1)
    state = {
        name: torch._neg_view(-tensor) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    path = foreign.save(state, tmp_path, _use_new_zipfile_serialization=not legacy)
    with torch.inference_mode():
        ours = read_checkpoint(path, Choices({"heads": "3"})).model(*foreign.galaxies(2)).reshape(-1)
        assert torch.allclose(ours, model(foreign.galaxies(2)).reshape(-1), rtol=1e-5, atol=1e-5)
