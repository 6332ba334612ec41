"""The fast engine: the model folder's graph in onnxruntime, without torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

from ..data.partition import Layout, Partition
from .choice import Choice
from .cpu import KERNELS, instructions
from .interface import DENSITY, EMBEDDING, REDSHIFT, EngineError, Floats, Output

MICRO_BATCH = 64  # galaxies at most: more are no faster, and their activations need more memory


class OnnxEngine:
    """Every thread computes micro-batches of its own: nothing waits inside an operator for other threads."""

    name = "onnxruntime"
    device = "cpu"

    def __init__(self, folder: Path, choice: Choice, threads: int) -> None:
        self.precision = choice.precision
        files = [folder / name for name in choice.files]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # it reserves for every batch size seen, and is no faster here
        options.log_severity_level = 3
        options.register_custom_ops_library(str(KERNELS))
        self.instructions = instructions() or ""
        graph = next(file for file in files if file.suffix == ".onnx")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        images, magnitudes = (node.shape for node in self._session.get_inputs())
        widths = {node.name: node.shape[-1] for node in self._session.get_outputs()}
        self.embedding_width = int(widths.get(EMBEDDING, 0))
        self.density_bins = int(widths.get(DENSITY, 0))
        self.layout = Layout(images[1], images[2], magnitudes[1])
        self.model_bytes = sum(file.stat().st_size for file in files)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "engine")

    def batch(self, requested: int) -> int:
        """Even parts of at most MICRO_BATCH galaxies."""
        return -(-requested // -(-requested // MICRO_BATCH))

    def predict(self, batches: Iterable[Partition]) -> Iterator[Floats]:
        return (one.redshift for one in self.outputs(batches, embedding=False))

    def outputs(self, batches: Iterable[Partition], embedding: bool, density: bool = False) -> Iterator[Output]:
        """Reads a few batches ahead of the one whose redshifts it yields."""
        if embedding and not self.embedding_width:
            raise EngineError(
                "outputs: the model's graph gives no embedding; run `cosmicai model optimise` on the model and "
                "upload it again, or leave embedding out"
            )
        if density and not self.density_bins:
            raise EngineError(
                "outputs: the model's graph gives no p(z); run `cosmicai model optimise` on the model"
            )
        names = [REDSHIFT] + [EMBEDDING] * embedding + [DENSITY] * density
        running: deque[Future[Output]] = deque()
        for batch in batches:
            running.append(self._pool.submit(self._run, batch, names))
            if len(running) > 2 * self._threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

    def _run(self, batch: Partition, names: list[str]) -> Output:
        if not len(batch):
            shapes = {REDSHIFT: (0,), EMBEDDING: (0, self.embedding_width), DENSITY: (0, self.density_bins)}
            return Output(**{name: np.empty(shapes[name], np.float32) for name in names})
        feed = {"images": batch.images, "magnitudes": batch.magnitudes}
        return Output(**dict(zip(names, self._session.run(names, feed), strict=True)))
