"""The fuzzers' targets hold on their seeds and near them; `make fuzz` goes on from there, by coverage."""

from __future__ import annotations

from random import Random

import pytest

from tests.fuzz.targets import TARGETS


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", list(TARGETS))
def test_foreign_bytes_give_named_errors_or_sound_results(name: str) -> None:
    target, dice = TARGETS[name], Random(0)
    for seed in target.seeds():
        target.run(seed)
        for _ in range(target.mutants):
            target.run(target.mutant(seed, dice))
