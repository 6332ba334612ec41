"""The fuzzers' targets hold on their seeds and near them; `make fuzz` goes on from there, by coverage."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.targets import TARGETS, mutated, seeds


@pytest.mark.parametrize("target", list(TARGETS))
def test_foreign_bytes_give_named_errors_or_sound_results(target: str) -> None:
    dice, count = random.Random(0), 60 if target == "rendezvous" else 1000
    for seed in seeds(target):
        TARGETS[target](seed)
        for _ in range(count):
            TARGETS[target](mutated(seed, dice))
