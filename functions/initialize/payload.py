"""The payload against payload.schema.json: every fault at once, before anything is started.

This implements the part of JSON Schema that the file uses: type, enum, items, uniqueItems, pattern, minimum,
maximum, default, required, dependentRequired, additionalProperties. A string in a field that may also be an
integer or a number is converted to the number. JSON Schema counts characters, but S3 counts bytes of UTF-8:
x-most-bytes leaves room for what is appended within the 1,024 bytes of a key
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html).
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

from .contract.model_files import engine_fault
from .contract.run_records import COPIES

READY = "/_READY"
_SHOWN = 80  # characters of a value in a message
_FOLDERS_OF_A_RUN = ("predictions", "failures", COPIES)
_MOST_UNKNOWN = 20  # fields that are named
_LONGEST_NAME = 255  # bytes of a file's name
_HERE = Path(__file__).parent
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


class PayloadError(ValueError):
    """The payload is refused; the message lists every fault with field, value and what is allowed."""


def schema() -> dict[str, Any]:
    """The payload's JSON Schema: next to this file in the zip, in statemachine/ in a checkout."""
    loaded: dict[str, Any] = packaged_json("payload.schema.json", _HERE.parents[1] / "statemachine")
    return loaded


def packaged_json(name: str, folder: Path) -> Any:
    """A JSON file that is next to this one in the zip, and in another folder in a checkout."""
    packaged = _HERE / name
    return json.loads((packaged if packaged.exists() else folder / name).read_text(encoding="utf-8"))


def defaults() -> dict[str, Any]:
    """The default values of the optional fields."""
    return {name: rule["default"] for name, rule in schema()["properties"].items() if "default" in rule}


def resolve(payload: object) -> dict[str, Any]:
    """The payload with numbers as numbers, folders without a closing slash, and every default filled in.

    /_READY at the end of a folder, the key of the object that announces it, is removed. A catalogue
    then becomes the folder above it, so that neighbouring arrivals go into one catalogue.

    Raises PayloadError.
    """
    rules = schema()
    if not isinstance(payload, dict):
        raise PayloadError(f"payload: {_shown(payload)} is not a JSON object")
    properties: dict[str, Any] = rules["properties"]
    unknown = [name for name in payload if name not in properties]
    faults = [_unknown(name, properties) for name in unknown[:_MOST_UNKNOWN]]
    if len(unknown) > _MOST_UNKNOWN:
        faults.append(f"payload: {len(unknown) - _MOST_UNKNOWN} more fields are unknown; leave them out")
    faults += [
        f"{name}: is missing; give {_allowed(properties[name])} ({properties[name]['description']})"
        for name in rules["required"]
        if name not in payload
    ]
    faults += [
        f"{name}: is given without {needed}; a script needs both"
        for name, others in rules["dependentRequired"].items()
        for needed in others
        if name in payload and needed not in payload
    ]
    resolved = defaults()
    for name, rule in properties.items():
        if name in payload:
            try:
                resolved[name] = _value(payload[name], rule)
            except ValueError:
                faults.append(f"{name}: {_shown(payload[name])} is not allowed; give {_allowed(rule)}")
    faults += _script_faults(resolved)
    if not faults:
        resolved.setdefault("data_bucket", resolved["bucket"])
        fault = engine_fault(resolved["engine"], resolved["precision"])
        faults = [*_path_faults(resolved), *_catalogue_faults(resolved), *_copy_faults(resolved)]
        faults += [] if fault is None else [fault]
    if faults:
        raise PayloadError("; ".join(faults))
    return resolved


def _script_faults(resolved: dict[str, Any]) -> list[str]:
    """Faults that the schema cannot express: a script is in its folder, and the names can be file names."""
    folder, script = resolved.get("S3_object_name"), resolved.get("script")
    faults = [
        f"{name}: {_shown(value)} is not allowed; give names of at most {_LONGEST_NAME} bytes, as files have"
        for name, value in (("S3_object_name", folder), ("script", script))
        if value is not None and any(len(part.encode()) > _LONGEST_NAME for part in value.split("/"))
    ]
    if folder and script and not script.startswith(f"/tmp/{folder}/"):  # noqa: S108 - as users write it
        faults.append(f"script: {_shown(script)} is not allowed; give a file below /tmp/{cut(folder)}/")
    return faults


def _path_faults(resolved: dict[str, Any]) -> list[str]:
    """A run whose result_path is a folder of another run would replace that run's results."""
    path = resolved["result_path"]
    if path.rpartition("/")[2] not in _FOLDERS_OF_A_RUN:
        return []
    names = ", ".join(_FOLDERS_OF_A_RUN)
    return [
        f"result_path: {_shown(path)} is not allowed: each run has folders named {names}; give another name"
    ]


def _catalogue_faults(resolved: dict[str, Any]) -> list[str]:
    """A catalogue is a folder of its own: `vacuum` deletes what else it holds."""
    catalogue = resolved.get("catalogue")
    if catalogue is None:
        return []
    if "script" in resolved:
        return ["catalogue: is given with a script, whose results have no known columns; leave one of them out"]
    others = [name for name in ("result_path", "data_prefix", "model") if name in resolved]
    if resolved["data_bucket"] != resolved["bucket"]:
        others.remove("data_prefix")
    return [
        f"catalogue: {_shown(catalogue)} is not allowed, because {name} is {_shown(resolved[name])}; give a "
        "folder that is neither in that one nor around it"
        for name in others
        if f"{catalogue}/".startswith(f"{resolved[name]}/") or f"{resolved[name]}/".startswith(f"{catalogue}/")
    ]


def _copy_faults(resolved: dict[str, Any]) -> list[str]:
    """Results of copies must stay apart, and no galaxy may count several times."""
    reasons = {
        "script": "a script itself decides where it writes, and could replace results of the originals",
        "catalogue": "a catalogue would hold each galaxy several times",
    }
    times = resolved["repeat_data"]
    return [
        f"repeat_data: {times} is not allowed with {name}, because {reason}; leave one of them out"
        for name, reason in reasons.items()
        if times > 1 and name in resolved
    ]


def _unknown(name: str, properties: dict[str, Any]) -> str:
    near = difflib.get_close_matches(name[:_SHOWN], properties, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(properties)}"
    return f"{cut(name)}: unknown field; {hint}"


def _value(value: object, rule: dict[str, Any]) -> object:
    if "enum" in rule:
        return _accept(value, value in rule["enum"])
    types = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    if "array" in types:
        return _chosen(value, rule)
    if isinstance(value, str):
        single_line = "\n" not in value  # Python's $ matches before a closing line break
        _accept(value, "string" in types and single_line and re.search(rule["pattern"], value) is not None)
        _accept(value, len(value.encode()) <= rule.get("x-most-bytes", len(value.encode())))
        if types == ["string"]:
            return _folder(value.rstrip("/"), rule)
        value = float(value) if "number" in types else int(value)
    if isinstance(value, float) and value.is_integer() and "integer" in types:
        value = int(value)  # 11.0 is an integer in JSON Schema
    known = any(isinstance(value, _TYPES[t]) for t in types) and (
        isinstance(value, bool) == (types == ["boolean"])
    )
    _accept(value, known)
    if isinstance(value, int | float) and not isinstance(value, bool):
        _accept(value, rule.get("minimum", value) <= value <= rule.get("maximum", value))
    return value


def _folder(value: str, rule: dict[str, Any]) -> str:
    folder = value.removesuffix(READY)
    if folder == value or not rule.get("x-above-ready"):
        return folder
    above = folder.rpartition("/")[0]
    _accept(value, bool(above))
    return above


def _chosen(value: object, rule: dict[str, Any]) -> list[str]:
    """The chosen strings, in the order of the schema; its first one is always included.

    Raises ValueError for unknown and for repeated ones.
    """
    names = value.split(",") if isinstance(value, str) else value
    known: list[str] = rule["items"]["enum"]
    _accept(value, isinstance(names, list) and all(isinstance(name, str) and name in known for name in names))
    chosen = list(names) if isinstance(names, list) else []
    _accept(value, len(set(chosen)) == len(chosen))
    return [name for name in known if name in chosen or name == known[0]]


def _accept(value: object, holds: bool) -> object:
    if not holds:
        raise ValueError(value)
    return value


def _allowed(rule: dict[str, Any]) -> str:
    return str(rule.get("x-allowed") or "one of " + ", ".join(map(str, rule.get("enum", []))))


def _shown(value: object) -> str:
    try:
        return cut(json.dumps(value, default=str, ensure_ascii=False))
    except (ValueError, RecursionError):  # a whole number of thousands of digits, or deeply nested lists
        return f"a value of type {type(value).__name__}"


def cut(text: str) -> str:
    """Foreign text for a message: shortened, with unprintable and control characters escaped."""
    short = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "…"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in short)
