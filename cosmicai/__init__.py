"""Photometric redshifts for all your galaxies, without a cluster.

    import cosmicai

    results = cosmicai.infer("partitions", "results/mine")  # on this machine
    table = results.to_astropy()

    run = cosmicai.Deployment("team3").run("payloads/demo.json").wait()  # on AWS
    frame = cosmicai.load_results(run).to_pandas()

The command line is made of the same functions. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosmicai.results.run_results import Results
    from cosmicai.runs.deployment import Deployment, Run, RunFailed
    from cosmicai.runs.infer import infer
    from cosmicai.runs.loading import load_results

__version__ = "0.1.0"
__all__ = ["Deployment", "Results", "Run", "RunFailed", "__version__", "infer", "load_results"]
_PLACES = {
    "Deployment": "cosmicai.runs.deployment",
    "Results": "cosmicai.results.run_results",
    "Run": "cosmicai.runs.deployment",
    "RunFailed": "cosmicai.runs.deployment",
    "infer": "cosmicai.runs.infer",
    "load_results": "cosmicai.runs.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'cosmicai' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_PLACES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
