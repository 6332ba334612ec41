"""The network as an ONNX graph, for engines without torch."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from inference.astromae import AstroMAE

TOLERANCE = 1e-5  # of redshifts, relative to 1 + |z|
_GALAXIES = 3  # of the reference input that the graph is checked on


class ExportError(RuntimeError):
    """The exported graph does not give the network's redshifts."""


def export(model: AstroMAE, path: Path) -> float:
    """Writes `path` and returns the largest difference to the network's own redshifts on a reference input.

    Inputs `images` (N, C, S, S) and `magnitudes` (N, M), output `redshift` (N,), float32, any N. Raises
    ExportError beyond TOLERANCE.
    """
    inputs = _reference_input(model)
    names = {"images": {0: torch.export.Dim("galaxies")}, "magnitudes": {0: torch.export.Dim("galaxies")}}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(
            model.eval(),
            inputs,
            path,
            dynamo=True,
            input_names=list(names),
            output_names=["redshift"],
            dynamic_shapes=names,
            external_data=False,
            verbose=False,
        )
    return _difference(model, path)


def _reference_input(model: AstroMAE) -> tuple[torch.Tensor, torch.Tensor]:
    config, generator = model.config, torch.Generator().manual_seed(0)
    size = config.image_size
    images = torch.randn(_GALAXIES, config.channels, size, size, generator=generator)
    return images, 23 + torch.randn(_GALAXIES, config.magnitudes, generator=generator)


def _difference(model: AstroMAE, path: Path) -> float:
    import onnxruntime

    images, magnitudes = _reference_input(model)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {"images": images.numpy(), "magnitudes": magnitudes.numpy()}
    with torch.inference_mode():
        expected = model(images, magnitudes).numpy()
    found = np.asarray(session.run(["redshift"], feed)[0])
    difference = float(np.max(np.abs(found - expected) / (1 + np.abs(expected))))
    if not difference <= TOLERANCE:
        raise ExportError(
            f"{path}: redshifts differ by {difference:.1e} from the network's, more than {TOLERANCE}"
        )
    return difference
