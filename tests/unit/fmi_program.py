"""Every operation of FMI's Python binding, as a user's program calls them: by place, each type, each function.

python fmi_program.py RANK RANKS CONFIG NAME fast|cheap prints {label: what this rank got} as JSON. It imports
fmi as users' scripts do.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import fmi

INT, DOUBLE = fmi.types(fmi.datatypes.int), fmi.types(fmi.datatypes.double)


def ints(count: int) -> fmi.types:
    return fmi.types(fmi.datatypes.int_list, count)


def doubles(count: int) -> fmi.types:
    return fmi.types(fmi.datatypes.double_list, count)


def numbers(rank: int) -> list[tuple[str, Any, Any]]:
    """(name, value, type) of one rank."""
    return [
        ("int", 42 + rank, INT),
        ("double", 14.2 + rank, DOUBLE),
        ("int_list", [1 + 2 * rank, 2 + 2 * rank], ints(2)),
        ("double_list", [1.32 + 2 * rank, 2.34 + rank], doubles(2)),
    ]


FUNCTIONS = [
    ("sum", fmi.func(fmi.op.sum)),
    ("prod", fmi.func(fmi.op.prod)),
    ("max", fmi.func(fmi.op.max)),
    ("min", fmi.func(fmi.op.min)),
    ("twice", fmi.func(fmi.op.custom, lambda a, b: 2 * a + 2 * b, True, True)),
    ("folded", fmi.func(fmi.op.custom, lambda a, b: 2 * a - b, False, False)),
]


def received(comm: fmi.Communicator, rank: int, ranks: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    comm.barrier()
    for name, value, kind in numbers(rank):
        if rank:
            results[f"recv {name}"] = comm.recv(rank - 1, kind)
        if rank + 1 < ranks:
            comm.send(value, rank + 1, kind)
    for root in sorted({0, ranks - 1}):
        for name, value, kind in numbers(rank):
            results[f"bcast {name} {root}"] = comm.bcast(value if rank == root else None, root, kind)
            results[f"gather {name} {root}"] = comm.gather(value, root, kind)
        whole = [14 + 28 * place for place in range(ranks)] if rank == root else None
        results[f"scatter int_list {root}"] = comm.scatter(whole, root, ints(ranks))
        pairs = [1.3 + place for place in range(2 * ranks)] if rank == root else None
        results[f"scatter double_list {root}"] = comm.scatter(pairs, root, doubles(2 * ranks))
        for function_name, function in FUNCTIONS:
            for name, value, kind in numbers(rank):
                results[f"reduce {function_name} {name} {root}"] = comm.reduce(value, root, function, kind)
    for function_name, function in FUNCTIONS:
        for name, value, kind in numbers(rank):
            results[f"allreduce {function_name} {name}"] = comm.allreduce(value, function, kind)
            results[f"scan {function_name} {name}"] = comm.scan(value, function, kind)
    comm.barrier()
    return results


def main() -> None:
    rank, ranks = int(sys.argv[1]), int(sys.argv[2])
    comm = fmi.Communicator(rank, ranks, sys.argv[3], sys.argv[4], 512)
    comm.hint(fmi.hints[sys.argv[5]])
    print(json.dumps(received(comm, rank, ranks)))


if __name__ == "__main__":
    main()
