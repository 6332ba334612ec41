"""The part of an imported graph that ranks run, as files of a model folder. Runs in the child process."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from cosmicai.model.graph_files import write_graph
from cosmicai.model.onnxfile.choosing import Asked, chosen, output_columns, tensors
from cosmicai.model.onnxfile.reading import OnnxFileError, completed, inputs, outputs, pruned, read
from cosmicai.model.onnxfile.trial import trial


def write(path: Path, folder: Path, asked: Asked) -> dict[str, Any]:
    """Writes model.onnx (and its weights) to the folder; returns the mapping and facts for the card.

    Raises OnnxFileError.
    """
    asked.check()
    model = read(path)
    every, graph_inputs = outputs(model), inputs(model)
    columns = output_columns(asked, every)
    mapped_inputs = tensors(asked, graph_inputs)
    graph = completed(pruned(model, columns.values()), path)
    needed = list(dict.fromkeys(columns.values()))
    first = trial(graph.SerializeToString(), graph_inputs, needed)
    mapping = chosen(asked, mapped_inputs, columns, first.outputs)
    files = write_graph(folder, "model", graph)
    again = trial(str(folder / "model.onnx"), graph_inputs, needed)
    if any(not np.array_equal(first.outputs[one], again.outputs[one], equal_nan=True) for one in needed):
        raise OnnxFileError(
            "gives other values after it was written; this is a fault of ours or of onnxruntime"
        )
    finite = all(np.isfinite(one).all() for one in again.outputs.values())
    return {
        "files": files,
        "mapping": mapping.to_json(),
        "not used": [one for one in every if one not in columns.values()],
        "operators": dict(Counter(node.op_type for node in graph.graph.node).most_common()),
        "opset": max(one.version for one in graph.opset_import),
        "parameters": sum(_count(one) for one in graph.graph.initializer),
        "milliseconds per object, one thread": round(1000 * again.seconds / len(again.outputs[needed[0]]), 4),
        "finite for random objects": finite,
    }


def _count(weight: onnx.TensorProto) -> int:
    return int(np.prod(weight.dims)) if weight.data_type == onnx.TensorProto.FLOAT else 0
