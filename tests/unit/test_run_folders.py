"""A folder of results holds those of one run alone, and `results` takes no object of another run."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosmicai.results import report
from cosmicai.results.outputs import OutputError, exclusive
from cosmicai.results.runfolder import RECORD, run_folder
from cosmicai.runs.client import RunError
from cosmicai.runs.download import OF_ANOTHER_RUN, download

BUCKET, PLACE = "team3-cosmicai", "results/1"
STARTED = datetime.now(UTC) - timedelta(minutes=1)


def _npz(run_id: str) -> bytes:
    body = io.BytesIO()
    np.savez(body, z_pred=np.ones(2), run_id=np.array(run_id))
    return body.getvalue()


def _results(run_id: str, ranks: int) -> dict[str, bytes]:
    """What a run leaves, as far as run ids go."""
    infos = [{"rank": rank, "run_id": run_id} for rank in range(ranks)]
    objects: dict[str, Any] = {f"{rank}.json": info for rank, info in enumerate(infos)}
    objects |= {
        "combined_data.json": infos,
        "summary.json": {"run_id": run_id},
        "metrics.json": {"run_id": run_id},
    }
    objects |= {"manifest.json": [{"RANK": 0, "RUN_ID": run_id}], "failures/0.json": {"run_id": run_id}}
    objects["run.json"] = {
        "run_id": run_id, "execution": run_id, "world_size": ranks, "started": STARTED.isoformat(),
    }  # fmt: skip
    files = {name: json.dumps(content).encode() for name, content in objects.items()}
    return {**files, **{f"predictions/{rank}.npz": _npz(run_id) for rank in range(ranks)}}


def _put(s3: Any, files: dict[str, bytes]) -> None:
    for name, body in files.items():
        s3.put_object(Bucket=BUCKET, Key=f"{PLACE}/{name}", Body=body)


def _files(folder: Path) -> dict[str, bytes]:
    objects = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    objects.pop(RECORD, None)
    return objects


def test_objects_of_an_earlier_run_at_the_path_are_left_out(s3: Any, tmp_path: Path) -> None:
    late, early = _results("late", 2), _results("early", 4)
    del late["failures/0.json"], late["predictions/1.npz"]
    _put(s3, {**early, **late, "script.log": b"the script's own"})
    downloaded = download(s3, BUCKET, PLACE, "late", tmp_path / "out")
    assert _files(tmp_path / "out") == {**late, "script.log": b"the script's own"}
    stale = {"2.json", "3.json", "failures/0.json", *(f"predictions/{rank}.npz" for rank in (1, 2, 3))}
    assert downloaded.left_out == {f"{PLACE}/{name}": OF_ANOTHER_RUN for name in stale}


def test_what_has_no_run_id_is_left_out_where_it_is_older_than_the_run(s3: Any, tmp_path: Path) -> None:
    files = _results("late", 1)
    run = {**json.loads(files["run.json"]), "started": (datetime.now(UTC) + timedelta(minutes=1)).isoformat()}
    _put(s3, {**files, "run.json": json.dumps(run).encode(), "report.html": b"<p>early", "out.csv": b"early"})
    downloaded = download(s3, BUCKET, PLACE, "late", tmp_path / "out")
    assert set(downloaded.left_out) == {f"{PLACE}/{name}" for name in ("report.html", "out.csv")}
    assert "0.json" in _files(tmp_path / "out")


def test_a_run_whose_path_another_has_taken_is_said_so(s3: Any, tmp_path: Path) -> None:
    _put(s3, {**_results("early", 4), **_results("late", 2)})
    with pytest.raises(
        RunError, match=r"another run, late, has overwritten s3://.*/results/1/: the results of early"
    ):
        download(s3, BUCKET, PLACE, "early", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_resumed_is_found_by_all_its_names(s3: Any, tmp_path: Path) -> None:
    files = _results("first", 1)
    run = {**json.loads(files["run.json"]), "execution": "third", "executions": ["first", "second", "third"]}
    _put(s3, {**files, "run.json": json.dumps(run).encode()})
    for name in ("first", "second", "third"):
        assert download(s3, BUCKET, PLACE, name, tmp_path / "out").left_out == {}


def test_a_path_without_a_run(s3: Any, tmp_path: Path) -> None:
    _put(s3, {"0.json": b"{}"})
    with pytest.raises(RunError, match=r"holds no run\.json: the run late has left nothing there"):
        download(s3, BUCKET, PLACE, "late", tmp_path / "out")


def _fill(folder: Path, run_id: str, ranks: int, overwrite: bool = False) -> None:
    with run_folder(folder, run_id, overwrite) as scratch:
        for name, body in _results(run_id, ranks).items():
            (scratch / name).parent.mkdir(exist_ok=True)
            (scratch / name).write_bytes(body)


MINE = {"notes.txt": b"mine", "7.txt": b"mine", "predictions/mine.npz": b"mine", "old/0.json": b"mine"}


def test_results_of_another_run_are_refused_or_replaced_and_a_users_files_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _fill(out, "early", 4)
    for name, body in MINE.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(body)
    before = _files(out)
    with pytest.raises(OutputError, match="holds the results of the run early; give --overwrite"):
        _fill(out, "late", 2)
    assert _files(out) == before
    _fill(out, "late", 2, overwrite=True)
    assert _files(out) == {**MINE, **_results("late", 2)}
    _fill(out, "late", 1)  # the same run, downloaded again
    assert _files(out) == {**MINE, **_results("late", 1)}


def test_results_of_an_earlier_version_are_known_by_their_run_json(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _fill(out, "early", 4)
    (out / RECORD).unlink()
    with pytest.raises(OutputError, match="holds the results of the run early"):
        _fill(out, "late", 2)
    _fill(out, "late", 2, overwrite=True)
    assert _files(out) == _results("late", 2)


@pytest.mark.parametrize("name", ["5.json", "predictions/9.npz", "Results.json"])
def test_results_that_no_run_is_known_for_are_never_removed(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_bytes(b"mine")
    with pytest.raises(OutputError, match=rf"results of an unknown run: {name}"):
        _fill(out, "late", 2, overwrite=True)
    assert _files(out) == {name: b"mine"}


def test_an_interrupted_call_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _fill(out, "early", 4)
    before = _files(out)
    with suppress(KeyboardInterrupt), run_folder(out, "late", overwrite=True) as scratch:
        (scratch / "0.json").write_bytes(b"late")
        raise KeyboardInterrupt
    assert _files(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_cut_off_exchange_is_no_result_and_is_finished_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    _fill(out, "early", 4)

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cosmicai.results.runfolder.merge", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _fill(out, "late", 2, overwrite=True)
    with pytest.raises(OutputError, match="holds a part of the results of a run"):
        report.write(out)
    _fill(out, "late", 2, overwrite=True)
    assert _files(out) == _results("late", 2)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(OutputError, match="another process writes to"):
        _fill(tmp_path, "late", 2)


def test_a_catalogue_goes_with_its_run(tmp_path: Path) -> None:
    """`cosmicai catalogue` writes into the folder later; a catalogue of an earlier run must not stay beside."""
    out = tmp_path / "out"
    _fill(out, "early", 2)
    (out / "catalogue.csv").write_text("of the run early")
    (out / "catalogue.parquet").mkdir()
    (out / "catalogue.parquet" / "0.parquet").write_text("of the run early")
    _fill(out, "late", 2, overwrite=True)
    assert _files(out) == _results("late", 2)
