"""Accuracy on DC2's validation galaxies, which nothing was trained on: networks beside the two baselines.

    .venv/bin/python benchmarks/accuracy.py [MODEL_FOLDER …] [--galaxies N]

The committed demo model is always among them. Prints the README's table and writes benchmarks/accuracy.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from cosmicai import baselines
from cosmicai.data import dc2
from cosmicai.packaging import ROOT
from inference import partition
from inference.accuracy import Accuracy, exact_nmad
from inference.engine import BUNDLED_MODEL, Floats, load

CACHE = ROOT / ".cosmicai" / "cache"
COLUMNS = ("precision (NMAD)", "bias", "R2", "outlier fraction", "MAE")


def measure(model: Path, partitions: Path) -> dict[str, float | None]:
    """Accuracy of the torch network itself, and how far the fast engine's redshifts are from its own."""
    engines = {
        "torch": load(model, "torch", "float32", threads=2),
        "float32": load(model, "onnxruntime", "float32", threads=2),
        "auto": load(model, "auto", "auto", threads=2),
    }
    found: dict[str, list[Floats]] = {name: [] for name in engines}
    true: list[Floats] = []
    for file in partitions.glob("*.pt"):
        galaxies = partition.read(file.read_bytes(), file.name, engines["torch"].layout)
        for name, engine in engines.items():
            found[name] += engine.predict(galaxies.batches(engine.batch(256)))
        if galaxies.redshift is not None:
            true.append(galaxies.redshift)
    redshifts = {name: np.concatenate(parts) for name, parts in found.items()}
    z_pred, z_true = redshifts["torch"].tolist(), np.concatenate(true).tolist()
    differences = {
        f"largest |Δz|, {name} ({engines[name].precision})": float(
            np.abs(redshifts[name] - redshifts["torch"]).max()
        )
        for name in ("float32", "auto")
    }
    measures = Accuracy.of(z_pred, z_true).measures() | {"precision (NMAD)": exact_nmad(z_pred, z_true)}
    return measures | differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--galaxies", type=int, default=20_449)
    arguments = parser.parse_args()
    partitions = dc2.partitions("validation", arguments.galaxies, 25, CACHE)
    validation = dc2.load("validation", CACHE)[: arguments.galaxies]
    rows = {}
    for folder in [BUNDLED_MODEL, *arguments.models]:
        card = json.loads((folder / "card.json").read_text())
        rows[f"AstroMAE {folder.name}, {card['parameters'] / 1e6:.1f} M parameters"] = measure(
            folder, partitions
        )
    rows |= baselines.measure(dc2.load("training", CACHE), validation, CACHE)
    (ROOT / "benchmarks" / "accuracy.json").write_text(
        json.dumps({"galaxies": arguments.galaxies, "rows": rows}, indent=2) + "\n"
    )
    print(f"| {arguments.galaxies:,} DC2 validation galaxies | NMAD | bias | R2 | outliers | MAE |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, measures in rows.items():
        print(f"| {name} | " + " | ".join(f"{measures[column]:.4f}" for column in COLUMNS) + " |")
    for name, measures in rows.items():
        for what in (key for key in measures if key.startswith("largest")):
            print(f"{name}: {what} from torch's own: {measures[what]:.1e}")


if __name__ == "__main__":
    main()
