"""The direct channel: FMI's wire, secrets, relays, late ranks, killed ranks."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import fmi
import fmi.punching
import numpy as np
import pytest

from cosmicai.packaging.places import FUNCTIONS

from .fmi_ranks import exactly, no_punch, together
from .rendezvous import Host


def test_a_wrong_secret_is_refused_on_both_sides(host: Host) -> None:
    strangers = [
        fmi.Direct(r, 2, "run-", "127.0.0.1", host.port, secret) for r, secret in enumerate((b"a", b"b"))
    ]
    errors = together(strangers, lambda group: group.barrier(), seconds=1)
    assert all(isinstance(error, fmi.PeerTimeout) for error in errors)  # they do not even meet


def _foreign(host: Host, name: bytes, value: float) -> float:
    """A TCPunch client after the public description alone; exchanges one double, receiving first."""

    used: list[socket.socket] = []

    def made() -> socket.socket:
        made = socket.socket()
        used.append(made)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.settimeout(10)
        return made

    rendezvous = made()
    rendezvous.bind(("127.0.0.1", 0))  # a port of its own
    rendezvous.connect(("127.0.0.1", host.port))
    rendezvous.send(name)
    own = struct.unpack("!4sHxx", exactly(rendezvous, 8))
    listener = made()
    listener.bind(("127.0.0.1", own[1]))
    listener.listen(1)
    peer = struct.unpack("!4sHxx", exactly(rendezvous, 8))
    accepted: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):  # closed, when the other way was the first
            accepted.append(listener.accept()[0])

    threading.Thread(target=accept, daemon=True).start()
    for _ in range(100):
        dialing = made()
        dialing.bind(("127.0.0.1", own[1]))
        if accepted or dialing.connect_ex((socket.inet_ntoa(peer[0]), peer[1])) == 0:
            break
        time.sleep(0.01)
    connection = accepted[0] if accepted else dialing
    received: float = struct.unpack("<d", exactly(connection, 8))[0]
    connection.sendall(struct.pack("<d", value))
    for each in (*used, *accepted):
        each.close()
    return received


def test_a_foreign_client_of_fmis_wire_pairs_with_ours(host: Host) -> None:
    with ThreadPoolExecutor(1) as pool:
        foreign = pool.submit(_foreign, host, b"theirs-0_1", 2.5)
        ours = fmi.Direct(0, 2, "theirs-", "127.0.0.1", host.port)
        group = fmi.Group(ours)
        group.send(np.array([1.25]), 1)
        assert group.recv(np.empty(1), 1).tolist() == [2.5]
        assert foreign.result(10) == 1.25
        group.close()


def _ranks(host: Host, name: str, size: int) -> list[fmi.Direct]:
    return [fmi.Direct(rank, size, name, "127.0.0.1", host.port, b"s", host.relay_key) for rank in range(size)]


def test_behind_closed_networks_a_pair_meets_in_the_relay(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parallel with the punch, which here lasts longer than the operation may take."""
    monkeypatch.setattr("fmi.direct.PUNCH_SECONDS", 3600)
    no_punch(monkeypatch)
    channels = _ranks(host, "closed-", 2)
    sums = together(channels, lambda group: group.allreduce(np.ones(100_000), np.add).sum())
    assert sums == [200_000.0] * 2
    assert [channel.statistics.relayed for channel in channels] == [{1}, {0}]


def test_a_rank_that_was_relayed_asks_for_the_next_relay_at_once(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank's second pair would have a head start of an hour."""
    monkeypatch.setattr("fmi.direct.PUNCH_SECONDS", 3600)
    monkeypatch.setattr("fmi.direct.HEAD_START", 0.1)
    no_punch(monkeypatch)
    channels, met = _ranks(host, "again-", 4), threading.Barrier(4)

    def work(group: fmi.Group) -> float:
        ours = np.ones(1)
        mine = group.recv(ours, group.rank - 1) if group.rank % 2 else ours
        if group.rank % 2 == 0:
            group.send(mine, group.rank + 1)
        if met.wait(20) == 0:
            monkeypatch.setattr("fmi.direct.HEAD_START", 3600)
        met.wait(20)
        return float(group.allreduce(mine, np.add)[0])

    assert together(channels, work) == [4.0] * 4
    assert [channel.statistics.relayed for channel in channels] == [{1, 2}, {0, 3}, {0, 3}, {1, 2}]


def test_a_punch_that_succeeds_is_taken_although_the_last_pair_was_relayed(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 waits in the relay at once, rank 2 has not come there when the punch succeeds."""
    channels = _ranks(host, "better-", 3)
    monkeypatch.setattr("fmi.direct.HEAD_START", 0.1)
    with monkeypatch.context() as closed:
        no_punch(closed)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda rank: channels[rank].connect(1 - rank, 0, fmi.Deadline(20)), range(2)))
    monkeypatch.setattr("fmi.direct.HEAD_START", 3600)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda rank: channels[rank].connect(2 - rank, 0, fmi.Deadline(20)), (0, 2)))
    assert [channel.statistics.relayed for channel in channels] == [{1}, {0}, set()]
    for channel in channels:
        channel.close()


def test_a_relay_that_is_refused_does_not_end_the_punch(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmi.direct.HEAD_START", 0.1)
    dialled, refused = fmi.punching._dialled, threading.Barrier(2)
    open_now = threading.Event()

    def key() -> bytes:
        refused.wait(20)
        open_now.set()
        raise fmi.RelayRefused("there is no key")

    monkeypatch.setattr("fmi.punching._dialled", lambda *way: dialled(*way) if open_now.is_set() else None)
    channels = [fmi.Direct(rank, 2, "refused-", "127.0.0.1", host.port, b"s", key) for rank in range(2)]
    assert together(channels, lambda group: group.barrier()) == [None, None]
    assert [channel.statistics.relayed for channel in channels] == [set(), set()]


def test_a_port_that_refuses_is_dialled_again_with_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled, dials = fmi.punching._dialled, []

    def counted(own: Any, address: Any) -> Any:
        dials.append(address)
        return dialled(own, address)

    monkeypatch.setattr("fmi.punching._dialled", counted)
    with fmi.punching.bound(("127.0.0.1", 0)) as unused, fmi.punching.bound(("127.0.0.1", 0)) as listener:
        listener.listen(1)
        punch = fmi.punching.Punch(listener, listener.getsockname(), unused.getsockname(), None, lambda: False)
        with pytest.raises(fmi.punching.NotThrough):
            punch.through(fmi.Deadline(0.5), fmi.Deadline(0.5))
    assert 1 < len(dials) < 20


def test_a_partner_that_died_while_it_was_paired_is_waited_for_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is left is on its way to the relay when the other, started again, asks to be paired."""
    monkeypatch.setattr("fmi.direct.PUNCH_SECONDS", 0.3)
    monkeypatch.setattr("fmi.direct.RELAY_SECONDS", 0.5)
    channels = _ranks(host, "ghost-", 2)
    ghost = fmi.Direct(1, 2, "ghost-", "127.0.0.1", host.port, b"s", host.relay_key)

    def dies(*_: Any) -> Any:
        raise fmi.PeerLost("died")

    monkeypatch.setattr(ghost, "_punch", dies)
    with ThreadPoolExecutor(2) as pool:
        left = pool.submit(fmi.Group(channels[0], 15).barrier)
        with pytest.raises(fmi.PeerLost, match="died"):
            fmi.Group(ghost, 5).barrier()
        time.sleep(0.4)  # the other is in the relay now
        again = pool.submit(fmi.Group(channels[1], 15).barrier)
        assert (left.result(), again.result()) == (None, None)
    for channel in (*channels, ghost):
        channel.close()


def test_a_rank_that_never_comes_is_a_timeout_that_says_who(host: Host) -> None:
    channel = fmi.Direct(0, 2, "alone-", "127.0.0.1", host.port, b"s")
    began = time.monotonic()
    with pytest.raises(fmi.PeerTimeout, match=r"in send: rank 0: rank 1 did not come .* in 0\.5 s"):
        fmi.Group(channel).send(np.zeros(1), 1, seconds=0.5)
    assert time.monotonic() - began < 3


def test_a_reader_that_stops_cuts_no_message_short(host: Host) -> None:
    """A send that does not go out in time is an error on both sides, not a part of a message."""
    channels = [fmi.Direct(rank, 2, "slow-", "127.0.0.1", host.port, b"s") for rank in range(2)]

    def work(group: fmi.Group) -> Any:
        group.barrier()
        if group.rank == 0:
            group.send(np.ones(8 << 20), 1, seconds=0.5)
        else:
            time.sleep(1.5)
            group.recv(np.empty(8 << 20), 0)

    first, second = together(channels, work)
    assert isinstance(first, fmi.PeerTimeout)
    assert isinstance(second, fmi.PeerLost)
    assert "of 67108864 bytes" in str(first)


def test_a_late_rank_and_a_retry_find_each_other(host: Host) -> None:
    """The first attempt gives up before its partner comes; neither meets what it left behind."""
    early = fmi.Direct(0, 2, "late-", "127.0.0.1", host.port, b"s")
    with pytest.raises(fmi.PeerTimeout):
        fmi.Group(early).send(np.zeros(1), 1, seconds=0.2)
    channels = [fmi.Direct(rank, 2, "late-", "127.0.0.1", host.port, b"s") for rank in range(2)]
    assert together(channels, lambda group: int(group.allreduce(np.ones(1), np.add)[0])) == [2, 2]


def test_both_ranks_may_send_first(host: Host) -> None:
    channels = [fmi.Direct(rank, 2, "both-", "127.0.0.1", host.port, b"s") for rank in range(2)]

    def work(group: fmi.Group) -> int:
        group.send(np.array([group.rank]), 1 - group.rank)
        return int(group.recv(np.array([0]), 1 - group.rank)[0])

    assert together(channels, work) == [1, 0]


def test_another_length_than_expected_is_an_error(host: Host) -> None:
    channels = [fmi.Direct(rank, 2, "length-", "127.0.0.1", host.port, b"s") for rank in range(2)]

    def work(group: fmi.Group) -> None:
        if group.rank:
            group.recv(np.empty(3), 0)
        else:
            group.send(np.empty(4), 1)

    _, error = together(channels, work)
    assert isinstance(error, fmi.MessageMismatch)
    sent = "rank 0 sent 32 bytes in send of <f8 with root 0 among 2 ranks; rank 1 expected 24"
    assert str(error) == f"in recv: {sent}"


def test_a_stopped_host_and_one_that_comes_back() -> None:
    first = Host()
    assert first.health()["healthy"]
    assert first.stop() == 0
    channels = [fmi.Direct(rank, 2, "back-", "127.0.0.1", first.port, b"s") for rank in range(2)]
    with ThreadPoolExecutor(1) as pool:
        barrier = pool.submit(together, channels, lambda group: group.barrier())
        time.sleep(0.5)
        again = Host(first.port)
        assert barrier.result(20) == [None, None]
    again.stop(signal.SIGKILL)
    with pytest.raises(fmi.PeerTimeout, match=r"rendezvous host .* for rank 1 cannot be reached in 0\.3 s"):
        fmi.Group(fmi.Direct(0, 2, "gone-", "127.0.0.1", first.port, b"s")).send(np.zeros(1), 1, seconds=0.3)


def test_two_thousand_set_ups_of_four_ranks(host: Host) -> None:
    """FMI's own client hangs in one of fifty."""

    def set_up(number: int) -> list[float]:
        name = f"set-up-{number}-"
        channels = [fmi.Direct(rank, 4, name, "127.0.0.1", host.port, b"s") for rank in range(4)]
        return together(channels, lambda group: float(group.allreduce(np.ones(1), np.add)[0]), seconds=10)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(set_up, range(2000))) == [[4.0] * 4] * 2000


@pytest.mark.fault(
    "a rank dies before, during or after its part of a collective",
    "SIGKILL, in eight operations",
    "the others end in time, with a result or with an error that names the rank",
    "that collective",
)
def test_a_rank_that_is_killed_in_a_collective_ends_it_in_time_with_its_name(host: Host) -> None:
    """Before, in and after its part of each: the others are done or say who failed them in what."""
    seconds = 1.0
    command = [sys.executable, str(Path(__file__).with_name("killed_ranks.py")), str(host.port), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(FUNCTIONS / "inference")}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    cases = json.loads(process.stdout)
    assert len(cases) == 24
    for case, answers in cases.items():
        operation = {"send": "recv"}.get(*[case.partition(",")[0]] * 2)
        for rank in ("0", "2", "3"):
            outcome, took = answers[rank]
            assert took < seconds + 1, (case, rank)
            assert outcome == "done" or f"in {operation}: rank {rank}:" in outcome, (case, rank, outcome)
        outcomes = [answers[rank][0] for rank in ("0", "2", "3")]
        unneeded = case.endswith("after") or case in ("bcast, in", "scatter, in")  # a leaf that met its parent
        assert unneeded or any(outcome != "done" for outcome in outcomes), (case, outcomes)


def test_five_hundred_and_twelve_ranks_reduce_a_thousand_doubles(host: Host) -> None:
    channels = [fmi.Direct(rank, 512, "many-", "127.0.0.1", host.port, b"s") for rank in range(512)]

    def work(group: fmi.Group) -> float | None:
        total = group.reduce(np.full(1000, float(group.rank)), np.add)
        return None if total is None else float(total.sum())

    sums = together(channels, work, seconds=60)
    assert sums == [1000.0 * sum(range(512)), *[None] * 511]
    assert not any(channel.statistics.relayed for channel in channels)
