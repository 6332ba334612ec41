"""The collectives agree with numpy over every channel, and what goes wrong between ranks is said and ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosmicai.emulator import Emulator
from cosmicai.packaging import FUNCTIONS, BuildFolder

sys.path.append(str(FUNCTIONS / "inference"))
import fmi

from .rendezvous import Host

SIZES = (1, 2, 3, 4, 5, 8, 16, 17)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.stop()


Open = Callable[[int], list[fmi.Channel]]


@pytest.fixture(scope="module")
def redis_client() -> Iterator[Any]:
    """Of a real redis-server."""
    import redis

    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/redis.sock"
        options = ["--port", "0", "--unixsocket", path, "--save", "", "--dir", folder]
        with subprocess.Popen([server, *options], stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 10
            while not Path(path).exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            with redis.Redis(unix_socket_path=path) as client:
                yield client
            process.terminate()


@pytest.fixture(scope="module")
def s3_client(build: BuildFolder) -> Iterator[Any]:
    """Of the embedded AWS, with a bucket named fmi."""
    with Emulator(build) as aws:
        client = aws.client("s3", max_pool_connections=20)
        client.create_bucket(Bucket="fmi")
        yield client


@pytest.fixture(params=["memory", "direct", "direct, as FMI's own", "Redis", "S3"])
def channels(request: pytest.FixtureRequest, host: Host) -> Open:
    """Channels of all ranks of a new group."""
    store = {"Redis": "redis_client", "S3": "s3_client"}.get(request.param)
    client: Any = request.getfixturevalue(store) if store else None

    def make(size: int) -> list[fmi.Channel]:
        name, ranks = f"run-{os.urandom(4).hex()}-", range(size)
        match request.param:
            case "memory":
                memory = fmi.Memory(size)
                return [memory.channel(rank) for rank in ranks]
            case "Redis":
                return [fmi.Redis(rank, size, name, client) for rank in ranks]
            case "S3":
                return [fmi.S3(rank, size, name, client, "fmi") for rank in ranks]
        secret = b"of this run" if request.param == "direct" else None
        return [fmi.Direct(rank, size, name, "127.0.0.1", host.port, secret) for rank in ranks]

    return make


def together(channels: list[Any], work: Callable[[fmi.Group], Any], seconds: float = 20.0) -> list[Any]:
    """What `work` gives at each rank, all running at once; an exception stands for itself."""

    def one(channel: fmi.Channel) -> Any:
        group = fmi.Group(channel, seconds)
        try:
            return work(group)
        except Exception as error:
            return error
        finally:
            group.close()

    with ThreadPoolExecutor(len(channels)) as pool:
        return list(pool.map(one, channels))


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
    done = together(channels(3), lambda group: float(group.bcast(large * (group.rank == 1), 1).sum()))
    assert done == [float(large.sum())] * 3


def test_the_interface_of_fmis_binding(channels: Open) -> None:
    two = fmi.types(fmi.datatypes.int_list, 2)
    one = fmi.types(fmi.datatypes.double)

    def work(group: fmi.Group) -> Any:
        c = fmi.Communicator.over(group._channel)
        rank = group.rank
        if rank == 0:
            c.send(1.5, 1, one)
        if rank == 1:
            assert c.recv(0, one) == 1.5
        assert c.bcast([7, 8] if rank == 2 else None, 2, two) == [7, 8]
        assert c.gather([rank, -rank], 0, two) in (None, [0, 0, 1, -1, 2, -2])
        assert c.scatter([0, 1, 2, 3, 4, 5] if rank == 0 else None, 0, two) == [2 * rank, 2 * rank + 1]
        assert c.allreduce(2.0, fmi.func(fmi.op.prod), one) == 8.0
        last = fmi.func(fmi.op.custom, lambda a, b: [2 * a[0] + b[0], b[1]])  # ordered, also for lists
        assert c.reduce([rank, rank], last, 0, two) in (None, [4, 2])
        assert c.scan([rank + 1, 0], fmi.func(fmi.op.sum), two)[0] == sum(range(1, rank + 2))
        c.barrier()
        for bad, error in (([1], ValueError), ([2**31, 0], OverflowError)):
            with pytest.raises(error):
                c.bcast(bad, rank, two)
        return "done"

    assert together(channels(3), work) == ["done"] * 3


def test_faults_of_the_caller_are_named() -> None:
    group = fmi.Group(fmi.Memory(2).channel(0))
    for call, fault in (
        (lambda: group.send(np.zeros(1), 0), "has no peer 0"),
        (lambda: group.bcast(np.zeros(1), 2), "root 2 is not in a group of 2"),
        (lambda: group.scatter(np.zeros((3, 1))), "first axis has 3 rows, expected 2"),
    ):
        with pytest.raises(ValueError, match=fault):
            call()
    for name in ("run1", "n" * 99, ""):
        with pytest.raises(ValueError, match="pairs of ranks are confused"):
            fmi.Direct(0, 2, name, "127.0.0.1")


def test_a_wrong_secret_is_refused_on_both_sides(host: Host) -> None:
    channels = [fmi.Direct(rank, 2, "run-", "127.0.0.1", host.port, b"right") for rank in range(2)]
    channels[1]._proof = lambda first, second: bytes(32)  # type: ignore[method-assign]
    first, second = together(channels, lambda group: group.barrier(), seconds=3)
    assert isinstance(first, fmi.PeerRefused)
    assert "rank 0: who answered for rank 1 does not know this run's secret" in str(first)
    assert isinstance(second, fmi.FmiError)
    for secrets in ((b"a", b"b"),):
        strangers = [
            fmi.Direct(r, 2, "run-", "127.0.0.1", host.port, secret) for r, secret in enumerate(secrets)
        ]
        done = together(strangers, lambda group: group.barrier(), seconds=1)
        assert all(isinstance(error, fmi.PeerTimeout) for error in done)  # they do not even meet


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length and (piece := connection.recv(length - len(data))):
        data += piece
    return data


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
    rendezvous.bind(("0.0.0.0", 0))  # noqa: S104 - a port of its own
    rendezvous.connect(("127.0.0.1", host.port))
    rendezvous.send(name)
    own = struct.unpack("!4sHxx", _exactly(rendezvous, 8))
    listener = made()
    listener.bind(("0.0.0.0", own[1]))  # noqa: S104
    listener.listen(1)
    peer = struct.unpack("!4sHxx", _exactly(rendezvous, 8))
    found: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):  # closed, when the other way was the first
            found.append(listener.accept()[0])

    threading.Thread(target=accept, daemon=True).start()
    for _ in range(100):
        dialing = made()
        dialing.bind(("0.0.0.0", own[1]))  # noqa: S104
        if found or dialing.connect_ex((socket.inet_ntoa(peer[0]), peer[1])) == 0:
            break
        time.sleep(0.01)
    connection = found[0] if found else dialing
    received: float = struct.unpack("<d", _exactly(connection, 8))[0]
    connection.sendall(struct.pack("<d", value))
    for each in (*used, *found):
        each.close()
    return received


def test_a_foreign_client_of_fmis_wire_pairs_with_ours(host: Host) -> None:
    with ThreadPoolExecutor(1) as pool:
        foreign = pool.submit(_foreign, host, b"theirs-0_1", 2.5)
        ours = fmi.Direct(0, 2, "theirs-", "127.0.0.1", host.port)
        group = fmi.Group(ours)
        group.send(np.array([1.25]), 1)
        assert group.receive(np.empty(1), 1).tolist() == [2.5]
        assert foreign.result(10) == 1.25
        group.close()


def _nothing(listener: socket.socket, dialing: socket.socket | None, seconds: float) -> tuple[bool, bool]:
    time.sleep(seconds)
    return False, False


def test_behind_closed_networks_a_pair_meets_in_the_relay(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmi.direct.PUNCH_SECONDS", 0.3)
    monkeypatch.setattr("fmi.direct._dialled", lambda port, address: None)
    monkeypatch.setattr("fmi.direct._ready", _nothing)
    channels = [fmi.Direct(rank, 2, "closed-", "127.0.0.1", host.port, b"s") for rank in range(2)]
    done = together(channels, lambda group: group.allreduce(np.ones(100_000), np.add).sum())
    assert done == [200_000.0] * 2
    assert [channel.statistics.relayed for channel in channels] == [{1}, {0}]


def test_a_partner_that_died_while_it_was_paired_is_waited_for_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is left is on its way to the relay when the other, started again, asks to be paired."""
    monkeypatch.setattr("fmi.direct.PUNCH_SECONDS", 0.3)
    monkeypatch.setattr("fmi.direct.RELAY_SECONDS", 0.5)
    channels = [fmi.Direct(rank, 2, "ghost-", "127.0.0.1", host.port, b"s") for rank in range(2)]
    ghost = fmi.Direct(1, 2, "ghost-", "127.0.0.1", host.port, b"s")

    def dies(*_: Any) -> Any:
        raise fmi.PeerLost("died")

    monkeypatch.setattr(ghost, "_through", dies)
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


def test_a_rank_that_leaves_is_an_error_and_never_garbage(channels: Open) -> None:
    def work(group: fmi.Group) -> Any:
        group.barrier()
        if group.rank == 1:
            return "left"
        return group.allreduce(np.ones(1000), np.add)

    done = together(channels(3), work, seconds=4)
    assert done[1] == "left"
    assert isinstance(done[0], fmi.PeerLost | fmi.PeerTimeout)
    assert isinstance(done[2], fmi.PeerLost | fmi.PeerTimeout)


def test_a_reader_that_stops_cuts_no_message_short(host: Host) -> None:
    """A send that does not go out in time is an error on both sides, not a part of a message."""
    channels = [fmi.Direct(rank, 2, "slow-", "127.0.0.1", host.port, b"s") for rank in range(2)]

    def work(group: fmi.Group) -> Any:
        group.barrier()
        if group.rank == 0:
            group.send(np.ones(8 << 20), 1, seconds=0.5)
        else:
            time.sleep(1.5)
            group.receive(np.empty(8 << 20), 0)

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
        return int(group.receive(np.array([0]), 1 - group.rank)[0])

    assert together(channels, work) == [1, 0]


def test_another_length_than_expected_is_an_error(host: Host) -> None:
    channels = [fmi.Direct(rank, 2, "length-", "127.0.0.1", host.port, b"s") for rank in range(2)]

    def work(group: fmi.Group) -> None:
        if group.rank:
            group.receive(np.empty(3), 0)
        else:
            group.send(np.empty(4), 1)

    _, error = together(channels, work)
    assert isinstance(error, fmi.MessageMismatch)
    assert "in receive: rank 1: rank 0 sent 32 bytes, expected 24" in str(error)


def test_a_stopped_host_and_one_that_comes_back() -> None:
    first = Host()
    assert first.health()["healthy"]
    assert first.stop() == 0
    channels = [fmi.Direct(rank, 2, "back-", "127.0.0.1", first.port, b"s") for rank in range(2)]
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(together, channels, lambda group: group.barrier())
        time.sleep(0.5)
        again = Host(first.port)
        assert done.result(20) == [None, None]
    again.stop(signal.SIGKILL)
    with pytest.raises(fmi.PeerTimeout, match=r"rendezvous host .* for rank 1 cannot be reached in 0\.3 s"):
        fmi.Group(fmi.Direct(0, 2, "gone-", "127.0.0.1", first.port, b"s")).send(np.zeros(1), 1, seconds=0.3)


def test_no_client_holds_up_another() -> None:
    host = Host()
    idle = [host.connect() for _ in range(300)]  # silent
    for connection in (host.connect() for _ in range(50)):  # reset at once
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    flood = host.connect()
    flood.sendall(b"n" * 50_000)
    channels = [fmi.Direct(rank, 4, "calm-", "127.0.0.1", host.port, b"s") for rank in range(4)]
    assert together(channels, lambda group: group.barrier()) == [None] * 4
    found = host.health()
    assert found["paired"] >= 4
    assert found["malformed"] >= 1
    for connection in idle:
        connection.close()
    flood.close()
    assert host.stop() == 0


def test_two_thousand_clients_pair_at_once_and_names_leave_nothing_behind() -> None:
    host = Host()
    before = host.memory_kib()

    def client(number: int) -> bytes:
        with host.connect() as connection:
            connection.settimeout(20)
            connection.sendall(b"pair-%d" % (number // 2))
            return _exactly(connection, 16)

    with ThreadPoolExecutor(500) as pool:
        answers = list(pool.map(client, range(2000)))
    assert all(len(answer) == 16 for answer in answers)
    for burst in range(20):  # 10,000 names whose partner never comes, and whose client goes
        connections = [host.connect() for _ in range(500)]
        for number, connection in enumerate(connections):
            connection.sendall(b"nobody-%d-%d" % (burst, number))
        for connection in connections:
            connection.close()
    deadline, found = time.monotonic() + 20, {"waiting": -1}
    while found["waiting"] and time.monotonic() < deadline:
        time.sleep(0.05)
        with suppress(ConnectionError):  # so many of one address at once are refused, this one too
            found = host.health()
    assert (found["waiting"], found["clients"], found["paired"]) == (0, 1, 1000)
    assert host.memory_kib() - before < 150_000
    assert host.stop() == 0


def test_two_thousand_set_ups_of_four_ranks(host: Host) -> None:
    """FMI's own client hangs in one of fifty."""

    def set_up(number: int) -> None:
        name = f"set-up-{number}-"
        channels = [fmi.Direct(rank, 4, name, "127.0.0.1", host.port, b"s") for rank in range(4)]
        done = together(channels, lambda group: float(group.allreduce(np.ones(1), np.add)[0]), seconds=10)
        assert done == [4.0] * 4

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(set_up, range(2000)))


@pytest.mark.fault(
    "a rank dies before, in or after its part of a collective",
    "SIGKILL, eight operations",
    "the others end in time, done or with its name",
    "that collective",
)
def test_a_rank_that_is_killed_in_a_collective_ends_it_in_time_with_its_name(host: Host) -> None:
    """Before, in and after its part of each: the others are done or say who failed them in what."""
    seconds = 1.0
    command = [sys.executable, str(Path(__file__).with_name("killed_ranks.py")), str(host.port), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(FUNCTIONS / "inference")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 24
    for case, told in found.items():
        operation = {"send": "receive"}.get(*[case.partition(",")[0]] * 2)
        for rank in ("0", "2", "3"):
            outcome, took = told[rank]
            assert took < seconds + 1, (case, rank)
            assert outcome == "done" or f"in {operation}: rank {rank}:" in outcome, (case, rank, outcome)
        outcomes = [told[rank][0] for rank in ("0", "2", "3")]
        unneeded = case.endswith("after") or case in ("bcast, in", "scatter, in")  # a leaf that met its parent
        assert unneeded or any(outcome != "done" for outcome in outcomes), (case, outcomes)


def test_five_hundred_and_twelve_ranks_reduce_a_thousand_doubles(host: Host) -> None:
    channels = [fmi.Direct(rank, 512, "many-", "127.0.0.1", host.port, b"s") for rank in range(512)]

    def work(group: fmi.Group) -> float | None:
        total = group.reduce(np.full(1000, float(group.rank)), np.add)
        return None if total is None else float(total.sum())

    done = together(channels, work, seconds=60)
    assert done == [1000.0 * sum(range(512)), *[None] * 511]
    assert not any(channel.statistics.relayed for channel in channels)


def test_two_thousand_pair_at_once_beside_idle_and_slow_ones() -> None:
    host = Host()
    idle = [host.connect() for _ in range(500)]
    slow = [host.connect() for _ in range(50)]
    for connection in slow:  # one byte each, and never the rest
        connection.sendall(b"\x02")

    def client(number: int) -> bytes:
        with host.connect() as connection:
            connection.settimeout(20)
            connection.sendall(b"pair-%d" % (number // 2))
            return _exactly(connection, 16)

    with ThreadPoolExecutor(500) as pool:
        assert all(len(answer) == 16 for answer in pool.map(client, range(2000)))
    for connection in (*idle, *slow):
        connection.close()
    assert host.stop() == 0


def test_a_flood_of_a_hundred_thousand_names_is_bounded() -> None:
    """3,000 clients at once hold names that nobody else brings, again and again."""
    host, peak = Host(), 0
    before = host.memory_kib()
    for burst in range(34):
        connections = [host.connect() for _ in range(3000)]
        for number, connection in enumerate(connections):
            connection.sendall(b"n%d-%d-%s" % (burst, number, b"x" * 80))
        peak = max(peak, host.memory_kib())
        for connection in connections:
            connection.close()
    deadline, found = time.monotonic() + 30, {"waiting": -1}
    while found["waiting"] and time.monotonic() < deadline:
        time.sleep(0.05)
        with suppress(ConnectionError):
            found = host.health()
    assert found["accepted"] + found["refused"] >= 100_000
    assert (found["waiting"], found["malformed"]) == (0, 0)
    assert max(peak, host.memory_kib()) - before < 100_000
    assert host.stop() == 0


def test_a_host_that_nobody_needs_ends_by_itself() -> None:
    host = Host(0, "--idle-exit", "0.5")
    connection = host.connect()
    time.sleep(1.2)
    assert host.health()["healthy"]  # a client is there
    connection.close()
    assert host.ended() == 0


def _config(tmp_path: Path, **back_ends: dict[str, str]) -> str:
    path = tmp_path / "fmi.json"
    path.write_text(json.dumps({"backends": back_ends, "model": {"faas_price": "0.0000166667"}}))
    return str(path)


# FMI's own figures, of its example configuration.
_FIGURES: dict[str, dict[str, str]] = {
    "S3": {"enabled": "true", "bucket_name": "b", "bandwidth_single": "50.0", "bandwidth_multiple": "40.0",
           "overhead": "40.4", "download_price": "0.00000043", "upload_price": "0.0000054"},
    "Redis": {"enabled": "true", "host": "h", "bandwidth_single": "100.0", "overhead": "5.2",
              "instance_price": "0.0038", "requests_per_hour": "1000", "include_infrastructure_costs": "true"},
    "Direct": {"enabled": "true", "host": "h", "bandwidth": "250.0", "overhead": "0.34", "vm_price": "0.0134",
               "requests_per_hour": "1000", "include_infrastructure_costs": "true"},
}  # fmt: skip


def test_the_hint_chooses_the_back_end_by_the_model(tmp_path: Path) -> None:
    fast = fmi.Communicator(0, 16, _config(tmp_path, **_FIGURES), "run-", 2048)
    assert {fast.chosen(op, 8) for op in ("send", "bcast", "reduce", "allreduce", "scan")} == {"Direct"}
    fast.hint(fmi.hints.cheap)
    # One small message: two S3 requests cost less than a share of an hour of a server.
    assert fast.chosen("send", 8) == "Redis"
    rare = {name: {**part, "requests_per_hour": "1"} for name, part in _FIGURES.items()}
    few = fmi.Communicator(0, 2, _config(tmp_path, **rare), "run-", 128)
    few.hint(fmi.hints.cheap)
    assert few.chosen("send", 8) == "S3"
    few.hint(fmi.hints.fast)
    assert few.chosen("send", 8) == "Direct"
    many = fmi.Communicator(0, 64, _config(tmp_path, **rare), "run-", 10_240)
    many.hint(fmi.hints.cheap)
    # What 64 large functions are billed for waiting is more than an hour of the host.
    assert many.chosen("bcast", 64_000_000) == "Direct"


def test_a_configuration_that_cannot_work_is_named(tmp_path: Path) -> None:
    for back_ends, fault in (
        ({}, "no back end is enabled"),
        ({"Direct": {"enabled": "true"}}, r"backends\.Direct\.host is missing"),
        ({"Kafka": {"enabled": "true"}}, r"backends\.Kafka is unknown; there are Direct, Redis, S3"),
        ({"S3": {**_FIGURES["S3"], "overhead": "fast"}}, r"backends\.S3\.overhead: 'fast' is not a number"),
    ):
        with pytest.raises(ValueError, match=fault):
            fmi.Communicator(0, 2, _config(tmp_path, **back_ends), "run-")


def test_ranks_of_the_binding_meet_through_a_configuration(host: Host, tmp_path: Path) -> None:
    direct = {"enabled": "true", "host": "127.0.0.1", "port": str(host.port), "secret": b"s".hex()}
    config, one = _config(tmp_path, Direct=direct), fmi.types(fmi.datatypes.double)

    def rank(number: int) -> Any:
        communicator = fmi.Communicator(number, 3, config, "configured-")
        total = communicator.allreduce(number + 0.5, fmi.func(fmi.op.sum), one)
        communicator.barrier()
        communicator.close()
        return total

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(rank, range(3))) == [4.5] * 3


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

    with pytest.raises(fmi.PeerTimeout, match=r"in receive: rank 1: nothing from rank 0 in 0\.1 s"):
        fmi.Group(channel(1)).receive(np.zeros(1), 0, seconds=0.1)
    fmi.Group(channel(0)).send(np.array([2.5]), 1)
    assert fmi.Group(channel(1)).receive(np.zeros(1), 0).tolist() == [2.5]
    fmi.Group(channel(0)).send(np.array([2.5, 1]), 1)
    with pytest.raises(fmi.MessageMismatch, match="sent 16 bytes, expected 8"):
        fmi.Group(channel(1)).receive(np.zeros(1), 0)
