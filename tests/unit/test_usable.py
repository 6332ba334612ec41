"""Galaxies for training, calibrating and optimising: those that a rank would flag are left out, and counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from cosmicai.data.photometry import Photometry, write
from cosmicai.model.calibrating import CalibratingError, predicted
from cosmicai.model.galaxies import read_galaxies
from cosmicai.model.usable import Needs
from inference.data.partition import PartitionError
from inference.engine import astromae
from inference.engine.loading import BUNDLED_MODEL
from tests.small_network import SMALL

from .galaxies import Arrays
from .galaxies import galaxies as some_galaxies

COUNT = 40
NAN = float("nan")
LIMITS = (27.79, 29.04, 29.06, 28.62, 27.98)
TOLD = (
    "8 of 40 galaxies are left out: 1 whose image holds NaN or infinite pixels, 1 whose image is all zero, "
    "2 with a magnitude that is not known, 4 without a known redshift"
)
Saved = Callable[[object], bytes]


@pytest.fixture
def arrays() -> Arrays:
    """Galaxies of which 0 to 7 and 10 lack something, 9 was not detected."""
    arrays = some_galaxies(COUNT)
    arrays["images"][0, 2, 3, 4], arrays["images"][1] = NAN, 0
    arrays["magnitudes"][2, 0], arrays["magnitudes"][3, 4], arrays["magnitudes"][9, 1] = NAN, -99, 99
    arrays["redshift"][[4, 5, 6, 7]] = -1, NAN, 99, float("inf")
    arrays["redshift"][0] = NAN  # counts once
    return arrays


def _write(path: Path, arrays: Arrays, saved: Saved) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(saved(TensorDataset(*(torch.from_numpy(array) for array in arrays.values()))))
    return path


def test_galaxies_that_lack_something_are_left_out_with_a_count(
    arrays: Arrays, tmp_path: Path, saved: Saved
) -> None:
    read = read_galaxies([_write(tmp_path / "1.pt", arrays, saved)], limits=LIMITS)
    left = np.arange(8, COUNT)
    assert np.array_equal(read.images.numpy(), arrays["images"][left])
    assert np.array_equal(read.redshift.numpy(), arrays["redshift"][left])
    expected = arrays["magnitudes"][left]
    expected[1, 1] = LIMITS[1]
    assert np.array_equal(read.magnitudes.numpy(), expected)
    assert read.tally.notes() == [
        "1 of 40 galaxies have the limit in a band in which they were not detected",
        TOLD,
    ]


def test_without_limits_a_galaxy_that_is_not_detected_is_left_out(
    arrays: Arrays, tmp_path: Path, saved: Saved
) -> None:
    read = read_galaxies([_write(tmp_path / "1.pt", arrays, saved)])
    assert len(read) == COUNT - 9
    assert "3 with a magnitude that is not known" in read.tally.notes()[0]


@pytest.mark.parametrize(
    ("needs", "count"),
    [(Needs(), 32), (Needs(images=False), 34), (Needs(magnitudes=False, redshift=False), 38)],
)
def test_what_is_not_needed_may_be_missing(
    arrays: Arrays, tmp_path: Path, saved: Saved, needs: Needs, count: int
) -> None:
    arrays["redshift"][0] = 0.5
    read = read_galaxies([_write(tmp_path / "1.pt", arrays, saved)], limits=LIMITS, needs=needs)
    assert len(read) == count
    assert torch.isfinite(read.images).all()
    assert torch.isfinite(read.magnitudes).all()


def test_pretraining_takes_partitions_without_redshifts(arrays: Arrays, tmp_path: Path, saved: Saved) -> None:
    del arrays["redshift"]
    file = _write(tmp_path / "1.pt", arrays, saved)
    assert len(read_galaxies([file], needs=Needs(magnitudes=False, redshift=False))) == 38
    with pytest.raises(PartitionError, match="no redshifts, which training needs"):
        read_galaxies([file])


def test_scaled_magnitudes_have_no_markers(arrays: Arrays, tmp_path: Path, saved: Saved) -> None:
    scaled = {**arrays, "magnitudes": np.round(arrays["magnitudes"] - 22).astype(np.float32)}
    read = read_galaxies([_write(tmp_path / "1.pt", scaled, saved)])
    assert len(read) == COUNT - 7  # all but those with NaN; 0 and -1 are values
    assert (read.magnitudes == 0).any()


def test_too_few_that_are_left_say_why(arrays: Arrays, tmp_path: Path, saved: Saved) -> None:
    arrays["redshift"][:] = -1
    with pytest.raises(PartitionError, match=r"0 galaxies to train on, 10 are the fewest; .* 35 without"):
        read_galaxies([_write(tmp_path / "1.pt", arrays, saved)])


def test_limits_of_other_bands_are_refused(arrays: Arrays, tmp_path: Path, saved: Saved) -> None:
    with pytest.raises(PartitionError, match=r"has 4 magnitude_limits, the network takes 5 magnitudes"):
        read_galaxies([_write(tmp_path / "1.pt", arrays, saved)], limits=LIMITS[:4])


def test_calibrating_leaves_out_and_counts_too(arrays: Arrays, tmp_path: Path, saved: Saved) -> None:
    file = _write(tmp_path / "1.pt", arrays, saved)
    with pytest.raises(CalibratingError, match=rf"32 galaxies with a known redshift are too few.*{TOLD}"):
        predicted(BUNDLED_MODEL, [file])


def test_train_and_optimise_say_what_they_leave_out(arrays: Arrays, tmp_path: Path, saved: Saved) -> None:
    """As a user calls them; the card says it too, and the network gives finite redshifts."""
    _write(tmp_path / "in" / "1.pt", arrays, saved)
    write(Photometry(magnitude_limits=LIMITS), tmp_path / "in")
    SMALL.write(tmp_path / "config.json")
    model = tmp_path / "model"
    words = ("train", tmp_path / "in", "--out", model, "--config", tmp_path / "config.json", "--epochs", "1")
    assert TOLD in _model(*words)
    card = json.loads((model / "card.json").read_text())["trained on"]
    assert (card["galaxies"], sum(card["left out"].values()), card["not detected in a band"]) == (32, 8, 1)
    assert np.isfinite(card["redshift"]).all()
    network = astromae.load(model)
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())
    output = _model("optimise", model, "--calibration", tmp_path / "in", status=1)  # those left are too few
    assert "4 of 40 galaxies are left out" in output


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a small network."""
    astromae.save(astromae.AstroMAE(SMALL).eval(), tmp_path / "model")
    return tmp_path / "model"


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _calibrate(model: Path, *folders: Path, status: int = 1) -> str:
    """What `model calibrate` reports."""
    options = [word for folder in folders for word in ("--calibration", folder)]
    return _model("calibrate", model, *options, status=status)


def test_calibrate_takes_the_files_that_a_run_takes_and_names_the_others(
    model: Path, tmp_path: Path, saved: Saved
) -> None:
    folder = tmp_path / "in"
    whole = some_galaxies(COUNT)
    for name, rows in (("1.pt", 3), ("10.pt", 4), ("below/2.pt", 5), ("below/it/3.pt", 6)):
        _write(folder / name, {key: array[:rows] for key, array in whole.items()}, saved)
    _write(tmp_path / "other" / "1.pt", {key: array[:20] for key, array in whole.items()}, saved)
    body = (folder / "1.pt").read_bytes()
    strange = ("4.PT", "5.pth", "6.pt.gz", "._1.pt", ".hidden/7.pt", "notes.txt")
    for name in strange:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(body)
    (folder / "below" / "8.pt").write_bytes(b"")
    (folder / "photometry.json").write_text("{}")  # as `data prepare` writes it
    before = _content(model)
    output = _calibrate(model, folder, tmp_path / "other")
    assert _content(model) == before
    assert f"{3 + 4 + 5 + 6 + 20} galaxies with a known redshift are too few" in output
    assert f"7 files in {folder} are left out" in output
    for name in ("4.PT", "5.pth", "6.pt.gz", "._1.pt", ".hidden", "notes.txt", "below/8.pt"):
        assert name in output


@pytest.mark.parametrize(
    ("files", "status", "message"),
    [
        ({"1.pt": b"no partition"}, 1, "in/1.pt: "),
        ({"below/1.pt": b"no partition"}, 1, "in/below/1.pt: "),
        (
            {"1.pt": b""},
            2,
            "holds no .pt file; give a folder of .pt files (1 file in it is left out (empty: 1.pt))",
        ),
        ({"1.npz": b"PK"}, 2, "1 file in it is left out (does not end in .pt: 1.npz)"),
        ({"1.pt": b"any", ".partial/moving": b""}, 1, "incomplete set"),
    ],
)
def test_calibrate_refuses_a_folder_that_holds_something_else(
    model: Path, tmp_path: Path, files: dict[str, bytes], status: int, message: str
) -> None:
    for name, content in files.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    before = _content(model)
    assert message in _calibrate(model, tmp_path / "in", status=status)
    assert _content(model) == before


def _model(*words: object, status: int = 0) -> str:
    process = subprocess.run(
        [str(Path(sys.executable).with_name("cosmicai")), "model", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "300", "NO_COLOR": "1"},
    )
    assert process.returncode == status, process.stdout + process.stderr
    return " ".join((process.stdout + process.stderr).split())
