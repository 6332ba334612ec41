"""Users' checkpoints become model folders with the same outputs, and nothing of them is ever run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cosmicai.model.checkpoint import CheckpointError
from cosmicai.model.importing import import_checkpoint
from inference import astromae
from tests import foreign


def _inputs(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 5, 32, 32, generator=generator), torch.randn(6, 5, generator=generator)


def _save(content: object, folder: Path) -> Path:
    path = folder / "checkpoint.pt"
    with foreign.modules():
        torch.save(content, path)
    return path


def _assert_same_outputs(model: nn.Module, source: Path, out: Path, heads: int | None = None) -> None:
    card = import_checkpoint(source, out, heads, "test", onnx=False)
    images, magnitudes = _inputs()
    with torch.inference_mode():
        theirs = model([images, magnitudes]).squeeze(1)
        ours = astromae.load(out)(images, magnitudes)
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-5)
    assert theirs.std() > 0.01
    ours_count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert card["parameters"] == ours_count


@pytest.mark.parametrize("groups", [0, 6])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("heads", [2, 3, 6])
def test_a_pickled_data_parallel_of_a_whole_module(groups: int, depth: int, heads: int, tmp_path: Path) -> None:
    torch.manual_seed(depth)
    model = foreign.randomised(foreign.Input_Mix_Model(depth=depth, heads=heads, groups=groups))
    source = _save(nn.DataParallel(model), tmp_path)
    assert not any(name.startswith(("timm", "blocks")) for name in sys.modules)
    _assert_same_outputs(model, source, tmp_path / "model")
    assert astromae.Config.read(tmp_path / "model" / "config.json").heads == heads


@pytest.mark.parametrize("patch", [4, 16])
def test_other_patches_and_a_bare_module(patch: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = foreign.randomised(foreign.Input_Mix_Model(width=16, heads=4, patch=patch, groups=4))
    _assert_same_outputs(model, _save(model, tmp_path), tmp_path / "model")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrap", [None, "model_state_dict", "state_dict"])
def test_state_dicts(prefix: str, wrap: str | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = foreign.randomised(foreign.Input_Mix_Model())
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    source = _save({wrap: state, "epoch": 7} if wrap else state, tmp_path)
    _assert_same_outputs(model, source, tmp_path / "model", heads=3)


def test_safetensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = foreign.randomised(foreign.Input_Mix_Model())
    source = tmp_path / "weights.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in model.state_dict().items()}, source)
    with pytest.raises(CheckpointError, match="does not tell the number of attention heads: give --heads"):
        import_checkpoint(source, tmp_path / "model", None, "test", onnx=False)


def test_the_card_names_its_source(tmp_path: Path) -> None:
    source = _save(foreign.randomised(foreign.Input_Mix_Model()), tmp_path)
    import_checkpoint(source, tmp_path / "model", None, "cosmicai model import checkpoint.pt model")
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert {"graphs.json", "model.onnx"} <= {path.name for path in (tmp_path / "model").iterdir()}
    assert (tmp_path / "model" / "model.onnx").stat().st_size > 10_000
    assert card["source kind"] == "pickled module Input_Mix_Model"
    assert len(card["source sha256"]) == 64
    assert card["command"].startswith("cosmicai model import")


class _Hostile(nn.Linear):
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {_Hostile.marker}",)

    marker = ""


def _refused(content: object, tmp_path: Path, message: str) -> None:
    source = _save(content, tmp_path)
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(source, tmp_path / "model", None, "test", onnx=False)
    assert not (tmp_path / "model").exists()


def test_a_pickle_that_calls_os_system_is_refused_and_nothing_is_run(tmp_path: Path) -> None:
    _Hostile.marker = str(tmp_path / "executed")
    model = foreign.Input_Mix_Model()
    model.final[0] = _Hostile(54, 16)
    _refused(nn.DataParallel(model), tmp_path, r"checkpoint\.pt: its pickle asks for posix\.system")
    assert not (tmp_path / "executed").exists()


class _Surprise(nn.Module):
    pass


def test_an_unknown_class_is_refused_by_its_dotted_name(tmp_path: Path) -> None:
    model = foreign.Input_Mix_Model()
    model.extra = _Surprise()
    _refused(model, tmp_path, r"asks for tests\.unit\.test_checkpoint\._Surprise")


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    model = foreign.Input_Mix_Model()
    model.extra = nn.BatchNorm2d(3)
    _refused(model, tmp_path, r"tensors without a place in AstroMAE: extra\.weight")


def test_a_tensor_of_the_wrong_shape_is_refused(tmp_path: Path) -> None:
    model = foreign.Input_Mix_Model()
    model.vit.blocks[1].norm1 = nn.LayerNorm(25)
    _refused(model, tmp_path, r"encoder\.blocks\.1\.attention_norm\.weight has shape \(25,\), expected \(24,\)")


def test_a_missing_layer_is_refused(tmp_path: Path) -> None:
    state = foreign.Input_Mix_Model().state_dict()
    del state["vit.blocks.0.attn.proj.weight"]
    source = _save(state, tmp_path)
    with pytest.raises(CheckpointError, match=r"no tensor blocks\.0\.attn\.proj\.weight"):
        import_checkpoint(source, tmp_path / "model", 3, "test", onnx=False)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, nn.Linear(3, 3)])
def test_other_contents_are_refused(content: object, tmp_path: Path) -> None:
    _refused(content, tmp_path, r"checkpoint\.pt: ")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_checkpoint_cut_short_is_refused(share: float, tmp_path: Path) -> None:
    source = _save(foreign.Input_Mix_Model(), tmp_path)
    data = source.read_bytes()
    source.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match="is cut short"):
        import_checkpoint(source, tmp_path / "model", None, "test", onnx=False)


def test_the_command_line_refuses_with_one_line_and_a_status(tmp_path: Path) -> None:
    source = tmp_path / "checkpoint.pt"
    source.write_bytes(b"junk")
    command = [
        str(Path(sys.executable).with_name("cosmicai")),
        "model",
        "import",
        str(source),
        str(tmp_path / "m"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {source}: is cut short or not a .pt file")
    assert "Traceback" not in done.stderr
