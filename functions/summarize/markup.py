"""Parts of the HTML pages: the whole page, charts, tables. All texts are escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

PAGE = Path(__file__).parent / "page"
_TEXT, _BAD = ' class="text"', ' class="bad"'


def page(title: str, body: str, data: object, script: Path, style: str = "") -> str:
    """A page with `script` at its end, which draws the data; style: rules in addition to style.css."""
    return filled(
        _read("begin.html") + script.read_text(encoding="utf-8"),
        {
            "@@TITLE@@": escaped(title),
            "@@STYLE@@": _read("style.css") + style,
            "@@BODY@@": body,
            "@@DATA@@": embedded(data),
            "@@ECHARTS@@": _read("echarts.min.js"),
            "@@CHARTS@@": _read("charts.js"),
        },
    )


def _read(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def filled(template: str, parts: dict[str, str]) -> str:
    """The template with each mark replaced by its part; `parts` must be in the order of the marks.

    The parts themselves are never searched for marks.
    """
    filled_parts = []
    for mark, part in parts.items():
        before, _, template = template.partition(mark)
        filled_parts += [before, part]
    return "".join([*filled_parts, template])


def chart(name: str, title: str, note: str, kind: str = "") -> str:
    return (
        f'<section><h2>{escaped(title)}</h2><p class="note">{escaped(note)}</p>'
        f'<div class="chart {kind}" id="{name}"></div></section>'
    )


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], bad: bool = False) -> str:
    """A section with a table whose first column holds numbers. Escapes the cells."""
    head = "".join(
        f'<th scope="col"{_TEXT if number else ""}>{escaped(column)}</th>'
        for number, column in enumerate(columns)
    )
    body = "".join(
        f"<tr><td>{escaped(first)}</td>{''.join(f'<td{_TEXT}>{escaped(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return (
        f'<section><h2{_BAD if bad else ""}>{escaped(title)}</h2><div class="scroll"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div></section>"
    )


def escaped(value: object) -> str:
    """The value as HTML text."""
    return html.escape(str(value))


def embedded(content: object) -> str:
    """The content as JSON for a script element, which no string in it can end."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
