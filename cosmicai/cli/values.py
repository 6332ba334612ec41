"""What arguments and options may hold: numbers and texts.

Each kind of value is a callable for Typer's `parser`: it returns the value of a text, or raises Refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from cosmicai.printable import printable

if TYPE_CHECKING:
    from cosmicai.runs.shares import Share

_SHOWN = 80  # characters of a value in a message
_LONGEST_NUMBER = 40  # characters
_WHOLE = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Refused(typer.BadParameter):
    """A value that an option does not accept; `remedy` says what is wrong or what to give.

    option: its name, if Typer does not know it because the command itself refuses the value.
    """

    def __init__(self, value: object, remedy: str, option: str | None = None) -> None:
        super().__init__(f"{shown(value)}: {remedy}", param_hint=option)


def shown(value: object) -> str:
    """A value in a message: short and printable, in quotation marks if a reader could miss it."""
    text = str(value)
    return printable(text, _SHOWN) if re.fullmatch(r"[^\s'\"]+", text) else repr(printable(text, _SHOWN))


@dataclass(frozen=True)
class Number:
    """A finite number from `least` to `most`; `above`: greater than `least`."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    whole: bool = False

    def __call__(self, value: object) -> Any:
        text = str(value)
        if not self._pattern.fullmatch(text) or len(text) > _LONGEST_NUMBER:
            raise Refused(value, f"give {self.allowed}")
        number = int(text) if self.whole else float(text)
        if not self.least <= number <= self.most or (self.above and number == self.least):
            raise Refused(value, f"give {self.allowed}")
        if not math.isfinite(number):  # 1e999
            raise Refused(value, f"give {self.allowed}")
        return number

    @property
    def _pattern(self) -> re.Pattern[str]:
        return _WHOLE if self.whole else _DECIMAL

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        kind = "a whole number" if self.whole else "a number"
        low, high = f"{self.least:,g}", f"{self.most:,.12g}"
        if math.isinf(self.least):
            return "a finite number"
        if self.above:
            return f"{kind} above {low}" + ("" if math.isinf(self.most) else f", at most {high}")
        return f"{kind} of at least {low}" if math.isinf(self.most) else f"{kind} from {low} to {high}"


def whole(least: int, most: int) -> Number:
    """A whole number from `least` to `most`."""
    return Number(least, most, whole=True)


@dataclass(frozen=True)
class ShareOf:
    """I/N: share I, counted from 0, of N."""

    def __call__(self, value: object) -> Share:
        from cosmicai.runs.shares import Share
        from initialize.contract.limits import MOST_RANKS

        number, _, of = str(value).partition("/")
        try:
            share = Share(whole(0, MOST_RANKS)(number), whole(1, MOST_RANKS)(of))
        except Refused as error:
            raise Refused(value, "give I/N: share I, counted from 0, of N, such as 0/16") from error
        if share.number >= share.of:
            raise Refused(value, f"shares are counted from 0: give 0/{share.of} to {share.of - 1}/{share.of}")
        return share


class NumberList(tuple[float, ...]):
    """Numbers that are written with commas between them."""

    def __str__(self) -> str:
        return ",".join(f"{number:g}" for number in self)


@dataclass(frozen=True)
class Numbers:
    """Several numbers with commas; `once`: each once."""

    item: Number
    most: int = 100  # numbers
    once: bool = True

    def __call__(self, value: object) -> NumberList:
        texts = str(value).split(",")
        try:
            numbers = NumberList(self.item(text.strip()) for text in texts)
        except Refused as error:
            raise Refused(value, f"give {self.allowed}") from error
        if len(numbers) > self.most:
            raise Refused(value, f"give at most {self.most} numbers")
        return NumberList(dict.fromkeys(numbers)) if self.once else numbers

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        return f"numbers with commas, each {self.item.allowed}"


@dataclass(frozen=True)
class Text:
    """Printable text of at most `most` characters that matches `pattern`, if there is one."""

    allowed: str = "text"
    pattern: str | None = None
    most: int = 200

    def __call__(self, value: object) -> str:
        text = str(value)
        if not text.strip():
            raise Refused(value, f"is empty; give {self.allowed}")
        if not text.isprintable() or len(text) > self.most:
            raise Refused(value, f"give {self.allowed} of at most {self.most} printable characters")
        if self.pattern is not None and not re.fullmatch(self.pattern, text):
            raise Refused(value, f"give {self.allowed}")
        return text


_NAME = r"[A-Za-z0-9._-]"
TEAM = Text(
    "2 to 32 lower-case letters, digits and hyphens, the first a letter", r"[a-z][a-z0-9-]{0,30}[a-z0-9]"
)
NEW_RUN = Text("1 to 80 letters, digits, dots, hyphens and underscores", f"{_NAME}{{1,80}}")
RUN = Text("the name or the ARN of a run; `cosmicai list` has them", rf"{_NAME}{{1,80}}|arn:[^\s]+", most=400)
PAIR = Text("NAME=VALUE", r"[^=\s][^=]*=.*", most=4000)
PACKAGE = Text(
    "NAME==VERSION, or 'NAME==VERSION --no-deps'",
    r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?==[0-9][A-Za-z0-9.!+_-]*( --no-deps)?",
)


class NameList(tuple[str, ...]):
    """Names that are written with commas between them."""

    def __str__(self) -> str:
        return ",".join(self)


@dataclass(frozen=True)
class Names:
    """Several names with commas, each once."""

    allowed: str = "names with commas"

    def __call__(self, value: object) -> NameList:
        names = NameList(part.strip() for part in str(value).split(","))
        printing = all(name and name.isprintable() and len(name) <= _SHOWN for name in names)
        if not printing or len(set(names)) < len(names):
            raise Refused(value, f"give {self.allowed}, each once")
        return names


@dataclass(frozen=True)
class Choices:
    """Some of a few names, with commas."""

    names: tuple[str, ...]

    def __call__(self, value: object) -> NameList:
        chosen = Names()(value)
        if not set(chosen) <= set(self.names):
            raise Refused(value, f"give {' or '.join(self.names)}, or several with commas")
        return chosen


@dataclass(frozen=True)
class Prefix:
    """A folder in a bucket, by the rules of the payload's data_prefix."""

    def __call__(self, value: object) -> str:
        from initialize.payload import schema

        rule, text = schema()["properties"]["data_prefix"], str(value)
        if "\n" in text or not re.search(rule["pattern"], text) or len(text.encode()) > rule["x-most-bytes"]:
            raise Refused(value, f"give {rule['x-allowed']}")
        return text.rstrip("/")
