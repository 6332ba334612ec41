"""Loading a model folder into an engine."""

from __future__ import annotations

from pathlib import Path

from ..contract.model_files import BUNDLED
from .choice import Choice, choose, read_graphs
from .interface import Engine

BUNDLED_MODEL = Path(__file__).parents[1] / "models" / BUNDLED


def load(folder: Path, engine: str, precision: str, threads: int, device: str = "cpu") -> Engine:
    """The engine for a model folder that is here as a whole. Raises EngineError."""
    return start(folder, choose(read_graphs(folder), engine, precision, device), threads, device)


def start(folder: Path, choice: Choice, threads: int, device: str = "cpu") -> Engine:
    """The chosen engine, ready to predict."""
    if choice.engine == "torch":
        from .torch_engine import TorchEngine  # torch takes a second to import: only when it is needed

        return TorchEngine(folder, threads, device)
    from .onnx_engine import OnnxEngine

    return OnnxEngine(folder, choice, threads)
