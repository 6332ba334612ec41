"""What a pickle means to torch, it means here; where the two could differ, it is refused.

Most of these were found by fuzzing. Each file is built opcode by opcode, so that it holds what no torch writes.
"""

from __future__ import annotations

import copyreg
import io
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from cosmicai.model.foreign.candidates import chosen
from cosmicai.model.foreign.errors import CheckpointError
from cosmicai.model.foreign.reading import Choices
from cosmicai.model.foreign.reading import read as read_checkpoint
from inference.data import pickled
from inference.data.partition import Layout, PartitionError, read
from inference.data.pickled import Record, Rules, TorchFileError
from inference.data.tensors import Tensor
from inference.data.torchfile import Buffer, describe
from tests import foreign
from tests.fuzz.opcodes import op
from tests.fuzz.torchfiles import TorchFile
from tests.fuzz.vocabulary import Ops, called, named, number, pickle_of, storage, text, tuple_of
from tests.threads import one_thread  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT, BOOL = "torch FloatStorage", "torch BoolStorage"
HEADS = Choices({"heads": "3"})


def _file(*parts: Ops, **storages: int) -> bytes:
    """A zip around a pickle; storages: their bytes, by key without its first letter."""
    sizes = {key[1:]: (size, 1) for key, size in storages.items()}
    return TorchFile("zip", sizes, pickle_of(*parts)).file()


def _tensor(
    kind: str = FLOAT, key: str = "0", count: int = 4, *, step: int = 1, flags: Ops | None = None
) -> Ops:
    """All of a storage, as a tensor of one dimension."""
    parts = [storage(kind, key, count), [number(0)], tuple_of([number(count)]), tuple_of([number(step)])]
    parts += [[op("NEWFALSE")], called("collections OrderedDict")]
    return called("torch._utils _rebuild_tensor_v2", *parts, *([] if flags is None else [flags]))


def _dict(**entries: Ops) -> Ops:
    items = [one for name, value in entries.items() for one in (text(name), *value)]
    return [op("EMPTY_DICT"), op("MARK"), *items, op("SETITEMS")]


def _torch(file: bytes) -> Any:
    return torch.load(io.BytesIO(file), weights_only=True)


def test_a_step_that_is_never_taken_may_be_any_number() -> None:
    """A step of 2^62 over a single value once ended a rank by an OverflowError."""
    file = _file(_tensor(count=1, step=2**62), k0=4)
    tensor = describe(Buffer(file))
    assert isinstance(tensor, Tensor)
    assert tensor.read(Buffer(file)).tolist() == _torch(file).tolist()


def test_truth_values_are_not_negated() -> None:
    """numpy once ended a rank by a TypeError here."""
    with pytest.raises(TorchFileError, match="True and False as negated"):
        describe(Buffer(_file(_tensor(BOOL, flags=_dict(neg=[op("NEWTRUE")])), k0=4)))


def test_whatever_is_not_zero_is_true() -> None:
    body = io.BytesIO()
    images, magnitudes = torch.ones(1, 2, 4, 4, dtype=torch.bool), torch.ones(1, 2)
    torch.save(TensorDataset(images, magnitudes), body)
    file = TorchFile.of(body.getvalue()).file()  # made-up bytes of 0x30 to 0x3f
    assert read(file, "1.pt", Layout((2, 4, 4), 2)).images.tolist() == images.float().tolist()


@pytest.mark.parametrize("kind", ["torch IntStorage", "torch HalfStorage"])
def test_a_storage_is_of_one_type(kind: str) -> None:
    """torch takes the type that it is first referred to with, for all tensors; we took each tensor's own."""
    file = _file(_dict(a=_tensor(), b=_tensor(kind)), k0=16)
    assert _torch(file)["b"].dtype is torch.float32
    with pytest.raises(
        TorchFileError, match=r"as 4 values of type float32, another as 4 of type (int32|float16)"
    ):
        describe(Buffer(file))


def test_a_storage_is_of_one_size() -> None:
    with pytest.raises(TorchFileError, match=r"as 4 values of type float32, another as 3 of type"):
        describe(Buffer(_file(_dict(a=_tensor(), b=_tensor(count=3)), k0=16)))


def test_an_empty_storage_may_be_of_several_types(saved: Callable[[object], bytes]) -> None:
    """torch itself writes such files."""
    empty = torch.empty(0)
    tensors = describe(Buffer(saved([empty, empty.view(torch.int32)])))
    assert isinstance(tensors, list)
    assert [tensor.number for tensor in tensors] == ["float32", "int32"]


def test_a_storage_is_looked_for_once() -> None:
    """Each time, a rank asks S3: a partition's pickle could have it ask 3,000 times."""

    class Counted(Buffer):
        reads = 0

        def read(self, start: int, stop: int) -> memoryview:
            Counted.reads += 1
            return super().read(start, stop)

    once = storage(FLOAT, "0", 4)
    describe(Counted(_file(once, k0=16)))
    reads, Counted.reads = Counted.reads, 0
    describe(Counted(_file(*[[*once, op("POP")]] * 500, once, k0=16)))
    assert Counted.reads == reads


@pytest.mark.parametrize("name", ["data", "real", "imag"])
def test_an_attribute_does_not_replace_a_tensor(name: str) -> None:
    """torch sets the attributes of a stored tensor, some of which are its values."""
    other = _dict(**{name: _tensor(key="1")})
    parameter = called(
        "torch._utils _rebuild_parameter_with_state",
        _tensor(),
        [op("NEWFALSE")],
        called("collections OrderedDict"),
        other,
    )
    plain = [*_tensor()[1:-1]]
    typed = called(
        "torch._tensor _rebuild_from_type_v2",
        [named("torch._utils _rebuild_tensor_v2")],
        [named("torch Tensor")],
        plain,
        other,
    )
    for made in (parameter, typed):
        file = _file(made, k0=16, k1=16)
        if name == "data":
            assert _torch(file).tolist() == _torch(_file(_tensor(key="1"), k1=16)).tolist()
        with pytest.raises(TorchFileError, match="sets a tensor's values by an attribute"):
            describe(Buffer(file))


def test_a_parameter_is_a_tensor() -> None:
    made = called("torch._utils _rebuild_parameter", [op("NONE")], [op("NEWFALSE")], [op("EMPTY_DICT")])
    with pytest.raises(TorchFileError, match="describes a parameter"):
        describe(Buffer(_file(made)))


def test_a_partition_whose_tensors_have_attributes_is_read(saved: Callable[[object], bytes]) -> None:
    images = torch.rand(2, 2, 4, 4)
    images.survey = "DC2"  # type: ignore[attr-defined]
    block = read(saved(TensorDataset(images, nn.Parameter(torch.ones(2, 2)))), "1.pt", Layout((2, 4, 4), 2))
    assert np.array_equal(block.images, images.numpy())


def test_the_state_of_an_object_is_what_it_was_when_the_object_was_made() -> None:
    """Python copies it; we kept the dict itself, and read what a pickle put into it afterwards."""
    state = _dict(tensors=tuple_of(_tensor(key="0"), _tensor(key="1")))
    made = [named("torch.utils.data.dataset TensorDataset"), op("EMPTY_TUPLE"), op("NEWOBJ"), *state]
    made += [op("BINPUT", b"\0"), op("BUILD")]
    later = [op("BINGET", b"\0"), text("tensors"), *tuple_of(_tensor(key="1")), op("SETITEM"), op("POP")]
    with pytest.raises(PartitionError, match="changes the state of an object after the object was made"):
        read(_file(made, later, k0=16, k1=16), "1.pt")


@pytest.mark.parametrize("keywords", [False, True])
def test_what_a_function_makes_is_not_made_without_a_call(keywords: bool) -> None:
    made = _tensor()[:-1] + ([op("EMPTY_DICT"), op("NEWOBJ_EX")] if keywords else [op("NEWOBJ")])
    with pytest.raises(TorchFileError, match=r"makes a torch\._utils\._rebuild_tensor_v2 without a call"):
        describe(Buffer(_file(made, k0=16)))


def test_texts_of_python_2() -> None:
    """As torch reads them: UTF-8. What is none is bytes."""
    value, _ = pickled.read(pickle_of([op("SHORT_BINSTRING", "é".encode())]), Rules(10))
    assert value == "é" == _torch(_file([op("SHORT_BINSTRING", "é".encode())]))
    assert pickled.read(pickle_of([op("SHORT_BINSTRING", b"\xff")]), Rules(10))[0] == b"\xff"


# Networks


def _layer_made_by_a_call(layer: nn.Conv2d) -> tuple[object, ...]:
    state = dict(layer.__dict__)
    del state["padding_mode"]
    arguments = (
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        1,
        layer.padding,
        1,
        1,
        True,
        "reflect",
    )
    return nn.Conv2d, arguments, state


def test_a_layer_is_its_state_and_not_what_a_call_would_make_of_it(tmp_path: Path) -> None:
    """A convolution that is made by Conv2d(…, padding_mode="reflect") was read as one without that."""
    copyreg.pickle(nn.Conv2d, _layer_made_by_a_call)  # type: ignore[arg-type]
    try:
        path = foreign.save(foreign.astromae(depth=1, kernel=3), tmp_path)
    finally:
        del copyreg.dispatch_table[nn.Conv2d]
    with pytest.raises(CheckpointError, match=r"Conv2d\) is not stored as torch stores a module"):
        read_checkpoint(path, Choices())


class _Old:
    """A tensor as torch stored it before version 0.2, which is not read here."""

    def __reduce__(self) -> tuple[object, ...]:
        return torch.Tensor, (), {}


@pytest.mark.parametrize(
    "value", [[0.0], 1.0, "text", _Old(), None], ids=["list", "number", "text", "old", "None"]
)
@pytest.mark.parametrize(
    "name", ["head.bias", "vit_block.0.bias", "inception_model.vis_inception.2.branch1.conv.bias"]
)
def test_what_is_named_like_a_tensor_is_not_left_out(name: str, value: object, tmp_path: Path) -> None:
    """A layer without its bias is another one: torch refuses such a state dict, we read it without."""
    state = {**foreign.astromae(depth=1).state_dict(), name: value}
    with pytest.raises(CheckpointError, match=rf"{name} holds .*, not floating-point numbers"):
        read_checkpoint(foreign.save(state, tmp_path), HEADS)


def test_a_dict_made_by_a_call_and_filled_is_no_state_dict() -> None:
    """Its entries are those of both; we took the second half for all of it."""
    weight = called(
        "torch._utils _rebuild_tensor_v2",
        storage(FLOAT, "1", 1),
        [number(0)],
        tuple_of(*[[number(1)]] * 4),
        tuple_of(*[[number(1)]] * 4),
        [op("NEWFALSE")],
        called("collections OrderedDict"),
    )
    pairs = [op("EMPTY_LIST"), *tuple_of([text("head.bias")], _tensor()), op("APPEND")]
    made = [*called("collections OrderedDict", pairs), text("patch_embed.proj.weight"), *weight, op("SETITEM")]
    content = describe(Buffer(_file(made, k0=16, k1=4)))
    assert isinstance(content, Record)
    with pytest.raises(CheckpointError, match=r"holds no network: it is a collections\.OrderedDict"):
        chosen(content, None)


def test_a_state_dict_with_other_keys_than_names_is_none(tmp_path: Path) -> None:
    state: OrderedDict[object, object] = OrderedDict(foreign.astromae(depth=1).state_dict())
    state[7] = torch.ones(3)
    with pytest.raises(CheckpointError, match="holds no network"):
        read_checkpoint(foreign.save(state, tmp_path), HEADS)
