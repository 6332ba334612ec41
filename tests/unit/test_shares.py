"""Shares of `cosmicai infer`, as an array job of Slurm starts them, are together one run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from cosmicai.packaging.places import ROOT
from cosmicai.runs.infer import infer
from cosmicai.runs.merging import MergeError, merge
from cosmicai.runs.shares import EmptyShareError, Share
from tests.summaries import OF_DATA

Save = Callable[[object], bytes]
ROWS = (9, 4, 7, 5)


@pytest.fixture
def partitions(tmp_path: Path, saved: Save, make_partition: Callable[..., TensorDataset]) -> Path:
    """1.pt to 4.pt, of different sizes."""
    folder = tmp_path / "partitions"
    folder.mkdir()
    for number, rows in enumerate(ROWS, 1):
        (folder / f"{number}.pt").write_bytes(saved(make_partition(rows, seed=number)))
    return folder


def _cosmicai(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("cosmicai")), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def _array(folder: Path, number: int, count: int, **variables: str) -> subprocess.CompletedProcess[str]:
    """A task of an array job: the script of docs/elsewhere.md with the variables that Slurm sets."""
    page = (ROOT / "docs" / "elsewhere.md").read_text()
    (script,) = re.findall(r"^```bash\n(#!/bin/bash\n.*?)^```", page, re.MULTILINE | re.DOTALL)
    slurm = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": str(count), **variables}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **slurm, "PATH": path}
    return subprocess.run(
        ["bash", "-eu"], input=script, cwd=folder, env=environment, capture_output=True, text=True
    )


def _predictions(out: Path) -> dict[int, dict[str, Any]]:
    predictions = {}
    for path in (out / "predictions").glob("*.npz"):
        with np.load(path) as arrays:
            predictions[int(path.stem)] = {name: arrays[name] for name in arrays.files if name != "run_id"}
    return predictions


def _summary(out: Path) -> dict[str, Any]:
    summary = json.loads((out / "summary.json").read_text())
    return {name: summary[name] for name in OF_DATA}


def test_the_tasks_of_an_array_are_one_run(tmp_path: Path, partitions: Path) -> None:
    once, out = tmp_path / "once", tmp_path / "results" / "mine"
    assert _cosmicai(tmp_path, "infer", "partitions", "--out", str(once)).returncode == 0
    for number in (2, 0, 1):  # Slurm starts them in any order
        process = _array(tmp_path, number, 3)
        assert process.returncode == 0, process.stderr
        assert f"share {number}/3" in process.stdout
    computed = Counter(path.stem for path in (out / "shares").glob("*/*.json") if path.stem.isdigit())
    assert computed == {str(rank): 1 for rank in range(len(ROWS))}
    process = _cosmicai(tmp_path, "merge", "results/mine")
    assert process.returncode == 0, process.stderr
    assert "25 redshifts in results/mine" in process.stdout
    ours, theirs = _predictions(out), _predictions(once)
    assert ours.keys() == theirs.keys() == set(range(len(ROWS)))
    for rank, arrays in theirs.items():
        assert ours[rank].keys() == arrays.keys()
        assert all(
            np.array_equal(ours[rank][name], arrays[name], equal_nan=arrays[name].dtype.kind == "f")
            for name in arrays
        )
    assert _summary(out) == _summary(once)
    run_ids = {json.loads(path.read_text())["run_id"] for path in out.glob("[0-9]*.json")}
    assert run_ids == {json.loads((out / "run.json").read_text())["run_id"]}
    written = {path.name for path in once.iterdir()}
    assert {path.name for path in out.iterdir()} == {*written, "shares"}
    shutil.rmtree(out / "shares")
    assert _cosmicai(tmp_path, "report", "results/mine").returncode == 0


def test_one_share_is_computed_again(tmp_path: Path, partitions: Path) -> None:
    """An array of one task does not say how many shares there are, so SHARES does."""
    for number in (0, 1):
        assert _array(tmp_path, number, 2).returncode == 0
    shutil.rmtree(tmp_path / "results" / "mine" / "shares" / "1-of-2")
    process = _cosmicai(tmp_path, "merge", "results/mine")
    assert process.returncode == 1
    assert "partitions have no result yet; compute the shares 1/2" in " ".join(process.stderr.split())
    assert not (tmp_path / "results" / "mine" / "run.json").exists()
    assert _array(tmp_path, 1, 1).returncode == 2  # share 1 of 1
    assert _array(tmp_path, 1, 1, SHARES="2").returncode == 0
    assert _cosmicai(tmp_path, "merge", "results/mine").returncode == 0


def test_a_bad_partition_is_named_by_its_share_and_by_the_merge(tmp_path: Path, partitions: Path) -> None:
    (partitions / "3.pt").write_bytes(b"junk")
    failed = [_array(tmp_path, number, 4).returncode for number in range(4)]
    assert sorted(failed) == [0] * 3 + [3]
    process = _cosmicai(tmp_path, "merge", "results/mine")
    assert process.returncode == 3
    assert "rank 2: PartitionError" in process.stderr
    summary = json.loads((tmp_path / "results" / "mine" / "summary.json").read_text())
    assert list(summary["failed_ranks"]) == ["2"]
    assert summary["missing_ranks"] == []


def test_more_shares_than_partitions(tmp_path: Path, partitions: Path) -> None:
    for number in range(6):
        process = _array(tmp_path, number, 6)
        assert process.returncode == 0, process.stderr
        assert ("nothing to do: share" in process.stdout) == (number >= 4)
    assert _cosmicai(tmp_path, "merge", "results/mine").returncode == 0


@pytest.mark.parametrize("change", ["a partition", "the options"])
def test_shares_of_different_runs_are_not_merged(tmp_path: Path, partitions: Path, change: str) -> None:
    out = tmp_path / "out"
    infer([str(partitions)], out, 8, 1, share=Share(0, 2))
    if change == "a partition":
        (partitions / "5.pt").write_bytes((partitions / "1.pt").read_bytes())
    options = {"precision": "float32"} if change == "the options" else {}
    infer([str(partitions)], out, 8, 1, share=Share(1, 2), **options)  # type: ignore[arg-type]
    with pytest.raises(
        MergeError, match="are not of one run: their partitions, the number of shares or the options"
    ):
        merge(out)


def test_a_folder_without_shares(tmp_path: Path) -> None:
    with pytest.raises(MergeError, match="holds no shares; `cosmicai infer PARTITIONS"):
        merge(tmp_path)


def test_nothing_that_could_be_computed(tmp_path: Path) -> None:
    (tmp_path / "1.pt").write_bytes(b"junk")
    results = infer([str(tmp_path / "1.pt")], tmp_path / "out", 8, 1, share=Share(0, 1))
    assert list(results.summary.failed_ranks) == ["0"]
    with pytest.raises(MergeError, match=r"no partition could be computed; the first: .*is cut short"):
        merge(tmp_path / "out")


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=40), st.integers(1, 50))
def test_shares_have_each_partition_once(sizes: list[int], of: int) -> None:
    ranks: list[int] = []
    for number in range(of):
        try:
            ranks += Share(number, of).ranks(sizes)
        except EmptyShareError:
            assert number >= len(sizes)
    assert sorted(ranks) == list(range(len(sizes)))


@pytest.mark.parametrize("share", ["3", "3/3", "-1/3", "1/0", "a/b", "1/2/3", "1/100001", "/", ""])
def test_a_share_is_a_number_below_another(tmp_path: Path, partitions: Path, share: str) -> None:
    process = _cosmicai(tmp_path, "infer", "partitions", "--share", share)
    assert process.returncode == 2
    assert "--share" in process.stderr
    assert "I/N" in process.stderr or "counted from 0" in process.stderr
