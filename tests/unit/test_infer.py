"""`cosmicai infer` is a rank on this machine."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from cosmicai.data import dc2
from inference import astromae
from inference.engine import BUNDLED_MODEL
from tests.conftest import CACHE
from tests.unit.test_historic import KEYS

Save = Callable[[object], bytes]
_COSMICAI = str(Path(sys.executable).with_name("cosmicai"))


def _infer(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([_COSMICAI, "infer", *map(str, arguments)], capture_output=True, text=True)


def test_a_folder_of_partitions(tmp_path: Path) -> None:
    folder = dc2.partitions("validation", 120, 1, CACHE, seed=3)
    done = _infer(folder, "--out", tmp_path, "--processes", "2", "--batch-size", "50", "--precision", "float32")
    assert done.returncode == 0, done.stderr
    assert "120 redshifts" in done.stdout
    model = astromae.load(BUNDLED_MODEL)
    for rank in range(3):
        images, magnitudes, redshift = torch.load(folder / f"{rank + 1}.pt", weights_only=False).tensors
        with np.load(tmp_path / "predictions" / f"{rank}.npz") as arrays, torch.inference_mode():
            assert arrays["z_pred"] == pytest.approx(model(images, magnitudes).numpy(), abs=1e-5)
            assert np.array_equal(arrays["z_true"], redshift.numpy())
    assert json.loads((tmp_path / "summary.json").read_text())["accuracy"]["count"] == 120
    results = json.loads((tmp_path / "Results.json").read_text())
    assert results["number of batches"] == 2 + 2 + 1
    assert (tmp_path / "inference.png").read_bytes().startswith(b"\x89PNG")


def test_without_redshifts_there_is_no_picture_and_no_accuracy(
    tmp_path: Path, saved: Save, make_partition: Callable[..., TensorDataset]
) -> None:
    (tmp_path / "a.pt").write_bytes(saved(make_partition(2, with_redshift=False)))
    done = _infer(tmp_path / "a.pt", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out" / "inference.png").exists()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["accuracy"] is None


@pytest.fixture
def small_model(tmp_path: Path) -> tuple[Path, astromae.AstroMAE]:
    """A model folder of one's own, without graphs, and its network."""
    torch.manual_seed(0)
    config = astromae.Config(width=16, depth=1, heads=2, parallel_groups=0, head_width=8)
    model = astromae.AstroMAE(config).eval()
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
    done = _infer(partitions, "--out", out, "--model", small_model[0], "--batch-size", "8")
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "Results.json").read_text())
    assert tuple(found)[: len(KEYS)] == KEYS
    assert (found["batch size"], found["number of batches"], found["device"]) == (8, 3 + 2, "cpu")
    infos = json.loads((out / "combined_data.json").read_text())
    seconds = sum(info["inference (seconds)"] for info in infos)
    sample_bits = 8 * 4 * (32 * 32 * 5 + 5)  # float32 images and magnitudes
    assert found["throughput(bps)"] == pytest.approx(33 * sample_bits / seconds)
    assert found["execution time per batch (second)"] == pytest.approx(seconds / 5)
    assert found["total cpu time (second)"] > 0
    assert 0 < found["cpu memory (MB)"] < 2000
    measures = [found[name] for name in ("MAE", "MSE", "Bias", "Precision", "R2")]
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
    ("content", "message"), [(None, "there is no partition file"), (b"junk", "is cut short or not a .pt file")]
)
def test_errors_are_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    source = tmp_path / "x.pt"
    if content is not None:
        source.write_bytes(content)
    done = _infer(source, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {source}: ") or done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
