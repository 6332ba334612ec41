"""A run on the terminal while it runs: one screen that changes, or lines for a log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from cosmicai.cli.common import RUN_FAILED, console, print_json, tell, tell_error
from cosmicai.printable import printable
from summarize.figures import seconds_text, usd_text

if TYPE_CHECKING:
    from cosmicai.runs.deployment import Run
    from cosmicai.runs.watch import Snapshot, Watcher

_SHOWN_ERRORS = 5
_SHOWN_CHARACTERS = 300  # of each
_SHOWN_NOTE = 1000  # characters


def follow(run: Run, as_json: bool = False) -> None:
    """Shows a run until it ends; exits with RUN_FAILED if it did not succeed."""
    try:
        last = _shown(run.watcher, as_json)
    except KeyboardInterrupt as error:
        tell_error(
            f"\nthe run continues; come back with `cosmicai watch {run.name}`, stop it with "
            f"`cosmicai stop {run.name}`"
        )
        raise typer.Exit(130) from error
    if as_json:
        print_json(last.to_json())
    else:
        _print_end(last)
    if last.status != "SUCCEEDED":
        raise typer.Exit(RUN_FAILED)


def _shown(watcher: Watcher, quiet: bool) -> Snapshot:
    states = watcher.states()
    if quiet or not console.is_terminal:
        return _shown_in_lines(states, quiet)
    found = next(states)
    with Live(screen(found), console=console, refresh_per_second=8) as live:  # the spinner turns between looks
        for found in states:
            live.update(screen(found))
    return found


def _shown_in_lines(states: Iterator[Snapshot], quiet: bool) -> Snapshot:
    """For logs: a line whenever something has changed."""
    before: tuple[object, ...] = ()
    told: set[int] = set()
    noted = quiet
    for found in states:
        now = (found.state, found.done, found.failed)
        if not noted and found.ranks is not None:
            noted = True
            for note in found.notes:
                tell(f"note: {note}", lines=False)
        if not quiet:
            if now != before:
                tell(_line(found), lines=False)
            for rank in found.errors.keys() - told:
                tell(f"rank {rank}: {found.errors[rank]}", lines=False)
        before, told = now, told | found.errors.keys()
    return found


def _line(found: Snapshot) -> str:
    if found.taken_by is not None:
        return f"{seconds_text(found.seconds):>9}  {found.status}, {found.taken_text}"
    parts = [found.state or found.status]
    if found.ranks is not None:
        parts += [ranks_text(found), f"images: {found.images_text}", usd_text(found.usd_so_far)]
    return f"{seconds_text(found.seconds):>9}  {', '.join(parts)}"


def ranks_text(found: Snapshot) -> str:
    """'3 of 12 ranks done, 2 running, 7 waiting': counts of zero are left out."""
    if found.ranks is None:
        return "not planned" if found.ended else "not planned yet"
    others = (("running", found.running), ("waiting", found.pending), ("failed", found.failed))
    told = [f"{count:,} {word}" for word, count in others if count]
    return ", ".join([f"{found.done:,} of {found.ranks:,} ranks done", *told])


def time_text(found: Snapshot) -> str:
    """The time so far; of a run that has ended, the one of its summary and report."""
    if found.wall_seconds is None:
        return seconds_text(found.seconds)
    return (
        f"{seconds_text(found.wall_seconds)} from the run's start to its last rank's end; "
        f"execution {seconds_text(found.seconds)}"
    )


def screen(found: Snapshot) -> Group:
    """All of a snapshot; a spinner turns while the run lasts."""
    table = Table(show_header=False, box=None)
    if found.taken_by is not None:
        table.add_row("run", f"{found.name}: {found.status.lower()}")
        table.add_row("time", time_text(found))
        return Group(Text(printable(f"note: {found.taken_text}", _SHOWN_NOTE), style="yellow"), table)
    rate = f", {found.images_per_second:,.0f} images/s" if found.images_per_second else ""
    rows = {
        "run": f"{found.name}: {found.status.lower()}" + (f", in {found.state}" if found.state else ""),
        "time": time_text(found),
        "ranks": ranks_text(found),
        "images": f"{found.images_text}{rate}, {found.gigabytes_read:.2f} GB read",
        "cost" if found.ended else "cost so far": f"{usd_text(found.usd_so_far)} at list prices",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    for note in found.cost_notes:
        table.add_row("", printable(note, _SHOWN_NOTE))
    notes = [Text(printable(f"note: {note}", _SHOWN_NOTE), style="yellow") for note in found.notes]
    parts: list[Any] = [*notes, _bar(found), table]
    for rank, message in list(found.errors.items())[:_SHOWN_ERRORS]:
        parts.append(Text(printable(f"rank {rank}: {message}", _SHOWN_CHARACTERS), style="red"))
    if len(found.errors) > _SHOWN_ERRORS:
        parts.append(Text(f"and {len(found.errors) - _SHOWN_ERRORS:,} more ranks", style="red"))
    if found.errors:
        first = next(iter(found.errors))
        parts.append(f"see its log: cosmicai logs {first} --run {found.name}")
    return Group(*parts)


def _bar(found: Snapshot) -> Progress:
    """The ranks that are done; without a length until they are planned."""
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn(_share(found))]
    bar = Progress(*([] if found.ended else [SpinnerColumn("line")]), *columns)
    bar.add_task("ranks", total=found.ranks, completed=found.done, start=found.ranks is not None)
    return bar


def _share(found: Snapshot) -> str:
    return "" if found.ranks is None else f"{found.done:,}/{found.ranks:,}"


def _print_end(found: Snapshot) -> None:
    from summarize.contract.images import ENGINE

    if found.status == "SUCCEEDED" and found.taken_by is not None:
        console.print(f"succeeded, but {found.taken_text}")
        return
    if found.status == "SUCCEEDED":
        engine = set(found.images_from) <= {ENGINE}
        did = f"{found.images_text} redshifts" if engine else f"images: {found.images_text}"
        took = seconds_text(found.seconds if found.wall_seconds is None else found.wall_seconds)
        console.print(
            Text.assemble(("succeeded", "green"), f": {printable(did)} in {took}, {usd_text(found.usd_so_far)}")
        )
        for note in found.cost_notes:
            console.print(f"cost: {note}")
        console.print(f"download the results with `cosmicai results {found.name}`; they are in {found.result}")
        return
    tell_error(found.fault)
    if found.failed or (found.ranks or 0) > found.done:
        tell_error(f"what was computed is kept; `cosmicai resume {found.name}` runs only the missing ranks")
