"""Reading users' checkpoints without their code and without trust: what is pickled, and its tensors.

A checkpoint is a pickled whole module (torch.nn.DataParallel or bare), a state dict, or safetensors. Of a
pickle, nothing is ever imported or run: classes that a network may hold become inert records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inference.torchfile import Array, TorchFileError, load

# Classes of AstroMAE's own code and of timm (0.4 to 1.x), wherever their modules have moved.
FOREIGN_CLASSES = frozenset(
    {
        "Input_Mix_Model", "ViT_Astro", "Inception", "InceptionBlock", "ConvBlock", "NormalCell",
        "Attention", "Mlp", "PatchEmbed", "DropPath", "Block", "LayerScale", "Format",
    }
)  # fmt: skip
_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64", "int32", "int64", "bool", "uint8"})
_FUNCTION_MODULES = ("torch.nn.functional", "torch._C._nn", "torch._C._VariableFunctions")


class CheckpointError(ValueError):
    """A checkpoint is broken, hostile or not an AstroMAE; the message names file and fault."""


class Record:
    """Stands in for an object of a class that is never imported; keeps what the pickle says of it."""

    dotted = ""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: dict[str, Any] = {}

    def __new__(cls, *arguments: object) -> Record:
        record = super().__new__(cls)
        record.__init__(*arguments)  # type: ignore[misc]
        return record

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}

    @property
    def class_name(self) -> str:
        return self.dotted.rpartition(".")[2]


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name in the order of the file, without DataParallel's `module.`, and what else is known.

    heads: the number of attention heads, which no tensor's shape tells; None where the file does not say.
    """

    tensors: dict[str, Array]
    heads: int | None
    kind: str


def read(path: Path) -> Checkpoint:
    """Raises CheckpointError for anything that is not a network's weights."""
    if path.suffix == ".safetensors":
        return Checkpoint(_plain(_read_safetensors(path)), None, "safetensors")
    try:
        content = load(path.read_bytes(), _find)
        if isinstance(content, Record):
            tensors, heads = dict(_walk(content)), _heads(content)
            kind = f"pickled module {content.class_name}"
        else:
            tensors, heads, kind = _state_dict(content), None, "state dict"
    except TorchFileError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensor")
    return Checkpoint(_plain(tensors), heads, kind)


def _read_safetensors(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error})") from None


def _plain(tensors: Mapping[str, Array]) -> dict[str, Array]:
    wrapped = all(name.startswith("module.") for name in tensors)
    return {name.removeprefix("module.") if wrapped else name: array for name, array in tensors.items()}


def _find(module: str, name: str) -> object:
    if (module, name) in (("builtins", "set"), ("__builtin__", "set")):
        return set
    if (module, name) == ("torch._utils", "_rebuild_parameter"):
        return _rebuild_parameter
    known = (
        name in FOREIGN_CLASSES
        or module.startswith("torch.nn.modules.")
        or (module, name) == ("torch.nn.parallel.data_parallel", "DataParallel")
        or (module, name) == ("torch.nn.parallel.distributed", "DistributedDataParallel")
        or (module, name) in (("functools", "partial"), ("torch", "device"), ("torch", "Size"))
        or (module == "torch" and name in _DTYPES)
        or module in _FUNCTION_MODULES
    )
    if not known:
        raise LookupError(f"{module}.{name}")
    return type("Record", (Record,), {"dotted": f"{module}.{name}"})


def _rebuild_parameter(data: Array, requires_grad: bool, hooks: object) -> Array:
    return data


def _walk(record: Record, prefix: str = "") -> Iterator[tuple[str, Array]]:
    """Parameters and buffers as torch's state_dict names and orders them."""
    for kind in ("_parameters", "_buffers"):
        for name, value in _mapping(record, kind).items():
            if isinstance(value, np.ndarray):
                yield f"{prefix}{name}", value
    for name, child in _mapping(record, "_modules").items():
        if isinstance(child, Record):
            yield from _walk(child, f"{prefix}{name}.")


def _mapping(record: Record, name: str) -> dict[str, Any]:
    content = record.state.get(name)
    return content if isinstance(content, dict) else {}


def _heads(record: Record) -> int | None:
    """num_heads of the attention modules; raises CheckpointError where they differ."""
    found = set(_attribute(record, "num_heads"))
    if len(found) > 1:
        raise CheckpointError(f"attention with different numbers of heads: {sorted(found)}")
    return next(iter(found), None)


def _attribute(record: Record, name: str) -> Iterator[int]:
    value = record.state.get(name)
    if type(value) is int:
        yield value
    for child in _mapping(record, "_modules").values():
        if isinstance(child, Record):
            yield from _attribute(child, name)


def _state_dict(content: object) -> dict[str, Array]:
    """A state dict, or one inside a training checkpoint under a usual name."""
    if isinstance(content, dict):
        inner = (content.get(name) for name in ("model_state_dict", "state_dict", "model"))
        state = next((value for value in inner if isinstance(value, dict)), content)
        tensors = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
        if tensors and all(isinstance(key, str) for key in tensors):
            return tensors
    raise TorchFileError(f"holds a {type(content).__name__}, neither a module nor a state dict")
