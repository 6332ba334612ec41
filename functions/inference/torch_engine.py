"""The reference engine: the torch network as it is, in float32."""

from __future__ import annotations

from pathlib import Path

import torch

from . import astromae
from .engine import Floats
from .partition import Layout


class TorchEngine:
    name = "torch"
    precision = "float32"
    device = "cpu"

    def __init__(self, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model = astromae.load(folder)
        config = self._model.config
        self.layout = Layout(config.channels, config.image_size, config.magnitudes)
        self.model_bytes = sum(tensor.nbytes for tensor in self._model.state_dict().values())

    @torch.inference_mode()
    def predict(self, images: Floats, magnitudes: Floats) -> Floats:
        predicted: Floats = self._model(_tensor(images), _tensor(magnitudes)).numpy()
        return predicted


def _tensor(array: Floats) -> torch.Tensor:
    """A copy: partitions are read-only views of their file, which torch does not take."""
    return torch.from_numpy(array.copy())
