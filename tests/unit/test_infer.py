"""`cosmicai infer` is a rank on this machine."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from cosmicai.data import dc2
from inference.engine import astromae
from inference.engine.loading import BUNDLED_MODEL
from summarize.contract.run_records import Summary
from summarize.report_data import predicted_histogram
from tests.conftest import CACHE
from tests.small_network import SMALL
from tests.unit.test_historic import KEYS

Save = Callable[[object], bytes]
_COSMICAI = str(Path(sys.executable).with_name("cosmicai"))


def _infer(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([_COSMICAI, "infer", *map(str, arguments)], capture_output=True, text=True)


def test_a_folder_of_partitions(tmp_path: Path) -> None:
    folder = dc2.partitions("validation", 120, 1, CACHE, seed=3)
    process = _infer(
        folder, "--out", tmp_path, "--processes", "2", "--batch-size", "50", "--precision", "float32"
    )
    assert process.returncode == 0, process.stderr
    assert "120 redshifts" in process.stdout
    model = astromae.load(BUNDLED_MODEL)
    for rank in range(3):
        images, magnitudes, redshift = torch.load(folder / f"{rank + 1}.pt", weights_only=False).tensors
        with np.load(tmp_path / "predictions" / f"{rank}.npz") as arrays, torch.inference_mode():
            assert arrays["z_pred"] == pytest.approx(model(images, magnitudes).numpy(), abs=1e-5)
            assert np.array_equal(arrays["z_true"], redshift.numpy())
            total = np.trapezoid(arrays["pdf"].astype(np.float64), arrays["z_grid"], axis=1)
            assert total == pytest.approx(1, abs=2e-3)
            assert (arrays["z_q160"] < arrays["z_median"]).all()
            assert (arrays["z_median"] < arrays["z_q840"]).all()
            assert ((arrays["pit"] >= 0) & (arrays["pit"] <= 1)).all()
    accuracy = json.loads((tmp_path / "summary.json").read_text())["accuracy"]
    assert accuracy["count"] == accuracy["probabilities"]["count"] == 120
    assert accuracy["probabilities"]["coverage 68 %"] == pytest.approx(0.68, abs=0.13)  # 3 standard errors
    assert accuracy["RAIL's measures"]["sigma_MAD"] == pytest.approx(0.03, abs=0.015)
    assert "Calibration of p(z)" in (tmp_path / "report.html").read_text()
    results = json.loads((tmp_path / "Results.json").read_text())
    assert results["number of batches"] == 2 + 2 + 1
    assert (tmp_path / "inference.png").read_bytes().startswith(b"\x89PNG")


def test_a_calibration_of_another_network_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(BUNDLED_MODEL, model)
    content = json.loads((model / "calibration.json").read_text())
    (model / "calibration.json").write_text(json.dumps({**content, "network": "0" * 64}))
    folder = dc2.partitions("validation", 120, 1, CACHE, seed=3)
    process = _infer(folder, "--out", tmp_path / "out", "--model", model)
    assert process.returncode == 1
    assert "calibration.json was made for another network" in process.stderr
    assert "run `cosmicai model calibrate`" in " ".join(process.stderr.split())
    (model / "calibration.json").unlink()
    process = _infer(folder, "--out", tmp_path / "out", "--model", model)
    assert process.returncode == 0, process.stderr
    with np.load(tmp_path / "out" / "predictions" / "0.npz") as arrays:
        assert "pdf" not in arrays
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["accuracy"]["probabilities"] is None


def test_without_redshifts_there_is_no_picture_and_no_accuracy(
    tmp_path: Path, saved: Save, make_partition: Callable[..., TensorDataset]
) -> None:
    (tmp_path / "a.pt").write_bytes(saved(make_partition(2, with_redshift=False)))
    process = _infer(tmp_path / "a.pt", "--out", tmp_path / "out")
    assert process.returncode == 0, process.stderr
    assert not (tmp_path / "out" / "inference.png").exists()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["accuracy"] is None


_AFTER_TORCH = """
import sys
from pathlib import Path
import torch
from cosmicai.runs.infer import infer
torch.set_num_threads(2)
torch.ones(1_000_000).double()  # starts torch's threads
print(infer([sys.argv[1]], Path(sys.argv[2]), 8, 1, engine="torch").summary.num_samples)
"""


def test_a_process_that_has_used_torch_may_infer(
    tmp_path: Path, saved: Save, make_partition: Callable[..., TensorDataset]
) -> None:
    (tmp_path / "a.pt").write_bytes(saved(make_partition(2)))
    command = [sys.executable, "-c", _AFTER_TORCH, str(tmp_path / "a.pt"), str(tmp_path / "out")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.stdout == "2\n", process.stderr


@pytest.fixture
def small_model(tmp_path: Path) -> tuple[Path, astromae.AstroMAE]:
    """A user's own model folder, without graphs, and its network."""
    torch.manual_seed(0)
    model = astromae.AstroMAE(SMALL).eval()
    astromae.save(model, tmp_path / "model")
    return tmp_path / "model", model


def test_a_model_folder_of_ones_own(
    tmp_path: Path,
    saved: Save,
    make_partition: Callable[..., TensorDataset],
    small_model: tuple[Path, astromae.AstroMAE],
) -> None:
    folder, model = small_model
    data = saved(make_partition(2))
    (tmp_path / "a.pt").write_bytes(data)
    assert _infer(tmp_path / "a.pt", "--out", tmp_path / "out", "--model", folder).returncode == 0
    images, magnitudes, _ = torch.load(io.BytesIO(data), weights_only=False).tensors
    with np.load(tmp_path / "out" / "predictions" / "0.npz") as arrays, torch.inference_mode():
        assert arrays["z_pred"] == pytest.approx(model(images, magnitudes).numpy(), abs=1e-5)


@pytest.mark.parametrize("with_redshift", [True, False])
def test_results_have_the_historic_keys_and_meanings(
    tmp_path: Path,
    saved: Save,
    make_partition: Callable[..., TensorDataset],
    small_model: tuple[Path, astromae.AstroMAE],
    with_redshift: bool,
) -> None:
    partitions, out = tmp_path / "partitions", tmp_path / "out"
    partitions.mkdir()
    for number, rows in enumerate((20, 13), 1):
        body = saved(make_partition(rows, seed=number, with_redshift=with_redshift))
        (partitions / f"{number}.pt").write_bytes(body)
    process = _infer(partitions, "--out", out, "--model", small_model[0], "--batch-size", "8")
    assert process.returncode == 0, process.stderr
    figures = json.loads((out / "Results.json").read_text())
    assert tuple(figures)[: len(KEYS)] == KEYS
    assert (figures["batch size"], figures["number of batches"], figures["device"]) == (8, 3 + 2, "cpu")
    infos = json.loads((out / "combined_data.json").read_text())
    seconds = sum(info["inference (seconds)"] for info in infos)
    sample_bits = 8 * 4 * (32 * 32 * 5 + 5)  # float32 images and magnitudes
    assert figures["throughput(bps)"] == pytest.approx(33 * sample_bits / seconds)
    assert figures["execution time per batch (second)"] == pytest.approx(seconds / 5)
    assert figures["total cpu time (second)"] > 0
    assert 0 < figures["cpu memory (MB)"] < 2000
    measures = [figures[name] for name in ("MAE", "MSE", "Bias", "Precision", "R2")]
    if with_redshift:
        assert measures == pytest.approx(_measured(out, 2), rel=1e-6)
    else:
        assert measures == [None] * 5


def _measured(out: Path, ranks: int) -> list[float]:
    """MAE, MSE, bias, precision and R2 of the predictions, from their definitions."""
    files = [dict(np.load(out / "predictions" / f"{rank}.npz")) for rank in range(ranks)]
    predicted, true = (
        np.concatenate([file[name] for file in files]).astype(float) for name in ("z_pred", "z_true")
    )
    error, scaled = predicted - true, (predicted - true) / (1 + true)
    precision = 1.48 * np.median(np.abs(scaled - np.median(scaled)))
    r2 = 1 - np.sum(error**2) / np.sum((true - true.mean()) ** 2)
    return [np.mean(np.abs(error)), np.mean(error**2), np.mean(scaled), precision, r2]


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [(None, 2, "there is no such file or folder"), (b"junk", 1, "is cut short or not a .pt file")],
)
def test_errors_are_a_line_or_two_and_leave_nothing(
    tmp_path: Path, content: bytes | None, status: int, message: str
) -> None:
    source = tmp_path / "x.pt"
    if content is not None:
        source.write_bytes(content)
    process = _infer(source, "--out", tmp_path / "new" / "out")
    assert process.returncode == status
    assert str(source) in process.stderr
    assert message in process.stderr
    assert len(process.stderr.splitlines()) <= 2
    assert not (tmp_path / "new").exists()


def _partitions(folder: Path, bodies: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, body in bodies.items():
        (folder / name).write_bytes(body)
    return folder


def test_the_report_is_that_of_a_run_without_a_cost(
    tmp_path: Path, saved: Save, make_partition: Callable[..., TensorDataset]
) -> None:
    folder = _partitions(tmp_path / "in", {"1.pt": saved(make_partition(20, with_redshift=False))})
    out = tmp_path / "out"
    process = _infer(folder, "--out", out)
    assert process.returncode == 0, process.stderr
    assert f"open {out / 'report.html'}" in process.stdout
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "✓ Succeeded<" in page
    assert 'id="predicted"' in page
    assert "<h2>Cost</h2>" not in page
    summary = json.loads((out / "summary.json").read_text())
    assert summary["cost"] is None
    with np.load(out / "predictions" / "0.npz") as arrays:
        lowest, highest = float(arrays["z_pred"].min()), float(arrays["z_pred"].max())
    bars = predicted_histogram(Summary.from_json(summary)).bars
    assert sum(galaxies for _, _, galaxies in bars) == 20
    assert bars[0][0] <= lowest < highest < bars[-1][1]


def test_a_partition_that_cannot_be_computed_is_a_failed_rank(
    tmp_path: Path, saved: Save, make_partition: Callable[..., TensorDataset]
) -> None:
    good = saved(make_partition(4))
    folder, out = (
        _partitions(tmp_path / "in", {"1.pt": good, "2.pt": good[:-999], "3.pt": good}),
        tmp_path / "out",
    )
    process = _infer(folder, "--out", out, "--processes", "2")
    assert process.returncode == 3
    assert "8 redshifts" in process.stdout
    assert f"rank 1: PartitionError: {folder / '2.pt'}" in process.stderr
    assert "1 of 3 partitions failed" in process.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["finished_ranks"], list(summary["failed_ranks"])) == (2, ["1"])
    assert json.loads((out / "failures" / "1.json").read_text())["error"] == "PartitionError"
    assert "✗ Failed: 1 of 3 ranks left no result" in (out / "report.html").read_text(encoding="utf-8")


def test_other_results_are_refused_or_replaced_and_nothing_else(
    tmp_path: Path, saved: Save, make_partition: Callable[..., TensorDataset]
) -> None:
    body, out = saved(make_partition(2)), tmp_path / "out"
    many = _partitions(tmp_path / "many", {f"{n}.pt": body for n in (1, 2, 3)})
    one = _partitions(tmp_path / "one", {"1.pt": body})
    assert _infer(many, "--out", out).returncode == 0
    (out / "notes.txt").write_text("mine")
    (out / "predictions" / "mine.csv").write_text("mine")
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    refused = _infer(one, "--out", out)
    assert refused.returncode == 1
    assert f"{out} holds the results of the run local-" in refused.stderr
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    assert _infer(one, "--out", out, "--overwrite").returncode == 0
    assert sorted(path.name for path in (out / "predictions").iterdir()) == ["0.npz", "mine.csv"]
    assert sorted(path.name for path in out.glob("[0-9]*.json")) == ["0.json"]
    assert (out / "notes.txt").read_text() == "mine"
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    (one / "1.pt").write_bytes(b"junk")
    assert _infer(one, "--out", out, "--overwrite").returncode == 1
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_a_partition_that_is_given_twice_is_refused(
    tmp_path: Path, saved: Save, make_partition: Callable[..., TensorDataset]
) -> None:
    folder = _partitions(tmp_path / "in", {"1.pt": saved(make_partition(2))})
    process = _infer(folder, folder / "1.pt", "--out", tmp_path / "out")
    assert process.returncode == 1
    assert process.stderr == f"error: {folder / '1.pt'} is given 2 times; give each partition once\n"


def test_nested_partitions_are_taken_and_what_is_not_is_named(
    tmp_path: Path, saved: Save, make_partition: Callable[..., TensorDataset]
) -> None:
    good, folder = saved(make_partition(2)), tmp_path / "in"
    names = ["1.pt", "deep/er/2.pt", "deep/3.PT", "4.pth", "5.pt.gz", "._1.pt", ".trash/6.pt", "empty.pt"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"" if name == "empty.pt" else good)
    process = _infer(folder, "--out", tmp_path / "out")
    assert process.returncode == 0, process.stderr
    assert "4 redshifts" in process.stdout
    (note,) = json.loads((tmp_path / "out" / "run.json").read_text())["notes"]
    assert f"note: {note}" in process.stdout
    texts = (
        "6 files in ",
        " are left out (",
        "4.pth, 5.pt.gz, deep/3.PT",
        "empty: empty.pt",
        "hidden: ._1.pt, .trash",
    )
    assert [text for text in texts if text not in note] == []
