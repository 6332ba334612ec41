"""p(z) of calibrated networks compared with RAIL's estimators, on DC2 galaxies that none of them has seen.

    .venv/bin/python benchmarks/probabilities.py [MODEL_FOLDER …] [--fewer N] [--networks | --halves]

The bundled network is always among them. The first eight of 17 partitions of validation galaxies calibrate each
network (`cosmicai model calibrate`), the others are inferred (`cosmicai infer`) and judge. RAIL's k nearest
neighbours and FlexZBoost are trained on all galaxies that the networks were trained on or calibrated with, by
their magnitudes: once on the same four renderings of the training galaxies, once on one of them. RAIL's and
qp's own evaluators judge all densities. RAIL gets an environment of its own, build/rail, at the first call.
Writes benchmarks/probabilities.json, unless an option is given, and prints the tables.

--halves: only the networks, twice: those galaxies that judge and those that calibrate change places, so that
all are judged. Writes benchmarks/probabilities_halves.json and prints the coverage of both halves and its mean.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cosmicai.data import dc2
from cosmicai.packaging.places import FUNCTIONS, ROOT
from inference.engine.loading import BUNDLED_MODEL
from inference.probability.calibration import Calibration
from inference.probability.predictive import densities
from initialize.plan import natural

CACHE = ROOT / ".cosmicai" / "cache"
BUILD = ROOT / "build"
RAIL = ("pz-rail-base==2.0.11", "pz-rail-sklearn==2.0.3", "pz-rail-flexzboost==2.0.3")
GALAXIES = 20_449  # of the validation split
CALIBRATING = 8  # partitions of 1,278 galaxies
RENDERINGS = (
    4  # of the training galaxies, seeds 0 to 3: what the networks of docs/benchmarks.md were trained on
)
TRAINING_GALAXIES = 10_225
Json = dict[str, Any]


def rail_environment() -> Path:
    """The interpreter of an environment with RAIL's estimators, which is made at the first call."""
    folder, listed = BUILD / "rail", BUILD / "rail" / "installed"
    if not listed.exists() or listed.read_text() != "\n".join(RAIL):
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *RAIL], check=True)
        listed.write_text("\n".join(RAIL))
    return folder / "bin" / "python"


def split(partitions: Path, work: Path, fewer: int | None, swap: bool) -> tuple[Path, Path]:
    """Folders of links to the partitions that calibrate and to those that judge."""
    files = sorted(partitions.glob("*.pt"), key=lambda path: natural(path.name))
    first = fewer or CALIBRATING
    parts = [files[:first], files[first : 2 * first if fewer else None]]
    for name, some in zip(("calibrating", "judging"), reversed(parts) if swap else parts, strict=True):
        folder = work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in some:
            (folder / file.name).symlink_to(file.resolve())
    return work / "calibrating", work / "judging"


def network(folder: Path, calibrating: Path, judging: Path, work: Path) -> Json:
    """Writes a network's catalogue of the judging galaxies to `work`, by the commands that users run."""
    model, out = work / "models" / folder.name, work / "inferred" / folder.name
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(folder, model)
    _cosmicai("model", "calibrate", model, "--calibration", calibrating)
    _cosmicai("infer", judging, "--model", model, "--out", out, "--precision", "float32", "--overwrite")
    _cosmicai("catalogue", out, "--format", "qp")
    shutil.move(out / "catalogue.qp.hdf5", work / f"{folder.name}.qp.hdf5")
    return _cost(model, out)


def _cost(model: Path, out: Path) -> Json:
    """CPU time of the densities, and of everything that the ranks computed, in microseconds per galaxy."""
    calibration, summary = Calibration.read(model), json.loads((out / "combined_data.json").read_text())
    files = sorted((out / "predictions").glob("*.npz"))
    z_pred = np.concatenate([np.load(file)["z_pred"] for file in files])
    random = np.random.default_rng(0)
    magnitudes, bins = random.normal(24.0, 1.0, (len(z_pred), calibration.magnitudes)), None
    if calibration.edges is not None:
        bins = random.dirichlet(np.ones(len(calibration.edges) - 1), len(z_pred)).astype(np.float32)
    began = time.process_time()
    densities(calibration, z_pred, magnitudes, bins=bins)
    per_galaxy = 1e6 / len(z_pred)
    return {
        "densities, µs of CPU per galaxy": (time.process_time() - began) * per_galaxy,
        "network, µs of CPU per galaxy": sum(rank["total_cpu_time (seconds)"] for rank in summary) * per_galaxy,
    }


def _cosmicai(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "cosmicai", *map(str, arguments)]
    _tell(" ".join(command[2:]))
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{ended.stdout}{ended.stderr}")


def write_galaxies(calibrated: int, judged: int, training: int, path: Path, swap: bool) -> None:
    """Writes the galaxies that RAIL's estimators are trained on and judged by."""
    validation = dc2.observations("validation", [0], CACHE)
    first = judged if swap else calibrated
    parts = validation[:first], validation[first : calibrated + judged]
    calibrating, judging = reversed(parts) if swap else parts
    sets = {"judged": judging}
    for name, seeds in ((f"{RENDERINGS} renderings", range(RENDERINGS)), ("1 rendering", range(1))):
        seen = [dc2.observations("training", [seed], CACHE)[:training] for seed in seeds]
        sets[name] = _joined([*seen, calibrating])
    arrays: dict[str, Any] = {}
    for name, catalogue in sets.items():
        arrays |= {
            f"{name}_{column}": getattr(catalogue, column) for column in ("magnitudes", "errors", "redshift")
        }
    np.savez(path, judged_id=sets["judged"].identifiers, **arrays)


def _joined(parts: Iterable[dc2.Catalogue]) -> dc2.Catalogue:
    names, some = ("identifiers", "magnitudes", "errors", "detected", "redshift"), list(parts)
    return dc2.Catalogue(*(np.concatenate([getattr(part, name) for part in some]) for name in names))


def _count(folder: Path) -> int:
    from inference.data.partition import read

    return sum(len(read(file.read_bytes(), file.name)) for file in folder.glob("*.pt"))


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--fewer", type=int, help="Partitions that calibrate and judge, for a quick try.")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--networks", action="store_true", help="Without RAIL's estimators, in two minutes.")
    only.add_argument("--halves", action="store_true", help="Without them; each half is judged by the other.")
    arguments = parser.parse_args()
    folders = [BUNDLED_MODEL, *arguments.models]
    if arguments.halves:
        halves = [measured(folders, arguments.fewer, False, swap) for swap in (False, True)]
        if not arguments.fewer:
            _write("probabilities_halves.json", halves)
        print(halves_table(halves))
        return
    results = measured(folders, arguments.fewer, not arguments.networks)
    if not arguments.fewer and not arguments.networks:
        _write("probabilities.json", results)
    print(table(results))


def measured(folders: list[Path], fewer: int | None, with_rail: bool, swap: bool = False) -> Json:
    """The measures of networks by their folders and, with_rail, of RAIL's estimators."""
    python = rail_environment()
    work = BUILD / "probabilities"
    shutil.rmtree(work, ignore_errors=True)
    partitions = dc2.partitions("validation", GALAXIES, 25, CACHE, 0)
    calibrating, judging = split(partitions, work, fewer, swap)
    counts = _count(calibrating), _count(judging)
    costs = {folder.name: network(folder, calibrating, judging, work) for folder in folders}
    write_galaxies(*counts, counts[0] if fewer else TRAINING_GALAXIES, work / "galaxies.npz", swap)
    _tell("RAIL's estimators, and the evaluation" if with_rail else "the evaluation")
    environment = {**os.environ, "PYTHONPATH": str(FUNCTIONS)}
    worker = ROOT / "benchmarks" / "probabilities_rail.py"
    only = [] if with_rail else ["networks"]
    subprocess.run([python, worker, work, *only], env=environment, check=True, stdout=subprocess.DEVNULL)
    return {
        "galaxies": {"calibrated": counts[0], "judged": counts[1]},
        "machine": f"{os.cpu_count()} cores of {platform.machine()}",
        "cost": costs,
        "methods": json.loads((work / "results.json").read_text()),
    }


def _write(name: str, results: Any) -> None:
    (ROOT / "benchmarks" / name).write_text(json.dumps(results, indent=1) + "\n")


def halves_table(halves: list[Json]) -> str:
    """Markdown: the coverage of each network in the second half, in the first, and in both."""
    values = list(next(iter(halves[0]["methods"].values()))["coverage by tertile"])
    head = ["network", "inside", "galaxies", "all", *(f"tertiles of the {value}" for value in values)]
    lines, measured_too = [_row(head), _row(["---"] * len(head))], [""]
    weights = [half["galaxies"]["judged"] for half in halves]
    for name in halves[0]["methods"]:
        for interval in ("68 %", "95 %"):
            shares = np.array([_shares(half["methods"][name], interval) for half in halves])
            rows = {"second half": shares[0], "first half": shares[1]}
            rows["both"] = np.average(shares, axis=0, weights=weights)
            for galaxies, (whole, *thirds) in rows.items():
                tertiles = (", ".join(f"{100 * share:.1f}" for share in third) for third in thirds)
                lines.append(_row([name, interval, galaxies, f"{100 * whole[0]:.1f}", *tertiles]))
        for galaxies, half in zip(("second half", "first half"), halves, strict=True):
            measures = half["methods"][name]["measures"]
            shown = ", ".join(f"{measure} {measures[measure][0]:.3f}" for measure in ("PIT KS", "CDE loss"))
            measured_too.append(f"{name}, {galaxies}: {shown}")
    return "\n".join(lines + measured_too)


def _shares(method: Json, interval: str) -> list[list[float]]:
    """Of all galaxies, three times, and of the tertiles of each value."""
    whole = method["measures"][f"within {interval}"][0]
    return [[whole] * 3, *(thirds[interval] for thirds in method["coverage by tertile"].values())]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(results: Json) -> str:
    """Markdown: the measures of every method with their intervals, and the coverage by tertile."""
    methods = results["methods"]
    names = list(next(iter(methods.values()))["measures"])
    lines = [
        f"| {results['galaxies']['judged']:,} galaxies | {' | '.join(names)} |",
        "| --- " * (1 + len(names)) + "|",
    ]
    for method, result in methods.items():
        cells = (f"{value:.4f} ({low:.4f} to {high:.4f})" for value, low, high in result["measures"].values())
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines += ["", "| coverage by tertile | of | 68 % | 95 % |", "| --- | --- | --- | --- |"]
    for method, result in methods.items():
        lines += _tertiles(method, result["coverage by tertile"])
        lines += _tertiles(
            f"{method}, quantile columns", result.get("coverage of the quantile columns by tertile", {})
        )
    return "\n".join(lines)


def _tertiles(method: str, coverage: Json) -> list[str]:
    rows = []
    for what, covered in coverage.items():
        cells = (", ".join(f"{100 * share:.1f}" for share in shares) for shares in covered.values())
        rows.append(f"| {method} | {what} | {' | '.join(cells)} |")
    return rows


if __name__ == "__main__":
    main()
