"""Whether the folder that a payload names as its model can be one, before ranks are paid for."""

from __future__ import annotations

from typing import Any

from .contract.mapping import GRAPHS
from .contract.s3 import repeated
from .payload import PayloadError, cut
from .records import read_json

_TORCH_FILES = {"config.json", "model.safetensors"}
_MOST_NAMES = 5  # in a message


def check_model(s3: Any, payload: dict[str, Any]) -> None:
    """Raises PayloadError if the payload's `model` is a folder without a file that every rank would need.

    With a script the folder is the script's own affair, but not empty. What the files hold is checked by ranks.
    """
    bucket, folder = payload["bucket"], payload.get("model")
    if folder is None:
        return
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
        return
    if GRAPHS not in names and not _TORCH_FILES & names:
        within = f", but folders: {_listed(folders)}; name one of them" if folders else ""
        raise PayloadError(
            f"model: {place} is not a model folder: it holds neither {GRAPHS} nor {_listed(_TORCH_FILES)}"
            + (within or "; copy one there, or correct the name")
        )
    missing = _needed(s3, payload, names) - names
    if missing:
        raise PayloadError(f"model: {place} lacks {_listed(missing)}; copy the whole model folder there")


def _needed(s3: Any, payload: dict[str, Any], names: set[str]) -> set[str]:
    """The files that the engine and precision of the payload read."""
    if payload["engine"] == "torch" or (GRAPHS not in names and payload["engine"] == "auto"):
        return _TORCH_FILES
    if GRAPHS not in names:
        return {GRAPHS}
    graphs, precision = read_json(s3, payload["bucket"], f"{payload['model']}/{GRAPHS}"), payload["precision"]
    try:
        admitted = graphs.get("int8", {}).get("admitted", False)
        if precision == "int8" and not admitted:
            raise PayloadError(
                "precision: int8 is not admitted for this model; run `cosmicai model optimise --calibration …` "
                "if it is not an imported one, or give auto or float32"
            )
        chosen = precision if precision != "auto" else "int8" if admitted else "float32"
        return {str(name) for name in graphs[chosen]["files"]}
    except (AttributeError, KeyError, TypeError):  # it is malformed: the ranks say how
        return set()


def _listed(names: Any) -> str:
    some = sorted(names)
    more = f" and {len(some) - _MOST_NAMES:,} more" if len(some) > _MOST_NAMES else ""
    return ", ".join(map(cut, some[:_MOST_NAMES])) + more
