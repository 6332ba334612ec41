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

REDUCED = ("int8", "bfloat16")
"""The precisions that graphs.json may admit besides float32, which every model has."""


def engine_fault(engine: str, precision: str) -> str | None:
    """Why no model runs with this engine and precision; None if some do."""
    if engine == "torch" and precision in REDUCED:
        return f"precision: only onnxruntime computes in {precision}; give auto or float32 with torch"
    return None


def graphs_fault(graphs: dict[str, Any], engine: str, precision: str) -> str | None:
    """Why the model of this graphs.json does not run with this engine and precision; None if it may."""
    if "mapping" in graphs and engine == "torch":
        return "engine: this network was imported from ONNX, which onnxruntime runs; give auto or onnxruntime"
    if "mapping" in graphs and precision in REDUCED:
        return f"precision: {precision} is not made of imported networks; give auto or float32"
    if precision in REDUCED and precision not in admitted(graphs):
        names = ["auto", "float32", *admitted(graphs)]
        return (
            f"precision: {precision} is not admitted for this model; run `cosmicai model optimise "
            f"--calibration …`, or give {', '.join(names[:-1])} or {names[-1]}"
        )
    return engine_fault(engine, precision)


def readable(graphs: dict[str, Any], precision: str) -> tuple[str, ...]:
    """The precisions whose graphs ranks may read: with `auto` each of them chooses by its CPU."""
    return ("float32", *admitted(graphs)) if precision == "auto" else (precision,)


def admitted(graphs: dict[str, Any]) -> tuple[str, ...]:
    """The reduced precisions that ranks may use."""
    if "mapping" in graphs:
        return ()
    return tuple(name for name in REDUCED if graphs.get(name, {}).get("admitted", False))
