"""Refuses phrases that scripts/prose.toml lists, long sentences and broken tables: python scripts/prose.py

Reads the prose of the documentation: code blocks, code words and addresses are left out. Of the Python sources
it reads comments and strings, for phrases only. Prints one line per fault. Exits with 1 if there is any.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "scripts" / "prose.toml"
_CODE_BLOCK = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_CODE_WORD = re.compile(r"`[^`\n]*`")
_ADDRESS = re.compile(r"(?<=\]\()[^)]*(?=\))|https?://\S+")
_BREAK = re.compile(r"\n\s*\n|^ *(?:[-*:]|\d+\.) |^#+ .*$|\||(?<=[.:;?!])\s", re.MULTILINE)
"""Between sentences: an empty line, a list item, a heading, a table's cell, a full stop, colon or semicolon."""
_TABLE_RULE = re.compile(r"\|(?: *:?-+:? *\|)+")
_CELL_END = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Fault:
    """A place in a page and what is wrong there."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def prose(text: str) -> str:
    """The text with everything that is not prose as blanks, so that lines and columns stay."""
    for pattern in (_CODE_BLOCK, _CODE_WORD, _ADDRESS):
        text = pattern.sub(_blanked, text)
    return text


def comments(source: str) -> str:
    """The comments and strings of a Python source, at their places, with blanks for everything else."""
    lines = source.splitlines(keepends=True)
    kept = [re.sub(r"[^\n]", " ", line) for line in lines]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (tokenize.COMMENT, tokenize.STRING):
            continue
        for number in range(token.start[0] - 1, token.end[0]):
            start = token.start[1] if number == token.start[0] - 1 else 0
            end = token.end[1] if number == token.end[0] - 1 else len(lines[number])
            kept[number] = kept[number][:start] + lines[number][start:end] + kept[number][end:]
    return "".join(kept)


def phrases(page: str, words: str, rules: dict[str, Any]) -> Iterator[Fault]:
    """The listed phrases; one may be broken across lines."""
    for pattern, remedy in rules["phrases"].items():
        for match in re.finditer(pattern.replace(" ", r"\s+"), words, re.IGNORECASE):
            said = " ".join(match.group().split())
            yield Fault(page, words.count("\n", 0, match.start()) + 1, f"{said!r}: write {remedy}")


def long_sentences(page: str, words: str, longest: int) -> Iterator[Fault]:
    """Sentences of more than `longest` words."""
    start = 0
    for end in (*(match.end() for match in _BREAK.finditer(words)), len(words)):
        sentence = words[start:end]
        count = len(re.findall(r"[\w·]+(?:[-'’.,/][\w·]+)*", sentence))
        if count > longest:
            blank = len(sentence) - len(sentence.lstrip())
            line = words.count("\n", 0, start + blank) + 1
            yield Fault(page, line, f"a sentence of {count} words: use at most {longest}")
        start = end


def broken_tables(page: str, text: str) -> Iterator[Fault]:
    """Rows of a table that do not have its columns: such as a row that was broken into two lines."""
    columns = 0
    for number, line in enumerate(_CODE_BLOCK.sub(_blanked, text).splitlines(), 1):
        cells = len(_CELL_END.findall(line.strip())) - 1
        if _TABLE_RULE.fullmatch(line.strip()):
            columns = cells
        elif not line.strip():
            columns = 0
        elif columns and (cells != columns or not line.strip().endswith("|")):
            yield Fault(page, number, f"this line is not a row of the table's {columns} columns")


def _blanked(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", "·", match.group())


def main() -> int:
    rules = tomllib.loads(RULES.read_text())
    wrong: list[Fault] = []
    for path in _matching(rules["pages"]):
        text = path.read_text()
        page, words = path.relative_to(ROOT).as_posix(), prose(text)
        wrong += broken_tables(page, text)
        if page not in rules["generated"]:
            wrong += [*phrases(page, words, rules), *long_sentences(page, words, rules["longest_sentence"])]
    for path in _matching(rules["code"]):
        page = path.relative_to(ROOT).as_posix()
        if page not in rules["quoting"]:
            wrong += phrases(page, comments(path.read_text()), rules)
    for fault in wrong:
        print(fault)
    return 1 if wrong else 0


def _matching(patterns: list[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


if __name__ == "__main__":
    sys.exit(main())
