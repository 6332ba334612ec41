"""The graphs of a model folder: float32 for all, int8 and bfloat16 if galaxies show that they may be used.

graphs.json names what there is and is written last:

    {"network": SHA-256 of model.safetensors,
     "float32": {"files": {"model.onnx": SHA-256, …}},
     "int8": {"files": {…}, "admitted": true, "report": {…}},
     "bfloat16": {"files": {…}, "admitted": true, "report": {…}}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cosmicai.model import graph
from cosmicai.model.graph_files import write_graph
from inference.contract.accuracy import Accuracy, exact_nmad
from inference.contract.model_files import GRAPHS
from inference.data.partition import Partition
from inference.engine import astromae
from inference.engine.choice import Choice, network_digest
from inference.engine.interface import Engine, redshifts
from inference.engine.loading import load, start

Json = dict[str, Any]
Predictions = tuple[NDArray[np.float32], NDArray[np.float32] | None]
"""Redshifts (N,), and p(z) in bins (N, K) if the network has a head for it."""
TOLERANCE = 1e-5  # of float32 redshifts, relative to 1 + |z|
FEWEST_GALAXIES = 1000  # to judge a precision by: its 99.9th percentile needs them
CALIBRATED_ON = 512  # galaxies whose activations give the ranges; never among those that judge
_REFERENCE_GALAXIES = 3


class OptimiseError(RuntimeError):
    """A graph cannot be made, or does not give the network's redshifts."""


@dataclass(frozen=True)
class Limits:
    """What a reduced precision may change: |z_reduced - z_float32| / (1 + z_float32), and the accuracy.

    The mean may be a tenth of the bias that LSST's dark-energy science allows, 0.003 (LSST Science
    Requirements Document, LPM-17: photometric redshifts); the 99.9th percentile may be all of it.
    """

    mean: float = 0.0003
    percentile: float = 0.003
    nmad_growth: float = 0.01  # relative
    outlier_growth: float = 0.001  # fraction of galaxies


@dataclass(frozen=True)
class Report:
    """How a reduced precision differs from float32 on galaxies that gave no ranges; accuracy if known.

    Two p(z) differ by how far probability moves from one to the other in ln(1 + z), on average (Wasserstein's
    distance): of two redshifts that is |z_reduced - z_float32| / (1 + z), and so it has the same limits.
    calibrated_on: the galaxies that gave ranges, which only int8 needs.
    """

    precision: str
    galaxies: int
    calibrated_on: int
    mean_difference: float
    percentile_999_difference: float
    largest_difference: float
    accuracy_float32: Json | None
    accuracy_reduced: Json | None
    limits: Limits
    density_mean_difference: float | None = None
    density_percentile_999_difference: float | None = None

    @property
    def admitted(self) -> bool:
        """Whether every limit holds."""
        close = (
            self.mean_difference <= self.limits.mean
            and self.percentile_999_difference <= self.limits.percentile
            and (self.density_mean_difference or 0.0) <= self.limits.mean
            and (self.density_percentile_999_difference or 0.0) <= self.limits.percentile
        )
        if self.accuracy_float32 is None or self.accuracy_reduced is None:
            return close
        before, after = self.accuracy_float32, self.accuracy_reduced
        return bool(
            close
            and after["NMAD"] <= before["NMAD"] * (1 + self.limits.nmad_growth)
            and after["outliers"] <= before["outliers"] + self.limits.outlier_growth
        )

    def to_json(self) -> Json:
        """As graphs.json has it, below the name of the precision."""
        names = {"accuracy_reduced": f"accuracy_{self.precision}"}
        return {names.get(name, name): value for name, value in asdict(self).items() if name != "precision"}


def optimise(folder: Path, galaxies: Partition | None = None, limits: Limits = Limits()) -> dict[str, Report]:
    """Writes the float32 graph of a model folder and, given galaxies, those of the reduced precisions.

    Returns the report of each reduced precision. galaxies: at least FEWEST_GALAXIES + CALIBRATED_ON that the
    network was not trained on; the first CALIBRATED_ON give the ranges of activations, all others judge. Raises
    OptimiseError.
    """
    model = astromae.load(folder)
    (folder / GRAPHS).unlink(missing_ok=True)
    graphs: Json = {
        "network": network_digest(folder, None),
        "float32": {"files": write_graph(folder, "model", graph.build(model))},
    }
    _write_graphs(folder, graphs)
    float32 = load(folder, "onnxruntime", "float32", threads=1)
    _check(model, float32)
    if galaxies is None:
        return {}
    if len(galaxies) < FEWEST_GALAXIES + CALIBRATED_ON:
        raise OptimiseError(
            f"calibration: {len(galaxies)} galaxies are too few; give {FEWEST_GALAXIES + CALIBRATED_ON} or more"
        )
    judging = galaxies.rows(CALIBRATED_ON, len(galaxies))
    expected = _predictions(float32, judging)
    ranges = activation_ranges(model, galaxies.rows(0, CALIBRATED_ON))
    reports = {}
    for precision, calibrated_on, made in (
        ("int8", CALIBRATED_ON, graph.build(model, ranges)),
        ("bfloat16", 0, graph.build(model, in_bfloat16=True)),
    ):
        files = write_graph(folder, f"model.{precision}", made)
        # graphs.json does not name these files yet, so that no rank can use them meanwhile.
        engine = start(folder, Choice("onnxruntime", precision, tuple(files), "to be judged"), threads=1)
        predictions = _predictions(engine, judging)
        report = _compared(precision, calibrated_on, judging, expected, predictions, limits, model.config)
        graphs[precision] = {"files": files, "admitted": report.admitted, "report": report.to_json()}
        reports[precision] = report
    _write_graphs(folder, graphs)
    return reports


def activation_ranges(model: astromae.AstroMAE, galaxies: Partition) -> dict[str, tuple[float, float]]:
    """The smallest and largest value that enters each Linear layer of the encoder's blocks."""
    ranges: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def see(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = (min(low, float(inputs[0].min())), max(high, float(inputs[0].max())))

        return see

    with _hooks(model, watch), torch.inference_mode():
        for batch in galaxies.batches(128):
            model(torch.tensor(batch.images), torch.tensor(batch.magnitudes))
    return ranges


@contextmanager
def _hooks(model: astromae.AstroMAE, watch: Callable[[str], Any]) -> Iterator[None]:
    handles = []
    blocks: list[Any] = list(model.encoder.blocks)
    for index, block in enumerate(blocks):
        modules: list[Any] = [block.attention, block.attention.project, block.mlp[0], block.mlp[2]]
        for layer, module in zip(graph.LAYERS, modules, strict=True):
            handles.append(module.register_forward_pre_hook(watch(graph.range_name(index, layer))))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _write_graphs(folder: Path, graphs: Json) -> None:
    (folder / GRAPHS).write_text(json.dumps(graphs, indent=1) + "\n")


def _check(model: astromae.AstroMAE, engine: Engine) -> None:
    config, random = model.config, np.random.default_rng(0)
    shape = (_REFERENCE_GALAXIES, config.channels, config.image_size, config.image_size)
    images = random.standard_normal(shape, np.float32)
    magnitudes = 23 + random.standard_normal((_REFERENCE_GALAXIES, config.magnitudes), np.float32)
    with torch.inference_mode():
        expected, _, bins = model.outputs(torch.from_numpy(images), torch.from_numpy(magnitudes))
    redshift, density = _predictions(engine, Partition(images, magnitudes, None))
    difference = float(_differences(redshift, expected.numpy()).max())
    if density is not None and bins is not None:
        difference = max(difference, float(_moved(density, bins.numpy(), config).max()))
    if not difference <= TOLERANCE:
        raise OptimiseError(
            f"the float32 graph's redshifts or p(z) differ from the network's by {difference:.1e} of 1 + z, "
            f"more than {TOLERANCE}"
        )


def _compared(
    precision: str,
    calibrated_on: int,
    galaxies: Partition,
    expected: Predictions,
    predictions: Predictions,
    limits: Limits,
    config: astromae.Config,
) -> Report:
    """expected: by float32."""
    (before, bins), (after, density) = expected, predictions
    differences = _differences(after, before)
    moved = None if density is None or bins is None else _moved(density, bins, config)
    return Report(
        precision,
        galaxies=len(galaxies),
        calibrated_on=calibrated_on,
        mean_difference=float(differences.mean()),
        percentile_999_difference=float(np.quantile(differences, 0.999)),
        largest_difference=float(differences.max()),
        accuracy_float32=_accuracy(before, galaxies),
        accuracy_reduced=_accuracy(after, galaxies),
        limits=limits,
        density_mean_difference=None if moved is None else float(moved.mean()),
        density_percentile_999_difference=None if moved is None else float(np.quantile(moved, 0.999)),
    )


def _predictions(engine: Engine, galaxies: Partition) -> Predictions:
    batches = galaxies.batches(engine.batch(256))
    outputs = list(engine.outputs(batches, embedding=False, density=bool(engine.density_bins)))
    density = [one.density for one in outputs if one.density is not None]
    return np.concatenate(list(redshifts(outputs))), np.concatenate(density) if density else None


def _moved(
    density: NDArray[np.float32], expected: NDArray[np.float32], config: astromae.Config
) -> NDArray[np.float64]:
    """Wasserstein's distance of p(z) (N, K) in ln(1 + z), of which all bins cover ln(1 + density_to)."""
    width = math.log1p(config.density_to)
    apart: NDArray[np.float64] = (
        np.abs(np.cumsum(density.astype(float) - expected, axis=1)).mean(axis=1) * width
    )
    return apart


def _differences(predicted: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    differences: NDArray[np.float64] = np.abs(predicted.astype(float) - expected) / (1 + np.abs(expected))
    return differences


def _accuracy(predicted: NDArray[np.float32], galaxies: Partition) -> Json | None:
    if galaxies.redshift is None:
        return None
    measures = Accuracy.of(predicted.tolist(), galaxies.redshift.tolist()).measures()
    return {
        "NMAD": exact_nmad(predicted.tolist(), galaxies.redshift.tolist()),
        "bias": measures["bias"],
        "outliers": measures["outlier fraction"],
    }
