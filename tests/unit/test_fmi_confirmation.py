"""The end of a pair's handshake: the lower rank uses the connection before the higher one knows about it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import fmi
import numpy as np
import pytest
from fmi.handshake import Handshake, Pair
from fmi.punching import Met

from .fmi_ranks import no_punch, together
from .rendezvous import Host

SECRET = b"of this run"


class Held(Handshake):
    """The lower rank's side, whose last bytes, the confirmation, are kept in `confirmation`."""

    confirmation = b""

    def receive(self, data: bytes) -> None:
        super().receive(data)
        if self.keys is not None:
            self.confirmation = bytes(self.outgoing)
            self.outgoing.clear()


class Late(fmi.Direct):
    """Rank 0, whose confirmation is on its way for `seconds`; None: it never leaves, and nobody is told."""

    seconds: float | None = None

    def _handshake(self, peer: int) -> Handshake:
        self.shakes = [*getattr(self, "shakes", []), Held(Pair(SECRET, self._name, self.rank, peer, self.size))]
        return self.shakes[-1]

    def _punch(self, peer: int, name: bytes, deadline: fmi.Deadline) -> Met:
        met = super()._punch(peer, name, deadline)
        if self.seconds is not None:
            time.sleep(self.seconds)
            (confirmation,) = (shake.confirmation for shake in self.shakes if shake.confirmation)
            met[0].sendall(confirmation)
        return met


@pytest.fixture(params=["punched", "relayed"])
def ranks(host: Host, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[fmi.Direct]:
    """Each attempt to meet has far less time than the confirmation takes."""
    monkeypatch.setattr("fmi.direct.PUNCH_SECONDS", 0.3)
    monkeypatch.setattr("fmi.direct.RELAY_SECONDS", 0.5)
    monkeypatch.setattr("fmi.punching._GREETING_SECONDS", 0.3)
    monkeypatch.setattr("fmi.direct.HEAD_START", 0.1 if request.param == "relayed" else 3600)
    if request.param == "relayed":
        no_punch(monkeypatch)
    name = f"{request.param}-"
    return [
        made(rank, 2, name, "127.0.0.1", host.port, SECRET, host.relay_key)
        for rank, made in enumerate((Late, fmi.Direct))
    ]


@pytest.mark.fault(
    "a slow and lossy network",
    "the last bytes of a handshake arrive long after the time within which a pair must meet",
    "the pair still uses this connection",
    "nothing",
)
def test_a_late_confirmation_is_waited_for(ranks: list[fmi.Direct]) -> None:
    ranks[0].seconds = 1.5  # type: ignore[attr-defined]
    sums = together(ranks, lambda group: group.allreduce(np.ones(3), np.add).sum())
    assert sums == [6.0, 6.0]


def test_a_confirmation_that_never_comes_stretches_no_deadline(ranks: list[fmi.Direct]) -> None:
    first, higher = ranks
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        meeting = pool.submit(first.connect, 1, 0, fmi.Deadline(10))
        with pytest.raises(fmi.PeerTimeout, match="rank 1: cannot reach rank 0 in 2 s"):
            higher.connect(0, 0, fmi.Deadline(2))
        assert time.monotonic() - began < 8
        meeting.result()
    for channel in ranks:
        channel.close()


def test_a_rank_that_left_before_it_confirmed_is_waited_for_again(ranks: list[fmi.Direct]) -> None:
    first, higher = ranks
    again = fmi.Direct(0, 2, first._name, "127.0.0.1", first._port, SECRET, first._relay_key)
    with ThreadPoolExecutor(2) as pool:
        left = pool.submit(fmi.Group(higher, 20).barrier)
        first.connect(1, 0, fmi.Deadline(10))
        first.close()
        assert pool.submit(fmi.Group(again, 20).barrier).result() is None
        assert left.result() is None
    for channel in (higher, again):
        channel.close()
