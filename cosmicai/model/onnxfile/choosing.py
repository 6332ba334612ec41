"""Which input of a graph takes which tensor, and which output becomes which column: as asked, never guessed."""

from __future__ import annotations

from collections.abc import Mapping as Named
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cosmicai.model.onnxfile.reading import OnnxFileError, Value, names
from inference.contract.fields import RecordError
from inference.contract.mapping import CLASSIFICATION, KINDS, REDSHIFT, TENSORS, VALUES, Input, Mapping, Output
from inference.imported_outputs import SUM_TOLERANCE

Array = NDArray[Any]


@dataclass(frozen=True)
class Asked:
    """What the user states about a graph.

    inputs: names of inputs by tensor. outputs: names of outputs by column; {} for the one that a graph has.
    kinds, classes, labels, units, ucds, descriptions: by column. logits: the columns whose output is logits.
    truth: the column whose true values partitions hold.
    """

    inputs: Named[str, str] = field(default_factory=dict)
    outputs: Named[str, str] = field(default_factory=dict)
    kinds: Named[str, str] = field(default_factory=dict)
    classes: Named[str, Sequence[str]] = field(default_factory=dict)
    labels: Named[str, Sequence[int]] = field(default_factory=dict)
    logits: Sequence[str] = ()
    truth: str | None = None
    units: Named[str, str] = field(default_factory=dict)
    ucds: Named[str, str] = field(default_factory=dict)
    descriptions: Named[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Named[str, Any]) -> Self:
        return cls(**content)

    def check(self) -> None:
        """Raises OnnxFileError for options about unknown columns, and for unknown tensors and kinds."""
        _check_known("--input", self.inputs, TENSORS, "tensor")
        _check_known("--kind", self.kinds.values(), KINDS, "kind")
        columns = [*self.outputs] or [REDSHIFT]
        for option, requested in (
            ("--kind", [*self.kinds]),
            ("--classes", [*self.classes]),
            ("--labels", [*self.labels]),
            ("--logits", [*self.logits]),
            ("--truth", [self.truth] if self.truth is not None else []),
            ("--unit", [*self.units]),
            ("--ucd", [*self.ucds]),
            ("--description", [*self.descriptions]),
        ):
            _check_known(option, requested, columns, "column of --output")


def _check_known(option: str, requested: Any, known: Any, what: str) -> None:
    unknown = [one for one in requested if one not in known]
    if unknown:
        raise OnnxFileError(f"{option}: unknown {what}: {names(unknown)}; give one of {names(known)}")


def output_columns(asked: Asked, output_names: Sequence[str]) -> dict[str, str]:
    """The outputs that are asked for, by column. Raises OnnxFileError, which lists those that there are."""
    if not asked.outputs and list(output_names) == [REDSHIFT]:
        return {REDSHIFT: REDSHIFT}
    if not asked.outputs:
        raise OnnxFileError(
            f"its outputs are {names(output_names)}: say by --output COLUMN=NAME which columns they become, "
            "redshift=NAME for a "
            "redshift"
        )
    _check_known("--output", asked.outputs.values(), output_names, "output of the graph")
    return dict(asked.outputs)


def tensors(asked: Asked, inputs: Sequence[Value]) -> list[Input]:
    """Every input with its tensor. Raises OnnxFileError if that is not given and can be read in two ways."""
    by_name = {one.name: one for one in inputs}
    name_of = dict(asked.inputs)
    if not name_of and by_name.keys() <= TENSORS.keys():
        name_of = {name: name for name in by_name}
    if not name_of and len(inputs) == 1 and len(inputs[0].shape) == 3:
        name_of = {"images": inputs[0].name}
    listed = "; ".join(f"{one.name} {_shape(one.shape)}" for one in inputs)
    _check_known("--input", name_of.values(), by_name, "input of the graph")
    missing = [one.name for one in inputs if one.name not in name_of.values()]
    if missing or len(set(name_of.values())) < len(name_of):
        meanings = "; ".join(f"{name}: {meaning}" for name, meaning in TENSORS.items())
        raise OnnxFileError(
            f"its inputs are {listed}: say by --input TENSOR=NAME, for each of them, what it takes ({meanings})"
        )
    return [
        Input(tensor=tensor, name=name, shape=list(by_name[name].shape))
        for tensor, name in sorted(name_of.items(), key=lambda pair: list(TENSORS).index(pair[0]))
    ]


def chosen(asked: Asked, inputs: list[Input], columns: Named[str, str], arrays: Named[str, Array]) -> Mapping:
    """The mapping of a graph whose outputs (N, …) of random objects are `arrays`. Raises OnnxFileError."""
    outputs = [_output(asked, column, name, arrays[name]) for column, name in columns.items()]
    comparable = [one.column for one in outputs if one.kind != VALUES]
    truth = asked.truth
    if truth is None and len(comparable) > 1:
        raise OnnxFileError(
            f"the true values in partitions may be those of {names(comparable)}: say which by --truth COLUMN"
        )
    mapping = Mapping(
        inputs=inputs, outputs=outputs, truth=truth if truth is not None else next(iter(comparable), None)
    )
    try:
        mapping.check()
    except RecordError as error:
        raise OnnxFileError(str(error)) from error
    return mapping


def _output(asked: Asked, column: str, name: str, array: Array) -> Output:
    classes = tuple(asked.classes.get(column, ()))
    kind = asked.kinds.get(column, CLASSIFICATION if classes else REDSHIFT if column == REDSHIFT else None)
    shape = list(array.shape[1:])
    if kind is None:
        meanings = "; ".join(
            f"--kind {column}={one}: {meaning}" for one, meaning in KINDS.items() if one != REDSHIFT
        )
        raise OnnxFileError(
            f"the column {column} of shape {_shape(shape)} has no kind: give --classes "
            f"{column}=NAME,… for classes, or "
            f"say what it is ({meanings})"
        )
    if (kind == REDSHIFT) != (column == REDSHIFT):
        raise OnnxFileError(f"{column}: the column redshift is a redshift, and no other column is; rename it")
    if kind == CLASSIFICATION and not classes:
        raise OnnxFileError(
            f"{column}: name its classes, in the order of the output, by --classes {column}=NAME,…"
        )
    logits = column in asked.logits
    if kind == CLASSIFICATION:
        _check_probabilities(column, array, logits)
    labels = asked.labels.get(column, range(len(classes)))
    return Output(
        column=column, name=name, kind=kind, shape=shape, classes=classes,
        labels=[float(one) for one in labels] if classes else [], logits=logits,
        unit=asked.units.get(column), ucd=asked.ucds.get(column), description=asked.descriptions.get(column),
    )  # fmt: skip


def _check_probabilities(column: str, array: Array, logits: bool) -> None:
    """Raises OnnxFileError unless outputs of random objects are what the user says: probabilities or logits."""
    values = array.reshape(len(array), -1).astype(np.float64)
    single = values.shape[1] == 1
    sums = 1.0 if single else values.sum(1)
    are = bool(
        ((values >= 0) & (values <= 1 + SUM_TOLERANCE)).all() and (np.abs(sums - 1) <= SUM_TOLERANCE).all()
    )
    if not np.isfinite(values).all():
        raise OnnxFileError(f"{column}: its values of random objects are not finite")
    if not are and not logits:
        raise OnnxFileError(
            f"{column}: its values of random objects are not probabilities, which are from 0 to 1 and "
            "have the sum 1; "
            f"give --logits {column} if they are logits, of which a softmax (a sigmoid, of one value) "
            "makes probabilities"
        )
    if are and logits and not single:
        raise OnnxFileError(
            f"{column}: its values have the sum 1: they are probabilities already; leave out --logits"
        )


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(['N', *map(str, shape)])}{',' if not shape else ''})"
