"""What an imported network takes of a partition, and what its outputs are in a catalogue.

`cosmicai model import-onnx` writes it into graphs.json, and ranks use it. Without one a model folder is that
of an AstroMAE network: images and magnitudes to a redshift. Uses only the standard library.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from .columns import MOST_CHARACTERS as MOST_METADATA
from .columns import Column, is_metadata
from .fields import Field, Keys, Record, RecordError
from .names import NAME, POSITIONS, is_name

TENSORS = {
    "images": "the first tensor of a partition, of any shape (N, …)",
    "magnitudes": "the second tensor (N, M), as magnitudes: markers such as 99 are not measurements",
    "values": "the second tensor (N, M), as any numbers: only NaN and infinity are not measurements",
}
REDSHIFT, REGRESSION, CLASSIFICATION, VALUES = "redshift", "regression", "classification", "values"
KINDS = {
    REDSHIFT: "the redshift, which becomes z_pred",
    REGRESSION: "another quantity, a number per object",
    CLASSIFICATION: "the probabilities of classes",
    VALUES: "numbers without true values",
}
MOST_CLASSES = 100  # each is a column, and FITS has 999 at most
MOST_VALUES = 1 << 24  # of one object in a tensor
MOST_OUTPUT_VALUES = 4096
MOST_CHARACTERS = 200  # of a name in the graph, a UCD and a description
_UCD = re.compile(r"[A-Za-z0-9-]+([.;][A-Za-z0-9-]+)*")
_LARGEST_LABEL = 2**24  # whole numbers up to it are exact in float32


@dataclass(frozen=True, kw_only=True)
class Input(Record):
    """An input of the graph and the tensor that it takes."""

    tensor: Annotated[str, Field("the tensor of the partition", choices=tuple(TENSORS))]
    name: Annotated[str, Field("the name of the graph's input")]
    shape: Annotated[list[int], Field("the shape of one object in the tensor")]


@dataclass(frozen=True, kw_only=True)
class Output(Record):
    """An output of the graph and the column that it becomes."""

    column: Annotated[str, Field("the name of the column, or the beginning of the columns' names")]
    name: Annotated[str, Field("the name of the graph's output")]
    kind: Annotated[str, Field("what it is", choices=tuple(KINDS))]
    shape: Annotated[list[int], Field("the shape of one object in the output")]
    classes: Annotated[Keys, Field("the names of the classes, in the order of the output")] = ()
    labels: Annotated[
        list[float], Field("the whole number that stands for each class in partitions", signed=True)
    ] = field(default_factory=list)
    logits: Annotated[bool, Field("whether the output is logits, of which probabilities are made")] = False
    unit: Annotated[str | None, Field("its unit, by the standards FITS and VOUnits")] = None
    ucd: Annotated[str | None, Field("its UCD, by the IVOA's UCD1+; of classes, that of the class")] = None
    description: Annotated[str | None, Field("what it is, for whoever reads a catalogue")] = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of predictions that follow from it."""
        if self.kind == REDSHIFT:
            return ("z_pred",)
        return (self.column, *(f"{self.column}_{one}" for one in self.classes))

    @property
    def true_column(self) -> str:
        """The column of the true values, where partitions have them."""
        return "z_true" if self.kind == REDSHIFT else f"{self.column}_true"

    @property
    def catalogue_columns(self) -> dict[str, Column]:
        """The unit, UCD and description of its columns, that of true values too; {} for a redshift, of which
        these are known."""
        if self.kind == REDSHIFT:
            return {}
        unit, ucd, what = self.unit or "", self.ucd or "", self.description or ""
        more = f": {what}" if what else ""
        true = {self.true_column: Column(f"true value that the partition holds{more}", unit, ucd)}
        if self.kind != CLASSIFICATION:
            return {self.column: Column(what, unit, ucd), **(true if self.kind == REGRESSION else {})}
        probability = f"stat.probability;{ucd}" if ucd else "stat.probability"
        return {
            self.column: Column(f"most probable class{more}", ucd=ucd),
            **{
                f"{self.column}_{one}": Column(f"probability of the class {one}{more}", ucd=probability)
                for one in self.classes
            },
            **true,
        }

    def faults(self) -> list[str]:
        """What is wrong with it, each a sentence that begins with the column."""
        faults = [] if _is_graph_name(self.name) else ["its output has no printable name"]
        if self.kind != REDSHIFT and (not is_name(self.column) or self.column.lower() in POSITIONS):
            faults.append(
                "cannot name a column: give letters, digits, _ . + -, and a name that results do not use"
            )
        count = math.prod(self.shape)
        if self.kind in (REDSHIFT, REGRESSION) and (count != 1 or len(self.shape) > 1):
            faults.append(
                f"a {self.kind} is one number per object, and the output has the shape {_shown(self.shape)}"
            )
        if self.kind == VALUES and (len(self.shape) > 1 or not 0 < count <= MOST_OUTPUT_VALUES):
            faults.append(
                f"values are (N,) or (N, D) with D up to {MOST_OUTPUT_VALUES:,}, and the output has the shape "
                f"{_shown(self.shape)}"
            )
        faults += [*self._class_faults(), *self._metadata_faults()]
        return [f"{self.column[:MOST_CHARACTERS]!r}: {one}" for one in faults]

    def _class_faults(self) -> list[str]:
        if self.kind != CLASSIFICATION:
            return (
                ["it has classes, but is not a classification"]
                if self.classes or self.labels or self.logits
                else []
            )
        count, faults = len(self.classes), []
        if not 2 <= count <= MOST_CLASSES:
            return [f"{count} classes are given; give 2 to {MOST_CLASSES}"]
        binary = count == 2 and self.shape in ([], [1])
        if self.shape != [count] and not binary:
            faults.append(f"{count} classes are given, and the output has the shape {_shown(self.shape)}")
        wrong = [one for one in self.classes if NAME.fullmatch(one) is None]
        if wrong or len({one.lower() for one in self.classes}) < count:
            faults.append("the names of classes must differ and consist of letters, digits, _ . + -")
        whole = all(one % 1 == 0 and abs(one) <= _LARGEST_LABEL for one in self.labels)
        if not whole or len(self.labels) != count or len(set(self.labels)) < count:
            faults.append(f"labels must be {count} different whole numbers, one for each class")
        return faults

    def _metadata_faults(self) -> list[str]:
        limits = {**dict.fromkeys(("ucd", "description"), MOST_CHARACTERS), "unit": MOST_METADATA["unit"]}
        texts = {name: getattr(self, name) for name in limits if getattr(self, name) is not None}
        if self.kind == REDSHIFT and texts:
            return ["a redshift has a UCD and a description already, and no unit: leave them out"]
        faults = [
            f"its {name} is not 1 to {limits[name]} printable ASCII characters, which FITS needs"
            for name, text in texts.items()
            if not is_metadata(text, limits[name])
        ]
        if "ucd" in texts and not _UCD.fullmatch(texts["ucd"]):
            faults.append("a UCD must be words such as phys.mass, separated by ;")
        if "unit" in texts and self.kind == CLASSIFICATION:
            faults.append("classes and their probabilities have no unit: leave it out")
        return faults


@dataclass(frozen=True, kw_only=True)
class Mapping(Record):
    """mapping in graphs.json: the inputs and outputs of an imported network."""

    inputs: Annotated[list[Input], Field("the inputs, each with its tensor")]
    outputs: Annotated[list[Output], Field("the outputs, each with its column")]
    truth: Annotated[str | None, Field("the column whose true values the last tensor of partitions holds")] = (
        None
    )

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Raises RecordError, which names every fault."""
        mapping = super().from_json(content)
        mapping.check()
        return mapping

    def check(self) -> None:
        """Raises RecordError for what is contradictory or has no place in a catalogue; it names every fault."""
        faults = [fault for output in self.outputs for fault in output.faults()]
        faults += self._input_faults()
        columns = [name.lower() for one in self.outputs for name in (*one.columns, one.true_column)]
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            faults.append(f"two columns would have the name {', '.join(twice)}: give other names")
        if not self.outputs:
            faults.append("there is no output")
        if self.truth is not None and self.compared is None:
            faults.append(f"truth: {self.truth!r} is not a column that true values can be compared with")
        if faults:
            raise RecordError("; ".join(faults))

    def _input_faults(self) -> list[str]:
        tensors, faults = [one.tensor for one in self.inputs], []
        if tensors.count("images") != 1 or len(tensors) > 2 or len(set(tensors)) < len(tensors):
            faults.append(
                "one input must take images, the first tensor of a partition, and only one other may take "
                "magnitudes or values"
            )
        for one in self.inputs:
            fits = 0 < math.prod(one.shape) <= MOST_VALUES and len(one.shape) <= 7
            if not fits or (one.tensor != "images" and len(one.shape) != 1):
                faults.append(f"{one.tensor}: the shape {_shown(one.shape)} does not fit this tensor")
            if not _is_graph_name(one.name):
                faults.append(f"{one.tensor}: its input has no printable name")
        return faults

    @property
    def compared(self) -> Output | None:
        """The output whose true values partitions may have."""
        outputs = (one for one in self.outputs if one.column == self.truth and one.kind != VALUES)
        return next(outputs, None)

    @property
    def redshift(self) -> Output | None:
        """The output that is the redshift, where there is one."""
        return next((one for one in self.outputs if one.kind == REDSHIFT), None)

    def taken(self, tensor: str) -> Input | None:
        """The input that takes a tensor, where there is one."""
        return next((one for one in self.inputs if one.tensor == tensor), None)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of predictions that follow from the outputs."""
        return tuple(name for one in self.outputs for name in one.columns)

    @property
    def catalogue_columns(self) -> dict[str, Column]:
        """The unit, UCD and description of all columns that follow from outputs other than redshifts."""
        return {name: column for one in self.outputs for name, column in one.catalogue_columns.items()}


def _is_graph_name(name: str) -> bool:
    return bool(name) and name.isprintable() and len(name) <= MOST_CHARACTERS


def _shown(shape: list[int]) -> str:
    """(N, 5, 48, 48)."""
    return f"({', '.join(['N', *map(str, shape)])}{',' if not shape else ''})"
