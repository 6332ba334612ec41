"""The interface of FMI's Python binding: its arguments, counts and results, and what it refuses."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import fmi
import numpy as np
import pytest
from fmi.messages import OPERATIONS
from hypothesis import given, settings
from hypothesis import strategies as st

INT, DOUBLE = fmi.types(fmi.datatypes.int), fmi.types(fmi.datatypes.double)
SUM = fmi.func(fmi.op.sum)
SIZES = (1, 2, 3, 4, 5, 8, 9)


def ints(count: int) -> fmi.types:
    return fmi.types(fmi.datatypes.int_list, count)


def doubles(count: int) -> fmi.types:
    return fmi.types(fmi.datatypes.double_list, count)


def ranks(size: int, work: Callable[[fmi.Communicator, int], Any]) -> list[Any]:
    """What `work` gives at each rank of a group, all running at once."""
    memory = fmi.Memory(size)
    with ThreadPoolExecutor(size) as pool:
        return list(
            pool.map(lambda rank: work(fmi.Communicator.over(memory.channel(rank), 10), rank), range(size))
        )


@pytest.fixture
def alone() -> fmi.Communicator:
    """Rank 0 of 2, whose partner never comes: what is refused is refused before anything is sent."""
    return fmi.Communicator.over(fmi.Memory(2).channel(0), 0.01)


@pytest.mark.parametrize("size", SIZES)
def test_gather_is_flat_at_the_root_and_empty_elsewhere(size: int) -> None:
    for root in {0, size - 1}:
        singles = ranks(size, lambda c, rank, root=root: c.gather(rank + 0.5, root, DOUBLE))
        lists = ranks(size, lambda c, rank, root=root: c.gather([rank, -rank], root, ints(2)))
        for rank in range(size):
            at_root = rank == root
            assert singles[rank] == ([place + 0.5 for place in range(size)] if at_root else [])
            assert lists[rank] == (
                [sign * place for place in range(size) for sign in (1, -1)] if at_root else []
            )


@pytest.mark.parametrize("size", SIZES)
def test_scatters_count_is_the_whole_lists(size: int) -> None:
    values = list(range(3 * size))
    for root in {0, size - 1}:
        for everywhere in (False, True):  # other ranks' values are not looked at, whatever they are
            parts = ranks(
                size,
                lambda c, rank, root=root, everywhere=everywhere: c.scatter(
                    values if rank == root or everywhere else None, root, ints(3 * size)
                ),
            )
            assert parts == [values[3 * rank : 3 * rank + 3] for rank in range(size)]
    assert ranks(size, lambda c, rank: c.scatter([], 0, doubles(0))) == [[]] * size


def test_two_values_for_two_ranks() -> None:
    assert ranks(2, lambda c, rank: c.scatter([14, 42] if rank == 0 else None, 0, ints(2))) == [[14], [42]]
    four = [1.3, 2.3, 3.3, 4.3]
    assert ranks(2, lambda c, rank: c.scatter(four if rank == 0 else None, 0, doubles(4))) == [
        four[:2],
        four[2:],
    ]


@pytest.mark.parametrize("size", SIZES)
def test_reduce_takes_the_root_before_the_function(size: int) -> None:
    for root in {0, size - 1}:
        total = ranks(size, lambda c, rank, root=root: c.reduce(rank + 0.25, root, SUM, DOUBLE))
        assert total == [sum(range(size)) + size / 4 if rank == root else None for rank in range(size)]


def _folded(values: list[int]) -> int:
    result = values[0]
    for value in values[1:]:
        result = 3 * result + value
    return result


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("flags", [(False, False), (True, False), (False, True), ()])
def test_a_custom_function_gets_two_numbers_in_the_order_of_ranks(size: int, flags: tuple[bool, ...]) -> None:
    """For lists too, element by element."""
    types: set[tuple[type, type]] = set()

    def f(a: int, b: int) -> int:
        types.add((type(a), type(b)))
        return 3 * a + b

    function = fmi.func(fmi.op.custom, f, *flags)
    columns = [[rank + 1 for rank in range(size)], [7 - rank for rank in range(size)]]
    expected = [_folded(column) for column in columns]
    root = size // 2

    def work(c: fmi.Communicator, rank: int) -> tuple[Any, ...]:
        mine = [column[rank] for column in columns]
        lists = c.reduce(mine, root, function, ints(2)), c.allreduce(mine, function, ints(2))
        return (*lists, c.scan(mine, function, ints(2)), c.allreduce(mine[0], function, INT))

    for rank, (reduced, everywhere, scanned, single) in enumerate(ranks(size, work)):
        assert reduced == (expected if rank == root else None)
        assert everywhere == expected
        assert scanned == [_folded(column[: rank + 1]) for column in columns]
        assert single == expected[0]
    assert types == ({(int, int)} if size > 1 else set())


@pytest.mark.parametrize("size", SIZES)
def test_a_commutative_and_associative_custom_function(size: int) -> None:
    gcd = fmi.func(fmi.op.custom, math.gcd, True, True)
    values = [[12 * (rank + 2), 30 * (rank + 1)] for rank in range(size)]

    def work(c: fmi.Communicator, rank: int) -> Any:
        return c.allreduce(values[rank], gcd, ints(2)), c.scan(values[rank], gcd, ints(2))

    for rank, (everywhere, scanned) in enumerate(ranks(size, work)):
        assert everywhere == [math.gcd(*column) for column in zip(*values, strict=True)]
        assert scanned == [math.gcd(*column) for column in zip(*values[: rank + 1], strict=True)]


def test_the_example_of_fmis_documentation() -> None:
    """3a + b, neither commutative nor associative, over the ranks 0, 1, 2 is 3 (3·0 + 1) + 2."""
    function = fmi.func(fmi.op.custom, lambda a, b: 3 * a + b, False, False)
    assert ranks(3, lambda c, rank: c.allreduce(rank, function, INT)) == [5, 5, 5]


@settings(max_examples=40)
@given(
    size=st.integers(1, 9),
    count=st.integers(0, 4),
    operation=st.sampled_from([fmi.op.sum, fmi.op.prod, fmi.op.max, fmi.op.min]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_four_functions_agree_with_numpy(size: int, count: int, operation: fmi.op, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-(2**31), 2**31, (size, count), np.int64).astype(np.int32)
    name = {"sum": "add", "prod": "multiply", "max": "maximum", "min": "minimum"}[operation.name]
    expected = getattr(np, name).accumulate(values, 0, np.int32)  # 32 bits wrap, as C's do

    def work(c: fmi.Communicator, rank: int) -> Any:
        mine, function = values[rank].tolist(), fmi.func(operation)
        return c.allreduce(mine, function, ints(count)), c.scan(mine, function, ints(count))

    for rank, (everywhere, scanned) in enumerate(ranks(size, work)):
        assert everywhere == expected[-1].tolist()
        assert scanned == expected[rank].tolist()


@pytest.mark.parametrize(
    ("kind", "value", "sent"),
    [
        (INT, -(2**31), -(2**31)),
        (INT, np.int64(7), 7),
        (DOUBLE, 3, 3.0),  # an int is a double as well
        (DOUBLE, np.float32(0.5), 0.5),
        (DOUBLE, Fraction(1, 4), 0.25),
        (DOUBLE, math.inf, math.inf),
        (ints(2), (1, 2), [1, 2]),
        (ints(2), np.array([1, 2]), [1, 2]),
        (ints(2), [np.uint8(1), 2], [1, 2]),
        (ints(0), [], []),
        (doubles(2), [1, 0.5], [1.0, 0.5]),
        (doubles(2), np.array([1, 2]), [1.0, 2.0]),
        (doubles(2), np.array([1.5, 2], ">f4"), [1.5, 2.0]),
        (ints(2), np.array([7, 2**31 - 1], np.uint64), [7, 2**31 - 1]),
        (fmi.types(fmi.datatypes.int, 5), 1, 1),  # the count of a single number has no meaning
    ],
)
def test_what_may_be_given(kind: fmi.types, value: Any, sent: Any) -> None:
    def work(c: fmi.Communicator, rank: int) -> Any:
        return c.send(value, 1, kind) if rank == 0 else c.recv(0, kind)

    received = ranks(2, work)[1]
    assert received == sent
    for number in received if isinstance(sent, list) else [received]:
        assert type(number) is (int if kind.datatype.name.startswith("int") else float)


@pytest.mark.parametrize(
    ("kind", "value", "error", "message"),
    [
        (INT, 1.5, TypeError, r"value: 1\.5 \(float\) is not a number of the type int; use a double, or round"),
        (INT, 3.0, TypeError, r"3\.0 \(float\) is not a number of the type int"),  # not even a whole one is cut
        (INT, np.float64(3), TypeError, r"use a double"),
        (INT, True, TypeError, r"True \(bool\) .* give an int"),
        (INT, None, TypeError, r"None \(NoneType\) .* give an int"),
        (INT, "7", TypeError, r"'7' \(str\) .* give an int"),
        (INT, [7], TypeError, r"\[7\] \(list\) .* use int_list or double_list with their count"),
        (INT, 2**31, OverflowError, r"value: 2147483648 does not fit into the 32 bits of int32; use a double"),
        (INT, -(2**31) - 1, OverflowError, r"-2147483649 does not fit"),
        (INT, 2**80, OverflowError, r"does not fit into the 32 bits"),
        (INT, np.int64(2**31), OverflowError, r"2147483648 does not fit"),
        (DOUBLE, True, TypeError, r"True \(bool\) .* give a float"),
        (DOUBLE, None, TypeError, r"None \(NoneType\) .* give a float"),
        (DOUBLE, "1.5", TypeError, r"'1\.5' \(str\) .* give a float"),
        (DOUBLE, 1j, TypeError, r"complex"),
        (DOUBLE, 10**400, OverflowError, r"does not fit into the 64 bits of float64; scale it down"),
        (ints(2), [1, 2, 3], ValueError, r"got 3 values, but the type says int_list of 2; .*int_list, 3\)"),
        (ints(2), [1], ValueError, r"got 1 values, but the type says int_list of 2"),
        (ints(1), 1, TypeError, r"value: 1 is not a list, but the type says int_list of 1; give a list"),
        (ints(2), "12", TypeError, r"'12' is not a list"),
        (ints(2), None, TypeError, r"None is not a list"),
        (ints(2), {1, 2}, TypeError, r"\{1, 2\} is not a list"),
        (ints(2), [1, 2.0], TypeError, r"2\.0 \(float\) is not a number of the type int_list of 2"),
        (ints(2), np.array([1, 2**31]), OverflowError, r"2147483648 does not fit"),
        (doubles(2), np.array([True, False]), TypeError, r"True \(bool\) is not a number"),
        (ints(2), np.array([1.0, 2.0]), TypeError, r"1\.0 \(float\) is not a number"),
        (ints(2), [-(2**31), 2**31], OverflowError, r"value: 2147483648 does not fit"),
        (ints(2), [1, None], TypeError, r"None \(NoneType\)"),
        (ints(2), np.zeros((1, 2), int), TypeError, r"is not a list"),
        (doubles(2), [[1.0], [2.0]], TypeError, r"\[1\.0\] \(list\) is not a number"),
    ],
)
def test_a_value_of_another_kind_or_length_is_refused_by_every_operation(
    alone: fmi.Communicator, kind: fmi.types, value: Any, error: type[Exception], message: str
) -> None:
    calls = [
        lambda: alone.send(value, 1, kind),
        lambda: alone.gather(value, 0, kind),
        lambda: alone.reduce(value, 0, SUM, kind),
        lambda: alone.allreduce(value, SUM, kind),
        lambda: alone.scan(value, SUM, kind),
    ]
    if value is not None:  # that has its own test
        calls.append(lambda: alone.bcast(value, 0, kind))
    if value is not None and kind.is_list and kind.length == 2:
        calls.append(lambda: alone.scatter(value, 0, kind))
    for call in calls:
        with pytest.raises(error, match=message):
            call()


def test_nothing_at_a_root_is_a_value_error(alone: fmi.Communicator) -> None:
    with pytest.raises(
        ValueError, match=r"bcast: rank 0 is the root and its value is None; give one of the type double"
    ):
        alone.bcast(None, 0, DOUBLE)
    with pytest.raises(ValueError, match=r"scatter: rank 0 is the root and its value is None"):
        alone.scatter(None, 0, ints(2))


def test_a_list_that_cannot_be_shared_is_refused_at_every_rank() -> None:
    for rank in range(3):
        c = fmi.Communicator.over(fmi.Memory(3).channel(rank), 0.01)
        with pytest.raises(
            ValueError, match=r"a list of 4 values cannot be shared evenly among 3 .* multiple of 3"
        ):
            c.scatter([1, 2, 3, 4], 0, ints(4))
        for kind in (INT, DOUBLE, fmi.types(fmi.datatypes.int, 3)):
            with pytest.raises(ValueError, match=r"a single \w+ cannot be scattered; give a list"):
                c.scatter(1, 0, kind)


@pytest.mark.parametrize("rank", [2, -1, 2**40])
def test_a_rank_that_does_not_exist_is_refused(alone: fmi.Communicator, rank: int) -> None:
    for name, call in _by_rank(alone, rank):
        with pytest.raises(ValueError, match=f"{name}: there is no rank {rank} of 2; give 0 to 1"):
            call()


@pytest.mark.parametrize("rank", [0.0, "0", None, True])
def test_a_rank_that_is_no_number_is_refused(alone: fmi.Communicator, rank: Any) -> None:
    for name, call in _by_rank(alone, rank):
        with pytest.raises(TypeError, match=f"{name}: {rank!r} is not a whole number; give an int"):
            call()


def _by_rank(c: fmi.Communicator, rank: Any) -> list[tuple[str, Callable[[], Any]]]:
    return [
        ("dst", lambda: c.send(1, rank, INT)),
        ("src", lambda: c.recv(rank, INT)),
        ("root", lambda: c.bcast(1, rank, INT)),
        ("root", lambda: c.gather(1, rank, INT)),
        ("root", lambda: c.scatter([1, 2], rank, ints(2))),
        ("root", lambda: c.reduce(1, rank, SUM, INT)),
    ]


def test_what_is_in_the_wrong_place_is_named(alone: fmi.Communicator) -> None:
    wrong: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: alone.send(1, 0, INT), ValueError, r"dst: rank 0 is this rank itself"),
        (lambda: alone.recv(0, INT), ValueError, r"src: rank 0 is this rank itself"),
        (lambda: alone.reduce(1, SUM, 0, INT), TypeError, r"the order is reduce\(value, root, func, type\)"),
        (lambda: alone.reduce(1, 0, fmi.op.sum, INT), TypeError, r"func: .* give one such as fmi\.func\("),
        (lambda: alone.allreduce(1, max, INT), TypeError, r"func: .* is not a function; give one such as"),
        (lambda: alone.scan(1, INT, SUM), TypeError, r"type: .* is not a type"),
        (lambda: alone.send(1, 1, fmi.datatypes.int), TypeError, r"type: .* give one such as fmi\.types\("),
        (lambda: alone.recv(1, int), TypeError, r"type: <class 'int'> is not a type"),
        (lambda: alone.hint("fast"), TypeError, r"hint: 'fast' is not a hint; give fmi\.hints\.fast"),
        (lambda: fmi.types("int"), TypeError, r"types: 'int' is not a datatype"),
        (lambda: fmi.types(fmi.datatypes.int_list), ValueError, r"int_list needs the number of values"),
        (lambda: fmi.types(fmi.datatypes.int_list, -1), ValueError, r"the count -1 is negative"),
        (lambda: fmi.types(fmi.datatypes.int_list, 2.0), TypeError, r"the count 2\.0 is not a whole number"),
        (lambda: fmi.func("sum"), TypeError, r"func: 'sum' is not an operation"),
        (lambda: fmi.func(fmi.op.custom), ValueError, r"give f with op\.custom, and only with that"),
        (lambda: fmi.func(fmi.op.sum, max), ValueError, r"op\.sum with f = .*; give f with op\.custom"),
        (lambda: fmi.func(fmi.op.custom, 3, True, True), TypeError, r"func: 3 cannot be called"),
    ]
    for call, error, message in wrong:
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (1.5, TypeError, r"the custom function's result: 1\.5 \(float\) is not a number of the type int"),
        (None, TypeError, r"the custom function's result: None"),
        (2**31, OverflowError, r"the custom function's result: 2147483648 does not fit"),
        ([1], TypeError, r"the custom function's result: \[1\]"),
    ],
)
def test_a_custom_functions_result_is_checked_as_a_value_is(
    result: Any, error: type[Exception], message: str
) -> None:
    function = fmi.func(fmi.op.custom, lambda a, b: result)

    def work(c: fmi.Communicator, rank: int) -> Any:
        if rank:
            return c.reduce(1, 0, function, INT)
        with pytest.raises(error, match=message):
            c.reduce(1, 0, function, INT)
        return "refused"

    assert ranks(2, work) == ["refused", None]


def test_between_ranks_go_bare_numbers_as_fmi_sends_them() -> None:
    """Rank 1 reads and writes bytes itself: 4 for an int, 8 for a double, little-endian, no header."""
    memory = fmi.Memory(2)
    ours = fmi.Communicator.over(memory.channel(0))
    to_us, to_them = memory._queues[1, 0], memory._queues[0, 1]

    def received() -> bytes:
        message = to_them.get(timeout=5)
        assert message is not None
        return message[1]

    def give(operation: str, values: str, data: bytes) -> None:
        to_us.put((fmi.Purpose(OPERATIONS.index(operation), 2, 0, values.encode()), data))

    ours.send(-2, 1, INT)
    ours.send(1.5, 1, DOUBLE)
    ours.bcast([1, 2], 0, ints(2))
    assert ours.scatter([14, 42], 0, ints(2)) == [14]
    expected = (("<i", -2), ("<d", 1.5), ("<2i", 1, 2), ("<i", 42))
    assert [received() for _ in expected] == [struct.pack(*values) for values in expected]
    give("gather", "<f8", struct.pack("<2d", 0.5, 2.0))
    assert ours.gather([0.25, 1.0], 0, doubles(2)) == [0.25, 1.0, 0.5, 2.0]
    give("reduce", "<f8", struct.pack("<d", 0.5))
    assert ours.reduce(0.25, 0, SUM, DOUBLE) == 0.75
    give("allreduce", "<i4", struct.pack("<i", 2**31 - 1))
    assert ours.allreduce(1, SUM, INT) == -(2**31)
    assert received() == struct.pack("<i", 1)
    give("barrier", "|u1", b"\x01")
    ours.barrier()
    assert received() == b"\x01"


def test_over_one_channel_it_is_the_same_interface() -> None:
    c = fmi.Communicator.over(fmi.Memory(1).channel(0))
    assert c.chosen("bcast", 8) == "MemoryChannel"
    c.hint(fmi.hints.fast)
    assert c.chosen("barrier", 0) == "MemoryChannel"
    with pytest.raises(ValueError, match="operation: 'shout' is unknown; give recv, send, bcast"):
        c.chosen("shout", 8)
    assert c.allreduce(5, SUM, INT) == 5
    c.close()
