"""Commands on runs: start, watch, look, fetch, resume, stop."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from cosmicai.cli.common import AsJson, Local, Profile, Team, console, print_json, tell, tell_error
from cosmicai.cli.following import follow, screen

if TYPE_CHECKING:
    from cosmicai.target import Target

app = typer.Typer()

Json = dict[str, Any]
RunName = Annotated[str | None, typer.Argument(help="Name or ARN of the run; default: the latest.")]
Folder = Annotated[Path | None, typer.Option(help="Where to write; default: results/NAME.")]


_TOLD_RANKS = 10  # whose wrong fields are named


class RunError(RuntimeError):
    """What was asked for does not go with the run; the message says what to do."""


@app.command()
def run(
    payload: Annotated[
        Path, typer.Argument(help="JSON file, as `aws stepfunctions start-execution` takes it.")
    ],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="field=value in place of the payload's; may be repeated.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the file's and the time.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start it and return.")] = False,
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Starts a run and watches it to its end; Ctrl-C leaves it running.

    The payload is checked first, so that a typo costs nothing. A payload without bucket takes the deployment's.
    Exit status: 0 when it succeeded, 3 when it failed, 1 when it could not be started.

    Example: cosmicai run payloads/demo.json --team team3 --set batch_size=512 --set file_limit=4
    """
    from cosmicai.target import find

    target = find(team, local, profile)
    content = _payload(payload, set_ or [], target)
    arn = start(target, content, name or f"{payload.stem}-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    if detach:
        _print_started(arn, as_json)
        return
    follow(target, arn, as_json)


def _payload(file: Path, changes: list[str], target: Target) -> Json:
    """The file's payload with the changes, and the deployment's bucket where it names none. Raises RunError."""
    from initialize.payload import resolve

    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise RunError(f"{file}: {error.strerror}; payloads/ has examples") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{file} is not a JSON object")
    for change in changes:
        field, equals, value = change.partition("=")
        if not equals:
            raise RunError(f"--set {change}: give field=value")
        content[field] = {"true": True, "false": False}.get(value, value)
    content.setdefault("bucket", target.bucket)
    resolve(content)  # every fault at once, before anything is started
    return content


def start(target: Target, content: Json, name: str) -> str:
    """The ARN of the execution that was started."""
    started = target.client("stepfunctions").start_execution(
        stateMachineArn=target.state_machine_arn, name=name[:80], input=json.dumps(content)
    )
    return str(started["executionArn"])


def _print_started(arn: str, as_json: bool) -> None:
    name = arn.rpartition(":")[2]
    if as_json:
        print_json({"name": name, "arn": arn})
    else:
        console.print(f"{name} runs; look at it with `cosmicai watch {name}`")


@app.command()
def watch(
    name: RunName = None,
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Watches a run to its end; Ctrl-C leaves it running.

    Example: cosmicai watch demo-20261122-101500
    """
    target = _target(team, local, profile)
    follow(target, _arn(target, name), as_json)


@app.command()
def status(
    name: RunName = None,
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Shows once how a run stands.

    Example: cosmicai status --json
    """
    from cosmicai.watch import Watcher

    target = _target(team, local, profile)
    found = Watcher(target, _arn(target, name)).look()
    if as_json:
        print_json(found.to_json())
    else:
        console.print(screen(found))


@app.command("list")
def list_runs(
    limit: Annotated[int, typer.Option(help="How many, the latest first.", min=1, max=1000)] = 20,
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
        for found in _executions(_target(team, local, profile), limit)
    ]
    if as_json:
        print_json(rows)
        return
    table = Table()
    for column in ("run", "status", "started", "seconds"):
        table.add_column(column)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console.print(table)


@app.command()
def logs(
    rank: Annotated[int, typer.Argument(help="The rank whose log is wanted.", min=0)],
    name: Annotated[
        str | None, typer.Option("--run", help="Name or ARN of the run; default: the latest.")
    ] = None,
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
) -> None:
    """Prints the log of a rank, of all its attempts.

    Example: cosmicai logs 12 --run demo-20261122-101500
    """
    from cosmicai.logs import of_rank

    target = _target(team, local, profile)
    execution = target.client("stepfunctions").describe_execution(executionArn=_arn(target, name))
    lines = of_rank(target, execution, rank)
    if not lines:
        raise RunError(
            f"rank {rank} of {execution['name']} has left no log: has it started, and are logs kept so long?"
        )
    for line in lines:
        tell(line, lines=False)


@app.command()
def results(
    name: RunName = None,
    out: Folder = None,
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Downloads what a run has left, and adds inference.png and Results.json in the historic form.

    Example: cosmicai results demo-20261122-101500 --out results/demo
    """
    from cosmicai import runs
    from inference.paths import below
    from summarize.infos import counted, images_text

    target = _target(team, local, profile)
    execution = target.client("stepfunctions").describe_execution(executionArn=_arn(target, name))
    payload = json.loads(execution["input"])
    folder = out or below(Path("results"), execution["name"])
    with Progress(console=console, disable=as_json) as progress:
        task = progress.add_task("downloading", total=None)

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        prefix = str(payload["result_path"]).rstrip("/")
        downloaded = runs.download(target.client("s3"), payload["bucket"], prefix, folder, report)
    files = downloaded.files
    for key, reason in downloaded.left_out.items():
        tell_error(f"left out: s3://{payload['bucket']}/{key}: {reason}")
    if not files:
        raise RunError(f"s3://{payload['bucket']}/{prefix}/ is empty: the run has left nothing")
    infos = _add_historic(folder)
    images, sources = counted(infos or [])
    if as_json:
        known = {"images": images, "images_from": sources} if infos is not None else {}
        print_json({"folder": str(folder), "files": len(files), "left_out": downloaded.left_out, **known})
    elif infos is None:
        console.print(
            f"{len(files)} files in {folder}; the run has no summary.json: it did not come to its end"
        )
    else:
        console.print(f"{len(files)} files in {folder}; look at {folder / 'report.html'}")
        console.print(f"images: {images_text(images, sources)}")
        _tell_left_out(infos)


def _tell_left_out(infos: list[Json]) -> None:
    """The wrong fields of rank infos, of the first ranks that have any."""
    from summarize.infos import LEFT_OUT

    wrong = [(info["rank"], info[LEFT_OUT]) for info in infos if info.get(LEFT_OUT)]
    for rank, faults in wrong[:_TOLD_RANKS]:
        tell_error(f"left out of the info of rank {rank}: {'; '.join(map(str, faults))}", lines=False)
    if len(wrong) > _TOLD_RANKS:
        tell_error(f"… and of {len(wrong) - _TOLD_RANKS} more ranks: see combined_data.json")


def _add_historic(folder: Path) -> list[Json] | None:
    """Results.json and inference.png; the rank infos, or None of a run that was ended before its summary."""
    from cosmicai import historic
    from cosmicai.report import read

    if not (folder / "summary.json").exists():
        return None
    summary, infos = read(folder)
    historic.write(folder, summary, infos)
    return infos


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Downloaded results.")],
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Writes report.html from downloaded results, with inference.png and Results.json.

    Example: cosmicai report results/demo --open
    """
    import webbrowser

    from cosmicai.report import write

    page = write(folder)
    console.print(f"{page}")
    if open_:
        webbrowser.open(page.resolve().as_uri())


@app.command()
def resume(
    name: RunName = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start it and return.")] = False,
    team: Team = None,
    local: Local = False,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Runs the ranks that a run has left without a result, and nothing else.

    Example: cosmicai resume demo-20261122-101500
    """
    target = _target(team, local, profile)
    execution = target.client("stepfunctions").describe_execution(executionArn=_arn(target, name))
    if execution["status"] == "RUNNING":
        raise RunError(f"{execution['name']} still runs: wait for it, or end it with `cosmicai stop`")
    content = {**json.loads(execution["input"]), "resume": True}
    base = execution["name"].partition("-resumed-")[0]
    arn = start(target, content, f"{base[:55]}-resumed-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    if detach:
        _print_started(arn, as_json)
        return
    follow(target, arn, as_json)


@app.command()
def stop(name: RunName = None, team: Team = None, local: Local = False, profile: Profile = None) -> None:
    """Ends a run; what its ranks have written stays, and `resume` goes on from there.

    Example: cosmicai stop demo-20261122-101500
    """
    target = _target(team, local, profile)
    arn = _arn(target, name)
    client = target.client("stepfunctions")
    if client.describe_execution(executionArn=arn)["status"] != "RUNNING":
        raise RunError(f"{arn.rpartition(':')[2]} has ended already")
    client.stop_execution(executionArn=arn, error="Stopped", cause="by `cosmicai stop`")
    console.print(f"{arn.rpartition(':')[2]} is stopped; its rendezvous host stops by itself when idle")


@app.command()
def doctor(team: Team = None, local: Local = False, profile: Profile = None, as_json: AsJson = False) -> None:
    """Checks what runs and deployments need, and says what to do about what is missing.

    Example: cosmicai doctor --team team3
    """
    from cosmicai.doctor import examine

    checks = list(examine(team, local, profile))
    if as_json:
        print_json([vars(check) for check in checks])
    else:
        table = Table(show_header=False)
        for check in checks:
            mark = Text("✓", "green") if check.holds else Text("✗", "red")
            table.add_row(mark, check.name, check.told)
        console.print(table)
    if not all(check.holds for check in checks):
        raise typer.Exit(1)


def _target(team: str | None, local: bool, profile: str | None) -> Target:
    from cosmicai.target import find

    return find(team, local, profile)


def _executions(target: Target, limit: int) -> list[Json]:
    pages = target.client("stepfunctions").get_paginator("list_executions")
    found = pages.paginate(
        stateMachineArn=target.state_machine_arn,
        PaginationConfig={"MaxItems": limit, "PageSize": min(limit, 100)},
    )
    return [item for page in found for item in page["executions"]]


def _arn(target: Target, name: str | None) -> str:
    if name is not None:
        return target.execution_arn(name)
    latest = _executions(target, 1)
    if not latest:
        raise RunError("there is no run yet: start one with `cosmicai run payloads/demo.json`")
    return str(latest[0]["executionArn"])
