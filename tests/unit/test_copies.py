"""repeat_data: partitions are computed several times, and what copies compute stays apart."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cosmicai.cli import app
from cosmicai.experiments.cases import Case
from cosmicai.experiments.planning import plan
from cosmicai.experiments.sweep import Amount, SweepError, amount_of
from cosmicai.results.catalogue import CatalogueError
from cosmicai.results.report import ResultsError, write
from cosmicai.results.run_results import Results
from cosmicai.runs.download import OF_ANOTHER_RUN, download
from inference import fmi
from inference.contract.accuracy import Metrics
from inference.metrics.reduction import Reduction, Share, Tree
from initialize.contract.event import RankEvent
from initialize.deployed import Deployed
from initialize.payload import PayloadError, resolve
from initialize.plan import PartitionFile, PlanError, deal
from initialize.run import start
from summarize.gather import summarize_run

BUCKET = "team3-cosmicai"
DEPLOYED = Deployed(
    allow_scripts=True, has_redis=False, concurrency=lambda: 1000, is_running=lambda name: False,
    memory_mb=3538,
)  # fmt: skip
PAYLOAD = {"bucket": BUCKET, "data_prefix": "25MB", "result_path": "r", "collectives": "s3"}
Json = dict[str, Any]


def _metrics(seed: int) -> Metrics:
    rng = np.random.default_rng(seed)
    true = rng.uniform(0, 3, 50)
    return Metrics.of(true + rng.normal(0, 0.1, 50), true, rng.uniform(17, 25, 50))


def _put(s3: Any, key: str, content: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(content).encode())


def _read(s3: Any, key: str) -> Any:
    return json.load(s3.get_object(Bucket=BUCKET, Key=key)["Body"])


def _started(s3: Any, run_id: str = "run-1", **fields: Any) -> Json:
    return start(s3, {**PAYLOAD, **fields}, run_id, "2026-11-22T00:00:00Z", DEPLOYED)


def _end(s3: Any, ranks: list[int], run_id: str = "run-1") -> None:
    """Ranks as they leave their infos: each has other metrics, so that none can stand for another."""
    events = {event["RANK"]: event for event in _read(s3, "r/manifest.json")}
    for rank in ranks:
        event = RankEvent.from_json(events[rank])
        info = {
            "rank": rank, "data_path": event.data_paths[0], "run_id": run_id, "num_samples": 50,
            "memory_limit (MB)": 3538.0,
            "duration (seconds)": 3.0, "init (seconds)": 1.0, "sample_persec": 700.0, "architecture": "arm64",
            "accuracy_state": _metrics(rank).to_json(), "ended (unix seconds)": time.time() + rank,
            "flags": {"faint_or_bright": 1}, **({} if event.copy is None else {"copy_number": event.copy}),
        }  # fmt: skip
        _put(s3, f"{event.result_path}/{rank}.json", info)


@pytest.fixture
def bucket(s3: Any) -> Any:
    """A bucket with four partitions."""
    for number in range(4):
        s3.put_object(Bucket=BUCKET, Key=f"25MB/{number}.pt", Body=b"galaxies")
    return s3


def test_a_payload_says_how_often() -> None:
    assert resolve(PAYLOAD)["repeat_data"] == 1
    assert resolve({**PAYLOAD, "repeat_data": "80"})["repeat_data"] == 80


@pytest.mark.parametrize("times", [0, -1, 100_001, 1.5, "many", True, None])
def test_other_numbers_are_refused(times: object) -> None:
    with pytest.raises(
        PayloadError, match=r"^repeat_data: .* is not allowed; give a whole number from 1 to 100000 "
    ):
        resolve({**PAYLOAD, "repeat_data": times})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"S3_object_name": "code", "script": "/tmp/code/run.py"}, "a script itself decides where it writes"),  # noqa: S108
        ({"catalogue": "nights"}, "a catalogue would hold each galaxy several times"),
    ],
)
def test_where_copies_could_be_taken_for_originals_they_are_refused(fields: Json, reason: str) -> None:
    with pytest.raises(PayloadError, match=f"^repeat_data: 2 is not allowed with .*, because {reason}"):
        resolve({**PAYLOAD, **fields, "repeat_data": 2})
    resolve({**PAYLOAD, **fields, "repeat_data": 1})


def test_copies_are_dealt_what_the_originals_are() -> None:
    files = [PartitionFile(f"{number}.pt", 10 + number) for number in range(7)]
    for ranks in (1, 3, 7):
        once = deal(files, ranks)
        assert deal(files, ranks, 3) == [*once, *once, *once]


@pytest.mark.parametrize(
    ("files", "times", "advice"),
    [
        (
            130,
            800,
            "800 times 130 ranks are more .* give a repeat_data of at most 769 or a world_size of at most 125",
        ),
        (
            200_000,
            2,
            "2 times 200000 ranks are more .* give a world_size of at most 50000, and each rank reads",
        ),
    ],
)
def test_more_ranks_than_one_run_may_have_are_refused(files: int, times: int, advice: str) -> None:
    partitions = [PartitionFile(f"{number}.pt", 1) for number in range(files)]
    with pytest.raises(PlanError, match=f"^repeat_data: {advice}"):
        deal(partitions, files, times)


@pytest.mark.parametrize(("fields", "originals"), [({}, 4), ({"world_size": 2}, 2), ({"file_limit": 3}, 3)])
def test_a_run_has_its_ranks_as_often_as_the_payload_says(bucket: Any, fields: Json, originals: int) -> None:
    _started(bucket, "once", **fields)
    once, events = _read(bucket, "r/run.json"), _read(bucket, "r/manifest.json")
    answer = _started(bucket, **fields, repeat_data=3)
    run, repeated = _read(bucket, "r/run.json"), _read(bucket, "r/manifest.json")
    assert (run["world_size"], run["originals"]) == (3 * originals, originals)
    assert answer["world_size"] == answer["max_concurrency"] == len(repeated) == 3 * originals
    assert (run["bytes"], run["files"]) == (3 * once["bytes"], once["files"])
    assert run["bytes_per_rank"] == 3 * once["bytes_per_rank"]
    assert list(run["data_map"].values()) == 3 * list(once["data_map"].values())
    assert "originals" not in once
    (note,) = run["notes"]
    assert note.startswith(
        f"repeat_data is 3: the ranks from {originals} on are copies, which compute the data"
    )
    changed = {"RUN_ID": "run-1", "WORLD_SIZE": 3 * originals, "ORIGINALS": originals}
    first = {event["RANK"]: event for event in events}
    for event in repeated:
        rank = event["RANK"] % originals
        place = "r" if event["RANK"] < originals else "r/copies"
        assert event == {**first[rank], **changed, "RANK": event["RANK"], "RESULT_PATH": place}
        assert RankEvent.from_json(event).copy == (event["RANK"] // originals or None)


def test_copies_count_in_the_choice_of_the_channel(bucket: Any) -> None:
    answers = [_started(bucket, repeat_data=times, collectives="auto") for times in (1, 300)]
    seconds = [run["candidates"]["none"]["seconds"] for run in (_read(bucket, "r/run.json")["collectives"],)]
    assert [answer["world_size"] for answer in answers] == [4, 1200]
    assert seconds[0] > 5  # 1,200 ranks are started and summarised, in two waves


def test_a_summary_is_that_of_the_originals_and_the_cost_that_of_all(bucket: Any) -> None:
    _started(bucket)
    _end(bucket, [0, 1, 2, 3])
    summarize_run(bucket, _started(bucket, resume=True))
    once = _read(bucket, "r/summary.json")

    event = _started(bucket, "run-2", repeat_data=3)
    _end(bucket, list(range(12)), "run-2")
    _put(bucket, "r/5.json", {**_read(bucket, "r/copies/5.json"), "num_samples": 10**6})  # not a copy's place
    _put(bucket, "r/copies/1.json", {**_read(bucket, "r/1.json"), "num_samples": 10**6})  # not an original's
    assert summarize_run(bucket, event)["finished_ranks"] == 12
    summary = _read(bucket, "r/summary.json")
    for name in ("accuracy", "accuracy_state", "num_samples", "num_samples_from", "flags"):
        assert summary[name] == once[name]
    assert (summary["originals"], summary["copied_samples"], summary["world_size"]) == (4, 400, 12)
    assert summary["cost"]["GB-seconds"] == pytest.approx(3 * once["cost"]["GB-seconds"])
    assert summary["seconds"]["duration"] == 36.0
    assert [info["rank"] for info in _read(bucket, "r/combined_data.json")] == [0, 1, 2, 3]
    copies = _read(bucket, "r/copies/combined_data.json")
    assert [(info["rank"], info["copy_number"]) for info in copies] == [(r, r // 4) for r in range(4, 12)]
    last = copies[-1]["ended (unix seconds)"] - datetime(2026, 11, 22, tzinfo=UTC).timestamp()
    assert summary["wall (seconds)"] == pytest.approx(last)
    page = bucket.get_object(Bucket=BUCKET, Key="r/report.html")["Body"].read().decode()
    assert "galaxies computed 3 times each: the 8 ranks of copies count only in time and cost" in page
    assert page.count("copy 2 of 25MB/") == 4
    assert not {"originals", "copied_samples"} & once.keys()


def test_an_original_that_says_it_is_a_copy_counts_as_an_original(bucket: Any) -> None:
    event = _started(bucket)
    _end(bucket, [0, 1, 2, 3])
    _put(bucket, "r/1.json", {**_read(bucket, "r/1.json"), "copy_number": 2})
    summarize_run(bucket, event)
    assert _read(bucket, "r/summary.json")["num_samples"] == 200
    assert len(_read(bucket, "r/combined_data.json")) == 4


def test_metrics_that_cover_a_copy_are_not_used(bucket: Any) -> None:
    event = _started(bucket, repeat_data=2)
    _end(bucket, list(range(8)))
    reduced = {"run_id": "run-1", "channel": "s3", "ranks": [0, 5], "accuracy_state": _metrics(5).to_json()}
    _put(bucket, "r/metrics.json", reduced)
    summarize_run(bucket, event)
    source = _read(bucket, "r/summary.json")["metrics_source"]
    assert source == "rank infos; metrics.json is not used: its ranks are not those of the run"


def test_a_copy_that_fails_is_named_and_a_resumed_run_computes_it_alone(bucket: Any) -> None:
    event = _started(bucket, repeat_data=3, tolerated_failure_percentage=0)
    _end(bucket, [0, 1, 2, 3, 5, 6, 7, 8, 9, 10])
    _put(bucket, "r/copies/failures/4.json", {"rank": 4, "run_id": "run-1", "error": "Boom", "cause": "why"})
    verdict = summarize_run(bucket, event)
    summary = _read(bucket, "r/summary.json")
    assert not verdict["within_tolerance"]
    assert (summary["failed_ranks"], summary["missing_ranks"]) == (
        {"4": {"error": "Boom", "cause": "why"}},
        [11],
    )
    assert (summary["num_samples"], summary["copied_samples"]) == (200, 300)
    again = _started(bucket, "run-2", repeat_data=3, resume=True)
    missing = {event["RANK"]: event["RESULT_PATH"] for event in _read(bucket, "r/manifest.json")}
    assert missing == {4: "r/copies", 11: "r/copies"}
    _end(bucket, [4, 11])
    assert summarize_run(bucket, again)["within_tolerance"]
    assert _read(bucket, "r/summary.json")["copied_samples"] == 400
    with pytest.raises(PayloadError, match="repeat_data differ from the run to resume"):
        _started(bucket, "run-3", repeat_data=2, resume=True)


@pytest.mark.parametrize(("lost", "share"), [([0], 25.0), ([4, 5, 6, 7], 10.0), ([0, 4], 25.0)])
def test_copies_do_not_make_up_for_originals_that_fail(bucket: Any, lost: list[int], share: float) -> None:
    """One original of four is a quarter of the redshifts, however many copies have ended."""
    event = _started(bucket, repeat_data=10, tolerated_failure_percentage=10)
    _end(bucket, [rank for rank in range(40) if rank not in lost])
    verdict = summarize_run(bucket, event)
    assert verdict["failed_percentage"] == share
    assert verdict["within_tolerance"] == (0 not in lost)


@pytest.mark.parametrize(("originals", "size"), [(2, 4), (33, 99), (40, 80)])
def test_ranks_reduce_the_originals_alone(originals: int, size: int) -> None:
    """Trees in which originals have copies as children, and copies have copies."""
    memory = fmi.Memory(size)

    def one(rank: int) -> tuple[Share, Json]:
        channel = memory.channel(rank)
        with Reduction(Tree(rank, size, originals), lambda: channel, lambda: 60.0) as part:
            return part.finish(Share([rank], 50, _metrics(rank))), part.info()

    with ThreadPoolExecutor(size) as pool:
        shares, infos = zip(*pool.map(one, range(size)), strict=True)
    expected = _metrics(0)
    for rank in range(1, originals):
        expected.add(_metrics(rank))
    assert shares[0] == Share(list(range(originals)), 50 * originals, expected)
    assert all(not info["faults"] for info in infos)
    assert sum(info["sent (bytes)"] > 500 for info in infos) == size - 1  # copies send theirs as others do


@pytest.fixture
def ended(bucket: Any) -> Any:
    """A run of four ranks, each computed three times, with predictions."""
    event = _started(bucket, repeat_data=3)
    _end(bucket, list(range(12)))
    for one in map(RankEvent.from_json, _read(bucket, "r/manifest.json")):
        arrays = {"index": np.arange(2), "z_pred": np.full(2, one.rank), "flags": np.zeros(2, np.uint16)}
        arrays |= {"run_id": np.array("run-1")}
        arrays |= {} if one.copy is None else {"copy_number": np.array(one.copy)}
        np.savez("predictions.npz", **arrays)
        body = Path("predictions.npz").read_bytes()
        bucket.put_object(Bucket=BUCKET, Key=f"{one.result_path}/predictions/{one.rank}.npz", Body=body)
    summarize_run(bucket, event)
    return bucket


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_download_leaves_copies_out_unless_asked(ended: Any, tmp_path: Path) -> None:
    _put(ended, "r/copies/12.json", {"rank": 12, "run_id": "run-0"})
    without = download(ended, BUCKET, "r", "run-1", tmp_path / "without")
    assert not any("copies" in path.parts for path in without.files)
    assert without.left_out == {}
    results = Results(tmp_path / "without")
    assert results.catalogue.whole()["z_pred"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(ResultsError, match=r"without has no copies/: download the run again with copies=True"):
        _ = results.copies

    everything = download(ended, BUCKET, "r", "run-1", tmp_path / "all", copies=True)
    assert everything.left_out == {"r/copies/12.json": OF_ANOTHER_RUN}
    assert tmp_path / "all" / "copies" / "predictions" / "11.npz" in everything.files
    results = Results(tmp_path / "all")
    assert [info.rank for info in results.ranks] == [0, 1, 2, 3]
    assert [(info.rank, info.copy) for info in results.copies] == [(rank, rank // 4) for rank in range(4, 12)]
    assert results.catalogue.whole()["z_pred"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(CatalogueError, match="is of a copy, whose galaxies are those of other ranks"):
        _ = Results(tmp_path / "all" / "copies").catalogue


def test_a_report_that_is_written_again_has_the_copies_that_were_downloaded(ended: Any, tmp_path: Path) -> None:
    for name, copies in (("without", False), ("all", True)):
        download(ended, BUCKET, "r", "run-1", tmp_path / name, copies=copies)
    original = ended.get_object(Bucket=BUCKET, Key="r/report.html")["Body"].read().decode()
    assert write(tmp_path / "all").read_text() == original
    assert "computed 3 times each" in write(tmp_path / "without").read_text()
    assert json.loads((tmp_path / "all" / "Results.json").read_text())["num_samples"] == 200


def test_copies_of_an_earlier_run_at_the_same_path_are_of_another_run(ended: Any, tmp_path: Path) -> None:
    event = _started(ended, "run-2")
    _end(ended, [0, 1, 2, 3], "run-2")
    summarize_run(ended, event)
    assert _read(ended, "r/summary.json")["finished_ranks"] == 4
    downloaded = download(ended, BUCKET, "r", "run-2", tmp_path / "out")
    assert not any("copies" in path.parts for path in downloaded.files)
    assert "r/copies/predictions/4.npz" in downloaded.left_out


@pytest.mark.parametrize(
    ("data_gb", "amount"),
    [
        (None, Amount(None, 1)),
        (0.5, Amount(5, 1)),
        (1, Amount(10, 1)),
        (1.04, Amount(10, 1)),
        (1.5, Amount(8, 2)),
        (3, Amount(10, 3)),
        (1000, Amount(10, 950)),
    ],
)
def test_a_sweep_makes_amounts_beyond_the_data_of_copies(data_gb: float | None, amount: Amount) -> None:
    assert amount_of([10**8] * 10, data_gb, "s3://b/100MB/") == amount
    fields = amount.fields
    assert ("repeat_data" in fields) == (amount.times > 1)
    if data_gb is not None:
        assert fields["file_limit"] * amount.times == pytest.approx(10 * data_gb, rel=0.08)


@pytest.mark.parametrize(
    ("sizes", "data_gb", "sentence"),
    [
        ([10**9], 1.1, "1 GB in there: 1 partition is computed 2 times each, which is 2 GB"),
        ([10**9] * 3, 7.0, "3 GB in there: 2 partitions are computed 3 times each, which is 6 GB"),
    ],
)
def test_a_sweep_says_how_much_it_computes(sizes: list[int], data_gb: float, sentence: str) -> None:
    """With few partitions that is far from what was asked for."""
    assert amount_of(sizes, data_gb, "there").in_words(sizes, "there") == sentence


def test_a_sweep_refuses_what_takes_more_ranks_than_a_run_has() -> None:
    with pytest.raises(
        SweepError, match=r"--data-gb 20000: 10 partitions of s3://b/100MB/ 19,000 times are 190,000"
    ):
        amount_of([10**8] * 10, 20_000, "s3://b/100MB/")


def test_a_plan_counts_the_copies() -> None:
    once = plan(Case(3000, 25, 3538, "arm64", "s3"))
    case = Case(3000, 25, 3538, "arm64", "s3", times=4)
    planned = plan(case)
    assert (case.originals, case.ranks, case.images_of_last) == (3, 12, 3000 - 2 * 1278)
    assert planned.usd["Lambda compute"] == pytest.approx(4 * once.usd["Lambda compute"], rel=0.1)
    assert planned.usd["S3 requests"] == pytest.approx(4 * once.usd["S3 requests"])
    many = plan(Case(3000, 25, 3538, "arm64", "s3", times=40_000))
    assert many.obstacles[0].text.startswith("120,000 ranks: a run has 100,000 at most")
    many = plan(Case(3000, 25, 3538, "arm64", "none", vcpus=2, times=4000))
    assert many.obstacles[0].text.startswith("12,000 ranks: an array of jobs has 10,000 at most")
    many = plan(Case(3000, 25, 3538, "arm64", "none", vcpus=2, times=50_000))
    assert "at most; compute every partition 10,000 times or fewer" in many.obstacles[0].text


def test_the_planned_payload_repeats_the_data() -> None:
    options = ["--images", "12780", "--partition-mb", "25", "--repeat-data", "80", "--json"]
    answer = json.loads(CliRunner().invoke(app, ["plan", *options]).output)
    assert answer["recommended"]["ranks"] == 800
    assert answer["payload"]["repeat_data"] == 80


def test_two_numbers_of_times_are_refused(tmp_path: Path) -> None:
    (tmp_path / "payload.json").write_text(json.dumps(PAYLOAD))
    command = ["run", "payload.json", "--repeat-data", "2", "--set", "repeat_data=3", "--local"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "give one of --repeat-data and --set repeat_data" in result.output
