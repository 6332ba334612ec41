"""Catalogues that grow: what a rank writes, what Summarize commits, and what both refuse; S3 is moto's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.table import TableError, types
from initialize.payload import PayloadError, resolve
from summarize.catalogue import grow
from summarize.contract.growing import arrival_of, commit_key, latest
from summarize.contract.model_files import TORCH_FILES
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import Grown
from summarize.lean import Lean
from tests.arrivals import BUCKET, CATALOGUE, LOG, PAYLOAD, Arrival, Json, keys, put, rows, started


@pytest.fixture
def table(s3: Any, tmp_path: Path) -> Callable[[], Any]:
    """The catalogue's rows by id, as deltalake reads them."""
    return lambda: rows(s3, tmp_path)


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


@pytest.mark.fault(
    "a rank that adds to a catalogue runs twice",
    "the same rank again, and once more with other redshifts",
    "its galaxies are in the catalogue once, as its rank info says",
    "nothing",
)
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
    """An S3 client through which another Summarize commits just before this one."""

    def __init__(self, s3: Any, others: list[Arrival]) -> None:
        self._s3, self._others = s3, others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._s3, name)

    def put_object(self, **arguments: Any) -> Any:
        if self._others:
            self._others.pop().grown()
        return self._s3.put_object(**arguments)


def _other(s3: Any, prefix: str, rank: int) -> Arrival:
    arrival = Arrival(s3, prefix, run_id=f"run of {prefix}")
    arrival.rank(rank)
    return arrival


@pytest.mark.fault(
    "several runs add to one catalogue at once",
    "three other commits between a run's look at the log and its own commit",
    "each commits after the others",
    "nothing",
)
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


@pytest.mark.fault(
    "S3's answer to the commit of a catalogue is lost",
    "each write is made twice; the second is refused, because the object is there",
    "the run finds its own commit",
    "nothing",
)
def test_a_commit_whose_answer_was_lost_is_not_made_again(s3: Any) -> None:
    """botocore repeats the request, and S3 then says that the object is there."""

    class Repeating(_Between):
        def put_object(self, **arguments: Any) -> Any:
            self._s3.put_object(**arguments)
            return self._s3.put_object(**arguments)

    arrival = Arrival(s3)
    arrival.rank(0)
    arrival.s3 = Repeating(s3, [])
    assert arrival.grown().version == 0
    assert keys(s3, LOG) == [commit_key(CATALOGUE, 0)]


def test_a_commit_that_nobody_could_read_is_not_made(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing could be added to the catalogue after it."""
    few, many, last = Arrival(s3), Arrival(s3, "in/b"), Arrival(s3, "in/c")
    few.rank(0)
    last.rank(9)
    for rank in range(30):
        many.rank(rank)
    few.grown()
    for module in ("summarize.catalogue", "summarize.contract.growing"):
        monkeypatch.setattr(f"{module}.LARGEST", 5000)
    fault = str(many.grow().fault)
    assert "a commit that adds 30 files and replaces 0 has " in fault
    assert "(vacuum) and run the same payload with resume" in fault
    assert last.grown().version == 1


def test_a_part_without_metadata_stops_no_summary(s3: Any) -> None:
    arrival = Arrival(s3)
    arrival.rank(0)
    arrival.infos = [replace(info, catalogue={**info.catalogue, "metadata": None}) for info in arrival.infos]
    assert "rank 0 does not say what it wrote to the catalogue (metadata: null is" in str(arrival.grow().fault)


def test_redshifts_of_pdf_are_in_memory_once(s3: Any) -> None:
    """Each of up to 100,000 ranks names up to 5,000 of them."""
    arrival, lean = Arrival(s3), Lean()
    arrival.rank(0, pdf=np.ones((2, 5001), np.float32), z_grid=np.linspace(0, 1, 5001))
    info = json.dumps(arrival.infos[0].to_json())
    arrival.infos += [
        lean.of(replace(RankInfo.from_json(json.loads(info)), rank=rank)) for rank in range(1, 200)
    ]
    tracemalloc.start()
    grown = arrival.grow()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert grown.galaxies == 400
    assert peak < 4e6  # and 8 MB for a list for each rank


def test_similar_folders_are_different_arrivals() -> None:
    pairs = [("b", "in/a"), ("b", "in/a/"), ("b", "in/a/1"), ("b", "in/A"), ("b/in", "a"), ("b", "in/a\u0301")]
    pairs += [("b", "in/\u00e1"), ("b", 'in", "a'), ("b", ""), ("", "b")]
    assert len({arrival_of(*pair) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tile": np.array([1, 2])}, "it has columns that the catalogue lacks: tile"),
        ({"id": np.array(["a", "b"])}, r"columns differ in type: id \(long there, string here\)"),
        (
            {"pdf": np.ones((2, 2)), "z_grid": np.arange(2)},
            r"it has columns that the catalogue lacks: pdf; p\(z\) is given at other",
        ),
        ({"network": "other"}, "another network, or another mapping of its outputs, computed it"),
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
    assert re.search(
        f"s3://{BUCKET}/in/b/ does not fit into s3://{BUCKET}/{CATALOGUE}, .*: .*{said}",
        str(other.grow().fault),
    )
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


def test_commits_of_maintenance_are_passed_over(s3: Any) -> None:
    """A compaction has commits of its own; a checkpoint and a log that was cut keep the newest ones."""
    arrival = Arrival(s3)
    arrival.rank(0)
    arrival.grown()
    for version in (1, 2):
        put(s3, commit_key(CATALOGUE, version), b'{"commitInfo": {"operation": "OPTIMIZE"}}\n')
    put(s3, f"{LOG}/00000000000000000002.checkpoint.parquet")
    put(s3, f"{LOG}/_last_checkpoint")
    version, form = latest(s3, BUCKET, CATALOGUE)
    assert (version, form is None) == (2, False)
    s3.delete_object(Bucket=BUCKET, Key=commit_key(CATALOGUE, 0))
    assert "its log has lost our commits" in str(arrival.grow().fault)


def test_a_folder_is_a_catalogue_and_nothing_else(s3: Any) -> None:
    put(s3, "in/a/1.pt")
    put(s3, f"{CATALOGUE}/notes\x1b[2J.txt")
    with pytest.raises(
        PayloadError, match=r"catalogue: s3://\S+ holds other objects, such as notes\\x1b\[2J\.txt;"
    ):
        started(s3, PAYLOAD)
    s3.delete_object(Bucket=BUCKET, Key=f"{CATALOGUE}/notes\x1b[2J.txt")
    arrival = Arrival(s3)
    arrival.rank(0)
    started(s3, PAYLOAD)  # parts of a run that has not ended
    arrival.grown()
    started(s3, PAYLOAD)
    with pytest.raises(PayloadError, match=f"s3://{BUCKET}/{CATALOGUE} is a catalogue, and its"):
        started(s3, {**PAYLOAD, "catalogue": f"{CATALOGUE}/x/y"})
    with pytest.raises(PayloadError, match=r"s3://team3-cosmicai/catalogues holds other objects"):
        started(s3, {**PAYLOAD, "catalogue": "catalogues"})
    started(s3, {**PAYLOAD, "catalogue": f"{CATALOGUE}-2"})


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
    put(s3, "in/a/1.pt")
    arrival = Arrival(s3)
    arrival.rank(0)
    arrival.grown()
    for name in TORCH_FILES:
        put(s3, f"models/mine/{name}")
    with pytest.raises(PayloadError, match=said):
        started(s3, {**PAYLOAD, **change})


@pytest.mark.parametrize(
    ("catalogue", "resolved"),
    [
        ("catalogues/night", "catalogues/night"),
        ("catalogues/night/", "catalogues/night"),
        ("catalogues/in/night/visit/_READY", "catalogues/in/night"),
        ("catalogues/in/visit/_READY", "catalogues/in"),
    ],
)
def test_a_ready_object_means_the_catalogue_of_the_folder_above(catalogue: str, resolved: str) -> None:
    assert resolve({**PAYLOAD, "catalogue": catalogue})["catalogue"] == resolved


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


def test_the_library_that_writes_parquet_is_loaded_only_where_it_is_needed() -> None:
    """Every other run would start more slowly."""
    code = "import sys; import inference.rank; print(sorted(m for m in sys.modules if m.startswith('arro3')))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"


def test_what_does_not_get_through_keeps_the_run(s3: Any) -> None:
    """S3 refuses the commit, for whatever reason: the summary says so, and what to do."""

    class Refusing(_Between):
        def put_object(self, **arguments: Any) -> Any:
            error = {"Error": {"Code": "AccessDenied", "Message": "not you"}}
            raise self._s3.exceptions.ClientError(error, "PutObject")

    arrival = Arrival(s3)
    arrival.rank(0)
    arrival.s3 = Refusing(s3, [])
    fault = str(arrival.grow().fault)
    assert "AccessDenied" in fault
    assert fault.endswith("Run the same payload with resume: only this step is repeated")
