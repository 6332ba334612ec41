"""cosmicai local: the embedded AWS."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from cosmicai.cli.common import AsJson, console, print_json
from cosmicai.cli.values import PACKAGE, whole

app = typer.Typer(no_args_is_help=True, help="An embedded AWS on this machine, with the bundle deployed.")


@app.command()
def up(
    concurrency: Annotated[
        int | None,
        typer.Option(parser=whole(1, 1000), help="Ranks that run at once; others wait. Default: 16."),
    ] = None,
    image_variant: Annotated[
        Literal["lean", "torch"] | None,
        typer.Option(help="Image of the ranks; torch is for scripts that import it. Default: lean."),
    ] = None,
    extra_package: Annotated[
        list[str] | None,
        typer.Option(
            parser=PACKAGE,
            metavar="NAME==VERSION",
            help="Package that scripts import, or 'NAME==VERSION --no-deps'; repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Starts the embedded AWS in the background and deploys the bundle to it.

    If it is running already, nothing changes.
    The first start installs packages, which takes some minutes; later ones take half a minute.

    Example: cosmicai local up --image-variant torch --extra-package einops==0.8.1
    """
    from cosmicai.deploy import local
    from cosmicai.deploy.target import local_folder

    asked = {
        "concurrency": concurrency,
        "image_variant": image_variant,
        "extra_packages": extra_package or None,
    }
    with console.status("") as status:
        state = local.up(
            {name: value for name, value in asked.items() if value is not None},
            local_folder(os.environ),
            lambda step: status.update(f"{step}…"),
        )
    if as_json:
        print_json(state)
        return
    console.print(f"bucket {state['bucket']}, endpoint {state['endpoint']}")
    console.print("for the aws command line:")
    others = sorted(name for name in os.environ if name.startswith("AWS_") and name not in state["environment"])
    if others:  # a profile, a token or the endpoint of a service would override what follows
        console.print(f"  unset {' '.join(others)}", highlight=False)
    for name, value in state["environment"].items():
        console.print(f"  export {name}={value}", highlight=False)


@app.command()
def down() -> None:
    """Stops the embedded AWS and deletes everything in it.

    Example: cosmicai local down
    """
    from cosmicai.deploy import local
    from cosmicai.deploy.target import local_folder

    console.print("stopped" if local.down(local_folder(os.environ)) else "the embedded AWS was not running")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Says whether the embedded AWS is running, and where; the exit status is 1 if it is not.

    Example: cosmicai local status --json
    """
    from cosmicai.deploy import local
    from cosmicai.deploy.target import local_folder

    state = local.status(local_folder(os.environ))
    if as_json:
        print_json(state)
    elif state is None:
        console.print("the embedded AWS is not running: start it with `cosmicai local up`")
    else:
        console.print(f"running: bucket {state['bucket']}, endpoint {state['endpoint']}")
    if state is None:
        raise typer.Exit(1)
