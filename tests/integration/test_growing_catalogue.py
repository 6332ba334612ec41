"""Catalogues that grow by runs of the state machine, read back by deltalake."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import pytest
from torch.utils.data import TensorDataset

from cosmicai.data import objects
from cosmicai.emulator.environment import credentials
from cosmicai.processes import process_birth
from cosmicai.results.catalogue import Catalogue
from inference.contract.columns import described
from inference.contract.growing import arrival_of

from .conftest import Cloud, Ran

Json = dict[str, Any]
_FIRST_ID = 2**60  # no float64 holds the next one


@pytest.fixture
def visit(
    make_partition: Callable[..., TensorDataset], saved: Callable[[object], bytes]
) -> Callable[..., dict[str, bytes]]:
    """The partition files of a visit: galaxies with identifiers, positions and a kept column."""

    def make(
        number: int, galaxies: int = 6, files: int = 2, more: dict[str, np.ndarray] | None = None
    ) -> dict[str, bytes]:
        bodies = {}
        for file in range(files):
            rows = galaxies // files
            body = io.BytesIO(saved(make_partition(rows, seed=10 * number + file)))
            ids = _FIRST_ID + 100 * number + rows * file + np.arange(rows)
            columns = {"id": ids, "ra": ids % 360 * 1.0, "dec": ids % 90 * 0.5, "tile": np.array(["é"] * rows)}
            objects.append(body, columns | (more or {}))
            bodies[f"{file + 1}.pt"] = body.getvalue()
        return bodies

    return make


def _table(cloud: Cloud, catalogue: str) -> deltalake.DeltaTable:
    keys = credentials(cloud.aws.endpoint)
    options = {
        "AWS_ENDPOINT_URL": cloud.aws.endpoint, "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": keys["AWS_ACCESS_KEY_ID"], "AWS_REGION": "us-east-1",
        "AWS_SECRET_ACCESS_KEY": keys["AWS_SECRET_ACCESS_KEY"],
    }  # fmt: skip
    return deltalake.DeltaTable(f"s3://{cloud.bucket}/{catalogue}", storage_options=options)


def _as_results_have_it(ran: Ran, folder: Path) -> dict[str, np.ndarray]:
    """The columns of the catalogue that `cosmicai results` writes of a run."""
    (folder / "predictions").mkdir(parents=True)
    for rank in range(ran.read("run.json")["world_size"]):
        place = f"{ran.payload['result_path']}/predictions/{rank}.npz"
        (folder / "predictions" / f"{rank}.npz").write_bytes(ran.cloud.get(ran.cloud.bucket, place))
    return Catalogue.of(folder).whole()


def _arrived(cloud: Cloud, key: str, **fields: Any) -> Json:
    """The payload that the rule for _READY objects makes of a key, and its result path as it is resolved."""
    payload = {"data_prefix": key, "result_path": f"results/{key}", "catalogue": f"catalogues/{key}"}
    return {"bucket": cloud.bucket, **payload, **fields}


def _ran(cloud: Cloud, execution: str, key: str) -> Ran:
    folder = key.removesuffix("/_READY")
    return cloud.wait(execution, {"bucket": cloud.bucket, "result_path": f"results/{folder}"})


def _differing(table: Any, expected: dict[str, np.ndarray]) -> list[str]:
    """The columns with nulls or with other values than expected."""
    return [name for name, column in expected.items() if not _agree(table.column(name), column)]


def _agree(values: Any, expected: np.ndarray) -> bool:
    actual = np.array(values.to_pylist())
    if values.null_count:
        return False
    if expected.dtype.kind == "f":
        return np.array_equal(actual.astype(expected.dtype), expected, equal_nan=True)
    return bool(actual.tolist() == expected.tolist())


def test_ten_arrivals_two_of_them_twice_have_each_galaxy_once(
    cloud: Cloud, start: Callable[[Json], str], visit: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    """The ten run at the same time. One comes again as it was, by one rank; another with fewer galaxies."""
    night = "incoming/2026-11-27"
    keys = [f"{night}/visit {n}{more}/_READY" for n, more in enumerate(["", " é", "=%2F"] + 7 * [""])]
    for number, key in enumerate(keys):
        cloud.put_all(key.removesuffix("/_READY"), {**visit(number), "_READY": b""})
    started = [start(_arrived(cloud, key)) for key in keys]
    runs = [_ran(cloud, execution, key) for execution, key in zip(started, keys, strict=True)]
    assert [ran.cause for ran in runs if ran.status != "SUCCEEDED"] == []
    catalogue = f"catalogues/{night}"
    assert _table(cloud, catalogue).to_pyarrow_table().num_rows == 60
    cloud.put_all(keys[2].removesuffix("/_READY"), visit(2, galaxies=4))
    again = {1: start(_arrived(cloud, keys[1], world_size=1)), 2: start(_arrived(cloud, keys[2]))}
    for number, execution in again.items():
        runs[number] = _ran(cloud, execution, keys[number])
    assert [ran.cause for ran in runs if ran.status != "SUCCEEDED"] == []

    delta = _table(cloud, catalogue)
    table = delta.to_pyarrow_table()
    ids = table.column("id").to_pylist()
    expected = {_FIRST_ID + 100 * n + row for n in range(10) for row in range(4 if n == 2 else 6)}
    assert sorted(ids) == sorted(expected)
    assert delta.version() == 11
    for number, (ran, key) in enumerate(zip(runs, keys, strict=True)):
        own_rows = _as_results_have_it(ran, tmp_path / str(number))
        arrival = arrival_of(cloud.bucket, key.removesuffix("/_READY"))
        rows = table.filter([value == arrival for value in table.column("arrival").to_pylist()])
        rows = rows.sort_by([("file", "ascending"), ("row", "ascending")])
        assert {*rows.column_names} == {*own_rows, "arrival"}
        assert not _differing(rows, own_rows)
        growth = ran.read("summary.json")["catalogue"]
        replaced = {1: 2, 2: 2}.get(number, 0)
        assert (growth["arrival"], growth["galaxies"], growth["replaced_files"]) == (
            arrival,
            len(rows),
            replaced,
        )
    fields = {field.name: field for field in delta.schema().fields}
    assert fields["ra"].metadata["unit"] == "deg"
    assert fields["z_pred"].metadata["ucd"] == described("z_pred").ucd
    assert json.loads(fields["pdf"].metadata["z_grid"]) == runs[0].predictions(0)["z_grid"].tolist()
    history = delta.history()
    assert {entry["runId"] for entry in history} >= {run.read("run.json")["run_id"] for run in runs}


def _grown(ran: Ran) -> Json:
    catalogue: Json = ran.read("summary.json")["catalogue"]
    return catalogue


def test_an_arrival_replaces_its_rows_also_after_a_compaction(
    cloud: Cloud, run: Callable[[Json], Ran], visit: Callable[..., dict[str, bytes]], prefix: str
) -> None:
    """deltalake has put the files of an arrival into one, and deleted what nobody refers to."""
    folders = [f"{prefix}/{name}" for name in ("a", "b")]
    for number, folder in enumerate(folders):
        cloud.put_all(folder, visit(number))
        assert run(cloud.payload(folder, catalogue=f"growing/{prefix}")).status == "SUCCEEDED"
    delta = _table(cloud, f"growing/{prefix}")
    before = delta.to_pyarrow_table().sort_by("id")
    assert delta.optimize.compact()["numFilesRemoved"] == 4
    assert len(delta.vacuum(0, dry_run=False, enforce_retention_duration=False)) == 4
    again = run(cloud.payload(folders[0], catalogue=f"growing/{prefix}"))
    assert again.status == "SUCCEEDED", again.cause
    assert _grown(again)["replaced_files"] == 1
    slow = _table(cloud, f"growing/{prefix}")  # a compaction that began before the next arrival
    assert len(slow.file_uris()) == 3
    run(cloud.payload(folders[0], catalogue=f"growing/{prefix}", world_size=1))
    with pytest.raises(deltalake.exceptions.CommitFailedError):
        slow.optimize.compact()
    after = _table(cloud, f"growing/{prefix}").to_pyarrow_table().sort_by("id")
    assert after.column("id") == before.column("id")
    assert after.column("arrival") == before.column("arrival")


def _results_command(ran: Ran, folder: Path) -> str:
    """What `cosmicai results` prints about a run."""
    aws, outputs = ran.cloud.aws, ran.cloud.outputs
    state = {
        "pid": os.getpid(), "birth": process_birth(os.getpid()), "endpoint": aws.endpoint,
        "bucket": outputs.bucket, "state_machine_arn": outputs.state_machine_arn,
    }  # fmt: skip
    (folder / "state.json").write_text(json.dumps(state))
    name = ran.read("run.json")["run_id"]
    command = [sys.executable, "-m", "cosmicai", "results", name, "--local", "--out", str(folder / name)]
    environment = {**os.environ, **credentials(aws.endpoint), "COSMICAI_LOCAL": str(folder), "COLUMNS": "300"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout + process.stderr


@pytest.mark.fault(
    "an arrival does not fit into its catalogue",
    "one of ten partitions has an additional column, and Initialize does not read it",
    "the execution fails with CatalogueFailed and says what differs; the catalogue stays as it was",
    "nothing: the results are there",
)
def test_what_does_not_fit_is_refused_and_the_catalogue_stays(
    cloud: Cloud, run: Callable[[Json], Ran], visit: Callable[..., dict[str, bytes]],
    partitions: Callable[..., dict[str, bytes]], prefix: str, tmp_path: Path
) -> None:  # fmt: skip
    """A column that only a rank sees: the results are there, the execution fails and says what to do. What
    Initialize sees, other columns of all partitions or other outputs, is refused before a rank starts."""
    catalogue = f"growing/{prefix}"
    cloud.put_all(f"{prefix}/a", visit(1))
    first = run(cloud.payload(f"{prefix}/a", catalogue=catalogue))
    assert _grown(first)["version"] == 0
    page = cloud.get(cloud.bucket, f"results/{prefix}/a/report.html").decode()
    assert "The arrival is in its catalogue" in page
    files = visit(2, galaxies=30, files=10)
    cloud.put_all(
        f"{prefix}/b", {**files, "3.pt": visit(3, more={"seeing": np.array([0.7, 0.8, 0.9])})["1.pt"]}
    )
    other = run(cloud.payload(f"{prefix}/b", catalogue=catalogue))
    assert (other.status, other.execution["error"]) == ("FAILED", "CatalogueFailed")
    assert f"the arrival s3://{cloud.bucket}/{prefix}/b/ does not fit into" in other.cause
    assert "it has columns that the catalogue lacks: seeing" in other.cause
    assert _grown(other)["fault"] == other.cause
    assert {"predictions/0.npz", "predictions/1.npz", "report.html"} <= other.objects()
    assert f"version 0 of s3://{cloud.bucket}/{catalogue} holds its 6 galaxies" in _results_command(
        first, tmp_path
    )
    message = " ".join(_results_command(other, tmp_path).split())
    assert f"the catalogue s3://{cloud.bucket}/{catalogue} stays as it was: the arrival s3://" in message
    page = cloud.get(cloud.bucket, f"results/{prefix}/b/report.html").decode()
    assert "✗ Failed: the arrival is not in its catalogue" in page
    assert "it has columns that the catalogue lacks: seeing" in page
    cloud.put_all(f"{prefix}/c", partitions(2))
    lacking = run(cloud.payload(f"{prefix}/c", catalogue=catalogue))
    assert "all of its 2 partitions lack columns of the catalogue: id, ra, dec, tile" in lacking.cause
    assert not [name for name in lacking.objects() if name.endswith("0.json")]
    refused = run(cloud.payload(f"{prefix}/b", catalogue=catalogue, outputs="embedding", resume=False))
    assert "was begun with the outputs redshift, pdf, and this run has redshift, embedding" in refused.cause
    delta = _table(cloud, catalogue)
    assert (delta.version(), delta.to_pyarrow_table().num_rows) == (0, 6)


@pytest.mark.fault(
    "a run that adds to a catalogue fails",
    "a file that is not a partition",
    "the catalogue stays as it was; a resume adds the whole arrival",
    "nothing",
)
def test_a_run_that_failed_leaves_the_catalogue_until_it_is_resumed(
    cloud: Cloud, run: Callable[[Json], Ran], visit: Callable[..., dict[str, bytes]], prefix: str
) -> None:
    catalogue, good = f"growing/{prefix}", visit(1)
    cloud.put_all(f"{prefix}/a", {**good, "2.pt": b"no partition"})
    payload = cloud.payload(f"{prefix}/a", catalogue=catalogue)
    failed = run(payload)
    assert (failed.status, failed.execution["error"]) == ("FAILED", "RanksFailed")
    assert "catalogue" not in failed.read("summary.json")
    assert not {key for key in cloud.keys(cloud.bucket, f"{catalogue}/") if "_delta_log" in key}
    cloud.put_all(f"{prefix}/a", good)
    resumed = run({**payload, "resume": True})
    assert resumed.status == "SUCCEEDED", resumed.cause
    assert _grown(resumed)["galaxies"] == 6
    assert run({**payload, "resume": True}).status == "SUCCEEDED", "with no rank left to run"
    delta = _table(cloud, catalogue)
    assert (delta.version(), delta.to_pyarrow_table().num_rows) == (1, 6)
