"""A graph as files of a model folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx


def write_graph(folder: Path, name: str, model: onnx.ModelProto) -> dict[str, str]:
    """Writes NAME.onnx; returns {file: SHA-256}.

    Large weights go into a file of their own, which is mapped rather than parsed and copied.
    """
    graph, weights = folder / f"{name}.onnx", folder / f"{name}.onnx.weights"
    weights.unlink(missing_ok=True)  # onnx would append
    onnx.save_model(
        model,
        graph,
        save_as_external_data=True,
        location=weights.name,
        size_threshold=1024,
        convert_attribute=False,
    )
    files = [file for file in (graph, weights) if file.exists()]  # a tiny network has no large weights
    for file in files:
        file.chmod(0o644)  # onnx makes its weights private, but other users run them
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
