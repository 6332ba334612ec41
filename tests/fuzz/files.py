"""Partitions and checkpoints of anybody: refused by their own errors, or read as torch reads them."""

from __future__ import annotations

import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cosmicai.model.foreign.candidates import chosen
from cosmicai.model.foreign.errors import CheckpointError
from cosmicai.model.foreign.files import File
from cosmicai.model.foreign.reading import Choices
from cosmicai.model.foreign.reading import read as read_checkpoint
from inference.data.partition import PartitionError, read
from inference.data.pickled import Global, Pairs, Record, TorchFileError
from inference.data.tensors import Source, Tensor
from inference.data.torchfile import Buffer, describe
from inference.engine.astromae import AstroMAE, Config
from tests import foreign
from tests.fuzz.guard import Broken, bounded, unchanged
from tests.fuzz.seeds import LAYOUT, SAFETENSORS
from tests.fuzz.torch_reader import Answer, Node, Reader
from tests.fuzz.torchfiles import TorchFile

SECONDS = 1.0  # of processor time that reading may take
_OURS = ("inference.", "cosmicai.model.foreign.")
_TOLERANCE = 1e-5  # of max(1, |output|)


def partition(data: bytes) -> None:
    """A .pt file of S3: refused with PartitionError, or the galaxies that torch reads there."""
    file, refusal = _file(data), None
    with unchanged(*_OURS), bounded(len(file), SECONDS):
        try:
            galaxies = read(file, "1.pt", LAYOUT)
        except PartitionError as error:
            refusal = error
    if refusal is not None:
        _check_named(refusal, "1.pt")
        return
    assert galaxies.images.shape == (len(galaxies), 2, 4, 4)
    assert galaxies.magnitudes.shape == (len(galaxies), 2)
    assert np.isfinite(galaxies.images).all()
    assert galaxies.redshift is None or galaxies.redshift.shape == (len(galaxies),)
    nodes = torch_reads(file).nodes
    if nodes:
        columns = _named_part(nodes, nodes[0], "tensors").parts
        ours = [galaxies.images, galaxies.magnitudes, galaxies.redshift][: len(columns)]
        for place, values in zip(columns, ours, strict=True):
            _check_same(values, _array(nodes[place]).astype(np.float32).reshape(np.shape(values)), "a column")


def checkpoint(data: bytes) -> None:
    """A file of torch.save with anything in it: refused with TorchFileError, or what torch reads there."""
    file, content = _file(data), None
    with unchanged(*_OURS), bounded(len(file), SECONDS):
        try:
            content = describe(Buffer(file))
        except TorchFileError:
            return
    nodes = torch_reads(file).nodes
    if nodes:
        _compare(content, nodes, Buffer(file))


def model(data: bytes) -> None:
    """A user's checkpoint: refused with CheckpointError, or a network with the outputs that torch computes."""
    _load_torch()
    kind = ".safetensors" if data[:1] == SAFETENSORS else ".pt"
    file, refusal = _file(data), None
    with tempfile.NamedTemporaryFile(suffix=kind) as stored:
        stored.write(file)
        stored.flush()
        path = Path(stored.name)
        with unchanged(*_OURS), bounded(len(file), SECONDS):
            try:
                network = read_checkpoint(path, Choices({"heads": "3"})).model
            except CheckpointError as error:
                refusal = error
        if refusal is not None:
            _check_named(refusal, stored.name)
            return
        key = chosen(File.open(path).content, None).key
    theirs = torch_reads(file, key).outputs
    if theirs:
        with torch.inference_mode():
            ours = network(*foreign.galaxies(2)).reshape(-1).numpy()
        expected = np.frombuffer(theirs, np.float32)
        close = np.abs(ours - expected) <= _TOLERANCE * np.maximum(1, np.abs(expected))
        if ours.shape != expected.shape or not (close | (ours == expected) | np.isnan(expected)).all():
            raise Broken(f"the imported network gives {ours}, torch {expected}")


@cache
def _load_torch() -> None:
    """torch imports much of itself with the first network: no part of what reading a file takes."""
    with torch.device("meta"):
        AstroMAE(Config())


def _file(data: bytes) -> bytes:
    """What an input stands for: a file of torch by its pickles, or, after one byte, all bytes of any file."""
    made = TorchFile.parse(data)
    return data[1:] if made is None else made.file()


def _check_named(error: Exception, name: str) -> None:
    if name not in str(error):
        raise Broken("the error does not name its file") from error


@cache
def _reader() -> Reader:
    return Reader()


def torch_reads(file: bytes, network: str | None = None) -> Answer:
    return _reader().read(file, network)


# Both readings, side by side


def _compare(content: object, nodes: list[Node], source: Source) -> None:
    """Raises Broken where torch has something else. What we keep as it was said is not read: Record, Global."""
    pairs, seen = [(content, 0)], set[tuple[int, int]]()
    while pairs:
        ours, place = pairs.pop()
        if (id(ours), place) not in seen:
            seen.add((id(ours), place))
            pairs += _parts(ours, nodes[place], source)


def _parts(ours: object, theirs: Node, source: Source) -> list[tuple[object, int]]:
    """What is to be compared of two things that are alike themselves."""
    match ours, theirs.kind:
        case Record() | Global(), _:
            return []
        case Tensor(), "tensor":
            try:
                values = ours.read(source)
            except TorchFileError:
                return []
            _check_same(values, _array(theirs), f"a tensor of {ours.number}")
            return []
        case Pairs(), "dict" if list(ours.named) == theirs.value:
            return list(zip(ours.named.values(), theirs.parts, strict=True))
        case (list(), "list") | (tuple(), "tuple") if len(ours) == len(theirs.parts):  # type: ignore[arg-type]
            return list(zip(ours, theirs.parts, strict=True))  # type: ignore[call-overload]
        case None | bool() | int() | float() | str(), "value" if _same_value(ours, theirs.value):
            return []
        case _, "other":  # storages, sets, types
            return []
    raise Broken(f"we have {_shown(ours)}, torch has {theirs.kind} {_shown(theirs.value)}")


def _same_value(ours: object, theirs: object) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return struct.pack("d", ours) == struct.pack("d", theirs)
    return type(ours) is type(theirs) and ours == theirs


def _check_same(ours: Any, theirs: Any, what: str) -> None:
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape or ours.tobytes() != theirs.tobytes():
        raise Broken(f"{what} is {ours.dtype} {_shown(ours)}, torch has {theirs.dtype} {_shown(theirs)}")


def _array(node: Node) -> Any:
    """Truth values are stored as they come; whatever is not 0 is true."""
    number, shape, raw = node.value
    values = np.frombuffer(raw, np.dtype(number.removeprefix("torch."))).reshape(shape)
    return values.view(np.uint8) != 0 if values.dtype == bool else values


def _named_part(nodes: list[Node], node: Node, name: str) -> Node:
    return nodes[node.parts[node.value[1:].index(name)]]


def _shown(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:200]}"
