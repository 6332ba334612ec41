"""A user's checkpoint as a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cosmicai.model.foreign.errors import CheckpointError
from cosmicai.model.foreign.expected import Expected
from cosmicai.model.foreign.reading import Choices, Reading, read
from cosmicai.model.new_folder import new_folder
from cosmicai.model.optimise import optimise
from inference.engine import astromae


def import_checkpoint(
    source: Path,
    out: Path,
    choices: Choices | None = None,
    command: str = "",
    expected: Path | None = None,
    outputs: str | None = None,
    onnx: bool = True,
) -> dict[str, Any]:
    """Writes config.json, model.safetensors, card.json and, if `onnx`, the graph to `out`; returns the card.

    expected: an .npz of galaxies with the outputs of the user's own code, under the name `outputs`; the model
    must give the same. Raises CheckpointError, and then leaves nothing. No part of the checkpoint is executed.
    """
    reference = None if expected is None else Expected.read(expected, source, outputs)
    reading = read(source, choices or Choices())
    with new_folder(out, CheckpointError) as scratch:
        astromae.save(reading.model, scratch)
        if onnx:
            optimise(scratch)
        checked = reference.check(scratch, onnx) if reference is not None else False
        card = _card(source, reading, command, checked)
        (scratch / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return card


def _card(source: Path, reading: Reading, command: str, checked: object) -> dict[str, Any]:
    return {
        "parameters": astromae.parameter_count(reading.model),
        "source": source.name,
        "source kind": reading.kind,
        "source sha256": reading.sha256,
        "stored as": list(reading.numbers),
        "architecture": summary(reading.model.config),
        "stated": reading.stated,
        "assumed": {**reading.assumed, "notes": list(reading.notes)},
        "checked": checked,
        "command": command,
    }


def report_lines(card: dict[str, Any], out: Path) -> list[str]:
    """What the user should know about an import, line by line."""
    assumed = dict(card["assumed"])
    notes = assumed.pop("notes")
    checked = card["checked"]
    lines = [
        f"model folder {out}: {card['parameters']:,} parameters from a {card['source kind']}",
        *card["architecture"],
        f"assumed: {'; '.join(notes)}",
    ]
    if assumed:
        values = ", ".join(f"{name}={'usual' if value is None else value}" for name, value in assumed.items())
        lines.append(f"assumed as published: {values}; change one with --assume FIELD=VALUE")
    if checked:
        errors = ", ".join(
            f"{name}: {value:.1e}" for name, value in checked.items() if name.startswith("largest")
        )
        lines.append(f"checked with {checked['galaxies']} galaxies: {errors} of max(1, |expected|)")
    else:
        lines.append(
            "not checked: give --expected FILE.npz (images, magnitudes and outputs of your own code), or "
            "compare the redshifts of galaxies that you know"
        )
    return lines


def summary(config: astromae.Config) -> list[str]:
    """What the network is, in three lines."""
    parallel = (
        f"parallel convolutions {config.parallel_width} ({config.parallel_kernel}×{config.parallel_kernel}, "
        f"{config.parallel_groups} groups, {config.parallel_activation})"
        if config.parallel_groups
        else "no parallel convolutions"
    )
    scale = "" if config.attention_scale is None else f", scale {config.attention_scale:g}"
    widths = ", ".join(str(_outputs(config, index)) for index in range(len(config.inception)))
    stacks = "; ".join(
        f"{name}{'→'.join(map(str, stack.widths))} ({stack.activation})"
        for name, stack in (
            ("encoder branch ", config.encoder_branch),
            ("Inception branch ", config.inception_branch),
            (f"magnitudes {config.magnitudes}→", config.magnitude_branch),
            ("fusion ", config.fusion),
        )
    )
    return [
        f"encoder: {config.depth} blocks of width {config.width}, patches of {config.patch_size}, "
        f"{config.heads} heads{scale}, MLP {config.mlp_width} ({config.mlp_activation}), {parallel}, "
        f"LayerNorm eps {config.norm_eps:g}",
        f"Inception: {config.stem_width} → {widths} channels ({config.inception_activation}, "
        f"{config.inception_pool} pooling of {config.inception_pool_size}, halved by {config.halving})",
        stacks,
    ]


def _outputs(config: astromae.Config, index: int) -> int:
    one, _, three, _, five, pooled = config.inception[index]
    return one + three + pooled + (five if config.inception_five[index] else 0)
