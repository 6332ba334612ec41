"""Catalogues that grow: what a rank writes, what Summarize commits, and what both refuse; S3 is moto's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import pytest

from inference.catalogue import write_part
from inference.contract.event import RankEvent
from inference.data.storage import Storage
from inference.table import TableError, types
from initialize.payload import PayloadError, resolve
from initialize.run import Deployed, start
from summarize.catalogue import grow
from summarize.contract.growing import Part, arrival_of, commit_key, latest
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import Grown, Run

Json = dict[str, Any]
BUCKET, CATALOGUE = "team3-cosmicai", "catalogues/night"
LOG = f"{CATALOGUE}/_delta_log"
PAYLOAD = {"bucket": BUCKET, "data_prefix": "in/a", "result_path": "results/in/a", "catalogue": CATALOGUE}


def _arrays(run_id: str, rank: int, rows: int, **more: Any) -> Json:
    return {
        "index": np.arange(rows), "z_pred": np.linspace(0.1, 1, rows, dtype=np.float32) + rank,
        "flags": np.full(rows, 40000, np.uint16), "files": np.array([f"{rank}.pt"]), "rows": np.array([rows]),
        "run_id": np.array(run_id), "id": 2**60 + 10 * rank + np.arange(rows), **more,
    }  # fmt: skip


class Arrival:
    """A run over a folder of partitions, without what computes: its ranks' parts, and Summarize's step."""

    def __init__(self, s3: Any, prefix: str = "in/a", run_id: str = "run-1", **payload: Any) -> None:
        self.s3, self.infos = s3, list[RankInfo]()
        given = {**PAYLOAD, "data_prefix": prefix, "result_path": f"results/{prefix}", **payload}
        self.payload = resolve(given)
        self.run = Run(run_id=run_id, started="", payload=self.payload, world_size=9, bytes=1)

    def rank(self, rank: int, rows: int = 2, network: str | None = "n", **more: Any) -> Part:
        event = RankEvent(
            bucket=BUCKET, world_size=9, data_bucket=BUCKET, data_prefix=self.payload["data_prefix"],
            result_path="r", batch_size=1, run_id=self.run.run_id, rank=rank, data_paths=("1.pt",),
            catalogue=self.payload["catalogue"],
        )  # fmt: skip
        part = write_part(event, Storage(self.s3), _arrays(self.run.run_id, rank, rows, **more), network)
        told = json.loads(json.dumps(part.to_json()))
        self.infos = [info for info in self.infos if info.rank != rank]
        self.infos.append(RankInfo(rank=rank, run_id=self.run.run_id, catalogue=told))
        return part

    def grow(self) -> Grown:
        found = grow(self.s3, self.run, self.infos)
        assert found is not None
        return found

    def grown(self) -> Grown:
        found = self.grow()
        assert found.fault is None, found.fault
        return found


@pytest.fixture
def table(s3: Any, tmp_path: Path) -> Callable[[], Any]:
    """The catalogue's rows by id, as deltalake reads a copy of its objects."""

    def read() -> Any:
        for item in s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{CATALOGUE}/")["Contents"]:
            place = tmp_path / item["Key"]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read())
        return deltalake.DeltaTable(tmp_path / CATALOGUE).to_pyarrow_table().sort_by("id")

    return read


def _put(s3: Any, key: str, body: bytes = b"x") -> None:
    s3.put_object(Bucket=BUCKET, Key=key, Body=body)


def _keys(s3: Any, prefix: str) -> list[str]:
    return [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]


def test_values_of_every_type_come_back_exactly(s3: Any, table: Callable[[], Any]) -> None:
    more = {
        "id": np.array([2**64 - 1, 2**63 + 1], np.uint64), "ra": np.array([0.1, np.nan]),
        "b": np.array([True, False]),
        "text": np.array(["é\n", ""]), "f": np.array([0.1, 1e30], np.float32),
        "pdf": np.array([[1, np.nan], [2, 3]], np.float16), "z_grid": np.array([0, 0.1]),
    }  # fmt: skip
    arrival = Arrival(s3)
    arrival.rank(0, **more)
    arrival.grown()
    rows = table().to_pylist()
    assert [row["id"] for row in rows] == [Decimal(2**63 + 1), Decimal(2**64 - 1)]
    last, first = rows
    assert (first["ra"], first["b"], first["text"], first["flags"]) == (0.1, True, "é\n", 40000)
    assert np.isnan(last["ra"])
    assert first["f"] == np.float32(0.1)
    assert last["pdf"] == [2, 3]
    assert np.isnan(first["pdf"][1])
    assert (first["file"], first["row"], last["row"]) == ("0.pt", 0, 1)


def test_an_arrival_that_comes_again_is_replaced_and_others_stay(s3: Any, table: Callable[[], Any]) -> None:
    for prefix, first in (("in/a", 0), ("in/b", 2)):
        arrival = Arrival(s3, prefix)
        arrival.rank(first)
        arrival.rank(first + 1)
        arrival.grown()
    assert table().column("id").to_pylist() == [2**60 + 10 * n + m for n in range(4) for m in (0, 1)]
    again = Arrival(s3, run_id="run-2")
    again.rank(0, rows=1)
    assert replace(again.grown(), arrival="") == Grown(
        place=f"s3://{BUCKET}/{CATALOGUE}", arrival="", version=2, galaxies=1, replaced_files=2
    )
    assert table().column("id").to_pylist() == [2**60, *(2**60 + n for n in (20, 21, 30, 31))]


def test_the_same_commit_twice_changes_nothing(s3: Any, table: Callable[[], Any]) -> None:
    """Lambda may call Summarize again."""
    arrival = Arrival(s3)
    arrival.rank(0)
    assert (arrival.grown().version, arrival.grown().version) == (0, 1)
    assert table().num_rows == 2


def test_a_rank_that_runs_twice_counts_once(s3: Any, table: Callable[[], Any]) -> None:
    """Step Functions may start an Express child twice; on another processor it may compute other bits."""
    arrival = Arrival(s3)
    first, second = arrival.rank(0), arrival.rank(0)
    assert first == second
    other = arrival.rank(0, z_pred=np.array([0.5, 0.6], np.float32))
    assert other.file != first.file
    arrival.grown()
    assert table().column("z_pred").to_pylist() == [0.5, np.float32(0.6)]


class _Between:
    """A client of S3, by which another Summarize commits just before this one."""

    def __init__(self, s3: Any, others: list[Arrival]) -> None:
        self._s3, self._others = s3, others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._s3, name)

    def put_object(self, **given: Any) -> Any:
        if self._others:
            self._others.pop().grown()
        return self._s3.put_object(**given)


def _other(s3: Any, prefix: str, rank: int) -> Arrival:
    arrival = Arrival(s3, prefix, run_id=f"run of {prefix}")
    arrival.rank(rank)
    return arrival


@pytest.mark.parametrize("earlier", [False, True], ids=["a new table", "a table"])
def test_two_that_commit_at_once_do_not_lose_each_other(
    s3: Any, table: Callable[[], Any], earlier: bool
) -> None:
    if earlier:
        _other(s3, "in/z", 7).grown()
    others = [_other(s3, f"in/{rank}", rank) for rank in (1, 2, 3)]
    mine = Arrival(s3)
    mine.rank(0)
    mine.s3 = _Between(s3, others)
    assert mine.grown().version == 3 + earlier
    assert table().num_rows == 8 + 2 * earlier


def test_a_commit_whose_answer_was_lost_is_not_made_again(s3: Any) -> None:
    """botocore repeats the request, and S3 then says that the object is there."""

    class Repeating(_Between):
        def put_object(self, **given: Any) -> Any:
            self._s3.put_object(**given)
            return self._s3.put_object(**given)

    arrival = Arrival(s3)
    arrival.rank(0)
    arrival.s3 = Repeating(s3, [])
    assert arrival.grown().version == 0
    assert _keys(s3, LOG) == [commit_key(CATALOGUE, 0)]


def test_similar_folders_are_different_arrivals() -> None:
    pairs = [("b", "in/a"), ("b", "in/a/"), ("b", "in/a/1"), ("b", "in/A"), ("b/in", "a"), ("b", "in/a\u0301")]
    pairs += [("b", "in/\u00e1"), ("b", 'in", "a'), ("b", ""), ("", "b")]
    assert len({arrival_of(*pair) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize("run_id", ["../../x", "run=1 %2F", "é\u202e+'\"", "a" * 80, ". .", "run-1"])
def test_names_of_runs_and_folders_do_no_harm(s3: Any, table: Callable[[], Any], run_id: str) -> None:
    arrival = Arrival(s3, prefix="in/=%2F é", run_id=run_id)
    arrival.rank(0)
    arrival.grown()
    (key,) = _keys(s3, f"{CATALOGUE}/arrival=")
    assert key.count("/") == CATALOGUE.count("/") + 2
    assert table().num_rows == 2


def _no_info(info: RankInfo) -> RankInfo:
    return replace(info, catalogue=None)


def _told(**changes: Any) -> Callable[[RankInfo], RankInfo]:
    return lambda info: replace(info, catalogue={**info.catalogue, **changes})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_no_info, "rank 1 does not say what it wrote to the catalogue"),
        (_told(file="../0.parquet"), "is not the name of a rank's file"),
        (_told(file="other.parquet"), r"other\.parquet is no longer in the arrival's folder"),
        (_told(columns={"id": "map"}), "holds a type that a rank does not write"),
        (_told(columns={"a\nb": "long"}), "holds a name that no column has"),
        (_told(columns=7), "columns: 7 is not a JSON object"),
        (_told(rows=-1), "rows: -1 is not a whole number"),
        (_told(columns={"id": "string"}), "the ranks differ in the column id: long and string"),
        (_told(network="other"), "the ranks used different networks"),
        (_told(z_grid=[0.0, 1.0]), "the ranks used different networks"),
    ],
)
def test_what_a_rank_says_is_not_trusted(s3: Any, change: Callable[[RankInfo], RankInfo], said: str) -> None:
    arrival = Arrival(s3)
    arrival.rank(0)
    arrival.rank(1)
    arrival.infos[1] = change(arrival.infos[1])
    assert re.search(said, str(arrival.grow().fault))
    assert not _keys(s3, LOG)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tile": np.array([1, 2])}, "it has more columns: tile"),
        ({"id": np.array(["a", "b"])}, r"columns differ in type: id \(long there, string here\)"),
        (
            {"pdf": np.ones((2, 2)), "z_grid": np.arange(2)},
            r"it has more columns: pdf; p\(z\) is given at other",
        ),
        ({"network": "other"}, "another network computed it"),
    ],
)
def test_an_arrival_of_another_form_is_refused(
    s3: Any, table: Callable[[], Any], more: Json, said: str
) -> None:
    first = Arrival(s3)
    first.rank(0)
    first.grown()
    other = Arrival(s3, "in/b")
    other.rank(1, **more)
    assert re.search(f"does not fit into s3://{BUCKET}/{CATALOGUE}: .*{said}", str(other.grow().fault))
    assert table().num_rows == 2


def test_a_column_that_one_rank_lacks_is_null_there(s3: Any, table: Callable[[], Any]) -> None:
    arrival = Arrival(s3)
    arrival.rank(0, z_true=np.array([1.0, np.nan], np.float32))
    arrival.rank(1)
    arrival.rank(2, rows=0)
    assert arrival.grown().galaxies == 4
    column = table().column("z_true").to_pylist()
    assert column[0] == 1
    assert np.isnan(column[1])
    assert column[2:] == [None, None]


def test_a_run_without_galaxies_leaves_the_catalogue(s3: Any) -> None:
    arrival = Arrival(s3)
    arrival.rank(0, rows=0)
    assert "no rank of the run has a galaxy" in str(arrival.grow().fault)
    assert grow(s3, replace(arrival.run, payload={}), arrival.infos) is None


@pytest.mark.parametrize("name", ["arrival", "Arrival"])
def test_a_kept_column_may_not_have_the_arrivals_name(name: str) -> None:
    with pytest.raises(TableError, match=f"have a column {name}, which a catalogue has for something else"):
        types({name: np.arange(2)})


_BROKEN = {
    "no JSON": b"{",
    "no object": b"[]\n",
    "nested": b"[" * 100_000,
    "not text": b"\xff\xfe",
    "no form": b'{"commitInfo": {"cosmicai": {"columns": 1}}}',
    "another program's columns": b'{"metaData": {"schemaString": "{}"}}',
    "another program's protocol": b'{"protocol": {"minReaderVersion": 3, "minWriterVersion": 7}}',
}


@pytest.mark.parametrize("commit", _BROKEN.values(), ids=_BROKEN)
def test_a_log_that_is_not_as_we_left_it_stops_a_run_before_it_computes(s3: Any, commit: bytes) -> None:
    arrival = Arrival(s3)
    arrival.rank(0)
    arrival.grown()
    _put(s3, commit_key(CATALOGUE, 1), commit)
    _put(s3, "in/a/1.pt")
    with pytest.raises(
        PayloadError, match=rf"^catalogue: s3://{BUCKET}/{LOG}/0{{19}}1\.json.*give another catalogue"
    ):
        _start(s3, PAYLOAD)
    assert f"s3://{BUCKET}/{LOG}/" in str(arrival.grow().fault)
    assert not _keys(s3, "results/")


def _start(s3: Any, payload: Json) -> Json:
    deployed = Deployed(True, False, lambda: 9, lambda name: False)
    return start(s3, payload, "run-9", "2026-11-22T00:00:00Z", deployed)


def test_commits_of_maintenance_are_passed_over(s3: Any) -> None:
    """A compaction has commits of its own; a checkpoint and a log that was cut keep the newest ones."""
    arrival = Arrival(s3)
    arrival.rank(0)
    arrival.grown()
    for version in (1, 2):
        _put(s3, commit_key(CATALOGUE, version), b'{"commitInfo": {"operation": "OPTIMIZE"}}\n')
    _put(s3, f"{LOG}/00000000000000000002.checkpoint.parquet")
    _put(s3, f"{LOG}/_last_checkpoint")
    version, form = latest(s3, BUCKET, CATALOGUE)
    assert (version, form is None) == (2, False)
    s3.delete_object(Bucket=BUCKET, Key=commit_key(CATALOGUE, 0))
    assert "its log has lost our commits" in str(arrival.grow().fault)


def test_a_folder_is_a_catalogue_and_nothing_else(s3: Any) -> None:
    _put(s3, "in/a/1.pt")
    _put(s3, f"{CATALOGUE}/notes\x1b[2J.txt")
    with pytest.raises(PayloadError, match=r"catalogue: s3://\S+ holds something else \(notes\\x1b\[2J\.txt\)"):
        _start(s3, PAYLOAD)
    s3.delete_object(Bucket=BUCKET, Key=f"{CATALOGUE}/notes\x1b[2J.txt")
    arrival = Arrival(s3)
    arrival.rank(0)
    _start(s3, PAYLOAD)  # parts of a run that has not ended
    arrival.grown()
    _start(s3, PAYLOAD)
    with pytest.raises(PayloadError, match=f"s3://{BUCKET}/{CATALOGUE} is a catalogue itself"):
        _start(s3, {**PAYLOAD, "catalogue": f"{CATALOGUE}/x/y"})
    with pytest.raises(PayloadError, match=r"s3://team3-cosmicai/catalogues holds something else"):
        _start(s3, {**PAYLOAD, "catalogue": "catalogues"})
    _start(s3, {**PAYLOAD, "catalogue": f"{CATALOGUE}-2"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"model": "models/mine"},
            "holds redshifts of the bundled model, and this run uses the model models/mine",
        ),
        ({"outputs": ["redshift"]}, "was begun with the outputs redshift, pdf, and this run has redshift"),
    ],
)
def test_another_model_or_other_outputs_are_refused_at_once(s3: Any, change: Json, said: str) -> None:
    _put(s3, "in/a/1.pt")
    arrival = Arrival(s3)
    arrival.rank(0)
    arrival.grown()
    with pytest.raises(PayloadError, match=said):
        _start(s3, {**PAYLOAD, **change})


@pytest.mark.parametrize(
    ("catalogue", "found"),
    [
        ("catalogues/night", "catalogues/night"),
        ("catalogues/night/", "catalogues/night"),
        ("catalogues/in/night/visit/_READY", "catalogues/in/night"),
        ("catalogues/in/visit/_READY", "catalogues/in"),
    ],
)
def test_a_ready_object_means_the_catalogue_of_the_folder_above(catalogue: str, found: str) -> None:
    assert resolve({**PAYLOAD, "catalogue": catalogue})["catalogue"] == found


@pytest.mark.parametrize("catalogue", ["x/_READY", ".cosmicai/x", "/x", "a//b", "a/../b", " ", "a\\b", 7])
def test_a_catalogue_that_is_no_folder_is_refused(catalogue: object) -> None:
    with pytest.raises(PayloadError, match=r"^catalogue: "):
        resolve({**PAYLOAD, "catalogue": catalogue})


@pytest.mark.parametrize(
    "catalogue",
    ["in/a", "in", "in/a/b", "results/in/a", "results", "results/in/a/x", "models/mine/x", "models"],
)
def test_a_catalogue_is_neither_in_nor_around_another_folder_of_the_run(catalogue: str) -> None:
    with pytest.raises(PayloadError, match="give a folder that is neither in that one nor around it"):
        resolve({**PAYLOAD, "model": "models/mine", "catalogue": catalogue})


@pytest.mark.parametrize("catalogue", ["in/a-2", "in/b", "results/in/aa", "result", "models/mine-2", "i"])
def test_a_catalogue_may_be_next_to_other_folders(catalogue: str) -> None:
    assert resolve({**PAYLOAD, "model": "models/mine", "catalogue": catalogue})["catalogue"] == catalogue


def test_data_of_another_bucket_may_have_the_catalogues_name() -> None:
    resolve({**PAYLOAD, "data_bucket": "survey", "data_prefix": CATALOGUE})


def test_a_script_has_no_catalogue() -> None:
    script = {"S3_object_name": "code", "script": "/tmp/code/a.py"}  # noqa: S108
    with pytest.raises(PayloadError, match="catalogue: is given with a script"):
        resolve({**PAYLOAD, **script})
