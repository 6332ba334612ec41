"""A user's ONNX file as a graph of known operators. Runs in the child process: see asking.py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_model

from cosmicai.model.onnxfile.operators import OPERATORS
from cosmicai.printable import printable
from inference.contract.mapping import MOST_CHARACTERS, MOST_VALUES
from inference.contract.paths import PathError, below

MOST_BYTES = 1 << 31  # of the file with its external data: protobuf has no larger messages
_MOST_NODES = 100_000
_DOMAINS = ("", "ai.onnx")
_NAMED = 8  # things that a message lists


class OnnxFileError(ValueError):
    """An ONNX file is broken, hostile, ambiguous or not a model; the message says which, and why."""


@dataclass(frozen=True)
class Value:
    """An input of the graph: its name, and the shape of one object."""

    name: str
    shape: tuple[int, ...]


def read(path: Path) -> onnx.ModelProto:
    """The file without its external data. Raises OnnxFileError."""
    if path.stat().st_size > MOST_BYTES:
        raise OnnxFileError(f"has more than {MOST_BYTES >> 30} GB")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError, RecursionError) as error:
        raise OnnxFileError(
            f"is not an ONNX file, or is cut short ({first_line(error)}); a torch checkpoint of an AstroMAE is "
            "for `cosmicai model import`"
        ) from error
    if not model.graph.node or not model.opset_import:
        raise OnnxFileError("holds no graph: it is not an ONNX file, or empty")
    _check_structure(model)
    return model


def completed(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The graph, or a part of it, with the external data of the file, checked. Raises OnnxFileError."""
    _check_operators(model)
    _check_external(model, path)
    load_external_data_for_model(model, str(path.parent))
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise OnnxFileError(f"onnx's checker refuses it: {first_line(error)}") from error
    return model


def first_line(error: BaseException) -> str:
    """The beginning of what a library says, printable."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0], 300)


def names(values: Iterable[str]) -> str:
    """Names of the file, listed."""
    every = list(values)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(printable(one, 80) for one in every[:_NAMED]) + more


def _check_structure(model: onnx.ModelProto) -> None:
    """Raises OnnxFileError for what no imported graph has, before any of it is used."""
    if model.functions:
        raise OnnxFileError(
            f"has functions of its own ({names(one.name for one in model.functions)}); export it "
            "without them, as by "
            "onnx.inliner.inline_local_functions"
        )
    if len(model.graph.node) > _MOST_NODES:
        raise OnnxFileError(f"has {len(model.graph.node):,} nodes; at most {_MOST_NODES:,} are accepted")
    if model.graph.sparse_initializer:
        raise OnnxFileError("has sparse weights, which are not supported; export it with dense ones")
    for value in (*model.graph.input, *model.graph.output):
        if not value.name or not value.name.isprintable() or len(value.name) > MOST_CHARACTERS:
            raise OnnxFileError(
                f"an input or output is called {value.name[:MOST_CHARACTERS]!r}, which is not "
                "printable; rename it"
            )


def _check_operators(model: onnx.ModelProto) -> None:
    """Raises OnnxFileError for operators that are not supported, and for graphs inside of nodes."""
    for node in model.graph.node:
        if node.domain not in _DOMAINS:
            raise OnnxFileError(
                f"has the operator {printable(node.op_type, 80)} of the domain {printable(node.domain, 80)}; "
                "only those of ONNX itself are supported. If it is part of an output that you do not need, "
                "name the others with --output"
            )
        if node.op_type not in OPERATORS:
            raise OnnxFileError(
                f"has the operator {printable(node.op_type, 80)}, which is not supported; neither are control "
                "flow, random numbers, sequences and texts in general"
            )
        if any(one.HasField("g") or one.graphs for one in node.attribute):
            raise OnnxFileError(f"an operator {node.op_type} contains a graph, which is not supported")


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a graph that has no graphs inside of it."""
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_external(model: onnx.ModelProto, path: Path) -> None:
    """Raises OnnxFileError for external data that is too large, or not a file in the ONNX file's folder."""
    folder, total = path.parent.resolve(), path.stat().st_size
    for tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            if tensor.HasField("raw_data") and len(tensor.raw_data) != _needed(tensor):
                raise OnnxFileError(
                    f"the weight {printable(tensor.name, 80)} has fewer or more bytes than its shape needs"
                )
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        try:
            file = below(folder, location)
        except PathError as error:
            raise OnnxFileError(f"its weights are in another file: {error}") from error
        if not file.is_file():
            raise OnnxFileError(f"its weights are in {printable(location, 80)}, which is not in its folder")
        if not file.resolve().is_relative_to(folder):
            raise OnnxFileError(
                f"its weights are in {printable(location, 80)}, which is a link to outside of the folder"
            )
        size = _needed(tensor)
        offset, length = _count(entries, "offset", 0), _count(entries, "length", size)
        total += length
        if length != size or offset + length > file.stat().st_size:
            raise OnnxFileError(
                f"the weight {printable(tensor.name, 80)} has {size:,} bytes, but the range that it names in "
                f"{printable(location, 80)} has another length or is beyond the end of the file"
            )
        if total > MOST_BYTES:
            raise OnnxFileError(f"has more than {MOST_BYTES >> 30} GB with its external data")


def _needed(tensor: TensorProto) -> int:
    """Bytes of a tensor's values. Raises OnnxFileError for a type without a fixed width."""
    try:
        width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError, ValueError):
        width = 0
    if not width or any(one < 0 for one in tensor.dims):
        raise OnnxFileError(f"the weight {printable(tensor.name, 80)} is not a tensor of numbers")
    return math.prod(tensor.dims) * width


def _count(entries: dict[str, str], name: str, otherwise: int) -> int:
    text = entries.get(name, "")
    if not text:
        return otherwise
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise OnnxFileError(f"the {name} of external data is {text[:40]!r}, not a number of bytes")
    return int(text)


def inputs(model: onnx.ModelProto) -> list[Value]:
    """What the graph takes, without its weights. Raises OnnxFileError unless each is float32 (N, …), N free."""
    weights = {one.name for one in model.graph.initializer}
    return [_input(one) for one in model.graph.input if one.name not in weights]


def _input(value: Any) -> Value:
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        kind = _type_name(tensor.elem_type) if value.type.HasField("tensor_type") else "no tensor"
        raise OnnxFileError(
            f"its input {value.name} is {kind}, not FLOAT: export the network with inputs of float32"
        )
    sizes = [one.dim_value if one.HasField("dim_value") else None for one in tensor.shape.dim]
    if not sizes or sizes[0] is not None:
        raise OnnxFileError(
            f"its input {value.name} has {'no' if not sizes else 'a fixed'} number of objects; export "
            "it with a free "
            f"first dimension (torch.onnx.export: dynamic_axes={{{value.name!r}: {{0: 'N'}}}})"
        )
    fixed = [one for one in sizes[1:] if one is not None and one > 0]
    if len(fixed) < len(sizes) - 1 or not fixed:
        raise OnnxFileError(
            f"its input {value.name} has no fixed size in every dimension but the first; export it for one size"
        )
    if math.prod(fixed) > MOST_VALUES:
        raise OnnxFileError(
            f"its input {value.name} has {math.prod(fixed):,} values per object; {MOST_VALUES:,} at most"
        )
    return Value(value.name, tuple(fixed))


def _type_name(number: int) -> str:
    known = {value: name for name, value in TensorProto.DataType.items()}
    return str(known.get(number, f"of the unknown type {number}"))


def outputs(model: onnx.ModelProto) -> list[str]:
    """The names of what the graph gives."""
    return [one.name for one in model.graph.output]


def pruned(model: onnx.ModelProto, names_to_keep: Iterable[str]) -> onnx.ModelProto:
    """The part of the graph that some of its outputs need, without texts and metadata."""
    kept, needed = [], set(names_to_keep)
    results = [one for one in model.graph.output if one.name in needed]
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    weights = [one for one in model.graph.initializer if one.name in needed]
    every = {one.name for one in model.graph.initializer}
    graph_inputs = [one for one in model.graph.input if one.name not in every]
    graph = onnx.helper.make_graph(kept[::-1], "imported", graph_inputs, results, weights)
    opsets = [one for one in model.opset_import if one.domain in _DOMAINS]
    if not opsets:
        raise OnnxFileError("does not say which version of ONNX's operators it uses")
    return onnx.helper.make_model(
        graph, opset_imports=opsets, ir_version=model.ir_version, producer_name="cosmicai"
    )
