"""What the commands share: the console, options, and the way to a deployment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cosmicai.packaging import ROOT

CACHE = ROOT / ".cosmicai" / "cache"
Cache = Annotated[Path, typer.Option(help="Where the catalogue and rendered galaxies are kept.")]
Team = Annotated[
    str | None, typer.Option(help="The team whose deployment is meant; not needed where there is one.")
]
Local = Annotated[bool, typer.Option("--local", help="The embedded AWS of `cosmicai local up`.")]
Profile = Annotated[str | None, typer.Option(help="AWS profile; default: the usual environment.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print data as JSON, for scripts.")]
console = Console()


def print_json(content: Any) -> None:
    """On standard output, without colours or wrapping."""
    print(json.dumps(content, indent=1))
