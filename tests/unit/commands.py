"""The commands and their options, read from the command line itself, so that a new one is tested as well."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from typer.main import get_command

from cosmicai import cli


@dataclass(frozen=True)
class Case:
    """A parameter of a command: its name as typed, the kind of its value, and the command's other arguments."""

    command: str
    name: str
    parameter: Any
    others: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.command} {self.name}"

    def line(self, value: str) -> list[str]:
        """The command line with a value."""
        words = [f"{self.name}={value}"] if self.name.startswith("-") else ["--", *self._arguments(value)]
        return [*self.command.split(), *self.others, *words]

    def _arguments(self, value: str) -> list[str]:
        return [
            value if argument is self.parameter else _valid(self.command, argument) for argument in self._all
        ]

    @property
    def _all(self) -> list[Any]:
        required = [one for one in _commands()[self.command].params if one.param_type_name == "argument"]
        return [one for one in required if one.required or one is self.parameter]

    @property
    def kind(self) -> Any:
        """What checks the value: a kind of the command line's own, some choices, or bool."""
        described = self.parameter.type_descriptor
        return described.parameter_info.parser or described.choices or described.annotation


VALID = {
    "payload": "payload.json", "rank": "0", "sources": "in", "out": "new/out", "source": "source.npz",
    "prefix": "25MB", "partitions": "in", "checkpoint": "checkpoint.pt", "file": "checkpoint.pt",
    "data upload folder": "in",
    "report folder": "results", "model optimise folder": "model", "model show folder": "model",
    "model calibrate folder": "model", "model speed folder": "model", "calibration": "in", "format_": "csv",
    "catalogue folder": "results",
}  # fmt: skip
"""Values that required parameters take in the fixture's folder."""


def _valid(command: str, parameter: Any) -> str:
    return VALID.get(f"{command} {parameter.name}") or VALID[parameter.name]


@cache
def _commands() -> dict[str, Any]:
    """Every command by its words."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, inner in command.commands.items():
            if hasattr(inner, "commands"):
                yield from walk(inner, (*words, name))
            else:
                yield " ".join((*words, name)), inner

    return dict(walk(get_command(cli.app), ()))


def _cases() -> Iterator[Case]:
    for command, entry in _commands().items():
        for parameter in entry.params:
            options = [one for one in entry.params if one.param_type_name == "option" and one.required]
            others = [
                f"{max(one.opts, key=len)}={_valid(command, one)}" for one in options if one is not parameter
            ]
            if parameter.param_type_name == "option":
                arguments = [one for one in entry.params if one.param_type_name == "argument" and one.required]
                others += [_valid(command, one) for one in arguments]
            name = max(parameter.opts, key=len)
            yield Case(command, name, parameter, tuple(others))


CASES = list(_cases())


def content_of(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def run_command(line: list[str], place: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command line as a process."""
    environment = {**os.environ, "COSMICAI_LOCAL": str(place / "no-local"), **options.pop("env", {})}
    command = [str(Path(sys.executable).with_name("cosmicai")), *line]
    return subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, errors="replace", **options
    )
