"""What a run shows while it is followed."""

from __future__ import annotations

import pytest
from rich.console import Console

from cosmicai.cli.following import _shown_in_lines, screen
from cosmicai.deploy.target import Target
from cosmicai.runs.deployment import Deployment, Run
from cosmicai.runs.watch import Snapshot

NOTES = ["2 files in s3://b/25MB/ are left out (hidden: ._1.pt; empty: \x1b[2J.pt)"]

DEPLOYMENT = Deployment.__new__(Deployment)
DEPLOYMENT.target = Target("team3", "b", "arn:aws:states:us-east-1:123456789012:stateMachine:team3", None)
RUN = Run(DEPLOYMENT, "run-1")


def _snapshot(
    status: str, ranks: int | None = None, finished: int = 0, notes: list[str] | None = None
) -> Snapshot:
    return Snapshot(
        "run-1", status, "Ranks", "now", 1.0, "s3://b/r", ranks=ranks, finished=finished, notes=notes or []
    )


def test_the_first_lines_say_what_a_run_does_not_take(capsys: pytest.CaptureFixture[str]) -> None:
    planned = [_snapshot("RUNNING", 3, finished, NOTES) for finished in (0, 1)]
    _shown_in_lines(iter([_snapshot("RUNNING"), *planned, _snapshot("SUCCEEDED", 3, 3, NOTES)]), quiet=False)
    lines = capsys.readouterr().out.splitlines()
    assert [
        number for number, line in enumerate(lines) if line.startswith("note: 2 files in s3://b/25MB/")
    ] == [1]
    assert "1 of 3 ranks done" in lines[2]
    assert "\x1b" not in "".join(lines)


def test_the_screen_begins_with_the_notes() -> None:
    console = Console(width=120)
    with console.capture() as shown:
        console.print(screen(_snapshot("RUNNING", 3, notes=NOTES), RUN))
    assert shown.get().startswith("note: 2 files in s3://b/25MB/ are left out (hidden: ._1.pt;")
    assert "\x1b[2J" not in shown.get()


def test_the_channel_that_was_chosen_is_shown_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    planned = _snapshot("RUNNING", 3)
    planned.channel, planned.channel_reason = "none", "the smallest product \x1b[2J of time and cost"
    _shown_in_lines(iter([_snapshot("RUNNING"), planned, planned]), quiet=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("collectives: ")] == [
        "collectives: none: the smallest product \\x1b[2J of time and cost"
    ]
    console = Console(width=120)
    with console.capture() as shown:
        console.print(screen(planned, RUN))
    assert "none: the smallest product \\x1b[2J of time and cost" in shown.get()
    with console.capture() as shown:
        console.print(screen(_snapshot("RUNNING"), RUN))
    assert "collectives" not in shown.get()
