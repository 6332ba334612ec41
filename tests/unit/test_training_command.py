"""Training as a user calls it: beginning with an encoder, Ctrl-C, and what is refused with its remedy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cosmicai import cli
from cosmicai.data import dc2
from cosmicai.model import training
from inference.data.filekinds import other_kind
from inference.engine import astromae
from inference.engine.loading import BUNDLED_MODEL
from tests.conftest import CACHE
from tests.small_network import SMALL


@pytest.fixture
def partitions(tmp_path: Path) -> Path:
    made = dc2.partitions("validation", 120, 1, CACHE, seed=3)
    (tmp_path / "in").mkdir()
    shutil.copy(made / "1.pt", tmp_path / "in")
    return tmp_path / "in"


def test_a_network_begins_with_the_encoder_and_the_config_of_a_pretraining(
    partitions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SMALL.write(tmp_path / "config.json")
    encoder, model, other = (tmp_path / name for name in ("encoder", "model", "other.json"))
    pretrain = ["model", "pretrain", str(partitions), "--out", str(encoder), "--epochs", "1"]
    assert cli.run([*pretrain, "--config", str(tmp_path / "config.json")]) == 0
    proposed = f"`cosmicai model train PARTITIONS --out MODEL --encoder {encoder}`"
    assert proposed in " ".join(capsys.readouterr().out.split())
    train = ["model", "train", str(partitions), "--out", str(model), "--encoder", str(encoder), "--epochs", "1"]
    assert cli.run(train) == 0
    assert astromae.Config.read(model / "config.json").width == SMALL.width
    capsys.readouterr()
    astromae.Config().write(other)
    train[train.index(str(model))] = str(tmp_path / "second")
    assert cli.run([*train, "--config", str(other)]) == 1
    error = capsys.readouterr().err
    assert error == (
        f"error: {encoder}: its encoder does not fit --config; leave --config out to use its own config.json\n"
    )


@pytest.mark.parametrize("command", ["train", "pretrain"])
def test_a_model_that_is_there_is_not_replaced(
    command: str, partitions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "model" / "model.safetensors"
    kept.parent.mkdir()
    kept.write_text("of last week")
    assert cli.run(["model", command, str(partitions), "--out", str(kept.parent), "--epochs", "1"]) == 2
    assert f"--out {kept.parent}: is not empty; give a new folder" in capsys.readouterr().err
    assert kept.read_text() == "of last week"


@pytest.mark.parametrize(
    ("epochs", "said"), [(1, "the same command continues from {}"), (0, "no epoch has ended")]
)
def test_ctrl_c_says_whether_the_training_can_be_continued(
    epochs: int,
    said: str,
    partitions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    resume = tmp_path / "model.resume.pt"

    def interrupted(*_: Any) -> None:
        if epochs:
            resume.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    assert cli.run(["model", "train", str(partitions), "--out", str(tmp_path / "model")]) == 130
    assert capsys.readouterr().err == f"\ninterrupted: {said.format(resume)}\n"


ONNX_REFUSED = "is a network from ONNX, and this works only for AstroMAE; give its model folder"


@pytest.mark.parametrize(
    "words",
    [
        ("optimise", "ONNX"),
        ("calibrate", "ONNX", "--calibration", "IN"),
        ("speed", "ONNX", "IN"),
        ("train", "IN", "--out", "OUT", "--from", "ONNX"),
        ("train", "IN", "--out", "OUT", "--encoder", "ONNX"),
    ],
)
def test_what_works_only_for_astromae_says_so_of_a_network_from_onnx(
    words: tuple[str, ...], partitions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "onnx"
    folder.mkdir()
    shutil.copy(BUNDLED_MODEL / "graphs.json", folder)
    places = {"ONNX": str(folder), "IN": str(partitions), "OUT": str(tmp_path / "out")}
    assert cli.run(["model", *(places.get(word, word) for word in words)]) == 2
    assert ONNX_REFUSED in capsys.readouterr().err


def test_an_onnx_file_that_is_imported_as_a_checkpoint_names_the_right_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = BUNDLED_MODEL / "model.onnx"
    assert "ONNX" in str(other_kind(graph.read_bytes()[:300]))
    assert cli.run(["model", "import", str(graph), str(tmp_path / "model")]) == 1
    assert "is an ONNX file, not one of torch.save (`cosmicai model import-onnx`" in capsys.readouterr().err


def test_a_checkpoint_that_is_imported_as_onnx_names_the_right_command(
    partitions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["model", "import-onnx", str(partitions / "1.pt"), str(tmp_path / "model")]) == 1
    assert "a torch checkpoint of an AstroMAE is for `cosmicai model import`" in capsys.readouterr().err
