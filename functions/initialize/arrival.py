"""Whether the partitions of an arrival fit into its catalogue, by the heads of a few of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from .contract.columns import COLUMNS, OF_PARTITIONS, PARTITION, taken_name
from .contract.growing import CatalogueError, Form
from .contract.mapping import Mapping
from .contract.names import POSITIONS
from .contract.s3 import BROKEN
from .partition_head import Head, HeadError, read_head
from .plan import named
from .records import ignore

_LOOKED_AT = 8  # partitions, the first and the last among them; each takes two or three requests
_REMEDY = (
    "Prepare its partitions like the others (`cosmicai data prepare` with the same --id, --keep and "
    "--redshift), or give another catalogue"
)


@dataclass(frozen=True)
class Arrival:
    """The partitions that ranks will read.

    hands: the keys of each rank. is_whole: whether these are all partitions, because no rank has ended already.
    mapping: of an imported network; None for an AstroMAE. knows_outputs: whether it is known which columns are
    predictions.
    """

    bucket: str
    prefix: str
    hands: Sequence[Sequence[str]]
    is_whole: bool
    mapping: Mapping | None = None
    knows_outputs: bool = True

    @property
    def place(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}/"

    @property
    def keys(self) -> list[str]:
        return [key for hand in self.hands for key in hand]

    @property
    def true_column(self) -> str | None:
        """The column of true values, where partitions have them."""
        if self.mapping is None:
            return "z_true" if self.knows_outputs else None
        return None if self.mapping.compared is None else self.mapping.compared.true_column

    def columns(self, head: Head) -> dict[str, str]:
        """The columns that follow from a partition with this head, with types; '' if one is not known."""
        truth = self.true_column if head.tensors == 3 else None
        return {**head.columns, **({} if truth is None else {truth: ""})}

    def of_partitions(self, form: Form) -> list[str]:
        """The columns of a catalogue that must come from the partitions, as far as that is known."""
        if not self.knows_outputs:
            return [name for name in form.columns if name in POSITIONS]
        predicted = {*COLUMNS} - {*OF_PARTITIONS}
        if self.mapping is not None:
            outputs = self.mapping.outputs
            predicted |= {*self.mapping.columns, *(one.true_column for one in outputs)}
        return [name for name in form.columns if name not in predicted]


def check_arrival(s3: Any, arrival: Arrival, form: Form | None, place: str) -> list[str]:
    """Raises CatalogueError if the arrival certainly does not fit; returns notes on what may not fit.

    form: of the catalogue; None if this arrival begins it. place: of the catalogue.
    """
    keys = arrival.keys
    heads = _heads(s3, arrival.bucket, _spread(keys))
    faults = [taken_name(name) for head in heads.values() for name in head.columns if name.lower() == PARTITION]
    if faults:
        raise CatalogueError(faults[0])
    notes: list[str] = []
    if form is None:
        faults = _differences(arrival, heads)
    else:
        for key, head in heads.items():
            more, unclear = _misfits(arrival, key, arrival.columns(head), form)
            faults, notes = faults + more, notes + unclear
        lacking = _lacking(arrival, heads, form)
        sentence = f"{_which(heads, keys)} columns of the catalogue: {named(lacking)}"
        if lacking and len(heads) == len(keys):
            faults.append(sentence)
        elif lacking:
            notes.append(f"{sentence}; if the others lack them too, the arrival cannot become part of it")
    if faults:
        raise CatalogueError(
            f"the arrival {arrival.place} does not fit into {place}: {'; '.join(faults)}. {_REMEDY}"
        )
    return [f"catalogue: {note}. {_REMEDY}" for note in dict.fromkeys(notes)]


def _spread(keys: Sequence[str]) -> list[str]:
    """Some of the keys, at equal distances."""
    count = min(_LOOKED_AT, len(keys))
    return [keys[round(place * (len(keys) - 1) / max(count - 1, 1))] for place in range(count)]


def _heads(s3: Any, bucket: str, keys: Sequence[str]) -> dict[str, Head]:
    """The heads by key. Partitions whose head cannot be read are left out and logged; so are empty ones."""

    def read(key: str) -> Head | None:
        try:
            return read_head(s3, bucket, key)
        except (HeadError, ClientError, *BROKEN) as error:
            ignore(bucket, key, error)
            return None

    with ThreadPoolExecutor(_LOOKED_AT) as pool:
        heads = pool.map(read, keys)
        return {key: head for key, head in zip(keys, heads, strict=True) if head is not None}


def _misfits(arrival: Arrival, key: str, columns: dict[str, str], form: Form) -> tuple[list[str], list[str]]:
    """What certainly does not fit in one partition, and what may not fit."""
    more = [name for name in columns if name not in form.columns]
    faults = [f"{key} has columns that the catalogue lacks: {named(more)}"] if more else []
    unclear: list[str] = []
    for name, kind in columns.items():
        there = form.columns.get(name, kind)
        if kind and there != kind:
            sentence = f"the column {name} is {there} in the catalogue and {kind} in {key}"
            (unclear if _may_become(kind, there, arrival) else faults).append(sentence)
    return faults, unclear


def _may_become(kind: str, there: str, arrival: Arrival) -> bool:
    """Whether a rank may give a column another type when it joins its partitions (inference.data.objects)."""
    joins = any(len(hand) > 1 for hand in arrival.hands)
    return joins and (there == "string" or (kind, there) == ("float", "double"))


def _lacking(arrival: Arrival, heads: dict[str, Head], form: Form) -> list[str]:
    """The columns of the catalogue that none of the partitions that were read has.

    None if some ranks have ended already, because their partitions may have them.
    """
    if not heads or not arrival.is_whole:
        return []
    has = {name for head in heads.values() for name in arrival.columns(head)}
    return [name for name in arrival.of_partitions(form) if name not in has]


def _which(heads: dict[str, Head], keys: Sequence[str]) -> str:
    if len(keys) == 1:
        return f"{keys[0]} lacks"
    if len(heads) == len(keys):
        return f"all of its {len(keys)} partitions lack"
    return f"the {len(heads)} of its {len(keys)} partitions that were read ({next(iter(heads))}, …) lack"


def _differences(arrival: Arrival, heads: dict[str, Head]) -> list[str]:
    """Columns whose types differ between the partitions of different ranks; nothing if a rank joins several."""
    if any(len(hand) > 1 for hand in arrival.hands):
        return []
    first: dict[str, tuple[str, str]] = {}
    faults = []
    for key, head in heads.items():
        for name, kind in head.columns.items():
            before, other = first.setdefault(name, (kind, key))
            if before != kind:
                faults.append(f"the column {name} is {before} in {other} and {kind} in {key}")
    return faults
