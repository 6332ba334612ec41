"""The fast engine: the model folder's graph in onnxruntime, without torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

from ..contract.mapping import Mapping
from ..data.partition import Layout, Partition
from .choice import Choice
from .cpu import KERNELS, instructions
from .interface import DENSITY, EMBEDDING, REDSHIFT, EngineError, Floats, Output, redshifts

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
        self.instructions = ""
        if choice.mapping is None:
            options.register_custom_ops_library(str(KERNELS))
            self.instructions = instructions() or ""
        graph = next(file for file in files if file.suffix == ".onnx")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        widths = {output.name: output.shape[-1] for output in self._session.get_outputs()}
        ours = choice.mapping is None  # an imported graph may call its outputs as it likes
        self.embedding_width = int(widths.get(EMBEDDING, 0)) if ours else 0
        self.density_bins = int(widths.get(DENSITY, 0)) if ours else 0
        self._mapping = choice.mapping
        self.layout = self._own_layout() if choice.mapping is None else layout_of(choice.mapping)
        self.model_bytes = sum(file.stat().st_size for file in files)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "engine")

    def _own_layout(self) -> Layout:
        images, magnitudes = (node.shape for node in self._session.get_inputs())
        return Layout(tuple(images[1:]), magnitudes[1])

    def batch(self, requested: int) -> int:
        """Even parts of at most MICRO_BATCH galaxies."""
        return -(-requested // -(-requested // MICRO_BATCH))

    def predict(self, batches: Iterable[Partition]) -> Iterator[Floats]:
        return redshifts(self.outputs(batches, embedding=False))

    def outputs(self, batches: Iterable[Partition], embedding: bool, density: bool = False) -> Iterator[Output]:
        """Reads a few batches ahead of the one whose redshifts it yields."""
        if embedding and self._mapping is not None:
            raise EngineError(
                "outputs: an imported network gives no embedding; leave embedding out, or import such an "
                "output with --kind COLUMN=values"
            )
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
        if self._mapping is not None:
            return self._run_imported(batch, self._mapping)
        if not len(batch):
            shapes = {REDSHIFT: (0,), EMBEDDING: (0, self.embedding_width), DENSITY: (0, self.density_bins)}
            arrays = {name: np.empty(shapes[name], np.float32) for name in names}
        else:
            feed = {"images": batch.images, "magnitudes": batch.magnitudes}
            arrays = dict(zip(names, self._session.run(names, feed), strict=True))
        return Output(arrays[REDSHIFT], arrays.get(EMBEDDING), arrays.get(DENSITY))

    def _run_imported(self, batch: Partition, mapping: Mapping) -> Output:
        if len(batch):
            tensors = {"images": batch.images, "magnitudes": batch.magnitudes, "values": batch.magnitudes}
            feed = {one.name: tensors[one.tensor] for one in mapping.inputs}
            arrays = self._session.run([one.name for one in mapping.outputs], feed)
        else:
            arrays = [np.empty((0, *one.shape), np.float32) for one in mapping.outputs]
        for one, array in zip(mapping.outputs, arrays, strict=True):
            if array.shape != (len(batch), *one.shape) or array.dtype != np.float32:
                raise EngineError(
                    f"model: the output {one.column} has the shape {array.shape} and the type {array.dtype}, "
                    "which the import has not seen; import the model again"
                )
        columns = dict(zip((one.column for one in mapping.outputs), arrays, strict=True))
        redshift = None if mapping.redshift is None else columns.pop(mapping.redshift.column).reshape(-1)
        return Output(redshift, others=columns)


def layout_of(mapping: Mapping) -> Layout:
    """What partitions of an imported network hold."""
    second = mapping.taken("magnitudes") or mapping.taken("values")
    images, compared = mapping.taken("images"), mapping.compared
    return Layout(
        image=() if images is None else tuple(images.shape),
        magnitudes=0 if second is None else second.shape[0],
        truth="true values" if compared is None else compared.true_column,
        labels=tuple(compared.labels) if compared is not None and compared.labels else None,
        columns=tuple(name for one in mapping.outputs for name in (*one.columns, one.true_column)),
    )
