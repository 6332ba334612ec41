"""What Initialize knows about a run's network, and whether a model folder can be one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .contract.model_files import (
    BUNDLED,
    CALIBRATION,
    GRAPHS,
    NOVELTY,
    REDUCED,
    TORCH_FILES,
    graphs_fault,
    readable,
)
from .contract.s3 import repeated
from .payload import PayloadError, packaged_json
from .plan import named
from .records import read_json

_BUNDLED_FOLDER = Path(__file__).parents[1] / "inference" / "models" / BUNDLED


@dataclass(frozen=True)
class Model:
    """The graphs.json, card.json and calibration.json of a model folder, as far as they are known.

    graphs: None if it cannot be read. calibration: {} if there is none, None if that is not known. has_novelty:
    whether there is a novelty.json, None if that is not known.
    """

    graphs: Any = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    calibration: Any = None
    has_novelty: bool | None = None

    @classmethod
    def bundled(cls) -> Model:
        """The one in the inference image: both are packaged from the same files."""
        return cls(*(packaged_json(name, _BUNDLED_FOLDER) for name in (GRAPHS, "card.json", CALIBRATION)))


def check_model(s3: Any, payload: dict[str, Any]) -> Model:
    """What is known about the payload's model folder; calibration.json is read only for a catalogue.

    Raises PayloadError if the payload's `model` is a folder that lacks a file that ranks may need, or a model
    that does not run with the payload's engine and precision. If the payload names a script, the folder may
    hold anything, but must not be empty. Ranks check what the files hold.
    """
    bucket, folder = payload["bucket"], payload.get("model")
    if folder is None:
        return Model()
    place, prefix = f"s3://{bucket}/{folder}/", f"{folder}/"
    answer = repeated(lambda: s3.list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/"))
    names = {one["Key"].removeprefix(prefix) for one in answer.get("Contents", [])} - {""}
    folders = [one["Prefix"].removeprefix(prefix).rstrip("/") for one in answer.get("CommonPrefixes", [])]
    if not names and not folders:
        raise PayloadError(
            f"model: {place} holds no file; copy a model folder there, correct the name, or "
            "leave model out for the bundled network"
        )
    if "script" in payload:
        return Model()
    if not names & {GRAPHS, *TORCH_FILES}:
        remedy = (
            f"name one of its folders: {named(folders)}" if folders else "copy one there, or correct the name"
        )
        missing = f"neither {GRAPHS} nor {named([*TORCH_FILES])}"
        raise PayloadError(f"model: {place} is not a model folder: it holds {missing}; {remedy}")
    graphs = read_json(s3, bucket, f"{prefix}{GRAPHS}") if GRAPHS in names else None
    lacking = sorted(_needed(graphs, payload, GRAPHS in names) - names)
    if lacking:
        raise PayloadError(f"model: {place} lacks {named(lacking)}; copy the whole model folder there")
    return Model(graphs, calibration=_calibration(s3, payload, names), has_novelty=NOVELTY in names)


def _calibration(s3: Any, payload: dict[str, Any], names: set[str]) -> Any:
    if CALIBRATION not in names:
        return {}
    if "catalogue" not in payload:
        return None
    return read_json(s3, payload["bucket"], f"{payload['model']}/{CALIBRATION}") or None


def _needed(graphs: Any, payload: dict[str, Any], has_graphs: bool) -> set[str]:
    """The files that the payload's engine and precision read.

    Raises PayloadError if the model does not run with them.
    """
    engine, precision = payload["engine"], payload["precision"]
    if not has_graphs:
        return {GRAPHS} if engine == "onnxruntime" or precision in REDUCED else {*TORCH_FILES}
    try:
        fault = graphs_fault(graphs, engine, precision)
        if fault is not None:
            raise PayloadError(fault)
        if engine == "torch":
            return {*TORCH_FILES}
        return {str(name) for one in readable(graphs, precision) for name in graphs[one]["files"]}
    except (AttributeError, KeyError, TypeError):  # it is malformed: the ranks say how
        return set()
