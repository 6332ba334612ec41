"""cosmicai local: the embedded AWS."""

from __future__ import annotations

from typing import Annotated

import typer

from cosmicai.cli.common import AsJson, console, print_json

app = typer.Typer(no_args_is_help=True, help="An embedded AWS on this machine, with the bundle deployed.")


@app.command()
def up(
    concurrency: Annotated[int, typer.Option(help="Ranks that run at once; further ones wait.", min=1)] = 16,
    as_json: AsJson = False,
) -> None:
    """Starts it in the background and deploys the bundle to it; does nothing where it runs.

    Example: cosmicai local up && cosmicai run payloads/demo.json --local
    """
    from cosmicai import local

    with console.status("starting the embedded AWS and deploying to it (half a minute)…"):
        state = local.up(concurrency)
    if as_json:
        print_json(state)
        return
    console.print(f"bucket {state['bucket']}, endpoint {state['endpoint']}")
    console.print("for the aws command line:")
    for name, value in state["environment"].items():
        console.print(f"  export {name}={value}", highlight=False)


@app.command()
def down() -> None:
    """Stops it; everything in it is gone.

    Example: cosmicai local down
    """
    from cosmicai import local

    console.print("stopped" if local.down() else "it was not running")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Whether it runs, and where; exit status 1 where it does not.

    Example: cosmicai local status --json
    """
    from cosmicai import local

    state = local.status()
    if as_json:
        print_json(state)
    elif state is None:
        console.print("the embedded AWS is not running: start it with `cosmicai local up`")
    else:
        console.print(f"running: bucket {state['bucket']}, endpoint {state['endpoint']}")
    if state is None:
        raise typer.Exit(1)
