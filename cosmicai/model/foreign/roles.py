"""Which stack of Linear layers is which, if names do not say: by shapes, if they leave one reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations

from cosmicai.model.foreign.errors import CheckpointError, listed
from cosmicai.model.foreign.network import STACKS, Chain

PUBLISHED = {
    "vit_block": "encoder_branch",
    "magnitude_block": "magnitude_branch",
    "concat_block": "fusion",
}


def assigned(
    known: Mapping[str, Chain], others: Mapping[str, Chain], inputs: Mapping[str, int]
) -> dict[str, Chain]:
    """All four stacks: those known by name, the rest of `others` by shapes. inputs: of the image branches.

    Raises CheckpointError that lists the readings if there is not exactly one.
    """
    missing = [role for role in STACKS if role not in known]
    if len(others) > len(missing):
        extra = [f"{chain.name} ({chain.form})" for chain in others.values()]
        raise CheckpointError(f"has stacks of Linear layers without a place in AstroMAE: {listed(extra)}")
    readings = list(_readings(known, [others[name] for name in sorted(others)], missing, inputs))
    if not readings:
        forms = listed(f"{chain.name} ({chain.form})" for chain in others.values()) or "none"
        raise CheckpointError(
            f"lacks {', '.join(missing)}; of the stacks of Linear layers left, none fits: {forms}"
        )
    if len(readings) > 1:
        shown = "; or ".join(_described(reading, missing) for reading in readings)
        raise CheckpointError(
            f"can be read in {len(readings)} ways: {shown}. Say which with --rename {_remedy(missing)}"
        )
    return readings[0]


def _readings(
    known: Mapping[str, Chain], others: list[Chain], missing: list[str], inputs: Mapping[str, int]
) -> Iterator[dict[str, Chain]]:
    for order in permutations(others, len(missing)):
        reading = {**known, **dict(zip(missing, order, strict=True))}
        if not missing or _fits(reading, inputs):
            yield reading


def _fits(reading: Mapping[str, Chain], inputs: Mapping[str, int]) -> bool:
    branches = [reading[role] for role in STACKS if role != "fusion"]
    return (
        all(reading[role].inputs == count for role, count in inputs.items())
        and reading["fusion"].inputs == sum(branch.widths[-1] for branch in branches)
        and reading["fusion"].widths[-1] == 1
    )


def _described(reading: Mapping[str, Chain], missing: list[str]) -> str:
    return ", ".join(f"{reading[role].name} is the {role}" for role in missing)


def _remedy(missing: list[str]) -> str:
    names = [name for name, role in PUBLISHED.items() if role in missing]
    return " ".join(f"NAME={name}" for name in names) or "NAME=PUBLISHED_NAME"
