"""Given a wrong value for any option, each command names the value in a line or two, and leaves no file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosmicai import cli
from cosmicai.cli import paths, values

from .commands import CASES, Case, content_of, run_command

CONTROL = "\x1b[2J\x1b]0;owned\x07\n\u202eend"
LONG = "a" * 5000
ROOT_CANNOT = "/proc/cosmicai"  # not even root can write there
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
        case paths.InPartitions() | paths.AstroMaeFolder():
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
    before = content_of(place.parent)
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
    assert content_of(place.parent) == before


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
    process = run_command(line, place, env=NOT_ENCODABLE)
    assert process.returncode == status, process.stderr
    assert "Traceback" not in process.stderr
    assert (process.stdout + process.stderr).isascii()


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
    before = content_of(place)
    status = cli.run(case.line("nope=1" if case.kind is values.PAIR else "nope"))
    error = capsys.readouterr().err
    assert status in (1, 2), error
    assert 1 <= len(error.splitlines()) <= 2, error
    assert content_of(place) == before
