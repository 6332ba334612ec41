"""What the commands share: the console, options, and the way to a deployment."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from cosmicai.packaging import ROOT
from cosmicai.printable import printable

CACHE = ROOT / ".cosmicai" / "cache"
Cache = Annotated[Path, typer.Option(help="Where the catalogue and rendered galaxies are kept.")]
Team = Annotated[
    str | None, typer.Option(help="The team whose deployment is meant; not needed where there is one.")
]
Local = Annotated[bool, typer.Option("--local", help="The embedded AWS of `cosmicai local up`.")]
Profile = Annotated[str | None, typer.Option(help="AWS profile; default: the usual environment.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print data as JSON, for scripts.")]
_LONGEST_MESSAGE = 40_000  # characters; Step Functions cuts causes at 32,768


class _InertConsole(Console):
    """Shows strings as they are: no markup, no emoji codes, nothing that a terminal would obey.

    Colours are given as styles. Text objects are taken as they are: make foreign text `printable` first.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, _LONGEST_MESSAGE, lines=True), **options)


console = _InertConsole()


def tell(text: str, lines: bool = True) -> None:
    """A text on standard output, as it is but printable."""
    print(printable(text, _LONGEST_MESSAGE, lines), flush=True)


def tell_error(text: str, lines: bool = True) -> None:
    """The same on standard error."""
    print(printable(text, _LONGEST_MESSAGE, lines), file=sys.stderr)


def print_json(content: Any) -> None:
    """On standard output, without colours or wrapping."""
    print(json.dumps(content, indent=1))
