"""What Initialize plans for the objects under a data prefix, with moto's S3."""

from __future__ import annotations

import json
from typing import Any

import pytest

from initialize.deployed import Deployed
from initialize.payload import PayloadError
from initialize.plan import PlanError
from initialize.run import start

BUCKET = "team3-cosmicai"
DEPLOYED = Deployed(
    allow_scripts=True, has_redis=False, concurrency=lambda: 1000, is_running=lambda name: False
)
HISTORIC = {
    "bucket": BUCKET, "file_limit": "11", "batch_size": 512, "object_type": "folder",
    "S3_object_name": "Anomaly Detection", "script": "/tmp/Anomaly Detection/Inference/inference.py",  # noqa: S108
    "result_path": "results/25MB/1GB/1", "data_bucket": BUCKET, "data_prefix": "25MB", "world_size": "11",
}  # fmt: skip


def _put(s3: Any, *keys: str, body: bytes = b"galaxies") -> None:
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=body)


def _read(s3: Any, key: str) -> Any:
    return json.load(s3.get_object(Bucket=BUCKET, Key=key)["Body"])


def _start(s3: Any, payload: dict[str, Any]) -> tuple[Any, Any]:
    """Initialize's answer, and run.json."""
    answer = start(s3, payload, "run-1", "2026-11-22T00:00:00Z", DEPLOYED)
    return answer, _read(s3, f"{payload['result_path']}/run.json")


PAYLOAD = {"bucket": BUCKET, "data_prefix": "25MB", "result_path": "r"}


def test_nested_partitions_are_taken_in_natural_order(s3: Any) -> None:
    _put(s3, "25MB/10.pt", "25MB/9.pt", "25MB/b/2.pt", "25MB/b/10.pt", "25MB/a/deep/1.pt", "25MB-old/1.pt")
    _put(s3, "25MB/", "25MB/b/", body=b"")  # folders, as the console makes them
    answer, run = _start(s3, PAYLOAD)
    assert list(run["data_map"].values()) == [
        "25MB/9.pt", "25MB/10.pt", "25MB/a/deep/1.pt", "25MB/b/2.pt", "25MB/b/10.pt",
    ]  # fmt: skip
    assert (answer["notes"], run["notes"], answer["not_taken"]) == ([], [], {})


def test_what_is_not_taken_is_counted_and_named(s3: Any) -> None:
    _put(s3, "25MB/1.pt", "25MB/2.PT", "25MB/3.pth", "25MB/4.pt.gz", "25MB/._1.pt", "25MB/.trash/5.pt")
    _put(s3, "25MB/6.pt", "25MB/_READY", "25MB/b/7.pt\x1b[2J", body=b"")
    _put(s3, *(f"25MB/log/{n}.txt" for n in range(1, 10)))
    answer, run = _start(s3, PAYLOAD)
    assert list(run["data_map"].values()) == ["25MB/1.pt"]
    assert answer["not_taken"] == run["not_taken"] == {"hidden": 2, "does not end in .pt": 13, "empty": 1}
    (note,) = answer["notes"]
    assert run["notes"] == [note]
    assert note.startswith(f"16 files in s3://{BUCKET}/25MB/ are left out (")
    assert note.endswith("; empty: 6.pt; hidden: ._1.pt, .trash/5.pt)")
    assert "(does not end in .pt: 2.PT, 3.pth, 4.pt.gz, b/7.pt\\x1b[2J, log/1.txt and 8 more;" in note
    assert note.isprintable()


def test_a_prefix_without_partitions_says_what_lies_there(s3: Any) -> None:
    _put(s3, "25MB/1.PT", "25MB/2.pth")
    with pytest.raises(PlanError, match=r"2 files in it are left out \(does not end in \.pt: 1\.PT, 2\.pth\)"):
        _start(s3, PAYLOAD)


def test_a_historic_payload_with_fewer_files_than_ranks_runs(s3: Any) -> None:
    """Its script waits for all ranks that payload.json names."""
    _put(s3, *(f"25MB/{n}.pt" for n in (1, 2, 3)))
    answer, run = _start(s3, HISTORIC)
    assert (answer["world_size"], run["world_size"], list(run["data_map"])) == (3, 3, ["0", "1", "2"])
    assert answer["notes"] == ["world_size is 11, but there are only 3 partition files: 3 ranks run"]
    assert run["payload"]["world_size"] == 11
    assert _read(s3, "payload.json")["world_size"] == 3
    events = _read(s3, "results/25MB/1GB/1/manifest.json")
    assert [event["WORLD_SIZE"] for event in events] == [3, 3, 3]
    again = start(s3, {**HISTORIC, "resume": True}, "run-2", "2026-11-22T01:00:00Z", DEPLOYED)
    assert again["notes"] == answer["notes"]


def test_a_prefix_with_a_part_of_a_set_is_refused(s3: Any) -> None:
    _put(s3, "25MB/1.pt", "25MB/2.pt")
    _put(s3, "25MB/.partial/moving", body=b"")
    with pytest.raises(
        PlanError, match=r"s3://team3-cosmicai/25MB/ holds an incomplete set.*same command again"
    ):
        _start(s3, PAYLOAD)
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET, Prefix="r/")


def test_a_run_names_all_executions_that_have_run_it(s3: Any) -> None:
    _put(s3, "25MB/1.pt", "25MB/2.pt")
    for name, resume in (("run-1", False), ("run-2", True), ("run-3", True), ("run-3", True)):
        start(s3, {**PAYLOAD, "resume": resume}, name, "2026-11-22T00:00:00Z", DEPLOYED)
    run = _read(s3, "r/run.json")
    assert (run["run_id"], run["execution"]) == ("run-1", "run-3")
    assert run["executions"] == ["run-1", "run-2", "run-3"]


def test_a_run_of_an_earlier_version_is_resumed(s3: Any) -> None:
    """Which did not know a field that has a default now."""
    _put(s3, "25MB/1.pt")
    _start(s3, PAYLOAD)
    run = _read(s3, "r/run.json")
    del run["payload"]["outputs"]
    _put(s3, "r/run.json", body=json.dumps(run).encode())
    start(s3, {**PAYLOAD, "resume": True}, "run-2", "2026-11-22T00:00:00Z", DEPLOYED)
    changed = {**PAYLOAD, "resume": True, "outputs": ["embedding"]}
    with pytest.raises(PayloadError, match="outputs differ"):
        start(s3, changed, "run-3", "2026-11-22T00:00:00Z", DEPLOYED)
