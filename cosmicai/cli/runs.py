"""Commands on runs: start, watch, list, download, resume, stop."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    print_json,
    tell,
)
from cosmicai.cli.following import follow, screen
from cosmicai.cli.paths import JsonFile
from cosmicai.cli.values import NEW_RUN, PAIR, RUN, whole
from cosmicai.printable import printable
from cosmicai.runs import client as runs

if TYPE_CHECKING:
    from cosmicai.deploy.target import Target

app = typer.Typer()

Json = dict[str, Any]


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
    target = deployment(team, local, profile)
    content = _payload(payload, set_ or [], target)
    arn = start(target, content, name or _new_name(payload.stem))
    if detach:
        _print_started(arn, as_json)
        return
    follow(target, arn, as_json)


def _payload(file: Path, changes: list[str], target: Target) -> Json:
    """The file's payload with the changes; its bucket is the deployment's by default. Raises PayloadError."""
    from initialize.payload import resolve

    content: Json = json.loads(file.read_text(encoding="utf-8"))
    for change in changes:
        field, _, value = change.partition("=")
        content[field] = {"true": True, "false": False}.get(value, value)
    content.setdefault("bucket", target.bucket)
    resolve(content)  # every fault at once, before anything is started
    return content


def _new_name(stem: str, kind: str = "") -> str:
    """A name for a run: of what it is made from, and the time."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem) or "run"
    return f"{plain[:55]}{kind}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def start(target: Target, content: Json, name: str) -> str:
    """Starts an execution; returns its ARN."""
    started = target.client("stepfunctions").start_execution(
        stateMachineArn=target.state_machine_arn, name=name, input=json.dumps(content)
    )
    return str(started["executionArn"])


def _print_started(arn: str, as_json: bool) -> None:
    name = arn.rpartition(":")[2]
    if as_json:
        print_json({"name": name, "arn": arn})
    else:
        console.print(f"{name} is running; follow it with `cosmicai watch {name}`")


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
    target = deployment(team, local, profile)
    follow(target, runs.execution_arn(target, name), as_json)


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
    from cosmicai.runs.watch import Watcher

    target = deployment(team, local, profile)
    found = Watcher(target, runs.execution_arn(target, name)).look()
    if as_json:
        print_json(found.to_json())
    else:
        console.print(screen(found))


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
            "name": found["name"],
            "status": found["status"],
            "started": found["startDate"].astimezone(UTC).isoformat(timespec="seconds"),
            "seconds": round((found["stopDate"] - found["startDate"]).total_seconds(), 1)
            if found.get("stopDate")
            else None,
        }
        for found in runs.executions(deployment(team, local, profile), limit)
    ]
    if as_json:
        print_json(rows)
        return
    table = Table()
    for column in ("run", "status", "started", "execution, s"):
        table.add_column(column, justify="right" if column == "execution, s" else "left")
    for row in rows:
        took = "" if row["seconds"] is None else f"{row['seconds']:,.1f}"
        table.add_row(printable(row["name"]), row["status"].lower(), row["started"], took)
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
    from cosmicai.runs.logs import of_rank

    target = deployment(team, local, profile)
    execution = target.client("stepfunctions").describe_execution(executionArn=runs.execution_arn(target, name))
    lines = of_rank(target, execution, rank)
    if not lines:
        raise runs.RunError(
            f"there is no log of rank {rank} of {execution['name']}: it has not started, or the log has expired"
        )
    for line in lines:
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
    from cosmicai.runs.watch import Watcher

    target = deployment(team, local, profile)
    execution = target.client("stepfunctions").describe_execution(executionArn=runs.execution_arn(target, name))
    if execution["status"] == "RUNNING":
        raise runs.RunError(
            f"{execution['name']} is still running: wait for it, or stop it with `cosmicai stop`"
        )
    found = Watcher(target, execution["executionArn"]).look()
    if found.taken_by is not None:
        raise runs.RunError(f"{found.taken_text}; start it again with another result_path")
    content = {**json.loads(execution["input"]), "resume": True}
    base = execution["name"].partition("-resumed-")[0]
    arn = start(target, content, _new_name(base, "-resumed"))
    if detach:
        _print_started(arn, as_json)
        return
    follow(target, arn, as_json)


@app.command()
def stop(name: RunName = None, team: Team = None, local: Local = False, profile: Profile = None) -> None:
    """Stops a run; what its ranks have written stays, and `resume` continues from there.

    Example: cosmicai stop demo-20261122-101500
    """
    target = deployment(team, local, profile)
    arn = runs.execution_arn(target, name)
    client = target.client("stepfunctions")
    if client.describe_execution(executionArn=arn)["status"] != "RUNNING":
        raise runs.RunError(f"{arn.rpartition(':')[2]} has ended already")
    client.stop_execution(executionArn=arn, error="Stopped", cause="by `cosmicai stop`")
    console.print(f"{arn.rpartition(':')[2]} is stopped; its rendezvous host stops by itself when idle")


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
            table.add_row(mark, check.name, printable(check.told, lines=True))
        console.print_table(table)
    if not all(check.holds for check in checks):
        raise typer.Exit(1)
