"""What Summarize leaves in the bucket for the next run, and that a resumed run has the same metrics."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from botocore.response import StreamingBody

from inference.contract.accuracy import Metrics
from initialize.contract.channels import Host
from initialize.contract.run_records import LastRun, last_run_key
from initialize.deployed import Deployed
from initialize.run import start
from initialize.speed import speed
from summarize import gather
from summarize.contract.rank_info import MOST_BYTES, RankInfo
from summarize.contract.s3_rest.client import S3
from summarize.contract.s3_rest.signing import Credentials
from summarize.gather import summarize_run
from summarize.states import States

BUCKET = "team3-cosmicai"
DEPLOYED = Deployed(
    allow_scripts=True, has_redis=False, concurrency=lambda: 1000, is_running=lambda name: False,
    memory_mb=3538, has_batch=True, host=lambda: Host("up", "the host is up"),
)  # fmt: skip
Json = dict[str, Any]


def _metrics(rank: int) -> Metrics:
    rng = np.random.default_rng(rank)
    true = rng.uniform(0, 3, 50)
    return Metrics.of(true + rng.normal(0, 0.1, 50), true, rng.uniform(17, 25, 50))


def _plan(s3: Any, run_id: str, **fields: Any) -> Json:
    payload = {"bucket": BUCKET, "data_prefix": "25MB", "result_path": "r", **fields}
    return start(s3, payload, run_id, "2026-11-22T00:00:00Z", DEPLOYED)


def _put(s3: Any, key: str, content: Json) -> None:
    s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(content).encode())


def _read(s3: Any, key: str) -> Any:
    return json.load(s3.get_object(Bucket=BUCKET, Key=key)["Body"])


def _end(s3: Any, plan: Json, ranks: list[int]) -> None:
    """The ranks as they leave their infos."""
    for rank in ranks:
        info = {
            "rank": rank, "run_id": plan["run_id"], "num_samples": 50, "memory_limit (MB)": 3538.0,
            "duration (seconds)": 3.0, "init (seconds)": 1.0 + rank, "sample_persec": 700.0 + rank,
            "architecture": "arm64", "accuracy_state": _metrics(rank).to_json(),
        }  # fmt: skip
        _put(s3, f"{plan['result_path']}/{rank}.json", info)


@pytest.fixture(autouse=True)
def partitions(s3: Any) -> None:
    for number in range(4):
        s3.put_object(Bucket=BUCKET, Key=f"25MB/{number}.pt", Body=b"galaxies")


def test_the_speed_of_a_run_is_that_of_the_models_next_plan(s3: Any) -> None:
    for name in ("config.json", "model.safetensors"):
        _put(s3, f"models/mine/{name}", {})
    plan = _plan(s3, "run-1", model="models/mine")
    _end(s3, plan, [0, 1, 2, 3])
    summarize_run(s3, plan)
    assert _read(s3, ".last-runs/models/models/mine.json") == LastRun(
        run_id="run-1", started="2026-11-22T00:00:00Z", memory=3538.0, slowest=700.0, fastest=703.0,
        typical_start=2.0, longest_start=4.0,
    ).to_json()  # fmt: skip
    assert speed(s3, BUCKET, "models/mine").images_per_second_vcpu == (350.0, 351.5)
    _plan(s3, "run-2", model="models/mine", result_path="r2")
    assert (
        "the speed of this model's last run, run-1: 350 to 352"
        in (_read(s3, "r2/run.json")["collectives"]["reason"])
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"backend": "batch"},
        {"S3_object_name": "code", "script": str(Path("/tmp/code/run.py"))},  # noqa: S108
    ],
)
def test_other_ranks_than_the_engines_on_lambda_leave_no_speed(s3: Any, fields: Json) -> None:
    plan = _plan(s3, "run-1", **fields)
    _end(s3, plan, [0, 1, 2, 3])
    summarize_run(s3, plan)
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET, Prefix=".last-runs/")


@pytest.mark.parametrize(("ranks", "rate"), [([], 700.0), ([0, 1, 2, 3], 0.0), ([0, 1, 2, 3], "fast")])
def test_ranks_that_do_not_say_their_speed_leave_none(s3: Any, ranks: list[int], rate: Any) -> None:
    plan = _plan(s3, "run-1", tolerated_failure_percentage=100)
    _end(s3, plan, ranks)
    for rank in ranks:
        _put(s3, f"r/{rank}.json", {**_read(s3, f"r/{rank}.json"), "sample_persec": rate})
    assert summarize_run(s3, plan)["within_tolerance"]
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET, Prefix=".last-runs/")


def test_a_speed_that_cannot_be_kept_fails_no_run(s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(params: Json, **_: Any) -> None:
        if params["Key"].startswith(".last-runs/"):
            denied = {"Error": {"Code": "AccessDenied", "Message": "not allowed"}}
            raise s3.exceptions.ClientError(denied, "PutObject")

    plan = _plan(s3, "run-1")
    _end(s3, plan, [0, 1, 2, 3])
    s3.meta.events.register("provide-client-params.s3.PutObject", refused)
    assert summarize_run(s3, plan)["within_tolerance"]
    assert f"s3://{BUCKET}/{last_run_key(None)} was not written" in capsys.readouterr().out
    assert _read(s3, "r/summary.json")["finished_ranks"] == 4


@pytest.mark.parametrize("before", ["auto", "direct", "s3", "none"])
@pytest.mark.parametrize("after", ["auto", "direct", "s3", "none"])
def test_a_resumed_run_has_the_metrics_of_one_that_was_not_interrupted(
    s3: Any, before: str, after: str
) -> None:
    """Rank 3 fails at first. For every channel that either payload names, every sum is bit-identical."""
    whole = _plan(s3, "whole", collectives="none", result_path="whole")
    _end(s3, whole, [0, 1, 2, 3])
    summarize_run(s3, whole)

    plan = _plan(s3, "run-1", collectives=before, tolerated_failure_percentage=25)
    _end(s3, plan, [0, 1, 2])
    if plan["collectives"] != "none":
        total = _metrics(0)
        total.add(_metrics(2))
        total.add(_metrics(1))
        reduced = {"run_id": "run-1", "world_size": 4, "channel": before, "ranks": [0, 1, 2]}
        _put(s3, "r/metrics.json", {**reduced, "accuracy_state": total.to_json()})
    summarize_run(s3, plan)
    again = _plan(s3, "run-2", collectives=after, resume=True)
    assert again["collectives"] == "none"
    assert [event["RANK"] for event in _read(s3, "r/manifest.json")] == [3]
    _end(s3, again, [3])
    summarize_run(s3, again)
    resumed, uninterrupted = _read(s3, "r/summary.json"), _read(s3, "whole/summary.json")
    for name in ("accuracy", "accuracy_state", "num_samples", "missing_ranks"):
        assert resumed[name] == uninterrupted[name]
    assert uninterrupted["metrics_source"] == "rank infos"
    assert resumed["payload"]["collectives"] == before


@contextmanager
def _over_http(s3: Any) -> Iterator[tuple[S3, list[str]]]:
    """A client of our own for the bucket; and the paths that it has asked for."""
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            asked.append(path)
            body = s3.get_object(Bucket=BUCKET, Key=path.removeprefix(f"/{BUCKET}/"))["Body"].read()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever).start()
        yield S3(Credentials("a", "b"), "us-east-1", f"http://127.0.0.1:{server.server_port}"), asked
        server.shutdown()


def test_what_our_client_reads_is_judged_as_what_boto3_reads(s3: Any) -> None:
    """One sound info, and a missing, a stale, a forged and a huge one; after that a resumed run has all."""
    for number in range(7):
        s3.put_object(Bucket=BUCKET, Key=f"seven/{number}.pt", Body=b"galaxies")
    plan = _plan(s3, "run-1", tolerated_failure_percentage=90, data_prefix="seven")
    _end(s3, plan, [0, 2, 3, 5])
    stale, forged = (_read(s3, f"r/{rank}.json") for rank in (2, 3))
    _put(s3, "r/2.json", {**stale, "run_id": "run-0"})
    _put(s3, "r/3.json", {**forged, "rank": 0, "num_samples": 10**9})
    s3.put_object(Bucket=BUCKET, Key="r/4.json", Body=b"[" * 100_000)
    _put(s3, "r/5.json", {**_read(s3, "r/0.json"), "rank": 5, "more": "x" * (1 << 20)})
    s3.put_object(Bucket=BUCKET, Key="r/06.json", Body=b"{}")  # of another program
    by_boto3 = summarize_run(s3, plan)
    written = {name: _read(s3, f"r/{name}") for name in ("summary.json", "combined_data.json")}
    with _over_http(s3) as (reads, asked):
        assert summarize_run(s3, plan, reads) == by_boto3
    assert {name: _read(s3, f"r/{name}") for name in written} == written
    assert sorted(asked) == [f"/{BUCKET}/r/{rank}.json" for rank in (0, 2, 3, 4, 5)]
    summary = written["summary.json"]
    assert (summary["finished_ranks"], summary["num_samples"]) == (1, 50)
    assert summary["missing_ranks"] == [1, 2, 6]
    assert sorted(summary["failed_ranks"]) == ["3", "4", "5"]

    again = _plan(s3, "run-2", resume=True, data_prefix="seven")
    _end(s3, again, [1, 2, 3, 4, 5, 6])
    with _over_http(s3) as (reads, asked):
        assert summarize_run(s3, again, reads)["finished_ranks"] == 7
    assert [info["rank"] for info in _read(s3, "r/combined_data.json")] == list(range(7))


def test_metrics_json_that_counts_a_lost_rank_is_not_used(s3: Any) -> None:
    plan = _plan(s3, "run-1", tolerated_failure_percentage=50)
    _end(s3, plan, [0, 1, 3])
    total = _metrics(0)
    for rank in (1, 2, 3):
        total.add(_metrics(rank))
    _put(
        s3, "r/metrics.json",
        {"run_id": "run-1", "ranks": [0, 1, 2, 3], "channel": "s3", "accuracy_state": total.to_json()},
    )  # fmt: skip
    with _over_http(s3) as (reads, asked):
        summarize_run(s3, plan, reads)
    assert sorted(asked) == [f"/{BUCKET}/r/{rank}.json" for rank in (0, 1, 3)]  # each only once
    content = _read(s3, "r/summary.json")
    assert (content["metrics_source"], content["accuracy"]["count"]) == ("rank infos", 150)
    _end(s3, plan, [2])
    summarize_run(s3, plan)
    content = _read(s3, "r/summary.json")
    assert (content["metrics_source"], content["accuracy"]["count"]) == ("collectives (s3) of 4 ranks", 200)


class _Counted:
    """A client that counts how many answers were asked for, and how many of them nobody has taken yet."""

    def __init__(self, s3: Any) -> None:
        self._s3, self._lock = s3, threading.Lock()
        self.asked, self.most_waiting, self.taken = 0, 0, 0

    def get_object(self, **asked: Any) -> dict[str, Any]:
        with self._lock:
            self.asked += 1
            self.most_waiting = max(self.most_waiting, self.asked - self.taken)
        return dict(self._s3.get_object(**asked))


def test_infos_wait_in_memory_only_for_a_few_ranks(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slowly they are added up: 600 infos are never read at once."""
    for number in range(600):
        s3.put_object(Bucket=BUCKET, Key=f"many/{number}.pt", Body=b"galaxies")
    plan = _plan(s3, "run-1", data_prefix="many")
    _end(s3, plan, list(range(600)))
    reads, add = _Counted(s3), States.add

    def slowly(self: States, info: RankInfo) -> None:
        add(self, info)
        reads.taken += 1

    monkeypatch.setattr(States, "add", slowly)
    monkeypatch.setattr(gather, "_TOGETHER", 50)
    assert summarize_run(s3, plan, reads)["finished_ranks"] == reads.asked == 600
    assert reads.most_waiting < 200


class _Replaced:
    """A client whose rank infos have become large since they were listed."""

    def get_object(self, **_: Any) -> dict[str, Any]:
        return {"Body": io.BytesIO(), "ContentLength": MOST_BYTES + 9}


class _CutOff:
    """A client whose first answer for each key ends early, which botocore tells with the end alone."""

    def __init__(self, s3: Any) -> None:
        self._s3, self._asked = s3, set[str]()

    def get_object(self, **asked: Any) -> dict[str, Any]:
        body = self._s3.get_object(**asked)["Body"].read()
        comes = len(body) if asked["Key"] in self._asked else len(body) // 2
        self._asked.add(asked["Key"])
        return {"Body": StreamingBody(io.BytesIO(body[:comes]), len(body)), "ContentLength": len(body)}


def test_an_info_that_is_cut_off_is_read_again(s3: Any) -> None:
    plan = _plan(s3, "run-1")
    _end(s3, plan, [0, 1, 2, 3])
    assert summarize_run(s3, plan, _CutOff(s3))["finished_ranks"] == 4


def test_an_info_that_has_become_large_is_not_read_into_memory(s3: Any) -> None:
    plan = _plan(s3, "run-1", tolerated_failure_percentage=100)
    _end(s3, plan, [0, 1])
    assert summarize_run(s3, plan, _Replaced())["within_tolerance"]
    failed = _read(s3, "r/summary.json")["failed_ranks"]
    assert [one["cause"] for one in failed.values()] == [
        f"s3://{BUCKET}/r/{rank}.json is not the info of a finished rank: it has {MOST_BYTES + 9:,} bytes, "
        f"and at most {MOST_BYTES:,} are read"
        for rank in (0, 1)
    ]


def test_a_message_that_is_json_itself_is_reported_as_it_is(s3: Any) -> None:
    """Such as that of a script which calls a function of Lambda, and raises what it answers."""
    plan = _plan(s3, "run-1", tolerated_failure_percentage=100)
    message = json.dumps({"errorMessage": "inner", "errorType": "E"})
    cause = json.dumps({"errorMessage": message})
    _put(s3, "r/failures/0.json", {"rank": 0, "run_id": "run-1", "error": "E", "cause": cause})
    summarize_run(s3, plan)
    assert _read(s3, "r/summary.json")["failed_ranks"] == {"0": {"error": "E", "cause": message}}


class _SlowToComplete:
    """S3 that does not complete the list of the originals, and that of the copies only after a while."""

    def __init__(self, s3: Any) -> None:
        self._s3, self._is_given_up = s3, threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._s3, name)

    def complete_multipart_upload(self, **asked: Any) -> Any:
        if asked["Key"] == "r/combined_data.json":
            raise self._s3.exceptions.ClientError({"Error": {"Code": "InternalError"}}, "Complete")
        self._is_given_up.wait(0.5)
        return self._s3.complete_multipart_upload(**asked)

    def abort_multipart_upload(self, **asked: Any) -> None:
        self._s3.abort_multipart_upload(**asked)
        if asked["Key"] != "r/combined_data.json":
            self._is_given_up.set()


def test_no_upload_is_given_up_while_it_is_completed(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("summarize.contract.s3._PART_BYTES", 1000)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1000)
    plan = _plan(s3, "run-1", repeat_data=2)
    for rank in range(8):
        _end(s3, plan | {"result_path": "r" if rank < 4 else "r/copies"}, [rank])
    with pytest.raises(s3.exceptions.ClientError, match="InternalError"):
        summarize_run(_SlowToComplete(s3), plan)
    assert [info["rank"] for info in _read(s3, "r/copies/combined_data.json")] == [4, 5, 6, 7]
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)


class _Ending:
    """Rank 3 ends after its info has been read once."""

    def __init__(self, s3: Any) -> None:
        self._s3, self._is_first = s3, True

    def get_object(self, **asked: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._s3.get_object(**asked)
        if not asked["Key"].endswith("/3.json"):
            return answer
        info = json.load(answer["Body"])
        if self._is_first:
            del info["duration (seconds)"]
        self._is_first = False
        body = json.dumps(info | {"accuracy_state": "wrong"}).encode()
        return {"Body": io.BytesIO(body), "ContentLength": len(body)}


def test_a_rank_that_ends_between_two_readings_counts_in_neither(s3: Any) -> None:
    plan = _plan(s3, "run-1", tolerated_failure_percentage=100)
    _end(s3, plan, [0, 1, 3])
    reduced = {"run_id": "run-1", "ranks": [0, 3], "accuracy_state": _metrics(0).to_json()}
    _put(s3, "r/metrics.json", reduced)
    assert summarize_run(s3, plan, _Ending(s3))["finished_ranks"] == 2
    summary = _read(s3, "r/summary.json")
    assert (summary["left_out"], summary["accuracy"]["count"]) == ({}, 100)


class _Vanishing:
    """The info of rank 2 is deleted before it is read."""

    def __init__(self, s3: Any) -> None:
        self._s3, self.exceptions = s3, s3.exceptions

    def get_object(self, **asked: Any) -> Any:
        if asked["Key"] == "r/2.json":
            self._s3.delete_object(**asked)
        return self._s3.get_object(**asked)


def test_an_info_that_vanishes_after_it_was_listed_is_missing(s3: Any) -> None:
    """For Summarize, and for Initialize where a run is resumed."""
    plan = _plan(s3, "run-1")
    _end(s3, plan, [0, 1, 2])
    assert summarize_run(s3, plan, _Vanishing(s3))["finished_ranks"] == 2
    assert _read(s3, "r/summary.json")["missing_ranks"] == [2, 3]
    _end(s3, plan, [2])
    payload = {"bucket": BUCKET, "data_prefix": "25MB", "result_path": "r", "resume": True}
    resumed = start(s3, payload, "run-2", "2026-11-22T00:00:00Z", DEPLOYED, lambda: _Vanishing(s3))
    assert resumed["jobs"] == 2
