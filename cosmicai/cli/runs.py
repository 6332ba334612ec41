"""Commands on runs: start, watch, list, download, resume, stop."""

from __future__ import annotations

import os
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from cosmicai.cli.common import (
    AsJson,
    Local,
    Profile,
    RunName,
    Team,
    console,
    deployment,
    interruptible,
    print_json,
    tell,
)
from cosmicai.cli.following import follow, screen
from cosmicai.cli.paths import JsonFile
from cosmicai.cli.values import NEW_RUN, PAIR, RUN, whole
from cosmicai.printable import printable
from summarize.contract.limits import MOST_RANKS

if TYPE_CHECKING:
    from cosmicai.runs.deployment import Run

app = typer.Typer()


@app.command()
def run(
    payload: Annotated[
        Path,
        typer.Argument(parser=JsonFile(), help="JSON file, as `aws stepfunctions start-execution` takes it."),
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", parser=PAIR, metavar="FIELD=VALUE", help="Overrides a field; repeatable."),
    ] = None,
    repeat_data: Annotated[
        int | None,
        typer.Option(
            parser=whole(1, MOST_RANKS),
            help="Compute every partition this many times, for runs larger than the data; sets repeat_data.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(parser=NEW_RUN, help="Name of the run; default: the name of the file and the time."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start it and return.")] = False,
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Starts a run and watches it until it ends; Ctrl-C leaves it running.

    The payload is checked before anything starts. If it names no bucket, the deployment's is used. The exit
    status is 0 if the run succeeded, 3 if it failed, and 1 if it could not be started.

    Example: cosmicai run payloads/demo.json --team team3 --set batch_size=512 --set file_limit=4
    """
    changes = dict(change.partition("=")[::2] for change in set_ or [])
    fields: dict[str, object] = {
        field: {"true": True, "false": False}.get(value, value) for field, value in changes.items()
    }
    if repeat_data is not None:
        if "repeat_data" in fields:
            raise typer.BadParameter("give one of --repeat-data and --set repeat_data=…")
        fields["repeat_data"] = repeat_data
    place = deployment(team, local, profile)
    with interruptible(lambda: f"{place.target.command('list')} shows whether the run has started"):
        started = place.run(payload, name, fields)
    if detach:
        _print_started(started, as_json)
        return
    follow(started, as_json)


def _print_started(run: Run, as_json: bool) -> None:
    if as_json:
        print_json({"name": run.name, "arn": run.arn})
    else:
        console.print(f"{run.name} is running; follow it with {run.command('watch')}")


@app.command()
def watch(
    name: RunName = None,
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Watches a run until it ends; Ctrl-C leaves it running.

    Example: cosmicai watch demo-20261122-101500
    """
    follow(deployment(team, local, profile).find(name), as_json)


@app.command()
def status(
    name: RunName = None,
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Shows the state of a run once.

    Example: cosmicai status --json
    """
    run = deployment(team, local, profile).find(name)
    snapshot = run.state()
    if as_json:
        print_json(snapshot.to_json())
    else:
        console.print(screen(snapshot, run))


@app.command("list")
def list_runs(
    limit: Annotated[int, typer.Option(parser=whole(1, 1000), help="Number of runs.")] = 20,
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Lists the runs of a deployment, the latest first.

    Example: cosmicai list --team team3
    """
    rows = [
        {
            "name": execution["name"],
            "status": execution["status"],
            "started": execution["startDate"].astimezone(UTC).isoformat(timespec="seconds"),
            "seconds": round((execution["stopDate"] - execution["startDate"]).total_seconds(), 1)
            if execution.get("stopDate")
            else None,
        }
        for execution in deployment(team, local, profile).runs(limit)
    ]
    if as_json:
        print_json(rows)
        return
    table = Table()
    for column in ("run", "status", "started, UTC", "execution, s"):
        number = column == "execution, s"
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        took = "" if row["seconds"] is None else f"{row['seconds']:,.1f}"
        started = row["started"].replace("T", " ").removesuffix("+00:00")
        table.add_row(printable(row["name"]), row["status"].lower(), started, took)
    console.print_table(table)


@app.command()
def logs(
    rank: Annotated[int, typer.Argument(parser=whole(0, 9999), help="Number of the rank.")],
    name: Annotated[
        str | None, typer.Option("--run", parser=RUN, help="Name or ARN of the run; default: the latest.")
    ] = None,
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
) -> None:
    """Prints the log of a rank, with all its attempts.

    Example: cosmicai logs 12 --run demo-20261122-101500
    """
    for line in deployment(team, local, profile).find(name).log(rank):
        tell(line, lines=False)


@app.command()
def resume(
    name: RunName = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start it and return.")] = False,
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Runs only the ranks of a run that have no result.

    Example: cosmicai resume demo-20261122-101500
    """
    resumed = deployment(team, local, profile).find(name).resume()
    if detach:
        _print_started(resumed, as_json)
        return
    follow(resumed, as_json)


@app.command()
def stop(name: RunName = None, team: Team = None, local: Local = False, profile: Profile = None) -> None:
    """Stops a run; what its ranks have written stays, and `resume` continues from there.

    Example: cosmicai stop demo-20261122-101500
    """
    run = deployment(team, local, profile).find(name)
    run.stop()
    console.print(f"{run.name} is stopped; its rendezvous host stops by itself when idle")


@app.command()
def doctor(team: Team = None, local: Local = False, profile: Profile = None, as_json: AsJson = False) -> None:
    """Checks what runs and deployments need, and says how to get what is missing.

    Example: cosmicai doctor --team team3
    """
    from cosmicai.deploy.doctor import examine
    from cosmicai.deploy.target import local_folder

    checks = list(examine(team, local, profile, os.environ, local_folder(os.environ)))
    if as_json:
        print_json([vars(check) for check in checks])
    else:
        table = Table(show_header=False)
        for check in checks:
            mark = Text("✓", "green") if check.holds else Text("✗", "red")
            table.add_row(mark, check.name, printable(check.detail, lines=True))
        console.print_table(table)
    if not all(check.holds for check in checks):
        raise typer.Exit(1)
