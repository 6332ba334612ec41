"""Which engine and precision run a model folder on this machine."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..contract.mapping import Mapping
from ..contract.model_files import GRAPHS, REDUCED, TORCH_FILES, admitted, engine_fault, graphs_fault
from ..contract.paths import plain
from .cpu import bfloat16_instructions, cpu_kind, features, instructions, measured_speeds
from .interface import EngineError

_NEON_INT8 = "dotprod"  # Without dot products NEON is slow at int8. AVX2, which the kernels need, is fast.


@dataclass(frozen=True)
class Choice:
    """An engine for a model folder, the files of it that are needed, and the reason for the precision.

    mapping: of an imported network; None for AstroMAE.
    """

    engine: str
    precision: str
    files: tuple[str, ...]
    reason: str
    mapping: Mapping | None = field(default=None, compare=False)


def choose(graphs: dict[str, Any] | None, engine: str, precision: str, device: str = "cpu") -> Choice:
    """How to run a model, from its graphs.json (None if it has none), the requested values, and this machine.

    `auto` chooses onnxruntime, and of the admitted precisions the one that is fastest on CPUs of this kind.
    Raises EngineError.
    """
    if engine not in ("auto", "onnxruntime", "torch"):
        raise EngineError(f"engine: {engine} does not exist; give auto, onnxruntime or torch")
    if precision not in ("auto", "float32", *REDUCED):
        raise EngineError(f"precision: {precision} does not exist; give auto, float32, {' or '.join(REDUCED)}")
    fault = engine_fault(engine, precision) if graphs is None else graphs_fault(graphs, engine, precision)
    if fault is not None:
        raise EngineError(fault)
    if graphs is not None and "mapping" in graphs:
        return _imported(graphs, device)
    usable = device == "cpu" and find_spec("onnxruntime") is not None and instructions() is not None
    if engine == "onnxruntime" and (not usable or graphs is None):
        raise EngineError(_why_no_graph(graphs, device))
    if engine == "torch" or not usable or graphs is None:
        return _torch(graphs, precision)
    chosen, reason = _graph_precision(graphs, precision)
    return Choice("onnxruntime", chosen, tuple(graphs[chosen]["files"]), reason)


def _imported(graphs: dict[str, Any], device: str) -> Choice:
    """The choice for an imported network, which has only a graph of standard operators, without our kernels."""
    if device != "cpu":
        raise EngineError(
            "engine: this network was imported from ONNX, which onnxruntime runs on the CPU; "
            "give the device cpu"
        )
    if find_spec("onnxruntime") is None:
        raise EngineError(
            "engine: onnxruntime is not installed here, and nothing else runs an imported network"
        )
    files, mapping = tuple(graphs["float32"]["files"]), Mapping.from_json(graphs["mapping"])
    return Choice("onnxruntime", "float32", files, "imported networks compute in float32", mapping)


def _why_no_graph(graphs: dict[str, Any] | None, device: str) -> str:
    if device != "cpu":
        return f"engine: onnxruntime runs on the CPU here; give torch for device {device}"
    if graphs is None:
        return f"engine: the model folder has no {GRAPHS}; run `cosmicai model optimise` on it, or give torch"
    if find_spec("onnxruntime") is None:
        return "engine: onnxruntime is not installed here; give torch"
    return (
        f"engine: the kernels of onnxruntime's graphs do not run on this CPU ({platform.machine()}); give torch"
    )


def _torch(graphs: dict[str, Any] | None, precision: str) -> Choice:
    if precision in REDUCED:
        raise EngineError(str(engine_fault("torch", precision)))
    if find_spec("torch") is None:
        raise EngineError(
            "engine: torch is not in this image, and "
            + ("the model folder has no " + GRAPHS if graphs is None else "the payload asks for torch")
            + "; run `cosmicai model optimise` on the model, or deploy the image variant `torch`"
        )
    return Choice("torch", "float32", TORCH_FILES, "the torch engine computes in float32")


def _graph_precision(graphs: dict[str, Any], requested: str) -> tuple[str, str]:
    """The precision, and why: the one that was measured to be fastest on CPUs of this kind, else by a rule."""
    if requested != "auto":
        slow = _why_slow(requested)
        return requested, "requested" if slow is None else f"requested; {slow}"
    allowed = admitted(graphs)
    if not allowed:
        return "float32", f"neither {' nor '.join(REDUCED)} is admitted for this model"
    available, kind = instructions(), cpu_kind()
    speeds = {name: speed for name, speed in measured_speeds(kind, available).items() if _counts(name, allowed)}
    unmeasured = [name for name in allowed if name not in speeds]
    fastest = max(sorted(speeds), key=speeds.__getitem__, default="float32")
    if fastest == "float32":
        fastest = next((name for name in unmeasured if _why_slow(name) is None), fastest)
    if fastest in unmeasured:
        return fastest, f"admitted, and this CPU has {_instructions_of(fastest)}"
    ratios = [
        f"{name} was measured at {speeds[name] / speeds['float32']:.2f}" for name in allowed if name in speeds
    ]
    reasons = (
        [f"{' and '.join(ratios)} of the speed of float32 on this CPU ({kind}, {available})"] if ratios else []
    )
    if fastest == "float32":
        reasons += [slow for name in unmeasured if (slow := _why_slow(name)) is not None]
    return fastest, "; ".join(reasons)


def _counts(precision: str, allowed: tuple[str, ...]) -> bool:
    """Whether a measured speed counts here; that of bfloat16 does not where the CPU lacks products of it."""
    if precision == "bfloat16" and bfloat16_instructions() is None:
        return False
    return precision in ("float32", *allowed)


def _why_slow(precision: str) -> str | None:
    """The instructions that this CPU lacks for a precision, as a reason to use float32; None if it has them."""
    if precision == "int8" and instructions() == "neon" and _NEON_INT8 not in features():
        return f"this CPU ({platform.machine()}) lacks fast int8 products"
    if precision == "bfloat16" and bfloat16_instructions() is None:
        return f"this CPU ({platform.machine()}) lacks products of bfloat16 and computes them in float32"
    return None


def _instructions_of(precision: str) -> str | None:
    return bfloat16_instructions() if precision == "bfloat16" else instructions()


def read_graphs(folder: Path) -> dict[str, Any] | None:
    """A model folder's graphs.json; None if it has none. Raises EngineError if it is malformed."""
    path = folder / GRAPHS
    if not path.exists():
        return None
    try:
        graphs = json.loads(path.read_bytes())
        _check_graphs(graphs, folder)
    except (ValueError, RecursionError) as error:  # also JSON's, Unicode's, and PathError
        raise EngineError(
            f"model: {GRAPHS} is malformed ({error}); run `cosmicai model optimise` on the model, or import it "
            "again, and upload it"
        ) from error
    return dict(graphs)


def _check_graphs(graphs: Any, folder: Path) -> None:
    """Raises ValueError for what our commands do not write, PathError for a file elsewhere."""
    if not isinstance(graphs, dict) or "float32" not in graphs:
        raise ValueError("float32 is missing")
    if "mapping" in graphs:
        Mapping.from_json(graphs["mapping"])
    for precision in graphs.keys() & {"float32", *REDUCED}:
        graph = graphs[precision]
        files = graph.get("files") if isinstance(graph, dict) else None
        if not isinstance(files, dict) or not files:
            raise ValueError(f"{precision}: files is not an object of names and SHA-256 sums")
        for name, digest in files.items():
            plain(folder, name)
            if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
                raise ValueError(f"{precision}: {name[:80]!r} has no SHA-256 sum")
        if sum(name.endswith(".onnx") for name in files) != 1:
            raise ValueError(f"{precision}: files must name one .onnx file")
        if not isinstance(graph.get("admitted", False), bool):
            raise ValueError(f"{precision}: admitted is neither true nor false")


def network_digest(folder: Path, graphs: dict[str, Any] | None) -> str | None:
    """SHA-256 of the weights, from graphs.json if that states it; None if it cannot be known here."""
    if graphs is not None and isinstance(graphs.get("network"), str):
        return str(graphs["network"])
    weights = folder / TORCH_FILES[1]
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None


def verify(folder: Path, choice: Choice) -> None:
    """Raises EngineError if a graph's file is not the one that graphs.json was written for."""
    graphs = read_graphs(folder)
    sums = graphs[choice.precision]["files"] if graphs and choice.engine == "onnxruntime" else {}
    for name, expected in sums.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
            raise EngineError(
                f"model: {name} is not the file that {GRAPHS} was written for; upload the folder again"
            )
