"""From a checkpoint file to our model, and a record of how it was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cosmicai.model.foreign import modules, names
from cosmicai.model.foreign.assumed import Assumed
from cosmicai.model.foreign.candidates import Candidate, chosen, plain_names
from cosmicai.model.foreign.errors import CheckpointError
from cosmicai.model.foreign.files import File
from cosmicai.model.foreign.network import Network
from cosmicai.model.foreign.nodes import Tree, class_names
from cosmicai.model.foreign.ours import model_of
from inference.data.pickled import Record, printable
from inference.engine.astromae import AstroMAE


@dataclass(frozen=True)
class Choices:
    """What the user states about a checkpoint.

    fields: values of our config that the checkpoint does not record, as texts.
    select: which network of several. renames: published names by the names in the file.
    classes_by_name: AstroMAE's and timm's classes are recognised in any module.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    select: str | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    classes_by_name: bool = False


@dataclass(frozen=True)
class Reading:
    """assumed: published values, by field; stated: the user's. notes: what else was assumed.

    numbers: stored types.
    """

    model: AstroMAE
    kind: str
    sha256: str
    assumed: dict[str, object]
    stated: dict[str, object]
    notes: tuple[str, ...]
    numbers: tuple[str, ...]


def read(path: Path, choices: Choices) -> Reading:
    """Raises CheckpointError, which names the file and why it is refused. No part of it is ever run."""
    try:
        assumed = Assumed.parse(choices.fields)
        file = File.open(path)
        candidate = chosen(file.content, choices.select)
        network = _network(file, candidate, assumed, choices)
        model = model_of(network)
        assumed.check(model.config)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Reading(
        model,
        _kind(file, candidate),
        file.sha256,
        assumed.assumed,
        dict(assumed.stated),
        network.notes,
        tuple(sorted(file.numbers)),
    )


def _network(file: File, candidate: Candidate, assumed: Assumed, choices: Choices) -> Network:
    renames = dict(choices.renames)
    if isinstance(candidate.content, Record):
        return modules.read(candidate.content, Tree(file, choices.classes_by_name, renames), assumed)
    return names.read(plain_names(candidate.content, renames), file, assumed)


def _kind(file: File, candidate: Candidate) -> str:
    under = f" under {printable(candidate.key)}" if candidate.key else ""
    if isinstance(candidate.content, Record):
        return f"pickled module {printable(' of '.join(class_names(candidate.content)))}{under}"
    return f"state dict{under} ({file.format})"
