"""An imported graph, run by onnxruntime on a few objects. Runs in the child process: see asking.py."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cosmicai.model.onnxfile.reading import OnnxFileError, Value, first_line
from inference.contract.mapping import MOST_OUTPUT_VALUES
from inference.engine.onnx_engine import MICRO_BATCH

Array = NDArray[np.generic]
_TOLERANCE = 1e-4  # of an object's outputs alone and among others, relative to 1 + their size
_ALONE = 3  # objects that are also run alone


@dataclass(frozen=True)
class Trial:
    """outputs (MICRO_BATCH, …) of random objects by name, and the seconds that one thread took for them."""

    outputs: Mapping[str, Array]
    seconds: float


def trial(graph: bytes | str, inputs: Sequence[Value], names: Sequence[str]) -> Trial:
    """Runs some outputs of a graph (its bytes, or its path). Raises OnnxFileError, which says what is wrong.

    Every output must have a row for each object, which must not depend on the others in the batch.
    """
    try:
        session = _session(graph)
        random = np.random.default_rng(0)
        feed = {one.name: random.standard_normal((MICRO_BATCH, *one.shape), np.float32) for one in inputs}
        session.run(list(names), {name: array[:_ALONE] for name, array in feed.items()})
        began = time.perf_counter()
        arrays = dict(zip(names, session.run(list(names), feed), strict=True))
        seconds = time.perf_counter() - began
        alone = [
            dict(
                zip(
                    names,
                    session.run(list(names), {name: array[row : row + 1] for name, array in feed.items()}),
                    strict=True,
                )
            )
            for row in range(_ALONE)
        ]
    except MemoryError as error:
        raise OnnxFileError(f"needs too much memory for {MICRO_BATCH} objects") from error
    except Exception as error:  # onnxruntime's own have no common base
        raise OnnxFileError(f"onnxruntime cannot run it: {first_line(error)}") from error
    for name in names:
        _check(name, arrays[name], [one[name] for one in alone])
    return Trial(arrays, seconds)


def _session(graph: bytes | str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _check(name: str, together: object, alone: Sequence[object]) -> None:
    """Raises OnnxFileError unless the outputs are float32 (N, …), and the same alone as among others."""
    if not isinstance(together, np.ndarray) or together.dtype != np.float32:
        kind = together.dtype if isinstance(together, np.ndarray) else "no tensor"
        raise OnnxFileError(
            f"its output {name} is {kind}, not float32: name the outputs that you need by --output"
        )
    if not together.ndim or len(together) != MICRO_BATCH:
        raise OnnxFileError(
            f"its output {name} has the shape {together.shape} for {MICRO_BATCH} objects, not a row for each"
        )
    if together[0].size > MOST_OUTPUT_VALUES:
        raise OnnxFileError(
            f"its output {name} has {together[0].size:,} values per object; {MOST_OUTPUT_VALUES:,} at most"
        )
    for row, one in enumerate(alone):
        if not isinstance(one, np.ndarray) or one.shape != (1, *together.shape[1:]):
            raise OnnxFileError(f"its output {name} has another shape for one object than for many")
        with np.errstate(invalid="ignore"):
            apart = np.abs(one[0].astype(np.float64) - together[row]) / (1 + np.abs(together[row]))
        both = np.isnan(one[0]) == np.isnan(together[row])
        if not both.all() or (np.nan_to_num(apart) > _TOLERANCE).any():
            raise OnnxFileError(
                f"its output {name} of an object depends on the others in its batch, or on chance: "
                "export the network "
                "in evaluation mode (model.eval())"
            )
