"""Every option of every command with wrong values: a line or two that name it, and nothing left behind.

The commands and their options are read from the command line itself, so that a new one is tested as well.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset
from typer.main import get_command

from cosmicai import cli
from cosmicai.cli import paths, values
from cosmicai.data import dc2
from inference.engine import astromae
from tests.conftest import CACHE

CONTROL = "\x1b[2J\x1b]0;owned\x07\n\u202eend"
LONG = "a" * 5000
ROOT_CANNOT = "/proc/cosmicai"  # not even root can write there


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


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Valid inputs of every command."""
    folder = tmp_path_factory.mktemp("valid")
    rng = np.random.default_rng(0)
    images, magnitudes = rng.normal(0, 0.1, (40, 5, 32, 32)), rng.normal(23, 1, (40, 5))
    arrays = [one.astype(np.float32) for one in (images, magnitudes, rng.uniform(0.1, 2, 40))]
    (folder / "in").mkdir()
    torch.save(TensorDataset(*map(torch.from_numpy, arrays)), folder / "in" / "1.pt")
    np.savez(folder / "source.npz", images=arrays[0], magnitudes=arrays[1], redshift=arrays[2])
    torch.manual_seed(0)
    config = astromae.Config(width=16, depth=1, heads=2, parallel_groups=0, head_width=8)
    astromae.save(astromae.AstroMAE(config).eval(), folder / "model")
    (folder / "model" / "card.json").write_text("{}")
    shutil.copy(folder / "model" / "config.json", folder / "config.json")
    torch.save({"nothing": torch.zeros(3)}, folder / "checkpoint.pt")
    (folder / "payload.json").write_text(json.dumps({"data_prefix": "d", "result_path": "r"}))
    (folder / "results").mkdir()
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them as the working folder, where no embedded AWS runs."""
    folder = tmp_path / "place"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COSMICAI_LOCAL", str(tmp_path / "no-local"))
    return folder


def _content(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


Numeric = values.Number | values.Numbers
_WRONG_NUMBERS = ("", " ", "x", "nan", "inf", "-inf", "1e999", "1_0", "٣", "0x10", "1 2", LONG, CONTROL)


def _wrong_numbers(kind: values.Number) -> list[str]:
    inside = [0, -1, kind.least, kind.least - 1, kind.most, kind.most + 1, 1.5]
    outside = [one for one in inside if not np.isfinite(one) or not kind.least <= one <= kind.most]
    outside += [kind.least] if kind.above else []
    fractions = [1.5] if kind.whole else []
    return [*_WRONG_NUMBERS, *(f"{one:.12g}" for one in (*outside, *fractions) if np.isfinite(one))]


_WRONG_TEXTS = ("", "  ", CONTROL, LONG)
_NO_PATH = ("", " ")
_BELOW_FILE = "payload.json/x"


_NO_BUCKET = ["s3://", "s3://bucket", "s3://b/x"]


def wrong_values(kind: Any) -> list[str]:
    """Values that a kind must refuse."""
    match kind:
        case values.Number():
            return _wrong_numbers(kind)
        case values.Numbers():
            return [*_wrong_numbers(kind.item), ",", "1,,2", "1,x"]
        case values.Text():
            return [*_WRONG_TEXTS, *(["a b$%"] if kind.pattern and kind is not values.PAIR else [])]
        case values.ShareOf():
            return [*_WRONG_TEXTS, "1", "2/2", "-1/2", "0/0", "a/2", "1/2/3", "0.5/2"]
        case values.Names() | values.Choices():
            return [*_WRONG_TEXTS, "a,,b", "a,a"]
        case values.Prefix():
            return [*_WRONG_TEXTS, "/a", "a//b", "../a", ".cosmicai/x", "a/../b"]
        case paths.InFile() | paths.JsonFile():
            return [*_NO_PATH, "missing", "in", _BELOW_FILE, CONTROL, LONG, "a\0b"]
        case paths.InFolder():
            empty = ["empty"] if kind.holds else []
            return [*_NO_PATH, "missing", "payload.json", _BELOW_FILE, CONTROL, LONG, "a\0b", *empty]
        case paths.InPartitions():
            return [*_NO_PATH, "missing", "payload.json", "empty", _BELOW_FILE, CONTROL, LONG, "a\0b"]
        case paths.InPath() | paths.ModelOrConfig():
            return [*_NO_PATH, "missing", _BELOW_FILE, CONTROL, LONG, "a\0b"]
        case paths.Source():
            return [*_NO_PATH, "missing", "empty", _BELOW_FILE, CONTROL, LONG, *_NO_BUCKET]
        case paths.OutFile():
            unfit = [f"{path}.png" for path in (_BELOW_FILE, ROOT_CANNOT)]
            return [*_NO_PATH, "in", "missing/x.png", "x", CONTROL, LONG, *unfit]
        case paths.OutFolder():
            taken = ["in"] if kind.new else []
            return [*_NO_PATH, "payload.json", _BELOW_FILE, CONTROL, LONG, ROOT_CANNOT, *taken]
        case paths.Destination():
            return [*_NO_PATH, "payload.json", _BELOW_FILE, CONTROL, ROOT_CANNOT, *_NO_BUCKET]
        case tuple():
            return ["nope", "", CONTROL]
        case _ if kind is bool:
            return ["maybe"]
    raise AssertionError(f"{kind!r} does not say what it refuses")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_wrong_values_are_refused(case: Case, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _content(place.parent)
    for value in wrong_values(case.kind):
        status = cli.run(case.line(value))
        error = capsys.readouterr().err
        context = f"{case.line(value)!r}: {status}: {error}"
        assert status in (1, 2), context
        assert 1 <= len(error.splitlines()) <= 2, context
        named = case.name if case.name.startswith("-") else case.name.upper()
        assert named in error or (value.strip() and value in error), context
        assert error.replace("\n", "").isprintable(), context
        assert len(error) < 1000, context
    assert _content(place.parent) == before


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.parameter.param_type_name == "argument"], ids=str
)
def test_a_missing_argument_is_named(case: Case, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not case.parameter.required:
        return
    assert cli.run(case.command.split()) == 2
    error = capsys.readouterr().err
    assert "is missing" in error
    assert len(error.splitlines()) == 2


def test_what_does_not_exist_is_named_with_what_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    for line, hint in (
        (["infer", "x", "--devcie", "cpu"], "--device"),
        (["infr"], "infer"),
        (["run", "--set"], "--set"),
    ):
        assert cli.run(line) == 2
        error = capsys.readouterr().err
        assert hint in error
        assert len(error.splitlines()) <= 2


NOT_ENCODABLE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LANG": "C"}


def _process(line: list[str], place: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command line as a process."""
    environment = {**os.environ, "COSMICAI_LOCAL": str(place / "no-local"), **options.pop("env", {})}
    command = [str(Path(sys.executable).with_name("cosmicai")), *line]
    return subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, errors="replace", **options
    )


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (["--help"], 0), (["infer", "--help"], 0), (["plan", "--data-gb", "1"], 0),
        (["model", "show", "model"], 0), (["local", "status"], 1), (["infer", "in", "--out", "out"], 0),
        (["infer", "in", "--batch-size", "0"], 2), (["data", "inspect", "source.npz", "--sheet", "s.png"], 0),
        (["list"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_an_ascii_terminal_shows_everything_in_its_way(place: Path, line: list[str], status: int) -> None:
    process = _process(line, place, env=NOT_ENCODABLE)
    assert process.returncode == status, process.stderr
    assert "Traceback" not in process.stderr
    assert (process.stdout + process.stderr).isascii()


FULL = {
    "infer": ["infer", "in", "--out", "OUT"],
    "data dc2 out": [
        "data",
        "dc2",
        "OUT",
        "--galaxies",
        "120",
        "--partition-mb",
        "1",
        "--seed",
        "3",
        "--cache",
        str(CACHE),
    ],
    "data prepare": ["data", "prepare", "source.npz", "--out", "OUT"],
    "data inspect": ["data", "inspect", "source.npz", "--sheet", "OUT.png"],
    "model train": ["model", "train", "in", "--out", "OUT", "--config", "config.json", "--epochs", "1"],
    "model pretrain": ["model", "pretrain", "in", "--out", "OUT", "--config", "config.json", "--epochs", "1"],
    "model optimise": ["model", "optimise", "OUT"],
    "report": ["report", "OUT"],
}
"""A command line for each place that is written to; OUT is on the full disk."""
ELSEWHERE = {
    "demo": "download(), as results",
    "results": "tests/integration/test_cli.py",
    "sweep": "tests/integration/test_cli.py",
    "local up": "writes to no place that is named",
    "model import": "tests/unit/test_import_command.py has checkpoints",
    "model import-onnx": "tests/unit/test_imported.py has ONNX files",
}
"""What cannot be called here, and where it is tested or why not."""


def test_every_command_that_writes_is_tried_on_a_full_disk() -> None:
    kinds = (paths.OutFile, paths.OutFolder, paths.Destination)
    writing = {case.command for case in CASES if isinstance(case.kind, kinds)}
    tried = {" ".join(words for words in line[:2] if words != "in") for line in FULL.values()}
    assert writing <= tried | set(ELSEWHERE)


def _full_by_limit() -> None:
    """No file may have more than 2 KB: as a full disk, every larger one is cut off while it is written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk needs root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _prepared(name: str, template: Path, out: Path, place: Path) -> list[str]:
    """The command line, after what it changes has been put in its place."""
    if name == "report":
        assert _process(["infer", "in", "--out", str(out)], place).returncode == 0
    if name == "model optimise":
        shutil.copytree(template / "model", out)
    return [word.replace("OUT", str(out)) for word in FULL[name]]


@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_is_told_and_leaves_nothing(name: str, place: Path, template: Path) -> None:
    dc2.partitions("validation", 120, 1, CACHE, seed=3)
    out = place / ("out" if name in ("report", "model optimise") else "new/out")
    if name == "data inspect":
        out.parent.mkdir()
    line = _prepared(name, template, out, place)
    _check_full(line, out, place, preexec_fn=_full_by_limit)


@pytest.mark.parametrize(
    "name", [name for name in FULL if name not in ("report", "model optimise", "data inspect")]
)
def test_a_small_disk_is_told_and_leaves_nothing(
    name: str, place: Path, template: Path, small_disk: Path
) -> None:
    dc2.partitions("validation", 120, 1, CACHE, seed=3)
    line = _prepared(name, template, small_disk / "out", place)
    _check_full(line, small_disk / "out", small_disk)


def _check_full(line: list[str], out: Path, folder: Path, **options: Any) -> None:
    before = _content(folder)
    process = _process(line, folder if "preexec_fn" in options else Path.cwd(), **options)
    assert process.returncode == 1, process.stdout + process.stderr
    assert 1 <= len(process.stderr.splitlines()) <= 2, process.stderr
    assert str(out) in process.stderr
    assert "Traceback" not in process.stderr
    assert _content(folder) == before


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in CASES
        if case.command in ("data prepare", "data inspect", "model import")
        and isinstance(case.kind, values.Text)
    ],
    ids=str,
)
def test_names_that_mean_nothing_are_a_line_or_two(
    case: Case, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _content(place)
    status = cli.run(case.line("nope=1" if case.kind is values.PAIR else "nope"))
    error = capsys.readouterr().err
    assert status in (1, 2), error
    assert 1 <= len(error.splitlines()) <= 2, error
    assert _content(place) == before
