"""The reference engine: the torch network as it is, in float32, on CPU or CUDA."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..data.partition import Layout, Partition
from . import astromae
from .interface import EngineError, Floats, Output

CPU_BATCH = 128


class TorchEngine:
    name = "torch"
    precision = "float32"

    def __init__(self, folder: Path, threads: int, device: str) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise EngineError("device: cuda is not available to torch on this machine; give cpu")
        torch.set_num_threads(threads)
        self.device = device
        self.instructions = torch.backends.cpu.get_cpu_capability().lower() if device == "cpu" else device
        self._model = astromae.load(folder).to(device)
        config = self._model.config
        self.layout = Layout(config.channels, config.image_size, config.magnitudes)
        self.embedding_width, self.density_bins = config.width, config.density_bins
        self.model_bytes = sum(tensor.nbytes for tensor in self._model.state_dict().values())

    def batch(self, requested: int) -> int:
        """All at once on a GPU; on a CPU at most what its caches hold."""
        return requested if self.device == "cuda" else min(requested, CPU_BATCH)

    def predict(self, batches: Iterable[Partition]) -> Iterator[Floats]:
        return (one.redshift for one in self.outputs(batches, embedding=False))

    @torch.inference_mode()
    def outputs(self, batches: Iterable[Partition], embedding: bool, density: bool = False) -> Iterator[Output]:
        """On CUDA a batch is copied to the device while the one before it is computed."""
        copies = torch.cuda.Stream() if self.device == "cuda" else None
        if density and not self.density_bins:
            raise EngineError(
                "outputs: the model has no head for p(z); train it with `cosmicai model train --pdf`"
            )
        computing: tuple[Tensor, Tensor, Tensor | None] | None = None
        for batch in batches:
            images, magnitudes = self._staged(batch, copies)
            if computing is not None:
                yield _output(computing, embedding, density)
            if copies is not None:
                torch.cuda.current_stream().wait_stream(copies)
            computing = self._model.outputs(images, magnitudes)
        if computing is not None:
            yield _output(computing, embedding, density)

    def _staged(self, batch: Partition, copies: torch.cuda.Stream | None) -> tuple[Tensor, Tensor]:
        """The batch's tensors on the device; on CUDA from pinned memory, without waiting for them."""
        images, magnitudes = (torch.from_numpy(a.copy()) for a in (batch.images, batch.magnitudes))
        if copies is None:
            return images, magnitudes
        with torch.cuda.stream(copies):
            on_device = [t.pin_memory().to(self.device, non_blocking=True) for t in (images, magnitudes)]
        for tensor in on_device:
            tensor.record_stream(torch.cuda.current_stream())
        return on_device[0], on_device[1]


def _output(computed: tuple[Tensor, Tensor, Tensor | None], embedding: bool, density: bool) -> Output:
    redshift, described, bins = computed
    return Output(
        redshift.cpu().numpy(),
        described.cpu().numpy() if embedding else None,
        bins.cpu().numpy() if density and bins is not None else None,
    )
