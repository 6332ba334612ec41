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

from cosmicai.cli.common import RUN_FAILED, console, interruptible, print_json, tell, tell_error
from cosmicai.printable import printable
from summarize.contract.figures import seconds_text, usd_text

if TYPE_CHECKING:
    from cosmicai.runs.deployment import Run
    from cosmicai.runs.watch import Snapshot

_SHOWN_ERRORS = 5
_SHOWN_CHARACTERS = 300  # of each
_SHOWN_NOTE = 1000  # characters


def follow(run: Run, as_json: bool = False) -> None:
    """Shows a run until it ends; exits with RUN_FAILED if it did not succeed."""
    with interruptible(
        lambda: f"the run continues; come back with {run.command('watch')}, stop it with {run.command('stop')}"
    ):
        last = _shown(run, as_json)
    if as_json:
        print_json(last.to_json())
    else:
        _print_end(last, run)
    if last.status != "SUCCEEDED":
        raise typer.Exit(RUN_FAILED)


def _shown(run: Run, quiet: bool) -> Snapshot:
    states = run.watcher.states()
    if quiet or not console.is_terminal:
        return _shown_in_lines(states, quiet)
    snapshot = next(states)
    with Live(
        screen(snapshot, run), console=console, refresh_per_second=8
    ) as live:  # the spinner turns between looks
        for snapshot in states:
            live.update(screen(snapshot, run))
    return snapshot


def _shown_in_lines(states: Iterator[Snapshot], quiet: bool) -> Snapshot:
    """For logs: a line whenever something has changed."""
    before: tuple[object, ...] = ()
    reported: set[int] = set()
    noted = quiet
    for snapshot in states:
        now = (snapshot.state, snapshot.finished, snapshot.failed)
        if not noted and snapshot.ranks is not None:
            noted = True
            for note in snapshot.notes:
                tell(f"note: {note}", lines=False)
            if snapshot.channel is not None:
                tell(f"collectives: {channel_text(snapshot)}", lines=False)
        if not quiet:
            if now != before:
                tell(_line(snapshot), lines=False)
            for rank in snapshot.errors.keys() - reported:
                tell(f"rank {rank}: {snapshot.errors[rank]}", lines=False)
        before, reported = now, reported | snapshot.errors.keys()
    return snapshot


def _line(snapshot: Snapshot) -> str:
    if snapshot.taken_by is not None:
        return f"{seconds_text(snapshot.seconds):>9}  {snapshot.status}, {snapshot.overwritten_text}"
    parts = [snapshot.state or snapshot.status]
    if snapshot.ranks is not None:
        parts += [ranks_text(snapshot), f"images: {snapshot.images_text}", usd_text(snapshot.usd_so_far)]
    return f"{seconds_text(snapshot.seconds):>9}  {', '.join(parts)}"


def ranks_text(snapshot: Snapshot) -> str:
    """'3 of 12 ranks done, 2 running, 7 waiting': counts of zero are left out."""
    if snapshot.ranks is None:
        return "not planned" if snapshot.ended else "not planned yet"
    others = (("running", snapshot.running), ("waiting", snapshot.pending), ("failed", snapshot.failed))
    counts = [f"{count:,} {word}" for word, count in others if count]
    return ", ".join([f"{snapshot.finished:,} of {snapshot.ranks:,} ranks done", *counts])


def channel_text(snapshot: Snapshot) -> str:
    """'none', or 'none: a single rank has nothing to reduce' where the payload has not named it."""
    return ": ".join(filter(None, (snapshot.channel, snapshot.channel_reason)))


def time_text(snapshot: Snapshot) -> str:
    """The time so far; for a run that has ended, the time in its summary and report."""
    if snapshot.wall_seconds is None:
        return seconds_text(snapshot.seconds)
    return (
        f"{seconds_text(snapshot.wall_seconds)} from start to the last rank's end; "
        f"execution {seconds_text(snapshot.seconds)}"
    )


def screen(snapshot: Snapshot, run: Run) -> Group:
    """All of a snapshot of the run; a spinner turns while it lasts."""
    table = Table(show_header=False, box=None)
    if snapshot.taken_by is not None:
        table.add_row("run", f"{snapshot.name}: {snapshot.status.lower()}")
        table.add_row("time", time_text(snapshot))
        return Group(Text(printable(f"note: {snapshot.overwritten_text}", _SHOWN_NOTE), style="yellow"), table)
    rate = f", {snapshot.images_per_second:,.0f} images/s" if snapshot.images_per_second else ""
    rows = {
        "run": f"{snapshot.name}: {snapshot.status.lower()}"
        + (f", in {snapshot.state}" if snapshot.state else ""),
        "time": time_text(snapshot),
        "ranks": ranks_text(snapshot),
        "images": f"{snapshot.images_text}{rate}, {snapshot.gigabytes_read:.2f} GB read",
        **({} if snapshot.channel is None else {"collectives": printable(channel_text(snapshot), _SHOWN_NOTE)}),
        "cost" if snapshot.ended else "cost so far": f"{usd_text(snapshot.usd_so_far)} at list prices",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    for note in snapshot.cost_notes:
        table.add_row("", printable(note, _SHOWN_NOTE))
    notes = [Text(printable(f"note: {note}", _SHOWN_NOTE), style="yellow") for note in snapshot.notes]
    parts: list[Any] = [*notes, _bar(snapshot), table]
    for rank, message in list(snapshot.errors.items())[:_SHOWN_ERRORS]:
        parts.append(Text(printable(f"rank {rank}: {message}", _SHOWN_CHARACTERS), style="red"))
    if len(snapshot.errors) > _SHOWN_ERRORS:
        parts.append(Text(f"and {len(snapshot.errors) - _SHOWN_ERRORS:,} more ranks", style="red"))
    if snapshot.errors:
        first = next(iter(snapshot.errors))
        parts.append(f"{run.log_command(first)} shows the log of rank {first}")
    return Group(*parts)


def _bar(snapshot: Snapshot) -> Progress:
    """The ranks that are done; without a length until they are planned."""
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn(_share(snapshot))]
    bar = Progress(*([] if snapshot.ended else [SpinnerColumn("line")]), *columns)
    bar.add_task("ranks", total=snapshot.ranks, completed=snapshot.finished, start=snapshot.ranks is not None)
    return bar


def _share(snapshot: Snapshot) -> str:
    return "" if snapshot.ranks is None else f"{snapshot.finished:,}/{snapshot.ranks:,}"


def _print_end(snapshot: Snapshot, run: Run) -> None:
    from summarize.contract.images import ENGINE

    if snapshot.status == "SUCCEEDED" and snapshot.taken_by is not None:
        console.print(f"succeeded, but {snapshot.overwritten_text}")
        return
    if snapshot.status == "SUCCEEDED":
        engine = set(snapshot.images_from) <= {ENGINE}
        kind = "redshifts" if snapshot.are_redshifts else "objects"
        plain = engine and snapshot.copied_images is None
        did = f"{snapshot.images_text} {kind}" if plain else f"images: {snapshot.images_text}"
        took = seconds_text(snapshot.seconds if snapshot.wall_seconds is None else snapshot.wall_seconds)
        console.print(
            Text.assemble(
                ("succeeded", "green"), f": {printable(did)} in {took}, {usd_text(snapshot.usd_so_far)}"
            )
        )
        for note in snapshot.cost_notes:
            console.print(f"cost: {note}")
        console.print(f"download the results with {run.command('results')}; they are in {snapshot.result}")
        return
    tell_error(snapshot.fault)
    if snapshot.failed or (snapshot.ranks or 0) > snapshot.finished:
        tell_error(f"what was computed is kept; {run.command('resume')} runs only the missing ranks")
