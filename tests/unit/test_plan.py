"""Partitions are found, ordered and dealt to ranks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from initialize.plan import PartitionFile, PlanError, data_map, deal, natural


def test_natural_order_counts_numbers() -> None:
    keys = [f"25MB/{n}.pt" for n in range(1, 120)]
    shuffled = random.Random(0).sample(keys, len(keys))
    assert sorted(shuffled, key=natural) == keys


def test_one_rank_per_file_keeps_the_order() -> None:
    files = [PartitionFile(f"{n}.pt", 100 - n) for n in range(5)]
    assert data_map(deal(files, 5)) == {str(n): f"{n}.pt" for n in range(5)}


@given(st.lists(st.text(st.sampled_from([*"/._a", "1", "9", "²", "٣"]), max_size=8), max_size=8))
def test_any_names_have_an_order(keys: list[str]) -> None:
    assert sorted(sorted(keys, key=natural)) == sorted(keys)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.data())
def test_dealing_loses_nothing_leaves_no_rank_idle_and_balances_bytes(
    sizes: list[int], data: st.DataObject
) -> None:
    files = [PartitionFile(f"{n}.pt", size) for n, size in enumerate(sizes)]
    ranks = data.draw(st.integers(1, len(files)))
    hands = deal(files, ranks)
    assert sorted(file.key for hand in hands for file in hand) == sorted(file.key for file in files)
    assert all(hand == sorted(hand, key=lambda file: natural(file.key)) for hand in hands)
    loads = [sum(file.size for file in hand) for hand in hands]
    assert max(loads) - min(loads) <= max(sizes)
    if min(sizes) > 0:
        assert all(hands)


def test_there_are_never_more_ranks_than_files() -> None:
    files = [PartitionFile("1.pt", 1), PartitionFile("2.pt", 1)]
    assert deal(files, 10_001) == [[files[0]], [files[1]]]


def test_more_ranks_than_one_run_may_have_is_a_clear_error() -> None:
    files = [PartitionFile(f"{n}.pt", 1) for n in range(100_001)]
    for most, on_batch in ((100_000, False), (10_000, True)):
        some = files[: most + 1]
        message = f"{most + 1} ranks for {most + 1} partition files are more than the {most} of one run"
        with pytest.raises(PlanError, match=message):
            deal(some, len(some), on_batch=on_batch)
        assert len(deal(some, most, on_batch=on_batch)) == most


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        (4, "give a repeat_data of at most 2500$"),
        (10_001, "give a smaller repeat_data and world_size, whose product is at most 10000$"),
    ],
)
def test_on_batch_no_world_size_makes_up_for_too_many_times(files: int, advice: str) -> None:
    partitions = [PartitionFile(f"{number}.pt", 1) for number in range(files)]
    with pytest.raises(PlanError, match=f"^repeat_data: 50000 times {files} ranks are more .*; {advice}"):
        deal(partitions, files, 50_000, on_batch=True)
