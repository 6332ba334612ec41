"""Payloads that would harm a bucket, a terminal or a rank are refused whole, with field, value and remedy."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from initialize.deployed import Deployed
from initialize.payload import PayloadError, resolve
from initialize.run import start

MINIMAL = {"bucket": "team3-cosmicai", "result_path": "results/1", "data_prefix": "25MB"}
FOLDERS = ("result_path", "data_prefix", "model", "S3_object_name")
INVISIBLE = (
    "\x00\x07\x1b\x7f\x80\x9b\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202e\u2060\u2066\u2069\ufeff\ud800"
)


def _refusal(**changes: Any) -> str:
    with pytest.raises(PayloadError) as error:
        resolve({**MINIMAL, **changes})
    return str(error.value)


def _fields(field: str, value: object) -> dict[str, object]:
    script = {"script": "/tmp/code/s.py"} if field == "S3_object_name" else {}  # noqa: S108
    return {**script, field: value}


@pytest.mark.parametrize("field", FOLDERS)
@pytest.mark.parametrize(
    "folder",
    [
        ".cosmicai", ".cosmicai/", ".cosmicai/run-1", ".cosmicai/_READY", " ", "  /x", "x/ /y", "x/\u00a0",
        "\u3000", "x/ ",         "a\\b", "..\\x", "\\", *(f"a{one}b" for one in INVISIBLE), *INVISIBLE,
    ],
)  # fmt: skip
def test_a_folder_that_would_do_harm_is_refused(field: str, folder: str) -> None:
    message = _refusal(**_fields(field, folder))
    assert message.isprintable()
    assert f"{field}: " in message


@pytest.mark.parametrize(
    "folder", ["x/.cosmicai", ".cosmicai2/x", "a b/c", "é/中", "🔭/1", "x/_READY", "~", "$(id)"]
)
def test_an_ordinary_folder_is_accepted(folder: str) -> None:
    assert resolve({**MINIMAL, "result_path": folder})["result_path"] == folder.removesuffix("/_READY")


@pytest.mark.parametrize("field", FOLDERS[:3])
@pytest.mark.parametrize(("letter", "size"), [("a", 1), ("é", 2), ("中", 3), ("🔭", 4)])
def test_keys_are_measured_in_bytes(field: str, letter: str, size: int) -> None:
    longest = letter * (800 // size) + "a" * (800 % size)
    assert resolve({**MINIMAL, field: longest})[field] == longest
    longest_key = f"{longest}/predictions/9999.npz"
    assert len(longest_key.encode()) <= 1024  # S3's limit
    message = _refusal(**{field: longest + "a"})
    assert message.isprintable()
    assert "at most 800 bytes" in message


@pytest.mark.parametrize("folder", ["x" * 256, "é" * 128])
def test_names_that_become_files_are_as_short_as_files_must_be(folder: str) -> None:
    script = f"/tmp/{folder}/s.py"  # noqa: S108
    message = _refusal(S3_object_name=folder, script=script)
    assert message.isprintable()
    assert "S3_object_name: " in message
    assert "script: " in message
    assert "255 bytes" in message


@pytest.mark.parametrize("field", ["file_limit", "world_size", "batch_size", "max_concurrency"])
@pytest.mark.parametrize(
    "value", [10**7, 10**18, 10**400, 10**5000, -(10**30), 1e18, 1e300, float("inf"), float("nan"), "9" * 9,
              "9" * 5000, "٣", "1e3", "0x10", " 4", "4 ", "4\n", [[[]]], {}],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_number_beyond_sense_is_refused(field: str, value: object) -> None:
    message = _refusal(**{field: value})
    assert message.isprintable()
    assert f"{field}: " in message
    assert "give a whole number from 1 to " in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, 10**400, -0.1, "1e2", "100.5"])
def test_a_percentage_beyond_sense_is_refused(value: object) -> None:
    message = _refusal(tolerated_failure_percentage=value)
    assert message.isprintable()
    assert "tolerated_failure_percentage: " in message


def test_all_faults_are_told_at_once() -> None:
    message = _refusal(
        result_path=".cosmicai/x", data_prefix="a\x1b[2J", batch_size=10**400, engine="magic", file_limit=0,
        S3_object_name="code", script="/tmp/other/s.py", wrold_size=1,  # noqa: S108
    )  # fmt: skip
    assert message.isprintable()
    named = ("result_path", "data_prefix", "batch_size", "engine", "file_limit", "script", "wrold_size")
    assert [name for name in named if f"{name}: " not in message] == []


def test_what_a_deployment_does_not_allow_is_told_at_once() -> None:
    deployed = Deployed(allow_scripts=False, has_redis=False, concurrency=lambda: 1, is_running=lambda _: False)
    script = {"S3_object_name": "code", "script": "/tmp/code/s.py"}  # noqa: S108
    with pytest.raises(PayloadError) as error:
        start(None, {**MINIMAL, **script, "collectives": "redis"}, "r", "2026-11-22T00:00:00Z", deployed)
    assert "script: " in str(error.value)
    assert "collectives: " in str(error.value)


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [_nested(50_000), "x" * 10**6, {"a": _nested(5_000)}, ["\x1b[2J"], "\ud800"])
def test_a_value_of_any_shape_is_refused_with_a_short_message(value: Any) -> None:
    for field in ("bucket", "engine", "batch_size", "save_predictions", "result_path"):
        message = _refusal(**{field: value})
        assert message.isprintable()
        assert len(message) < 1000


def test_many_and_long_unknown_fields_are_refused_soon_and_shortly() -> None:
    fields = {f"{'x' * 10_000}{number}\x1b[2J": number for number in range(300)}
    began = time.monotonic()
    message = _refusal(**fields)
    assert time.monotonic() - began < 2
    assert message.isprintable()
    assert len(message) < 32_768  # where Step Functions cuts a cause
    assert "280 more fields are unknown" in message


def test_the_message_is_json_text() -> None:
    """As Lambda writes it into the state machine's history."""
    message = _refusal(result_path="a\ud800")
    assert message.isprintable()
    assert json.loads(json.dumps(message)) == message
