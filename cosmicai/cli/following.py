"""A run on the terminal while it runs: one screen that changes, or lines for a log."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from cosmicai.cli.common import console, print_json, tell, tell_error
from cosmicai.printable import printable

if TYPE_CHECKING:
    from cosmicai.target import Target
    from cosmicai.watch import Snapshot, Watcher

RUN_FAILED = 3  # exit status of a command that followed a run which failed
_SHOWN_ERRORS = 5
_SHOWN_CHARACTERS = 300  # of each


def follow(target: Target, arn: str, as_json: bool = False) -> None:
    """Shows a run until it ends; exits with RUN_FAILED where it did not succeed."""
    from cosmicai.watch import Watcher

    watcher = Watcher(target, arn)
    try:
        last = _shown(watcher, as_json)
    except KeyboardInterrupt:
        name = arn.rpartition(":")[2]
        tell_error(
            f"\nthe run goes on; come back with `cosmicai watch {name}`, end it with `cosmicai stop {name}`"
        )
        raise typer.Exit(130) from None
    if as_json:
        print_json(last.to_json())
    else:
        _print_end(last)
    if last.status != "SUCCEEDED":
        raise typer.Exit(RUN_FAILED)


def _shown(watcher: Watcher, quiet: bool) -> Snapshot:
    from cosmicai.watch import POLL_SECONDS

    if quiet or not console.is_terminal:
        return _shown_in_lines(watcher, quiet, POLL_SECONDS)
    found = watcher.look()
    with Live(screen(found), console=console, refresh_per_second=4) as live:
        while not found.ended:
            time.sleep(POLL_SECONDS)
            found = watcher.look()
            live.update(screen(found))
    return found


def _shown_in_lines(watcher: Watcher, quiet: bool, pause: float) -> Snapshot:
    """For logs: a line whenever something has changed."""
    before: tuple[object, ...] = ()
    told: set[int] = set()
    while True:
        found = watcher.look()
        now = (found.state, found.done, found.failed)
        if not quiet:
            if now != before:
                tell(_line(found), lines=False)
            for rank in found.errors.keys() - told:
                tell(f"rank {rank}: {found.errors[rank]}", lines=False)
        before, told = now, told | found.errors.keys()
        if found.ended:
            return found
        time.sleep(pause)


def _line(found: Snapshot) -> str:
    ranks = "" if found.ranks is None else f", {found.done}/{found.ranks} ranks"
    failed = f", {found.failed} failed" if found.failed else ""
    state = found.state or found.status
    return (
        f"{found.seconds:7.1f} s  {state}{ranks}{failed}, images: {found.images_text}, ${found.usd_so_far:.4f}"
    )


def screen(found: Snapshot) -> Group:
    bar = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    bar.add_task("ranks", total=found.ranks, completed=found.done)
    table = Table(show_header=False, box=None)
    rate = "" if found.images_per_second is None else f", {found.images_per_second:,.0f}/s"
    rows = {
        "run": f"{found.name}: {found.status}" + (f", in {found.state}" if found.state else ""),
        "time": f"{found.seconds:,.1f} s",
        "ranks": ", ".join(
            f"{count} {word}"
            for word, count in (
                ("done", found.done), ("failed", found.failed),
                ("running", found.running), ("pending", found.pending),
            )
            if count is not None
        ),
        "images": f"{found.images_text}{rate}, {found.gigabytes_read:.2f} GB read",
        "cost so far": f"${found.usd_so_far:.4f}",
    }  # fmt: skip
    for name, value in rows.items():
        table.add_row(name, value)
    parts: list[Any] = [bar, table]
    for rank, message in list(found.errors.items())[:_SHOWN_ERRORS]:
        parts.append(Text(printable(f"rank {rank}: {message}", _SHOWN_CHARACTERS), style="red"))
    if found.errors:
        first = next(iter(found.errors))
        parts.append(f"its log: cosmicai logs {first} --run {found.name}")
    return Group(*parts)


def _print_end(found: Snapshot) -> None:
    from summarize.infos import ENGINE

    if found.status == "SUCCEEDED":
        engine = set(found.images_from) <= {ENGINE}
        did = f"{found.images_text} redshifts" if engine else f"images: {found.images_text}"
        console.print(Text.assemble(("succeeded", "green"), f": {printable(did)}, ${found.usd_so_far:.4f}"))
        console.print(f"fetch them with `cosmicai results {found.name}`; they are in {found.result}")
        return
    cause = found.cause
    with suppress(ValueError, AttributeError):  # Lambda's JSON, whose message is what matters
        cause = json.loads(cause).get("errorMessage", cause)
    tell_error(": ".join(str(part) for part in (found.status.lower(), found.error, cause) if part))
    if found.failed or (found.ranks or 0) > found.done:
        tell_error(f"what was computed is kept; `cosmicai resume {found.name}` runs the missing ranks alone")
