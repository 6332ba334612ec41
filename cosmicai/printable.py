"""Foreign text, such as keys, causes and log lines, as text that a terminal shows and does not obey."""

from __future__ import annotations

_LONGEST = 4000  # characters of one text
_ESCAPED = {"\t": "    ", "\xa0": " "}  # Lambda's tracebacks are indented with the latter


def printable(text: object, longest: int = _LONGEST, lines: bool = False) -> str:
    """The text with everything that is not printable in Python's escapes, cut in the middle to `longest`.

    Not printable are control characters, of which escape sequences are made, the characters that change the
    direction of text (https://www.unicode.org/reports/tr9, section 2), other invisible ones, and lone
    surrogates. lines: keep line breaks.
    """
    shown = str(text)
    if len(shown) > longest:
        shown = f"{shown[: longest // 2]} … {shown[len(shown) - longest // 2 :]}"
    kept = "\n" if lines else ""
    if shown.isprintable():
        return shown
    return "".join(one if one.isprintable() or one in kept else _escaped(one) for one in shown)


def _escaped(character: str) -> str:
    return _ESCAPED.get(character) or character.encode("unicode_escape").decode()
