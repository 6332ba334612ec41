"""Keys, causes, names and log lines reach the terminal as text: nothing in them is obeyed."""

from __future__ import annotations

import io
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosmicai import cli
from cosmicai.cli import common
from cosmicai.cli.common import console
from cosmicai.commands import command
from cosmicai.printable import printable
from cosmicai.results.runfolder import RECORD
from cosmicai.runs.watch import Watcher

Json = dict[str, Any]
# Clears the screen, renames the window, writes the clipboard; then a bell, an 8-bit CSI, and reversed text.
ATTACK = "\x1b[2J\x1b]0;owned\x07\x1b]52;c;cm0gLXJm\x07\x9b31m\u202egnp.exe\u2066\u200b\r\x08\x7f"
MARKUP = "[/] [red] [/nothing] [link=https://evil.example] :warning: [bold"
STYLES = re.compile(r"\x1b\[[0-9;]*m")
BEGIN = datetime(2026, 11, 22, tzinfo=UTC)


def _inert(output: str) -> bool:
    """Whether nothing is left that a terminal would obey, beside rich's own colours."""
    return all(one.isprintable() or one == "\n" for one in STYLES.sub("", output))


@given(st.text())
def test_whatever_is_printed_is_printable(text: str) -> None:
    assert printable(text).isprintable()
    assert _inert(printable(text, lines=True))
    assert len(printable(text, longest=20)) <= 20 * len("\\U0010ffff") + 3
    printable(text).encode()


@pytest.mark.parametrize("text", ["results/1 é 中 🔭", MARKUP, "", "a [b] c"])
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_long_text_is_cut_in_the_middle() -> None:
    assert printable("a" * 10**7 + "end", longest=10) == "aaaaa … aaend"


class _Target:
    """A deployment whose run, objects and logs are full of foreign text."""

    bucket = "team3-cosmicai"
    state_machine_arn = "arn:aws:states:us-east-1:1:stateMachine:m"
    inference_function = "inference"

    def __init__(self, status: str) -> None:
        self.payload = {
            "bucket": self.bucket,
            "result_path": f"results/{MARKUP}{ATTACK}",
            "data_prefix": "25MB",
        }
        self.name = f"run{MARKUP}"
        folder = self.payload["result_path"]
        run = {
            "run_id": self.name,
            "world_size": 2,
            "bytes_per_rank": [1, 1],
            "started": "2026-11-22T00:00:00Z",
            "payload": self.payload,
            "bytes": 2,
        }
        failure = {"run_id": self.name, "rank": 1, "error": f"Error{ATTACK}", "cause": f"{MARKUP}{ATTACK}"}
        self.objects = {
            f"{folder}/run.json": json.dumps(run),
            f"{folder}/failures/1.json": json.dumps(failure),
            f"{folder}/[/x].json": "{}",
            f"{folder}/{ATTACK}": "",
            f"{folder}/../{MARKUP}{ATTACK}": "",
        }
        failed = {"error": f"RanksFailed{ATTACK}", "cause": f"{MARKUP}{ATTACK}\nsecond line"}
        self.execution = {
            "name": self.name, "executionArn": f"arn:x:{self.name}", "status": status, "startDate": BEGIN,
            "stopDate": BEGIN + timedelta(seconds=9), "input": json.dumps(self.payload),
            **({} if status == "SUCCEEDED" else failed),
        }  # fmt: skip
        self.exceptions = type("exceptions", (), {"NoSuchKey": KeyError, "NoSuchBucket": KeyError})

    def client(self, _: str, **__: Any) -> Any:
        return self

    def command(self, *words: str) -> str:
        return command(*words, "--team", "team3")

    def execution_arn(self, name: str) -> str:
        return str(self.execution["executionArn"])

    def describe_execution(self, executionArn: str) -> Json:
        return self.execution

    def get_object(self, Bucket: str, Key: str) -> Json:
        body = self.objects[Key].encode()
        return {"Body": io.BytesIO(body), "ContentLength": len(body), "LastModified": BEGIN}

    def download_file(self, bucket: str, key: str, path: str) -> None:
        Path(path).write_text(self.objects[key])

    def get_paginator(self, operation: str) -> Any:
        return _Pages(self, operation)


class _Pages:
    def __init__(self, target: _Target, operation: str) -> None:
        self._target, self._operation = target, operation

    def paginate(self, **options: Any) -> list[Json]:
        if self._operation == "list_executions":
            return [{"executions": [self._target.execution]}]
        if self._operation == "filter_log_events":
            starts = json.dumps({"message": "rank starts", "rank": 1, "run_id": self._target.name})
            messages = ["START RequestId", starts, f"{MARKUP}{ATTACK}", "REPORT RequestId"]
            stamp = {"timestamp": 0, "logStreamName": "s"}
            only = [starts] if "logStreamNames" not in options else messages
            return [{"events": [{"message": message, **stamp} for message in only]}]
        keys = [key for key in self._target.objects if key.startswith(options["Prefix"])]
        inner = [key for key in keys if "/" not in key.removeprefix(options["Prefix"])]
        listed = inner if "Delimiter" in options else keys
        return [{"Contents": [{"Key": key, "Size": 9, "LastModified": BEGIN} for key in listed]}]


def _run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: str,
    terminal: bool,
    *words: str,
) -> tuple[int, str, str]:
    """Exit status and output of a command on such a deployment."""
    target = _Target(status)
    monkeypatch.setattr("cosmicai.deploy.target.find", lambda *_: target)
    monkeypatch.setattr(sys, "argv", ["cosmicai", *words])
    monkeypatch.setattr(console, "_force_terminal", terminal)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, error = capsys.readouterr()
    return int(ended.value.code or 0), out, error


COMMANDS = [["status"], ["watch"], ["list"], ["logs", "1"]]


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED"])
def test_no_command_obeys_foreign_text(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: str,
    terminal: bool,
) -> None:
    code, out, error = _run(monkeypatch, capsys, status, terminal, *words)
    assert code == (3 if words == ["watch"] and status == "FAILED" else 0)
    plain = out.replace("\x1b[?25l", "").replace("\x1b[?25h", "")  # the cursor, hidden and shown
    assert _inert(re.sub(r"\x1b\[[0-9]*[AK]|\r", "", plain))
    assert "\x1b[2J" not in out + error
    for part in ("\x07", "\x9b", "\u202e", "\u2066", "\x08", "\x1b]"):
        assert part not in out + error
    assert "owned" in out + error or words == ["list"]
    assert "[/nothing]" in re.sub(r"\s+", "", STYLES.sub("", out + error))


def test_results_with_brackets_in_their_names_are_fetched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "[/out]"
    code, out, error = _run(monkeypatch, capsys, "SUCCEEDED", True, "results", "--out", str(folder))
    assert code == 0
    assert "left out: s3://team3-cosmicai/results/" in error
    assert _inert(error)
    assert "\x1b]" not in out
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.json")} - {RECORD}
    assert files == {"run.json", "failures/1.json", "[/x].json"}


def test_an_error_message_is_inert(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, error = _run(monkeypatch, capsys, "SUCCEEDED", True, "run", f"{tmp_path}/{ATTACK}{MARKUP}.json")
    assert code == 2
    assert error.startswith("error: ")
    assert _inert(error)
    assert "run --help" in error


def test_the_console_parses_no_markup_and_no_emoji_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(console, common._InertConsole)
    console.print(f"{MARKUP}\x1b[2J")
    assert "[/nothing]" in capsys.readouterr().out


def test_a_snapshot_keeps_what_json_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    """For scripts nothing is changed: JSON escapes it."""
    target: Any = _Target("FAILED")
    snapshot = Watcher(target, target.execution["executionArn"]).look()
    text = json.dumps(snapshot.to_json())
    assert json.loads(text)["cause"] == target.execution["cause"]
    assert "\x1b" not in text
