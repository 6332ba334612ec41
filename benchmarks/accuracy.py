"""Accuracy on DC2's validation galaxies, which nothing was trained on, and what images and magnitudes each add.

    .venv/bin/python benchmarks/accuracy.py [MODEL_FOLDER …] [--galaxies N]

The bundled model is always included. Each row is a case of the same galaxies: both inputs, one of them
hidden, the images shuffled among galaxies; and a network of the same form that was trained only on
magnitudes, which is trained here by the model's own recipe (minutes; kept in the cache). Nearest neighbours and
the forest are fitted to the magnitudes of the same renderings of the training galaxies. Intervals are 95 % of
bootstrap samples of galaxies; differences are paired: both cases see the same samples. Writes what it has
measured to benchmarks/accuracy.json after each model, says on stderr what it does, and prints the tables.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cosmicai.data import dc2
from cosmicai.model import baselines, training
from cosmicai.model.galaxies import read_galaxies
from cosmicai.model.recipe import Recipe
from cosmicai.packaging.places import ROOT
from inference.contract.accuracy import NMAD_FACTOR, OUTLIER_LIMIT
from inference.data.partition import Partition, read
from inference.engine import astromae
from inference.engine.loading import BUNDLED_MODEL, load

CACHE = ROOT / ".cosmicai" / "cache"
SAMPLES = 1000  # of the bootstrap
Doubles = NDArray[np.float64]


def measures(z_pred: Doubles, z: Doubles) -> dict[str, float]:
    """NMAD, bias, R2, outlier fraction and MAE of redshifts, as inference.contract.accuracy defines them."""
    scaled, error = (z_pred - z) / (1.0 + z), z_pred - z
    return {
        "NMAD": NMAD_FACTOR * float(np.median(np.abs(scaled - np.median(scaled)))),
        "bias": float(scaled.mean()),
        "R2": 1.0 - float((error**2).sum() / ((z - z.mean()) ** 2).sum()),
        "outliers": float((np.abs(scaled) > OUTLIER_LIMIT).mean()),
        "MAE": float(np.abs(error).mean()),
    }


@dataclass(frozen=True)
class Bootstrap:
    """The same samples of galaxies for every case."""

    z: Doubles
    rows: NDArray[np.int64]  # (samples, galaxies)

    @classmethod
    def of(cls, z: Doubles) -> Bootstrap:
        return cls(z, np.random.default_rng(0).integers(0, len(z), (SAMPLES, len(z))))

    def measure(self, z_pred: Doubles) -> dict[str, list[float]]:
        """By measure: its value, and the limits of its 95 % interval."""
        sampled = [measures(z_pred[rows], self.z[rows]) for rows in self.rows]
        return {
            name: [value, *np.quantile([sample[name] for sample in sampled], [0.025, 0.975]).tolist()]
            for name, value in measures(z_pred, self.z).items()
        }

    def ratios(self, z_pred: Doubles, other: Doubles) -> dict[str, list[float]]:
        """NMAD and outliers of one case divided by those of another: value and 95 % interval."""
        pairs = [(measures(z_pred[r], self.z[r]), measures(other[r], self.z[r])) for r in self.rows]
        whole = measures(z_pred, self.z), measures(other, self.z)
        return {
            name: [
                whole[0][name] / whole[1][name],
                *np.quantile([a[name] / b[name] for a, b in pairs], [0.025, 0.975]).tolist(),
            ]
            for name in ("NMAD", "outliers")
        }


@torch.inference_mode()
def ablation(model: astromae.AstroMAE, galaxies: Partition) -> dict[str, Doubles]:
    """Redshifts of the network by case."""
    blank = torch.zeros(1, *galaxies.images.shape[1:])
    images = torch.cat([model.image_features(torch.tensor(b.images)) for b in galaxies.batches(256)])
    none, magnitudes = model.image_features(blank), torch.tensor(galaxies.magnitudes)
    shuffled = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    hidden = torch.tensor([model.config.hidden_magnitudes]).expand(len(images), -1)
    cases = {
        "images and magnitudes": (images, magnitudes),
        "images alone": (images, hidden),
        "magnitudes alone, the images hidden": (none.expand(len(images), -1), magnitudes),
        "images shuffled among galaxies": (shuffled, magnitudes),
    }
    return {
        name: model.fused(seen, model.magnitude_branch(known)).double().numpy()
        for name, (seen, known) in cases.items()
    }


def trained_by_magnitudes(folder: Path) -> astromae.AstroMAE:
    """A network of the model's form and recipe that has never seen an image."""
    card = json.loads((folder / "card.json").read_text())
    key = hashlib.sha256((folder / "card.json").read_bytes()).hexdigest()[:12]
    out = CACHE / f"magnitudes-alone-{key}"
    if not out.exists():
        known = {field.name for field in fields(Recipe)}
        recipe = replace(Recipe(**{k: v for k, v in card["recipe"].items() if k in known}), without_images=True)
        folders = [_rendered("training", 10_225, seed) for seed in range(_renderings(card))]
        files = [file for rendered in folders for file in sorted(rendered.glob("*.pt"))]
        config = astromae.Config.read(folder / "config.json")
        unfinished = out.with_suffix(".training")  # an interrupted call continues from here
        model, _ = training.train(config, read_galaxies(files), recipe, _tell_epoch, None, unfinished)
        astromae.save(model, out)
        unfinished.unlink(missing_ok=True)
    return astromae.load(out)


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _tell_epoch(epoch: training.Epoch) -> None:
    _tell(f"  epoch {epoch.number}: NMAD {epoch.nmad:.4f}, {epoch.seconds:.0f} s")


def _renderings(card: dict[str, Any]) -> int:
    return int(card["trained on"]["galaxies"]) // 10_225


def _rendered(split: dc2.Split, galaxies: int, seed: int) -> Path:
    return dc2.partitions(split, galaxies, 25, CACHE, seed)


def engines(folder: Path, galaxies: Partition) -> dict[str, Doubles]:
    """Redshifts of the fast engine, by the precision that it used."""
    redshifts = {}
    for precision in ("float32", "auto"):
        engine = load(folder, "onnxruntime", precision, threads=2)
        predicted = np.concatenate(list(engine.predict(galaxies.batches(engine.batch(256)))))
        redshifts[engine.precision] = predicted.astype(np.float64)
    return redshifts


def validation(count: int) -> Partition:
    files = sorted(_rendered("validation", count, 0).glob("*.pt"), key=lambda file: int(file.stem))
    parts = [read(file.read_bytes(), file.name) for file in files]
    return Partition(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.magnitudes for part in parts]),
        np.concatenate([part.redshift for part in parts if part.redshift is not None]),
    )


def judged(folder: Path, galaxies: Partition, bootstrap: Bootstrap) -> dict[str, Any]:
    _tell(f"{folder.name}: its redshifts by case")
    cases = ablation(astromae.load(folder), galaxies)
    _tell(f"{folder.name}: the same network by magnitudes alone")
    alone = trained_by_magnitudes(folder)
    with torch.inference_mode():
        unseen = alone.image_features(torch.zeros(1, *galaxies.images.shape[1:])).expand(len(galaxies), -1)
        known = alone.magnitude_branch(torch.tensor(galaxies.magnitudes))
        by_magnitudes = alone.fused(unseen, known).double().numpy()
    both = cases["images and magnitudes"]
    _tell(f"{folder.name}: intervals, and the engine's redshifts")
    return {
        "cases": {name: bootstrap.measure(z) for name, z in cases.items()}
        | {"a network trained on magnitudes alone": bootstrap.measure(by_magnitudes)},
        "both divided by the network of magnitudes": bootstrap.ratios(both, by_magnitudes),
        "shuffled divided by both": bootstrap.ratios(cases["images shuffled among galaxies"], both),
        "largest |Δz| / (1 + z) of the engine from torch": {
            name: float((np.abs(z - both) / (1 + np.abs(both))).max())
            for name, z in engines(folder, galaxies).items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--galaxies", type=int, default=20_449)
    arguments = parser.parse_args()
    galaxies = validation(arguments.galaxies)
    bootstrap = Bootstrap.of(np.asarray(galaxies.redshift, np.float64))
    folders = {folder.name: folder for folder in [BUNDLED_MODEL, *arguments.models]}
    cards = {name: json.loads((folder / "card.json").read_text()) for name, folder in folders.items()}
    results: dict[str, Any] = {}
    for name, folder in folders.items():
        results[name] = judged(folder, galaxies, bootstrap)
        _keep(arguments.galaxies, results)
    _tell("simple methods")
    seeds = range(max(_renderings(card) for card in cards.values()))
    observed = dc2.observations("training", seeds, CACHE)
    simple = baselines.predict(observed, dc2.observations("validation", [0], CACHE)[: arguments.galaxies])
    results["baselines"] = {name: bootstrap.measure(z) for name, z in simple.items()}
    _keep(arguments.galaxies, results)
    show(arguments.galaxies, cards, results)


def _keep(galaxies: int, results: dict[str, Any]) -> None:
    written = json.dumps({"galaxies": galaxies, **results}, indent=2) + "\n"
    (ROOT / "benchmarks" / "accuracy.json").write_text(written)


def show(count: int, cards: dict[str, Any], results: dict[str, Any]) -> None:
    print(f"| {count:,} DC2 validation galaxies | NMAD | bias | R2 | outliers | MAE |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, card in cards.items():
        print(f"| **{name}, {card['parameters'] / 1e6:.1f} M parameters** | | | | | |")
        for case, measured in results[name]["cases"].items():
            _row(case, measured)
    print("| **from magnitudes, by simple methods** | | | | | |")
    for name, measured in results["baselines"].items():
        _row(name, measured)
    for name in cards:
        for what, value in results[name].items():
            if what != "cases":
                print(f"{name}: {what}: {value}")


def _row(name: str, measured: dict[str, list[float]]) -> None:
    values = (f"{value:.4f} ({low:.4f} to {high:.4f})" for value, low, high in measured.values())
    print(f"| {name} | {' | '.join(values)} |", flush=True)


if __name__ == "__main__":
    main()
