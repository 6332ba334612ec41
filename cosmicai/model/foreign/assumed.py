"""What a checkpoint does not record: given by the user, or assumed as published and reported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cosmicai.model.foreign.errors import CheckpointError
from inference.engine.astromae import Config

PUBLISHED: dict[str, object] = {
    "heads": 6,
    "attention_scale": None,
    "norm_eps": 1e-6,
    "final_norm_eps": 1e-6,
    "mlp_activation": "gelu",
    "parallel_activation": "silu",
    "parallel_norm_eps": 1e-5,
    "inception_activation": "relu",
    "inception_norm_eps": 1e-5,
    "inception_pool": "max",
    "inception_pool_size": 3,
    "halving": "average",
    "encoder_branch.activation": "relu",
    "inception_branch.activation": "relu",
    "magnitude_branch.activation": "relu",
    "fusion.activation": "relu",
}
"""Fields of our config that no tensor's shape shows, as the published network has them."""

_PARSERS = {"heads": int, "inception_pool_size": int} | dict.fromkeys(
    ("attention_scale", "norm_eps", "final_norm_eps", "parallel_norm_eps", "inception_norm_eps"), float
)


@dataclass
class Assumed:
    """stated: the user's values, by field. used: the values that were needed, stated or assumed."""

    stated: Mapping[str, object] = field(default_factory=dict)
    used: dict[str, object] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> Assumed:
        """From FIELD=VALUE of a command line. Raises CheckpointError for unknown fields and values."""
        values: dict[str, object] = {}
        for name, text in texts.items():
            if name not in PUBLISHED:
                raise CheckpointError(
                    f"--assume {name}: there is no such field; there are {', '.join(PUBLISHED)}"
                )
            parser = _PARSERS.get(name, str)
            try:
                values[name] = parser(text)
            except ValueError:
                raise CheckpointError(f"--assume {name}={text}: a number is needed") from None
            if parser is float and not math.isfinite(float(text)):
                raise CheckpointError(f"--assume {name}={text}: a finite number is needed")
        return cls(values)

    def value(self, name: str) -> Any:
        """The user's value, or the published one; either way it is noted as used."""
        self.used[name] = self.stated.get(name, PUBLISHED[name])
        return self.used[name]

    def heads(self) -> int:
        """Has no value of its own: a wrong number of heads silently gives wrong redshifts."""
        if "heads" not in self.stated:
            raise CheckpointError(
                "does not record the number of attention heads: give --heads (6 is published)"
            )
        return int(self.value("heads"))

    @property
    def assumed(self) -> dict[str, object]:
        """What was assumed as published because the user did not give it."""
        return {name: value for name, value in self.used.items() if name not in self.stated}

    def check(self, config: Config) -> None:
        """Raises CheckpointError if the checkpoint itself contradicts the user."""
        for name, value in self.stated.items():
            part, _, inner = name.partition(".")
            stored = getattr(config, part)
            stored = getattr(stored, inner) if inner else stored
            if stored != value:
                raise CheckpointError(f"{name} was given as {value}; the checkpoint has {stored}")
