"""`cosmicai model speed`: what it measures is what Initialize then plans with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import TensorDataset

from cosmicai.cli import run
from cosmicai.model import speed as measuring
from cosmicai.model.speed import SpeedError, measure, write
from inference.engine.loading import BUNDLED_MODEL
from initialize.contract.estimate import ASSUMED
from initialize.speed import speed

BUCKET = "team3-cosmicai"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLED_MODEL, tmp_path / "model"))


@pytest.fixture
def partitions(
    make_partition: Callable[..., TensorDataset], saved: Callable[[object], bytes], tmp_path: Path
) -> Path:
    folder = tmp_path / "partitions"
    folder.mkdir()
    (folder / "1.pt").write_bytes(saved(make_partition(600)))
    return folder


def test_the_measured_speed_goes_through_the_card_into_the_plan(
    model: Path, partitions: Path, s3: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "LEAST_SECONDS", 0.2)
    before = json.loads((model / "card.json").read_text())
    assert run(["model", "speed", str(model), str(partitions)]) == 0
    card = json.loads((model / "card.json").read_text())
    measured = card.pop("speed")
    assert card == before
    assert measured["images"] / measured["seconds"] == pytest.approx(
        measured["images per second and thread"], rel=0.05
    )
    assert f"{measured['images per second and thread']:,.0f} images/s per thread" in capsys.readouterr().out
    s3.put_object(Bucket=BUCKET, Key="models/mine/card.json", Body=(model / "card.json").read_bytes())
    card_speed = speed(s3, BUCKET, "models/mine")
    assert card_speed.images_per_second_vcpu[1] == measured["images per second and thread"]
    assert (card_speed.start_seconds, card_speed.source) == (
        ASSUMED.start_seconds,
        f"the speed on the model's card, measured on {measured['machine']}",
    )


def test_a_rate_is_that_of_the_galaxies_after_the_first_batch(
    model: Path, partitions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "LEAST_SECONDS", 0.0)
    measurement = measure(model, [partitions / "1.pt"])
    assert 0 < measurement.images < 600
    assert measurement.rate == measurement.images / measurement.seconds


def test_one_batch_is_too_little(
    model: Path, make_partition: Callable[..., TensorDataset], saved: Callable[[object], bytes], tmp_path: Path
) -> None:
    (tmp_path / "1.pt").write_bytes(saved(make_partition(2)))
    with pytest.raises(SpeedError, match="give more than 256 galaxies"):
        measure(model, [tmp_path / "1.pt"])


@pytest.mark.parametrize("text", ["[1]", "no JSON", "[" * 100_000])
def test_a_card_that_is_none_is_left_as_it_is(model: Path, text: str) -> None:
    (model / "card.json").write_text(text)
    with pytest.raises(SpeedError, match=r"card\.json of the model folder cannot be read"):
        write(model, measuring.Measured(10, 1.0, "m", "int8"), "cosmicai")
    assert (model / "card.json").read_text() == text
