"""Pickles are read as data: their values are kept, no part of them is run, and reading ends."""

from __future__ import annotations

import io
import pickle
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.data import pickled
from inference.data.partition import PartitionError, read
from inference.data.pickled import Global, Pairs, Record, Rules, TorchFileError
from inference.data.tensors import Tensor
from inference.data.torchfile import Buffer, describe

RULES = Rules(100_000)


class _Thing:
    def __init__(self, **state: object) -> None:
        self.__dict__.update(state)


def _plain(value: object) -> object:
    """Stand-ins as what they stand for."""
    match value:
        case Pairs():
            others = {_plain(key): _plain(item) for key, item in value.others}
            return {key: _plain(item) for key, item in value.named.items()} | others
        case Record(dotted="builtins.set" | "builtins.frozenset"):
            return {_plain(item) for item in [*value.items, *(i for part in value.arguments for i in part)]}
        case list():
            return [_plain(item) for item in value]
        case tuple():
            return tuple(_plain(item) for item in value)
    return value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_kept_in_every_protocol_of_torch(protocol: int) -> None:
    content = {
        "numbers": [0, 1, -1, 255, 256, 65535, 65536, 2**31, -(2**31), 2**62, 1.5, -0.0, float("inf")],
        "texts": ("", "ä", "x" * 300, "\U0001f30c"),
        "nothing": [None, True, False, (), [], {}],
        "deep": [[[({"a": [1]},)]]],
        7: {1: "seven"},
        "many": list(range(3000)),
        "long tuple": (1, 2, 3, 4, 5),
    }
    value, end = pickled.read(pickle.dumps(content, protocol), RULES)
    assert _plain(value) == content
    assert end == len(pickle.dumps(content, protocol))


def test_objects_become_records_of_what_was_said_of_them() -> None:
    content, _ = pickled.read(pickle.dumps(_Thing(width=3, inner=_Thing(name="x")), 2), RULES)
    assert isinstance(content, Record)
    assert (content.dotted, content.name) == (f"{__name__}._Thing", "_Thing")
    assert content.attributes["width"] == 3
    assert content.attributes["inner"].attributes == {"name": "x"}


def test_functions_are_named_and_not_called(tmp_path: Path) -> None:
    content, _ = pickled.read(pickle.dumps([Path.touch, tmp_path / "made"], 4), RULES)
    assert isinstance(content, list)
    assert next(part.dotted for part in content) in ("pathlib.Path.touch", "builtins.getattr")
    assert not (tmp_path / "made").exists()


def test_objects_that_refer_to_themselves() -> None:
    thing = _Thing()
    thing.again = thing  # type: ignore[attr-defined]
    content, _ = pickled.read(pickle.dumps(thing, 4), RULES)
    assert isinstance(content, Record)
    assert content.attributes["again"] is content


def test_every_reading_makes_stand_ins_of_its_own() -> None:
    data = pickle.dumps(_Thing(width=3), 2)
    first, second = (pickled.read(data, RULES)[0] for _ in range(2))
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    first.attributes["width"] = 4
    assert second.attributes["width"] == 3


def _put(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


TARGETS = {
    "a number": b"K\x01",
    "a text": b"X\x01\x00\x00\x00a",
    "a tuple": b")",
    "nothing": b"N",
    "a class": b"cbuiltins\ndict\n",
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "change", [b"}b", b"K\x01K\x02s", b"(K\x01K\x02u", b"K\x01a", b"(K\x01e", b"(K\x01\x90"]
)
def test_nothing_but_stand_ins_can_be_changed(target: str, change: bytes) -> None:
    with pytest.raises(TorchFileError):
        pickled.read(_put(TARGETS[target], change), RULES)


def test_a_state_is_set_once() -> None:
    """So no later part of a pickle changes what an earlier one made."""
    made = b"cmodels\nNet\n)\x81"
    assert pickled.read(_put(made, b"}b"), RULES)
    with pytest.raises(TorchFileError, match="sets the state of a Record that cannot be set"):
        pickled.read(_put(made, b"}b", b"}b"), RULES)


DAMAGED = {
    "an unknown opcode": (b"\xff", "holds the opcode 0xff"),
    "an opcode of protocol 0": (b"I1\n", "holds the opcode 0x49"),
    "a class of an extension": (b"\x82\x01", "holds the opcode 0x82"),
    "a buffer": (pickle.BYTEARRAY8 + b"\xff" * 8, "holds the opcode 0x96"),
    "a text that does not end": (b"X\xff\xff\xff\xff", "ends inside a value"),
    "a text of a length beyond all": (b"\x8d" + b"\xff" * 8, "ends inside a value"),
    "a string that is not UTF-8": (b"X\x01\x00\x00\x00\xff", "one of its strings is not UTF-8"),
    "a name that does not end": (b"cmodels", "a name in it does not end"),
    "a name beyond the limit": (b"c" + b"m" * 499 + b"\nNet\n", "other than a short string"),
    "what was never put": (b"h\x07", "uses a value that it never made"),
    "a number far ahead": (b"Nr\xff\xff\xff\x7f", "a gap in the numbers of its memo"),
    "no mark": (b"NNt", "uses a value that it never made"),
    "an empty stack": (b"\x85", "uses a value that it never made"),
    "a call of a number": (b"K\x01)R", "calls a int"),
    "a call with a list": (b"cm\nf\n]R", "calls a Global"),
    "a newer protocol": (b"\x80\x06", "newer than 5"),
    "an odd number of items": (b"}(K\x01u", "sets the items"),
    "a reference outside": (b"K\x01Q", "refers to something outside"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_pickles_are_refused_by_what_is_wrong(name: str) -> None:
    body, message = DAMAGED[name]
    with pytest.raises(TorchFileError, match=message):
        pickled.read(_put(body), RULES)


def _long(number: int) -> bytes:
    return b"\x8a\x08" + number.to_bytes(8, "little")


BOMBS: dict[str, Callable[[], bytes]] = {
    "a tuple that doubles, as a key": lambda: _put(b"}", b")q\x00", b"h\x00h\x00\x86q\x00" * 60, b"K\x01s"),
    "a tuple that doubles, compared": lambda: _put(b")q\x00", b"h\x00h\x00\x86q\x00" * 25_000),
    "keys that collide": lambda: _put(b"}(", b"".join(_long(n << 32) + b"N" for n in range(30_000)), b"u"),
    "nested tuples": lambda: _put(b")", b"\x85" * 90_000),
    "nested lists": lambda: _put(b"]" * 45_000, b"a" * 44_999),
    "open marks": lambda: _put(b"(" * 90_000),
    "one opcode after another": lambda: _put(b"N" * 10_000_000),
    "numbers of megabytes": lambda: _put((b"\x8b" + (1 << 20).to_bytes(4, "little") + b"\x7f" * (1 << 20)) * 8),
    "a product of large numbers": lambda: _put(b"(" + b"\x8a\xff" + b"\x7f" * 255, b"t"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_reading_ends(name: str) -> None:
    began = time.process_time()
    with suppress(TorchFileError):
        pickled.read(BOMBS[name](), RULES)
    assert time.process_time() - began < 2


def _zipped(pickle_bytes: bytes, values: int = 8) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr("archive/data.pkl", pickle_bytes)
        archive.writestr("archive/data/0", np.arange(values, dtype="<f4").tobytes())
        archive.writestr("archive/version", "3\n")
    return body.getvalue()


class _Rebuild:
    """Stands for a call in a pickle that is written by hand."""

    def __init__(self, dotted: str, *arguments: object) -> None:
        self.dotted, self.arguments = dotted, arguments


class _Writer(pickle._Pickler):
    """Writes calls of any function by its name, and storages by reference."""

    def save(self, obj: object, save_persistent_id: bool = True) -> object:
        match obj:
            case _Rebuild(dotted="storage"):
                kind, key, count = obj.arguments
                self.save(("storage", _Rebuild("global", kind), key, "cpu", count))
                return self.write(b"Q")
            case _Rebuild(dotted="global"):
                module, _, name = str(obj.arguments[0]).rpartition(".")
                return self.write(f"c{module}\n{name}\n".encode())
            case _Rebuild():
                self.save(_Rebuild("global", obj.dotted))
                self.save(obj.arguments)
                return self.write(b"R")
        return super().save(obj, save_persistent_id)


def _tensor(
    shape: object,
    strides: object,
    offset: object = 0,
    count: object = 8,
    kind: str = "torch.FloatStorage",
    *rest: object,
) -> bytes:
    body = io.BytesIO()
    storage = _Rebuild("storage", kind, "0", count)
    _Writer(body, 2).dump(
        _Rebuild(
            "torch._utils._rebuild_tensor_v2", storage, offset, shape, strides, False, OrderedDict(), *rest
        )
    )
    return _zipped(body.getvalue())


def test_a_tensor_is_where_its_shape_and_steps_say() -> None:
    data = _tensor((2, 3), (1, 2), 1)
    tensor = describe(Buffer(data))
    assert isinstance(tensor, Tensor)
    assert tensor.read(Buffer(data)).tolist() == [[1, 3, 5], [2, 4, 6]]


TENSORS = {
    "beyond its storage": (((3, 3), (3, 1)), r"reaches beyond its 8 stored values"),
    "from beyond its storage": (((1,), (1,), 8), r"reaches beyond its 8 stored values"),
    "by a negative step": (((2,), (-1,), 4), "other than a storage and whole numbers"),
    "from before its storage": (((2,), (1,), -1), "other than a storage and whole numbers"),
    "by a text": ((("2",), (1,)), "other than a storage and whole numbers"),
    "by a boolean": (((True,), (1,)), "other than a storage and whole numbers"),
    "by steps of another number": (((2, 2), (1,)), "2 dimensions by 1 strides"),
    "of many dimensions": (((1,) * 9, (1,) * 9), "9 dimensions"),
    "of numbers without end": (((2**62, 2**62), (0, 0)), "more values than the file has bytes"),
    "by steps without end": (((2,), (2**63 - 1,)), "reaches beyond"),
    "of a storage that is too small": (((9,), (1,), 0, 9), r"has 32 bytes, expected 36 for 9 values"),
    "of a storage of negative size": (((1,), (1,), 0, -1), "refers to a storage in a way that torch does not"),
    "of an unknown storage": (((1,), (1,), 0, 1, "torch.FloatStorage2"), "unknown type torch.FloatStorage2"),
    "that is conjugated": (((1,), (1,), 0, 8, "torch.FloatStorage", {"conj": True}), "as conjugated"),
    "with unknown metadata": (
        ((1,), (1,), 0, 8, "torch.FloatStorage", {"zero": True}),
        "metadata that is not known",
    ),
    "with metadata that is a number": (
        ((1,), (1,), 0, 8, "torch.FloatStorage", 1),
        "metadata that is not known",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_no_tensor_reaches_beyond_its_bytes(name: str) -> None:
    arguments, message = TENSORS[name]
    with pytest.raises(TorchFileError, match=message):
        describe(Buffer(_tensor(*arguments)))  # type: ignore[arg-type]


def test_a_negated_tensor_is_read_with_its_sign() -> None:
    data = _tensor((3,), (1,), 1, 8, "torch.FloatStorage", {"neg": True})
    tensor = describe(Buffer(data))
    assert isinstance(tensor, Tensor)
    assert tensor.read(Buffer(data)).tolist() == [-1, -2, -3]


@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_negated_column_of_a_partition_is_read_with_its_sign(
    column: int, saved: Callable[[object], bytes], make_partition: Callable[..., torch.utils.data.TensorDataset]
) -> None:
    """torch's lazy negation gave redshifts that were wrong without a word."""
    expected = make_partition(3)
    tensors = list(expected.tensors)
    tensors[column] = torch._neg_view(-tensors[column])
    assert tensors[column].is_neg()
    partition = read(saved(torch.utils.data.TensorDataset(*tensors)), "1.pt")
    for ours, theirs in zip(
        (partition.images, partition.magnitudes, partition.redshift), expected.tensors, strict=True
    ):
        assert ours is not None
        assert np.array_equal(ours, theirs.numpy())


def test_bfloat16_partitions(
    saved: Callable[[object], bytes], make_partition: Callable[..., torch.utils.data.TensorDataset]
) -> None:
    tensors = [tensor.bfloat16() for tensor in make_partition(3).tensors]
    partition = read(saved(torch.utils.data.TensorDataset(*tensors)), "1.pt")
    assert np.array_equal(partition.images, tensors[0].float().numpy())


def test_a_partition_cannot_change_how_later_ones_are_read(
    saved: Callable[[object], bytes], make_partition: Callable[..., torch.utils.data.TensorDataset]
) -> None:
    """A state for the reader's own records once gave wrong redshifts to honest runs in the same sandbox."""
    honest = saved(make_partition(2))
    before = read(honest, "1.pt").images.copy()
    for target in (
        "torch.FloatStorage",
        "torch._utils._rebuild_tensor_v2",
        "torch.utils.data.dataset.TensorDataset",
    ):
        module, _, name = target.rpartition(".")
        hostile = _put(f"c{module}\n{name}\n".encode(), b"}(X\x05\x00\x00\x00dtypeK\x01ub")
        with pytest.raises(PartitionError, match="sets the state of a Global"):
            read(_zipped(hostile), "1.pt")
    assert np.array_equal(read(honest, "1.pt").images, before)


def test_a_global_is_a_value() -> None:
    content, _ = pickled.read(_put(b"ctorch\nfloat32\n"), RULES)
    assert content == Global("torch.float32")
