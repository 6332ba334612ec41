"""The files of a model folder, and which of them ranks read: Initialize and ranks go by the same rules."""

from __future__ import annotations

from typing import Any

BUNDLED = "dc2-small"
"""The folder of the bundled model among the models of the inference package."""
GRAPHS = "graphs.json"
"""Which graphs the folder has, which of them are admitted, and the mapping of an imported one."""
CALIBRATION = "calibration.json"
"""What turns predicted redshifts into p(z): a model folder without it gives none."""
NOVELTY = "novelty.json"
"""What scores how unlike the calibration galaxies a galaxy is: a model folder without it gives no scores."""
TORCH_FILES = ("config.json", "model.safetensors")
"""What the torch engine reads."""


def engine_fault(engine: str, precision: str) -> str | None:
    """Why no model runs with this engine and precision; None if some do."""
    if (engine, precision) == ("torch", "int8"):
        return "precision: only onnxruntime computes in int8; give auto or float32 with torch"
    return None


def graphs_fault(graphs: dict[str, Any], engine: str, precision: str) -> str | None:
    """Why the model of this graphs.json does not run with this engine and precision; None if it may."""
    if "mapping" in graphs and engine == "torch":
        return "engine: this network was imported from ONNX, which onnxruntime runs; give auto or onnxruntime"
    if "mapping" in graphs and precision == "int8":
        return "precision: int8 is not made of imported networks; give auto or float32"
    if precision == "int8" and not _has_int8(graphs):
        return (
            "precision: int8 is not admitted for this model; run `cosmicai model optimise --calibration …`, "
            "or give auto or float32"
        )
    return engine_fault(engine, precision)


def preferred(graphs: dict[str, Any], precision: str) -> str:
    """The precision whose graph ranks read; for `auto`, on a CPU that is fast at int8."""
    if precision != "auto":
        return precision
    return "int8" if _has_int8(graphs) and "mapping" not in graphs else "float32"


def _has_int8(graphs: dict[str, Any]) -> bool:
    return bool(graphs.get("int8", {}).get("admitted", False))
