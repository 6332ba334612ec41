"""cosmicai local: the embedded AWS."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from cosmicai.cli.common import AsJson, console, print_json

app = typer.Typer(no_args_is_help=True, help="An embedded AWS on this machine, with the bundle deployed.")


@app.command()
def up(
    concurrency: Annotated[
        int | None, typer.Option(help="Ranks that run at once; further ones wait. Default: 16.", min=1)
    ] = None,
    image_variant: Annotated[
        Literal["lean", "torch"] | None,
        typer.Option(help="Image of the ranks: torch for scripts that import it. Default: lean."),
    ] = None,
    extra_package: Annotated[
        list[str] | None,
        typer.Option(help="NAME==VERSION, or 'NAME==VERSION --no-deps', that scripts import; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Starts it in the background and deploys the bundle to it; does nothing where it runs.

    Example: cosmicai local up --image-variant torch --extra-package einops==0.8.1
    """
    from cosmicai import local

    asked = {
        "concurrency": concurrency,
        "image_variant": image_variant,
        "extra_packages": extra_package or None,
    }
    with console.status(
        "installing what is missing, starting the embedded AWS, deploying to it (half a minute)…"
    ):
        state = local.up({name: value for name, value in asked.items() if value is not None})
    if as_json:
        print_json(state)
        return
    console.print(f"bucket {state['bucket']}, endpoint {state['endpoint']}")
    console.print("for the aws command line:")
    others = sorted(name for name in os.environ if name.startswith("AWS_") and name not in state["environment"])
    if others:  # a profile, a token or an endpoint of a service would win over what follows
        console.print(f"  unset {' '.join(others)}", highlight=False)
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
