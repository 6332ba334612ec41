"""Networks of other kinds than ours, trained on real stamps by torch and scikit-learn, as ONNX files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from cosmicai.packaging.places import ROOT

REAL = ROOT / "tests" / "reference" / "real"
SDSS, LEGACY = REAL / "sdss_ugriz_20.npz", REAL / "legacy_griz_train_50.npz"
Array = NDArray[Any]


class StarOrGalaxy(nn.Module):
    """Stamps (N, 5, 48, 48) to the probabilities of galaxy and star (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(5, 8, 5, stride=2), nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        )  # fmt: skip

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.softmax(self.layers(torch.sign(pixels) * torch.log1p(pixels.abs())), 1)


class SeveralOutputs(nn.Module):
    """Stamps (N, 4, 23, 23) and colours (N, 3) to a redshift (N, 1), logits (N, K) and features (N, 6)."""

    def __init__(self, types: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(4, 6, 5, stride=3)
        self.stamps = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.redshift, self.morphology = nn.Linear(9, 1), nn.Linear(9, types)

    def forward(self, pixels: Tensor, colours: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.stamps(torch.tanh(pixels))
        both = torch.cat([features, colours], 1)
        return self.redshift(both), self.morphology(both), features


def sdss() -> tuple[Tensor, Tensor, Tensor]:
    """Images (20, 5, 48, 48), magnitudes (20, 5) and labels (20,): -1 galaxy, 1 star."""
    with np.load(SDSS) as stamps:
        arrays = (stamps["images"], stamps["magnitudes"], stamps["label"])
    return tuple(torch.from_numpy(array.astype(np.float32)) for array in arrays)  # type: ignore[return-value]


def legacy() -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Images (50, 4, 23, 23), colours (50, 3), redshifts (50,), and the morphological types, as texts."""
    with np.load(LEGACY) as stamps:
        colours = -np.diff(stamps["magnitudes"], axis=1)
        arrays = (stamps["images"], colours, stamps["redshift"])
        types = [str(one) for one in stamps["type"]]
    images, numbers, redshift = (torch.from_numpy(array.astype(np.float32)) for array in arrays)
    return images, numbers, redshift, types


def star_or_galaxy() -> StarOrGalaxy:
    """Trained on the 20 stamps, of which it then knows each: enough to show the path, not an accuracy."""
    images, _, labels = sdss()
    torch.manual_seed(0)
    network = StarOrGalaxy()
    steps = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(40):
        steps.zero_grad()
        nn.functional.nll_loss(torch.log(network(images) + 1e-9), (labels > 0).long()).backward()
        steps.step()
    return network.eval()


def several_outputs(types: Sequence[str]) -> SeveralOutputs:
    """Trained on the 50 stamps of the Legacy Surveys; types: the names of its classes."""
    images, colours, redshift, true = legacy()
    numbers = torch.tensor([list(types).index(one) for one in true])
    torch.manual_seed(0)
    network = SeveralOutputs(len(types))
    steps = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(60):
        steps.zero_grad()
        predicted, logits, _ = network(images, colours)
        loss = nn.functional.mse_loss(predicted[:, 0], redshift) + nn.functional.cross_entropy(logits, numbers)
        loss.backward()
        steps.step()
    return network.eval()


def export(
    network: nn.Module, example: tuple[Tensor, ...], path: Path, inputs: Sequence[str], outputs: Sequence[str]
) -> Path:
    """By torch.onnx.export, with any number of objects."""
    free: Mapping[str, Mapping[int, str]] = {name: {0: "N"} for name in (*inputs, *outputs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, example, str(path), input_names=list(inputs), output_names=list(outputs),
            dynamic_axes=free, dynamo=False,
        )  # fmt: skip
    return path


def of_sklearn(network: Any, path: Path, output: str, activation: str) -> Path:
    """A fitted MLPClassifier or MLPRegressor of scikit-learn, by its weights; activation: the last one's."""
    nodes, weights, value = [], [], "row"
    last = len(network.coefs_) - 1
    for number, (matrix, shift) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        names = [f"w{number}", f"b{number}"]
        weights += [
            numpy_helper.from_array(array.astype(np.float32), name)
            for name, array in zip(names, (matrix, shift), strict=True)
        ]
        nodes.append(helper.make_node("Gemm", [value, *names], [f"h{number}"]))
        operator = activation if number == last else "Relu"
        value = output if number == last else f"a{number}"
        nodes.append(helper.make_node(operator, [f"h{number}"], [value]))
    return save(nodes, path, weights, {"row": network.n_features_in_}, {output: network.coefs_[-1].shape[1]})


def save(
    nodes: Sequence[onnx.NodeProto],
    path: Path,
    weights: Sequence[TensorProto] = (),
    inputs: Mapping[str, int] = {"x": 3},
    outputs: Mapping[str, int] = {"y": 3},
    domains: Mapping[str, int] = {"": 20},
) -> Path:
    """A graph of float32 inputs and outputs (N, width) by name."""
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name, width in widths.items()]
        for widths in (inputs, outputs)
    ]
    graph = helper.make_graph(list(nodes), "graph", *values, list(weights))
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def partition(path: Path, *tensors: Tensor) -> Path:
    """A partition file of these tensors."""
    torch.save(TensorDataset(*tensors), path)
    return path
