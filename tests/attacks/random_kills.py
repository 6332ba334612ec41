"""Ranks that are killed at any moment; run by test_kills as a process that forks them.

python random_kills.py PORT COUNT SEED prints how often each outcome of a surviving rank was seen, as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from multiprocessing.connection import Connection

import fmi
import numpy as np

SIZE, SECONDS, LARGE = 4, 2.0, 50_000


def step(group: fmi.Group, number: int) -> bool:
    """One operation; whether its result is right."""
    mine = np.full(LARGE if number % 3 == 0 else 8, group.rank + number, dtype=np.float64)
    total = sum(range(SIZE)) + SIZE * number
    match number % 5:
        case 0:
            return bool((group.allreduce(mine, np.add) == total).all())
        case 1:
            return bool((group.bcast(mine, number % SIZE) == number % SIZE + number).all())
        case 2:
            summed = group.reduce(mine, np.add, number % SIZE)
            return summed is None or bool((summed == total).all())
        case 3:
            return bool(
                (group.scan(mine, np.add) == sum(range(group.rank + 1)) + (group.rank + 1) * number).all()
            )
    rows = group.gather(mine, number % SIZE)
    return rows is None or bool((rows[:, 0] == np.arange(SIZE) + number).all())


def work(rank: int, name: str, port: int, sender: Connection) -> None:
    """Operation after operation, until one fails."""
    group = fmi.Group(fmi.Direct(rank, SIZE, name, "127.0.0.1", port, b"secret"), SECONDS)
    number, began, outcome = 0, time.monotonic(), "an error in time"
    try:
        while True:
            began = time.monotonic()
            if not step(group, number):
                outcome = "a wrong value"
                break
            number += 1
    except fmi.FmiError:
        if time.monotonic() - began > SECONDS + 5:  # the rest is a busy machine's
            outcome = "an error too late"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    sender.send(outcome)


def main() -> None:
    port, count, draw = int(sys.argv[1]), int(sys.argv[2]), random.Random(sys.argv[3])
    context = multiprocessing.get_context("fork")
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        pipes = [context.Pipe(duplex=False) for _ in range(SIZE)]
        name = f"kill-{os.urandom(4).hex()}-"
        ranks = [context.Process(target=work, args=(rank, name, port, pipes[rank][1])) for rank in range(SIZE)]
        for process in ranks:
            process.start()
        time.sleep(draw.uniform(0.0, 0.15))
        victim = draw.randrange(SIZE)
        os.kill(ranks[victim].pid or 0, signal.SIGKILL)
        for rank, (reader, _) in enumerate(pipes):
            if rank != victim:
                outcomes[reader.recv() if reader.poll(4 * SECONDS + 20) else "hangs"] += 1
        for process in ranks:
            process.kill()
            process.join()
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
