"""A user's ONNX file as a model folder: any network, with its inputs and outputs mapped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cosmicai.model import vocabulary
from cosmicai.model.new_folder import new_folder
from cosmicai.model.onnxfile.asking import examined
from cosmicai.model.onnxfile.choosing import Asked
from cosmicai.model.onnxfile.reading import OnnxFileError
from inference.contract.mapping import CLASSIFICATION, Mapping, Output
from inference.contract.model_files import GRAPHS
from inference.engine.choice import read_graphs

Json = dict[str, Any]


def import_onnx(source: Path, out: Path, asked: Asked, command: str = "") -> Json:
    """Writes the graph, graphs.json with the mapping, and card.json to `out`; returns the card.

    The file is read, checked and run in a process of its own, within limits. Raises OnnxFileError, which names
    the file and the reason, and then leaves nothing.
    """
    with new_folder(out, OnnxFileError) as scratch:
        try:
            facts = examined(source, scratch, asked)
        except OnnxFileError as error:
            raise OnnxFileError(f"{source}: {error}") from error
        files, mapping = facts.pop("files"), facts.pop("mapping")
        checked = _checked(source, mapping) if asked.units or asked.ucds else ""
        digest = hashlib.sha256(json.dumps([files, mapping], sort_keys=True).encode()).hexdigest()
        graphs = {"network": digest, "float32": {"files": files}, "mapping": mapping}
        (scratch / GRAPHS).write_text(json.dumps(graphs, indent=1) + "\n")
        read_graphs(scratch)  # as a rank will
        card = {
            "source": source.name,
            "source sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
            "source kind": "ONNX graph",
            **facts,
            "mapping": mapping,
            "units and UCDs": checked,
            "command": command,
        }
        (scratch / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return card


def _checked(source: Path, mapping: Json) -> str:
    """What has checked the units and UCDs. Raises OnnxFileError for those that the standards do not have."""
    try:
        return vocabulary.check(Mapping.from_json(mapping).catalogue_columns)
    except vocabulary.VocabularyError as error:
        raise OnnxFileError(f"{source}: {error}") from error


def report_lines(card: Json, out: Path) -> list[str]:
    """What a user should read of an import."""
    mapping = Mapping.from_json(card["mapping"])
    inputs = (f"{one.name} takes {one.tensor} {_shape(one.shape)}" for one in mapping.inputs)
    lines = [
        f"model folder {out}: {card['parameters']:,} parameters in an ONNX graph of opset {card['opset']}",
        f"inputs: {'; '.join(inputs)}",
        *(f"output {one.name} {_shape(one.shape)}: {_meaning(one)}" for one in mapping.outputs),
    ]
    if card["units and UCDs"]:
        lines.append(f"units and UCDs: {card['units and UCDs']}")
    if card["not used"]:
        lines.append(f"outputs that are not used: {', '.join(card['not used'])}")
    compared = mapping.compared
    if compared is None:
        lines.append("no accuracy is measured, because no output is of a kind that has true values")
    elif compared.kind == CLASSIFICATION:
        pairs = zip(compared.labels, compared.classes, strict=True)
        labels = ", ".join(f"{label:g} {name}" for label, name in pairs)
        lines.append(f"true values in partitions are those of {compared.column}: {labels}; NaN where not known")
    else:
        lines.append(f"true values in partitions are those of {compared.column}; NaN where not known")
    if not card["finite for random objects"]:
        lines.append("note: some outputs of random objects are not finite; such objects get no prediction")
    return lines


def _meaning(one: Output) -> str:
    metadata = "".join(f", {text}" for text in (one.unit, one.ucd, one.description) if text)
    if one.kind == CLASSIFICATION:
        form = "logits" if one.logits else "probabilities"
        return f"{form} of {', '.join(one.classes)}; columns {', '.join(one.columns)}{metadata}"
    return f"{one.kind}, column {', '.join(one.columns)}{metadata}"


def _shape(shape: list[int]) -> str:
    return f"({', '.join(['N', *map(str, shape)])}{',' if not shape else ''})"
