"""With any content of a rank's info, Summarize ends, counts the rank, and names what it has left out."""

from __future__ import annotations

import io
import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosmicai.results import historic
from inference import script
from inference.contract.accuracy import Metrics
from inference.data.storage import Range, Storage
from summarize.contract.rank_info import RankInfo
from summarize.gather import GatherError, summarize_run

from .test_keys_to_paths import EVENT

Json = dict[str, Any]
FOLDER = "results/1"
ENDED = datetime(2026, 11, 22, 0, 1, tzinfo=UTC)
STATE = Metrics.of([0.5, 0.7], [0.6, 0.7], [20.0, 21.0]).to_json()
END = b"</html>\n"  # of a whole report
DEEP = "[" * 100_000 + "]" * 100_000
RUN = {
    "run_id": "r", "started": "2026-11-22T00:00:00Z", "payload": {}, "world_size": 3, "bytes": 1,
    "collectives": {"channel": "s3"},
}  # fmt: skip


def _info(rank: int, **changes: Any) -> Json:
    return {
        "rank": rank, "run_id": "r", "engine": "script", "num_samples": 2, "memory_limit (MB)": 1769,
        "duration (seconds)": 3.0, "architecture": "x86_64", "cold_start": True, "s3_num_requests": 3,
        "ended (unix seconds)": ENDED.timestamp(), "inference (seconds)": 2.0, "sample_persec": 9.0,
        "accuracy_state": STATE, "data_path": "25MB/1.pt", "MAE": 0.1, **changes,
    }  # fmt: skip


class _NoSuchKey(Exception):
    pass


class _S3:
    """A bucket in memory, as boto3's client reads and writes it."""

    exceptions = type("exceptions", (), {"NoSuchKey": _NoSuchKey})

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = {f"{FOLDER}/{name}": body for name, body in objects.items()}

    def get_object(self, Bucket: str, Key: str) -> Json:
        if Key not in self.objects:
            raise _NoSuchKey(Key)
        body = self.objects[Key]
        return {"Body": io.BytesIO(body), "ETag": f"{hash(body):x}", "ContentLength": len(body)}

    def put_object(self, Bucket: str, Key: str, Body: bytes, **_: Any) -> None:
        self.objects[Key] = Body

    def get_paginator(self, _: str) -> Any:
        return self

    def paginate(self, Bucket: str, Prefix: str, Delimiter: str = "") -> list[Json]:
        keys = [key for key in self.objects if key.startswith(Prefix)]
        inner = [key for key in keys if not Delimiter or Delimiter not in key.removeprefix(Prefix)]
        return [
            {"Contents": [{"Key": key, "Size": len(self.objects[key]), "LastModified": ENDED} for key in inner]}
        ]

    def delete_objects(self, Bucket: str, Delete: Json) -> Json:
        for item in Delete["Objects"]:
            del self.objects[item["Key"]]
        return {}


def _strict(body: bytes) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(body, parse_constant=refuse)


def _summarized(objects: dict[str, bytes]) -> tuple[Json, Json, list[Json], bytes]:
    """What Summarize returns, summary.json and combined_data.json, both as strict JSON, and report.html."""
    s3 = _S3({"run.json": json.dumps(RUN).encode(), **objects})
    event = {
        "bucket": "b", "result_path": FOLDER, "run_id": "r", "world_size": 3, "tolerated_failure_percentage": 0,
    }  # fmt: skip
    returned = summarize_run(s3, event)
    summary, infos = (_strict(s3.objects[f"{FOLDER}/{name}.json"]) for name in ("summary", "combined_data"))
    json.dumps(
        historic.results([RankInfo.from_json(info) for info in infos], summary["accuracy"]), allow_nan=False
    )
    return returned, summary, infos, s3.objects[f"{FOLDER}/report.html"]


def _with(body: bytes) -> dict[str, bytes]:
    """Rank 1's info is `body`."""
    return {"0.json": json.dumps(_info(0)).encode(), "1.json": body, "2.json": json.dumps(_info(2)).encode()}


WRONG = [
    ("inference (seconds)", "fast"), ("inference (seconds)", float("nan")), ("inference (seconds)", -1),
    ("inference (seconds)", 10**100), ("sample_persec", float("inf")), ("sample_persec", 1e308), ("MAE", []),
    ("ended (unix seconds)", "now"), ("ended (unix seconds)", -5), ("architecture", "z80"),
    ("architecture", ["x"]), ("architecture", {}), ("cold_start", "yes"),
    ("s3_num_requests", "many"), ("s3_num_requests", -3),
    ("s3_num_requests", 1.5), ("num_samples", "lots"), ("num_samples", 10**60), ("data_path", {"a": 1}),
    ("data_path", [1, 2]), ("device", 7), ("engine", ["script"]), ("accuracy_state", "x"),
    ("accuracy_state", {**STATE, "total": {}}), ("accuracy_state", [STATE]), ("precision", {"a": []}),
    ("total_process_memory (MB)", True),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda value: str(value)[:30])
def test_a_wrong_field_is_named_and_left_out(field: str, value: Any) -> None:
    returned, summary, infos, report = _summarized(_with(json.dumps(_info(1, **{field: value})).encode()))
    assert report.endswith(END)
    assert returned["within_tolerance"]
    assert [info["rank"] for info in infos] == [0, 1, 2]
    assert list(summary["left_out"]) == ["1"]
    assert summary["left_out"]["1"][0].startswith(f"{field}: ")
    assert summary["accuracy"]["count"] == (4 if field == "accuracy_state" else 6)


@pytest.mark.parametrize(
    "field", sorted(set(_info(1)) - {"rank", "run_id", "duration (seconds)", "memory_limit (MB)"})
)
def test_a_field_may_be_missing(field: str) -> None:
    returned, summary, _, report = _summarized(
        _with(json.dumps({name: value for name, value in _info(1).items() if name != field}).encode())
    )
    assert report.endswith(END)
    assert returned["within_tolerance"]
    assert summary["left_out"] == {}
    assert summary["cost"]["total (USD)"] > 0


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
_FREE = sorted(set(_info(1)) - {"rank", "run_id", "duration (seconds)", "memory_limit (MB)"})


@given(st.dictionaries(st.sampled_from(_FREE) | st.text(max_size=8), _JSON, max_size=6))
@settings(max_examples=100, deadline=None)
def test_no_value_loses_a_run(changes: Json) -> None:
    fixed = {name: _info(1)[name] for name in ("rank", "run_id", "duration (seconds)", "memory_limit (MB)")}
    returned, _, infos, report = _summarized(_with(json.dumps({**_info(1), **changes, **fixed}).encode()))
    assert report.endswith(END)
    assert returned["within_tolerance"]
    assert len(infos) == 3


def _late(**changes: Any) -> bytes:
    return json.dumps({**_info(1), **changes}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xff\xfe", b"no JSON", DEEP.encode(), b"[" * 5, b'"text"', b"[1]", b"x" * (1 << 21),
        _late(rank=0), _late(rank="1"), _late(rank=True), _late(rank=-1), _late(rank=99),
        _late(**{"duration (seconds)": "3"}), _late(**{"memory_limit (MB)": None}), b'{"run_id": "r"}',
    ],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
def test_an_object_that_is_no_info_costs_no_other_rank(body: bytes) -> None:
    """The rank counts as one without a result, and the cause says why."""
    returned, summary, infos, report = _summarized(_with(body))
    assert report.endswith(END)
    assert [info["rank"] for info in infos] == [0, 2]
    assert not returned["within_tolerance"]
    if body != b"[1]" and body != b'"text"':
        assert "1.json is not the info of a finished rank: " in returned["cause"]
        assert summary["failed_ranks"]["1"]["error"] == "RankInfoError"


@pytest.mark.parametrize(
    "name", ["01.json", "1.json.json", "-1.json", "²/1.json", "3.json", "99999999999.json", "١.json"]
)
def test_other_objects_are_no_ranks(name: str) -> None:
    objects = {f"{rank}.json": json.dumps(_info(rank)).encode() for rank in range(3)}
    returned, _, infos, report = _summarized({**objects, name: json.dumps(_info(1)).encode()})
    assert report.endswith(END)
    assert len(infos) == 3
    assert returned["failed_percentage"] == 0


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"rank": "x"},
        {"cause": DEEP},
        {"cause": 7, "error": []},
        {"cause": '{"errorMessage": [1]}'},
        {"rank": 0},
    ],
)
def test_a_strange_record_of_a_failure_is_one_of_its_rank(record: Json) -> None:
    objects = {f"{rank}.json": json.dumps(_info(rank)).encode() for rank in (0, 2)}
    failure = json.dumps({**record, "run_id": "r"}).encode()
    returned, summary, _, report = _summarized(
        {**objects, "failures/1.json": failure, "failures/7.json": failure}
    )
    assert report.endswith(END)
    assert list(summary["failed_ranks"]) == ["1"]
    assert "rank 1: " in returned["cause"]


@pytest.mark.parametrize(
    "metrics",
    [
        {"ranks": [0, 1, 2], "accuracy_state": "x"}, {"ranks": "012", "accuracy_state": STATE},
        {"accuracy_state": {}}, {"ranks": [0, 99], "accuracy_state": STATE},
        {"ranks": [[0]], "accuracy_state": STATE}, {"ranks": None},
    ],
)  # fmt: skip
def test_forged_metrics_are_not_used(metrics: Json) -> None:
    objects = {f"{rank}.json": json.dumps(_info(rank)).encode() for rank in range(3)}
    _, summary, _, report = _summarized(
        {**objects, "metrics.json": json.dumps({**metrics, "run_id": "r"}).encode()}
    )
    assert report.endswith(END)
    assert summary["metrics_source"].startswith("rank infos; metrics.json is not used: ")
    assert summary["accuracy"]["count"] == 6


@pytest.mark.parametrize(
    "run", [b"", b"[]", b"{}", DEEP.encode(), json.dumps({**RUN, "run_id": "other"}).encode()]
)
def test_a_replaced_plan_is_named(run: bytes) -> None:
    with pytest.raises(GatherError, match=r"s3://b/results/1/run\.json is no longer that of run r"):
        _summarized({"run.json": run})


class _Written(Storage):
    """A bucket in which a script has written the info of its rank."""

    def __init__(self, body: bytes) -> None:
        super().__init__(None)
        self.body = body

    def list_versions(self, bucket: str, prefix: str) -> dict[str, tuple[str, datetime]]:
        return {prefix: ("etag", ENDED)}

    def get_range(self, bucket: str, key: str, start: int, stop: int, etag: str | None = None) -> Range:
        return Range(self.body[start:stop], len(self.body), "etag")


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"no JSON", DEEP.encode(), b"{" * 3, b"1" * 100_000, b'{"a": 1' + b"0" * 5000 + b"}",
     b'{"a": 1e999}', b'{"a": NaN}', b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", b'"' + b"x" * (1 << 19) + b'"'],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
def test_a_script_may_write_anything_as_its_info(body: bytes) -> None:
    began = time.monotonic()
    written = script.written_info(EVENT, _Written(body), {"own": None})
    measured = script.RankInfo(rank=0, run_id="r", s3_num_requests=3)
    info = script.rank_info(measured, written)
    assert info["left_out"]
    assert len(json.dumps(info, allow_nan=False)) < 1000
    assert time.monotonic() - began < 1


def test_what_is_right_is_kept_as_it_is() -> None:
    info = {**_info(1), "mine": {"a": [1, 2.5, "x", None, True]}}
    assert RankInfo.from_json(info).to_json() == info
    assert list(RankInfo.from_json(info).to_json()) == list(info)
    assert RankInfo.from_json({**info, "left_out": ["mine: …"]}).left_out == ["mine: …"]
