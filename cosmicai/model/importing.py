"""A user's checkpoint as a model folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cosmicai.model import architecture, checkpoint
from cosmicai.model.optimise import optimise
from inference import astromae


def import_checkpoint(
    source: Path, out: Path, heads: int | None, command: str, onnx: bool = True
) -> dict[str, Any]:
    """Writes config.json, model.safetensors, card.json and, where asked, model.onnx to `out`; returns the card.

    Raises CheckpointError; nothing of the checkpoint is ever executed.
    """
    if not source.is_file():
        raise checkpoint.CheckpointError(f"{source}: there is no such file")
    found = checkpoint.read(source)
    try:
        model = architecture.build(found, heads)
    except (checkpoint.CheckpointError, astromae.ConfigError) as error:
        raise checkpoint.CheckpointError(f"{source}: {error}") from None
    astromae.save(model, out)
    if onnx:
        optimise(out)
    card = {
        "parameters": astromae.parameter_count(model),
        "source": source.name,
        "source kind": found.kind,
        "source sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "command": command,
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return card
