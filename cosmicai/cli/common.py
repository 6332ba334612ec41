"""What the commands share: the console, tables, and options."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, ConsoleDimensions, RenderableType
from rich.table import Column, Table
from rich.text import Text

from cosmicai.cli import values
from cosmicai.cli.paths import OutFolder
from cosmicai.packaging.places import STATE
from cosmicai.printable import printable

if TYPE_CHECKING:
    from cosmicai.runs.deployment import Deployment

RUN_FAILED = 3  # exit status of a command that followed a run which failed
INTERRUPTED = 130  # of one that Ctrl-C ended
FROM_THE_START = "the same command starts again from the beginning"
CACHE = STATE / "cache"
Cache = Annotated[
    Path, typer.Option(parser=OutFolder(), help="Folder that keeps the catalogue and rendered galaxies.")
]
Team = Annotated[
    str | None,
    typer.Option(parser=values.TEAM, help="Team of the deployment; not needed if there is only one."),
]
Local = Annotated[bool, typer.Option("--local", help="Use the embedded AWS of `cosmicai local up`.")]
Profile = Annotated[
    str | None,
    typer.Option(parser=values.Text("the name of a profile"), help="AWS profile; default: the environment's."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
RunName = Annotated[
    str | None, typer.Argument(parser=values.RUN, help="Name or ARN of the run; default: the latest.")
]
_LONGEST_MESSAGE = 40_000  # characters; Step Functions cuts causes at 32,768
_PIPED_WIDTH = 10_000  # of a line that no terminal breaks
_FOLDED_WIDTH = 20  # of a text that is folded in a table


class _InertConsole(Console):
    """Shows strings as they are: no markup, no emoji codes, nothing that a terminal would obey.

    Colours are given as styles. Text objects are printed unchanged: make foreign text `printable` first. In a
    pipe or a file, lines are as long as they need to be.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, _LONGEST_MESSAGE, lines=True), **options)

    @property  # type: ignore[misc]  # the width is never set
    def size(self) -> ConsoleDimensions:
        dimensions = super().size
        return dimensions if self.is_terminal else ConsoleDimensions(_PIPED_WIDTH, dimensions.height)

    def print_table(self, table: Table) -> None:
        """Prints a table without cutting anything.

        It folds texts, but no column that is `no_wrap`. A table that is still too wide has no lines, and if
        even that is too wide, each row is a list.
        """
        least = sum(_least_width(self, column) for column in table.columns)
        if least + 3 * len(table.columns) + 1 > self.width:
            if least + len(table.columns) > self.width:
                self.print(_as_lists(table))
                return
            table.box, table.padding, table.pad_edge = None, (0, 1, 0, 0), False
        for column in table.columns:
            column.overflow, column.no_wrap = "fold", _is_whole(column)
        self.print(table)


def _is_whole(column: Column) -> bool:
    """Whether its cells stay in a line: numbers, which are right-aligned, and names."""
    return column.no_wrap or column.justify == "right"


def _least_width(console: Console, column: Column) -> int:
    """The least width of a column: numbers and names stay whole; texts may be folded."""
    cells = [console.measure(cell) for cell in (column.header, *column.cells)]
    if _is_whole(column):
        return max(cell.maximum for cell in cells)
    return min(_FOLDED_WIDTH, max(cell.minimum for cell in cells))


def _as_lists(table: Table) -> Text:
    """A line for each cell, after its column's name; a blank line between rows."""
    names = [" ".join(_plain(column.header).split()) for column in table.columns]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    blocks = (
        "\n".join(
            f"{name}: {_plain(cell)}" if name else _plain(cell) for name, cell in zip(names, row, strict=True)
        )
        for row in rows
    )
    title = [_plain(table.title)] if table.title else []
    return Text("\n\n".join([*title, *blocks]), overflow="fold")


def _plain(cell: RenderableType) -> str:
    return cell.plain if isinstance(cell, Text) else printable(cell, _LONGEST_MESSAGE, lines=True)


console = _InertConsole()


def deployment(team: str | None, local: bool, profile: str | None) -> Deployment:
    """The deployment that the options name. Raises TargetError."""
    from cosmicai.runs.deployment import Deployment

    return Deployment(team, local=local, profile=profile)


def tell(text: str, lines: bool = True) -> None:
    """Prints a text on standard output; what is not printable is escaped."""
    print(printable(text, _LONGEST_MESSAGE, lines), flush=True)


def tell_error(text: str, lines: bool = True) -> None:
    """The same on standard error."""
    print(printable(text, _LONGEST_MESSAGE, lines), file=sys.stderr)


@contextmanager
def interruptible(remains: Callable[[], str] | str = "") -> Iterator[None]:
    """On Ctrl-C, says so and what remains, and ends the command with status 130."""
    try:
        yield
    except KeyboardInterrupt as error:
        said = remains if isinstance(remains, str) else remains()
        tell_error(f"\ninterrupted: {said}" if said else "\ninterrupted")
        raise typer.Exit(INTERRUPTED) from error


def print_json(content: Any) -> None:
    """Prints JSON on standard output, without colours or wrapping."""
    print(json.dumps(content, indent=1))
