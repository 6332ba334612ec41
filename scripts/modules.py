"""Writes the inputs and outputs into the README of each Terraform module: python scripts/modules.py

The tables come from the module's variables.tf and outputs.tf, as python-hcl2 reads them. They are below MARKER;
the text above it is not generated and stays. A variable whose description lists fields, one
`- name: text` per line, gets one row per field of its object type. Exits with a message that names the file and
the variable where a description is missing, or where it lists other fields than the type has.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hcl2

TERRAFORM = Path(__file__).resolve().parent.parent / "terraform"
MARKER = "<!-- What follows is written by scripts/modules.py. -->"
_READING = hcl2.SerializationOptions(
    strip_string_quotes=True, preserve_heredocs=False, with_comments=False, explicit_blocks=False
)
_FIELD = re.compile(r"^- (\w+): (.*)$", re.MULTILINE)


class ModuleError(ValueError):
    """A description does not fit its variable; the message says where and what to do."""


@dataclass(frozen=True)
class Row:
    """A line of a table. default: as Terraform writes it; None where a value is required."""

    name: str
    description: str
    type: str = ""
    default: str | None = None


def modules() -> list[Path]:
    """The root module and the modules that it calls."""
    return [TERRAFORM, *sorted(path.parent for path in TERRAFORM.glob("modules/*/variables.tf"))]


def readme(module: Path) -> str:
    """The README as it should be: the part above the marker as it is, and the tables. Raises ModuleError."""
    written, marker, _ = (module / "README.md").read_text(encoding="utf-8").partition(MARKER)
    if not marker:
        raise ModuleError(f"{module}/README.md: the marker is missing; add this line after the text: {MARKER}")
    inputs = [row for name, block in _blocks(module, "variable") for row in _inputs(module, name, block)]
    outputs = [Row(name, _described(module, name, block)) for name, block in _blocks(module, "output")]
    return f"{written}{MARKER}\n\n## Inputs\n\n{_inputs_table(inputs)}\n## Outputs\n\n{_outputs_table(outputs)}"


def _blocks(module: Path, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and attributes of a module's variables or outputs, in the order of the file."""
    file = module / f"{kind}s.tf"
    if file.exists():
        for block in hcl2.loads(file.read_text(encoding="utf-8"), serialization_options=_READING)[kind]:
            yield from block.items()


def _inputs(module: Path, name: str, block: dict[str, Any]) -> Iterator[Row]:
    """The variable's row, and those of the fields that its description lists."""
    text, type_ = _described(module, name, block), block["type"].removeprefix("${").removesuffix("}")
    default = _written(block["default"]) if "default" in block else None
    listed = dict(_FIELD.findall(text))
    if not listed:
        yield Row(name, text, type_, default)
        return
    fields = dict(_fields(type_))
    if listed.keys() != fields.keys():
        raise ModuleError(
            f"{module}/variables.tf: {name} describes the fields {', '.join(listed)} "
            f"and has {', '.join(fields)}: describe each field once, as `- name: text`"
        )
    yield Row(name, text.partition("\n")[0], "object", default)
    for field, (field_type, field_default) in fields.items():
        yield Row(f"{name}.{field}", listed[field], field_type, field_default)


def _described(module: Path, name: str, block: dict[str, Any]) -> str:
    if "description" not in block:
        raise ModuleError(f"{module}: {name} has no description: add one")
    return str(block["description"]).replace('\\"', '"').strip()


def _fields(type_: str) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Name, type and default of each field of an object type."""
    for part in _split(type_.removeprefix("object({").removesuffix("})")):
        name, _, field = (word.strip() for word in part.partition("="))
        if field.startswith("optional("):
            inner, *default = _split(field.removeprefix("optional(").removesuffix(")"))
            yield name, (inner, default[0] if default else "null")
        else:
            yield name, (field, None)


def _split(text: str) -> list[str]:
    """At the commas that are outside of brackets and quotation marks."""
    parts, depth, quoted = [""], 0, False
    for character in text:
        quoted ^= character == '"'
        depth += 0 if quoted else (character in "([{") - (character in ")]}")
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _written(value: Any) -> str:
    """A default as it is written in Terraform's language."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_written(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else f'"{value}"' if isinstance(value, str) else str(value)


def _inputs_table(rows: list[Row]) -> str:
    lines = [
        (
            f"`{row.name}`",
            row.description,
            f"`{row.type}`",
            "required" if row.default is None else f"`{row.default}`",
        )
        for row in rows
    ]
    return _table(("name", "description", "type", "default"), lines)


def _outputs_table(rows: list[Row]) -> str:
    if not rows:
        return "None.\n"
    return _table(("name", "description"), [(f"`{row.name}`", row.description) for row in rows])


def _table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    cells = [[re.sub(r"\s+", " ", cell).replace("|", "\\|") for cell in line] for line in (head, *lines)]
    cells.insert(1, ["---"] * len(head))
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def main() -> None:
    try:
        texts = {module / "README.md": readme(module) for module in modules()}
    except (ModuleError, OSError) as error:
        sys.exit(f"error: {error}")
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
