"""card.json: what a network was trained on, how, and what it reached."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from cosmicai.data.photometry import Photometry
from cosmicai.model.galaxies import Galaxies, digest
from cosmicai.model.recipe import Recipe
from cosmicai.model.training import Epoch
from inference.engine import astromae


def write_card(
    folder: Path,
    recipe: Recipe,
    galaxies: Galaxies,
    history: list[Epoch],
    commands: list[str],
    photometry: Photometry,
) -> None:
    """card.json of a model folder: the galaxies, what their numbers mean, the recipe and what it reached."""
    best = min(history, key=lambda epoch: epoch.score)
    quantiles = torch.quantile(galaxies.magnitudes, torch.tensor([0.001, 0.999]), 0)
    card = {
        "commands": commands,
        "parameters": astromae.parameter_count(astromae.load(folder)),
        "photometry": asdict(photometry),
        "trained on": {
            "galaxies": len(galaxies),
            "left out": dict(galaxies.tally.left_out),
            "not detected in a band": galaxies.tally.not_detected,
            "sha256 of magnitudes and redshifts": digest(galaxies),
            "redshift": [round(float(galaxies.redshift.min()), 4), round(float(galaxies.redshift.max()), 4)],
            "magnitudes, 0.1 and 99.9 percent": [[round(float(v), 3) for v in row] for row in quantiles],
        },
        "recipe": asdict(recipe),
        "epochs run": len(history),
        "best epoch, on held-out training galaxies": asdict(best),
        "torch": torch.__version__.partition("+")[0],
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
