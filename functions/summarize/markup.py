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
        f'<section><h2>{escaped(title)}</h2><p class="note">{escaped(note).replace(" %", "&nbsp;%")}</p>'
        f'<div class="chart {kind}" id="{name}"></div></section>'
    )


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    bad: bool = False,
    numbers: slice = slice(1),
    note: str = "",
) -> str:
    """A section with a table. Escapes the cells. numbers: the columns that hold numbers, by default the first."""
    kinds = [_TEXT] * len(columns)
    kinds[numbers] = [""] * len(kinds[numbers])
    head = "".join(
        f'<th scope="col"{kind}>{escaped(column)}</th>' for kind, column in zip(kinds, columns, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{wrapped(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))}</tr>"
        for row in rows
    )
    return (
        f'{_heading(title, note, bad)}<div class="scroll"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div></section>"
    )


def facts(title: str, rows: Iterable[tuple[str, str]], bad: bool = False) -> str:
    """A section with a name and a value a line. Escapes both."""
    body = "".join(
        f'<tr><th scope="row">{escaped(name)}</th><td{_TEXT}>{wrapped(value)}</td></tr>' for name, value in rows
    )
    return f'{_heading(title, "", bad)}<table class="facts"><tbody>{body}</tbody></table></section>'


def _heading(title: str, note: str, bad: bool) -> str:
    """The beginning of a section."""
    explained = f'<p class="note">{escaped(note)}</p>' if note else ""
    return f"<section><h2{_BAD if bad else ''}>{escaped(title)}</h2>{explained}"


def escaped(value: object) -> str:
    """The value as HTML text."""
    return html.escape(str(value))


def wrapped(value: object) -> str:
    """The value as HTML text whose lines may end after a slash, as in long paths."""
    return escaped(value).replace("/", "/<wbr>")


def embedded(content: object) -> str:
    """The content as JSON for a script element, which no string in it can end."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
