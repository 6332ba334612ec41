"""Every collective with a rank that is killed; run by test_fmi as a process that forks the ranks.

python killed_ranks.py PORT SECONDS prints {"OPERATION, MOMENT": {rank: what became of it}}.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from typing import Any

import fmi
import numpy as np

SIZE, VICTIM = 4, 1
OPERATIONS = ("send", "bcast", "gather", "scatter", "reduce", "allreduce", "scan", "barrier")
MOMENTS = ("before", "in", "after")


class _Dying:
    """A channel whose process is killed when it is first used."""

    def __init__(self, channel: fmi.Channel) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        if name in ("send", "recv", "exchange"):
            peers = [peer for peer in (0, 2, 3) if peer != VICTIM]
            self._channel.connect(peers[0], VICTIM, fmi.Deadline(1.0))  # it was there, and met one
            os.kill(os.getpid(), signal.SIGKILL)
        return getattr(self._channel, name)


def _work(group: fmi.Group, operation: str) -> None:
    mine = np.full(1000, float(group.rank))
    match operation:
        case "send" if group.rank == VICTIM:
            group.send(mine, 0)
        case "send" if group.rank == 0:
            group.recv(mine, VICTIM)
        case "bcast" | "gather":
            getattr(group, operation)(mine, 0)
        case "scatter":
            group.scatter(np.zeros((SIZE, 1000)), 0)
        case "reduce" | "allreduce" | "scan":
            getattr(group, operation)(mine, np.add)
        case "barrier":
            group.barrier()


def rank(number: int, name: str, port: int, operation: str, moment: str, seconds: float, sender: Any) -> None:
    channel: Any = fmi.Direct(number, SIZE, name, "127.0.0.1", port, b"s")
    victim = number == VICTIM
    if victim and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    began = time.monotonic()
    try:
        _work(fmi.Group(_Dying(channel) if victim and moment == "in" else channel, seconds), operation)
        outcome = "done"
    except fmi.FmiError as error:
        outcome = f"{type(error).__name__}: {error}"
    sender.send([outcome, time.monotonic() - began])
    if victim:
        os.kill(os.getpid(), signal.SIGKILL)
    channel.close()


def main() -> None:
    port, seconds = int(sys.argv[1]), float(sys.argv[2])
    fork, outcomes = multiprocessing.get_context("fork"), {}
    for operation in OPERATIONS:
        for moment in MOMENTS:
            name = f"{operation}-{moment}"
            pipes = [fork.Pipe(duplex=False) for _ in range(SIZE)]
            ranks = [
                fork.Process(target=rank, args=(n, name, port, operation, moment, seconds, pipes[n][1]))
                for n in range(SIZE)
            ]
            for process in ranks:
                process.start()
            for process in ranks:
                process.join(seconds + 20)
            answers = {n: pipes[n][0].recv() if pipes[n][0].poll() else None for n in range(SIZE)}
            outcomes[f"{operation}, {moment}"] = answers
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
