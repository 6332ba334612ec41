"""Catalogues that grow, by what others wrote: rank infos, commits, and names of runs and folders."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from initialize.payload import PayloadError
from summarize.contract.growing import commit_key
from summarize.contract.rank_info import RankInfo
from tests.arrivals import BUCKET, CATALOGUE, LOG, PAYLOAD, Arrival, keys, put, rows, started


@pytest.fixture
def table(s3: Any, tmp_path: Path) -> Callable[[], Any]:
    """The catalogue's rows by id, as deltalake reads them."""
    return lambda: rows(s3, tmp_path)


@pytest.mark.parametrize("run_id", ["../../x", "run=1 %2F", "é\u202e+'\"", "a" * 80, ". .", "run-1"])
def test_names_of_runs_and_folders_do_no_harm(s3: Any, table: Callable[[], Any], run_id: str) -> None:
    arrival = Arrival(s3, prefix="in/=%2F é", run_id=run_id)
    arrival.rank(0)
    arrival.grown()
    (key,) = keys(s3, f"{CATALOGUE}/arrival=")
    assert key.count("/") == CATALOGUE.count("/") + 2
    assert table().num_rows == 2


def _no_info(info: RankInfo) -> RankInfo:
    return replace(info, catalogue=None)


def _changing(**changes: Any) -> Callable[[RankInfo], RankInfo]:
    return lambda info: replace(info, catalogue={**info.catalogue, **changes})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_no_info, "rank 1 does not say what it wrote to the catalogue"),
        (_changing(file="../0.parquet"), "is not the name of a rank's file"),
        (_changing(file="other.parquet"), r"other\.parquet is no longer in the arrival's folder"),
        (_changing(columns={"id": "map"}), "holds a type that a rank does not write"),
        (_changing(columns={"a\nb": "long"}), "holds a name that no column has"),
        (_changing(columns=7), "columns: 7 is not a JSON object"),
        (_changing(rows=-1), "rows: -1 is not a whole number"),
        (
            _changing(columns={"id": "string"}),
            "differ in the column id: it is long in rank 0 and string in rank 1",
        ),
        (_changing(network="other"), "the ranks used different networks"),
        (_changing(z_grid=[0.0, 1.0]), "the ranks used different networks"),
    ],
)
def test_what_a_rank_says_is_not_trusted(s3: Any, change: Callable[[RankInfo], RankInfo], said: str) -> None:
    arrival = Arrival(s3)
    arrival.rank(0)
    arrival.rank(1)
    arrival.infos[1] = change(arrival.infos[1])
    assert re.search(said, str(arrival.grow().fault))
    assert not keys(s3, LOG)


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
    put(s3, commit_key(CATALOGUE, 1), commit)
    put(s3, "in/a/1.pt")
    with pytest.raises(
        PayloadError, match=rf"^catalogue: s3://{BUCKET}/{LOG}/0{{19}}1\.json.*give another catalogue"
    ):
        started(s3, PAYLOAD)
    assert f"s3://{BUCKET}/{LOG}/" in str(arrival.grow().fault)
    assert not keys(s3, "results/")
