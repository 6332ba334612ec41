"""The collectives agree with numpy over every channel, and what goes wrong between ranks is said and ends."""

from __future__ import annotations

import os
from typing import Any

import fmi
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import Open
from .fmi_ranks import together

SIZES = (1, 2, 3, 4, 5, 8, 16, 17)


def _mix(a: Any, b: Any) -> Any:
    """Neither commutative nor associative."""
    return (a * 31 + b * 7 + 1) % 1_000_003


@pytest.mark.parametrize("size", SIZES)
def test_every_operation_and_root(channels: Open, size: int) -> None:
    values = np.arange(size * 3, dtype=np.int64).reshape(size, 3) ** 2 + 5
    folds = [values[0]]
    for row in values[1:]:
        folds.append(_mix(folds[-1], row))

    def work(group: fmi.Group) -> None:
        mine = values[group.rank]
        for root in range(size):
            assert np.array_equal(group.bcast(mine, root), values[root])
            gathered = group.gather(mine, root)
            assert np.array_equal(group.scatter(values * (root + 1), root), mine * (root + 1))
            summed = group.reduce(mine, np.add, root)
            folded = group.reduce(mine, _mix, root, ordered=True)
            if group.rank == root:
                assert np.array_equal(gathered, values)
                assert np.array_equal(summed, values.sum(0))
                assert np.array_equal(folded, folds[-1])
            else:
                assert gathered is summed is folded is None
        group.barrier()
        assert np.array_equal(group.allreduce(mine, np.maximum), values.max(0))
        assert np.array_equal(group.allreduce(mine, _mix, ordered=True), folds[-1])
        assert np.array_equal(group.scan(mine, np.add), values[: group.rank + 1].sum(0))
        assert np.array_equal(group.scan(mine, _mix, ordered=True), folds[group.rank])

    assert together(channels(size), work) == [None] * size


@settings(max_examples=60)
@given(
    size=st.integers(1, 17),
    dtype=st.sampled_from(["<i4", "<i8", "<f4", "<f8", "<u2", "?", "<c16"]),
    shape=st.lists(st.integers(0, 4), max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_type_and_shape(size: int, dtype: str, shape: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 9, (size, *shape)).astype(dtype)
    root, memory = seed % size, fmi.Memory(size)

    def work(group: fmi.Group) -> None:
        mine = values[group.rank]
        assert np.array_equal(group.bcast(mine, root), values[root])
        assert np.array_equal(group.scatter(values, root), mine)
        assert np.array_equal(group.allreduce(mine, np.maximum), values.max(0))
        gathered = group.gather(mine, root)
        assert gathered is None or (np.array_equal(gathered, values) and gathered.dtype == values.dtype)

    assert together([memory.channel(rank) for rank in range(size)], work) == [None] * size


def test_64_mb_go_through_in_pieces(channels: Open) -> None:
    large = np.random.default_rng(0).standard_normal(8 << 20)
    sums = together(channels(3), lambda group: float(group.bcast(large * (group.rank == 1), 1).sum()))
    assert sums == [float(large.sum())] * 3


def test_faults_of_the_caller_are_named() -> None:
    group = fmi.Group(fmi.Memory(2).channel(0))
    for call, fault in (
        (lambda: group.send(np.zeros(1), dest=0), "dest: rank 0 of 2 has no peer 0"),
        (lambda: group.recv(np.zeros(1), source=2), "source: rank 0 of 2 has no peer 2"),
        (lambda: group.bcast(np.zeros(1), 2), "root: 2 is not in a group of 2; give 0 to 1"),
        (lambda: group.scatter(np.zeros((3, 1))), "first axis has 3 rows, expected 2"),
    ):
        with pytest.raises(ValueError, match=fault):
            call()
    for name in ("n" * 97, ""):
        with pytest.raises(ValueError, match=f"has {len(name)} bytes, .* give 1 to 96"):
            fmi.Direct(0, 2, name, "127.0.0.1")
    assert fmi.Direct(0, 2, "n" * 96, "127.0.0.1")


def test_a_message_in_s3_is_kept_or_taken_away_once_it_was_read(s3_client: Any) -> None:
    """Taken away, a second group of the same name does not read the first one's messages."""
    for keep, left in ((True, 1), (False, 0)):
        name = f"run-{os.urandom(4).hex()}"
        sender, reader = (fmi.Group(fmi.S3(rank, 2, name, s3_client, "fmi", keep)) for rank in range(2))
        sender.send(np.array([1.5]), 1)
        assert reader.recv(np.zeros(1), 0).tolist() == [1.5]
        assert s3_client.list_objects_v2(Bucket="fmi", Prefix=name)["KeyCount"] == left


def test_where_nothing_may_be_deleted_the_message_arrives_with_a_warning(
    s3_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"run-{os.urandom(4).hex()}"
    sender, reader = (fmi.Group(fmi.S3(rank, 2, name, s3_client, "fmi", keep=False)) for rank in range(2))
    for value in (1.5, 2.5):
        sender.send(np.array([value]), 1)
    refused = s3_client.exceptions.ClientError({"Error": {"Code": "AccessDenied"}}, "DeleteObject")

    def delete_object(**_: Any) -> None:
        raise refused

    monkeypatch.setattr(s3_client, "delete_object", delete_object)
    with pytest.warns(UserWarning, match=f"AccessDenied.* do not use the name {name} again"):
        assert reader.recv(np.zeros(1), 0).tolist() == [1.5]
    assert reader.recv(np.zeros(1), 0).tolist() == [2.5]  # said once


def test_a_rank_that_leaves_is_an_error_and_never_garbage(channels: Open) -> None:
    def work(group: fmi.Group) -> Any:
        group.barrier()
        if group.rank == 1:
            return "left"
        return group.allreduce(np.ones(1000), np.add)

    outcomes = together(channels(3), work, seconds=4)
    # It may have been told, when it closed its group, that the others were in an operation.
    assert outcomes[1] == "left" or isinstance(outcomes[1], fmi.MessageMismatch)
    assert isinstance(outcomes[0], fmi.PeerLost | fmi.PeerTimeout)
    assert isinstance(outcomes[2], fmi.PeerLost | fmi.PeerTimeout)


def test_a_store_that_is_gone_is_said() -> None:
    import redis

    channel = fmi.Redis(0, 2, "run-", redis.Redis(unix_socket_path="/nowhere/redis.sock"))
    with pytest.raises(fmi.PeerLost, match=r"in send: rank 0: Redis, run-: .*nowhere"):
        fmi.Group(channel).send(np.zeros(1), 1)


@pytest.mark.parametrize("store", ["redis_client", "s3_client"])
def test_through_a_store_nothing_comes_in_time_and_a_retry_finds_what_was_sent(
    store: str, request: pytest.FixtureRequest
) -> None:
    client, name = request.getfixturevalue(store), f"run-{os.urandom(4).hex()}"

    def channel(rank: int) -> Any:
        more = () if store == "redis_client" else ("fmi",)
        return (fmi.Redis if store == "redis_client" else fmi.S3)(rank, 2, name, client, *more)

    with pytest.raises(fmi.PeerTimeout, match=r"in recv: rank 1: nothing came from rank 0 in 0\.1 s"):
        fmi.Group(channel(1)).recv(np.zeros(1), 0, seconds=0.1)
    fmi.Group(channel(0)).send(np.array([2.5]), 1)
    assert fmi.Group(channel(1)).recv(np.zeros(1), 0).tolist() == [2.5]
    fmi.Group(channel(0)).send(np.array([2.5, 1]), 1)
    with pytest.raises(fmi.MessageMismatch, match=r"sent 16 bytes in send of <f8 .*; rank 1 expected 8"):
        fmi.Group(channel(1)).recv(np.zeros(1), 0)
