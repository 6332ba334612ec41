"""`cosmicai model import`: the folder, the card, what is said, and the check by expected outputs."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

from cosmicai.cli.model import app
from cosmicai.model.foreign.errors import CheckpointError
from cosmicai.model.foreign.reading import Choices
from cosmicai.model.importing import import_checkpoint
from cosmicai.runs.infer import infer
from inference.data.partition import Partition
from inference.engine import astromae
from inference.engine.loading import load
from tests import foreign
from tests.threads import one_thread  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")

REFERENCE = Path(__file__).parents[1] / "reference" / "checkpoints"


@pytest.fixture(scope="module")
def model() -> foreign.ViT_Astro:
    return foreign.astromae()


@pytest.fixture
def checkpoint(model: foreign.ViT_Astro, tmp_path: Path) -> Path:
    return foreign.save(model, tmp_path)


def _expected(model: foreign.ViT_Astro, folder: Path, **more: np.ndarray) -> Path:
    images, magnitudes = foreign.galaxies(5)
    with torch.inference_mode():
        outputs = model([images, magnitudes])
    arrays = {"images": images.numpy(), "magnitudes": magnitudes.numpy(), "outputs": outputs.numpy(), **more}
    np.savez(folder / "expected.npz", **arrays)
    return folder / "expected.npz"


def test_a_model_folder_that_ranks_can_run(model: foreign.ViT_Astro, checkpoint: Path, tmp_path: Path) -> None:
    """Through the float32 graph, as ranks compute it."""
    out = tmp_path / "model"
    card = import_checkpoint(checkpoint, out, expected=_expected(model, tmp_path))
    assert {path.name for path in out.iterdir()} == {
        "config.json", "model.safetensors", "card.json", "graphs.json", "model.onnx", "model.onnx.weights",
    }  # fmt: skip
    assert card == json.loads((out / "card.json").read_text())
    assert card["source kind"] == "pickled module ViT_Astro"
    assert len(card["source sha256"]) == 64
    assert card["checked"]["galaxies"] == 5
    assert card["checked"]["largest error, torch"] <= 1e-5
    assert card["checked"]["largest error, onnxruntime"] <= 1e-5
    images, magnitudes = foreign.galaxies(5)
    engine = load(out, "onnxruntime", "float32", threads=1)
    predicted = next(iter(engine.predict([Partition(images.numpy(), magnitudes.numpy(), None)])))
    assert np.allclose(
        predicted.reshape(-1), model([images, magnitudes])[:, 0].detach().numpy(), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("name", ["published", "published_state_dict", "plain_vit_depth4"])
def test_the_public_classes_checkpoints_through_the_graph(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.pt"
    path.write_bytes(lzma.decompress((REFERENCE / f"{name}.pt.xz").read_bytes()))
    fields = {"heads": "6"} if "state" in name else {}
    card = import_checkpoint(
        path, tmp_path / "m", Choices(fields), expected=REFERENCE / "published-expected.npz"
    )
    assert card["checked"]["outputs"] == name, "of the file's own name"
    assert card["checked"]["largest error, onnxruntime"] <= 1e-5


def test_an_imported_model_gives_its_outputs_through_infer(tmp_path: Path) -> None:
    expected = np.load(REFERENCE / "published-expected.npz")
    path = tmp_path / "plain.pt"
    path.write_bytes(lzma.decompress((REFERENCE / "plain_vit_depth4.pt.xz").read_bytes()))
    import_checkpoint(path, tmp_path / "model")
    (tmp_path / "parts").mkdir()
    galaxies = TensorDataset(*(torch.from_numpy(expected[name]) for name in ("images", "magnitudes")))
    torch.save(galaxies, tmp_path / "parts" / "1.pt")
    torch.save(galaxies, tmp_path / "parts" / "2.pt", _use_new_zipfile_serialization=False)
    infer([str(tmp_path / "parts")], tmp_path / "out", batch_size=7, processes=1, model=tmp_path / "model")
    for rank in (0, 1):
        predicted = np.load(tmp_path / "out" / "predictions" / f"{rank}.npz")["z_pred"]
        errors = np.abs(predicted - expected["plain_vit_depth4"]) / np.maximum(
            1, np.abs(expected["plain_vit_depth4"])
        )
        assert errors.max() <= 1e-5


GRAPHS = {
    "patches of 4": ({"width": 16, "heads": 4, "groups": 4, "patch": 4}, lambda model: None),
    "3×3 kernels": ({"kernel": 3, "groups": 3}, lambda model: None),
    "LeakyReLU": ({}, lambda model: [setattr(block.mlp, "act", nn.LeakyReLU(0.3)) for block in model.blocks]),
    "scale": ({}, lambda model: [setattr(block.attn, "scale", -0.8) for block in model.blocks]),
    "average pooling of 5": ({}, lambda model: _average_pools(model)),
    "no biases": (
        {},
        lambda model: [setattr(m, "bias", None) for m in model.modules() if isinstance(m, nn.Conv2d)],
    ),
    "BatchNorm eps": ({}, lambda model: setattr(model.inception_model.vis_inception[3].branch1.bn, "eps", 0.3)),
}


def _average_pools(model: foreign.ViT_Astro) -> None:
    for module in model.modules():
        if isinstance(module, foreign.InceptionBlock):
            module.branch4[0] = nn.AvgPool2d(5, 1, 2)


@pytest.mark.parametrize("name", GRAPHS)
def test_variants_through_the_graph(name: str, tmp_path: Path) -> None:
    sizes, change = GRAPHS[name]
    model = foreign.astromae(**sizes)
    change(model)
    expected = _expected(model, tmp_path)
    card = import_checkpoint(foreign.save(model, tmp_path), tmp_path / "model", expected=expected)
    assert card["checked"]["largest error, onnxruntime"] <= 1e-5


def test_a_card_without_a_check_says_what_was_assumed(model: foreign.ViT_Astro, tmp_path: Path) -> None:
    path = foreign.save(model.state_dict(), tmp_path)
    card = import_checkpoint(path, tmp_path / "model", Choices({"heads": "3", "norm_eps": "1e-5"}), onnx=False)
    assert card["checked"] is False
    assert card["stated"] == {"heads": 3, "norm_eps": 1e-5}
    assert card["assumed"]["mlp_activation"] == "gelu"
    assert "norm_eps" not in card["assumed"]
    assert "a state dict holds no code" in card["assumed"]["notes"][0]


def _left_by_a_refusal(tmp_path: Path, source: Path, message: str, **options: object) -> set[Path]:
    """The files and folders that an import refused with this message leaves."""
    before = set(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(source, tmp_path / "model", **options)  # type: ignore[arg-type]
    return set(tmp_path.rglob("*")) ^ before


@pytest.mark.parametrize("by", [3e-5, 1.0, float("nan")])
def test_other_outputs_are_refused_and_nothing_is_left(
    by: float, model: foreign.ViT_Astro, checkpoint: Path, tmp_path: Path
) -> None:
    expected = _expected(model, tmp_path)
    arrays = dict(np.load(expected))
    arrays["outputs"][3] += by * max(1, abs(arrays["outputs"][3, 0]))
    np.savez(expected, **arrays)
    message = r"outputs of galaxy 3 is .*, the imported model gives .* \(torch\); 1e-05 of max"
    assert _left_by_a_refusal(tmp_path, checkpoint, message, expected=expected, onnx=False) == set()


def test_a_graph_that_differs_is_refused_too(
    model: foreign.ViT_Astro, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cosmicai.model.foreign import expected as checking

    real = checking.load

    def other(folder: Path, engine: str, *rest: object, **options: object) -> object:
        if engine == "torch":
            return real(folder, engine, *rest, **options)  # type: ignore[arg-type]
        config = astromae.Config.read(folder / "config.json")
        astromae.save(astromae.AstroMAE(config).eval(), folder)
        return real(folder, "torch", *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(checking, "load", other)
    expected = _expected(model, tmp_path)
    assert (
        _left_by_a_refusal(
            tmp_path, checkpoint, r"the imported model gives .* \(onnxruntime\)", expected=expected
        )
        == set()
    )


def test_a_module_that_says_less_than_it_computes_is_found_by_its_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code is not in a pickle: here the activation of the Inception branch."""
    path = foreign.save(foreign.astromae(), tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(foreign.ConvBlock, "forward", lambda self, x: foreign.F.silu(self.bn(self.conv(x))))
        expected = _expected(foreign.astromae(), tmp_path)
    assert (
        _left_by_a_refusal(tmp_path, path, r"the imported model gives", expected=expected, onnx=False) == set()
    )
    choices = Choices({"inception_activation": "silu"})
    card = import_checkpoint(path, tmp_path / "model", choices, expected=expected, onnx=False)
    assert card["checked"]["largest error, torch"] <= 1e-5


def test_which_array_holds_the_outputs(model: foreign.ViT_Astro, checkpoint: Path, tmp_path: Path) -> None:
    expected = _expected(model, tmp_path)
    arrays = dict(np.load(expected))
    outputs = arrays.pop("outputs")

    def write(**more: np.ndarray) -> None:
        np.savez(expected, **arrays, **more)

    def imported(outputs: str | None = None) -> object:
        out = tmp_path / f"model-{outputs}-{len(list(tmp_path.iterdir()))}"
        card = import_checkpoint(checkpoint, out, expected=expected, outputs=outputs, onnx=False)
        return card["checked"]["outputs"]

    write(z_pred=outputs)
    assert imported() == "z_pred", "the only one that fits"
    write(z_pred=outputs[:, 0], checkpoint=outputs, index=np.arange(5))
    assert imported() == "checkpoint", "of the checkpoint's name"
    write(a=outputs, b=outputs)
    assert _left_by_a_refusal(
        tmp_path, checkpoint, r"no array that is clearly the outputs; of the right shape are: a, b; name one",
        expected=expected, onnx=False,
    ) == set()  # fmt: skip
    assert imported("b") == "b"
    assert (
        _left_by_a_refusal(
            tmp_path, checkpoint, r"has no outputs c; .*: a, b", expected=expected, outputs="c", onnx=False
        )
        == set()
    )
    write()
    assert (
        _left_by_a_refusal(tmp_path, checkpoint, r"of the right shape are: none", expected=expected, onnx=False)
        == set()
    )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 5, 32, 32))}, "lacks magnitudes; it has images"),
        ({"images": np.zeros((2, 5, 32)), "magnitudes": np.zeros((2, 5))}, r"not \(N, C, S, S\)"),
        (
            {"images": np.zeros((2, 5, 32, 32)), "magnitudes": np.zeros((3, 5))},
            r"not \(N, C, S, S\) and \(N, M\)",
        ),
        (
            {"images": np.zeros((2, 3, 32, 32)), "magnitudes": np.zeros((2, 5)), "outputs": np.zeros(2)},
            r"its galaxies are \(3, 32, 32\) and 5; the model takes \(5, 32, 32\) and 5",
        ),
        ({"images": np.array([{}])}, "cannot be read as an .npz file"),
    ],
)
def test_expected_files_that_are_none(
    arrays: dict[str, np.ndarray], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "e.npz", **arrays)
    assert _left_by_a_refusal(tmp_path, checkpoint, message, expected=tmp_path / "e.npz", onnx=False) == set()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04"])
def test_an_expected_file_that_is_no_npz(content: bytes, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "e.npz").write_bytes(content)
    assert (
        _left_by_a_refusal(
            tmp_path, checkpoint, r"e\.npz: cannot be read", expected=tmp_path / "e.npz", onnx=False
        )
        == set()
    )


def test_a_folder_that_holds_something_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    assert _left_by_a_refusal(tmp_path, checkpoint, r"model: exists already", onnx=False) == set()
    assert (tmp_path / "model" / "mine.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    import_checkpoint(checkpoint, tmp_path / "model", onnx=False)
    assert (tmp_path / "model" / "card.json").exists()


def test_what_the_command_says(model: foreign.ViT_Astro, tmp_path: Path) -> None:
    path = foreign.save(model.state_dict(), tmp_path)
    arguments = ["import", str(path), str(tmp_path / "m"), "--heads", "3", "--assume", "final_norm_eps=1e-6"]
    output = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    lines = output.splitlines()
    assert lines[0].endswith("parameters from a state dict (torch.save)")
    assert (
        "2 blocks of width 24, patches of 8, 3 heads, MLP 48 (gelu), parallel convolutions 48 (1×1, 6 groups"
        in output
    )
    assert "Inception: 8 → 21, 16, 12, 16, 6 channels (relu, max pooling of 3, halved by average)" in output
    assert "assumed as published: attention_scale=usual, norm_eps=1e-06" in output
    assert "not checked: give --expected FILE.npz" in output


def test_what_the_command_says_of_a_checked_module(
    model: foreign.ViT_Astro, checkpoint: Path, tmp_path: Path
) -> None:
    arguments = ["import", str(checkpoint), str(tmp_path / "m"), "--expected", str(_expected(model, tmp_path))]
    output = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    assert "parameters from a pickled module ViT_Astro" in output
    assert "checked with 5 galaxies: largest error, torch: " in output
    assert "not checked" not in output


def test_refusals_are_one_line_and_a_status(tmp_path: Path) -> None:
    source = tmp_path / "checkpoint.pt"
    source.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    command = [
        str(Path(sys.executable).with_name("cosmicai")),
        "model",
        "import",
        str(source),
        str(tmp_path / "m"),
    ]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stderr == f"error: {source}: is a Git LFS pointer, not the file itself: run `git lfs pull`\n"
