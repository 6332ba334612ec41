"""The embedded AWS starts by itself, beside others, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cosmicai.emulator import Emulator, EmulatorError, localstack
from cosmicai.packaging.places import BuildFolder

_OWNER = """
import sys, time
from cosmicai.emulator import Emulator
from cosmicai.packaging.places import BuildFolder
aws = Emulator(BuildFolder())
aws.start()
print(aws.folder, flush=True)
try:
    time.sleep(600)
finally:
    if sys.argv[1] == "polite":
        aws.stop()
"""


def _processes_of(folder: Path) -> list[psutil.Process]:
    """All processes that carry the emulator's folder in their command line or environment."""
    processes = []
    for process in psutil.process_iter():
        try:
            text = " ".join([*process.cmdline(), *process.environ().values()])
        except (psutil.Error, OSError):
            continue
        if str(folder) in text:
            processes.append(process)
    return processes


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("end", "manner"),
    [(signal.SIGINT, "polite"), (signal.SIGTERM, "rude"), (signal.SIGKILL, "rude")],
)
def test_nothing_is_left_however_its_owner_ends(build: BuildFolder, end: signal.Signals, manner: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, manner], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as owner:
        assert owner.stdout is not None
        try:
            line = owner.stdout.readline().strip()
            assert line, "the emulator did not start"
            folder = Path(line)
            assert len(_processes_of(folder)) >= 2
            os.kill(owner.pid, end)
            owner.wait(60)
        finally:
            owner.kill()
    _until(lambda: not _processes_of(folder) and not folder.exists())


def test_two_at_once_do_not_meet(build: BuildFolder) -> None:
    with Emulator(build) as one, Emulator(build) as two:
        one.client("s3").create_bucket(Bucket="only-in-one")
        assert two.client("s3").list_buckets()["Buckets"] == []
        assert one.endpoint != two.endpoint


def test_its_ports_are_none_that_an_outgoing_connection_may_get() -> None:
    """Seconds pass until LocalStack listens; meanwhile any client on the machine could be given the port."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert not any(first <= localstack.free_port() <= last for _ in range(100))


def test_stopping_twice_is_fine(build: BuildFolder) -> None:
    aws = Emulator(build)
    aws.start()
    aws.stop()
    aws.stop()
    assert not aws.folder.exists()


def test_when_it_cannot_start_it_shows_the_end_of_its_log(
    build: BuildFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(localstack, "free_port", lambda: 99999)  # no port has this number
    with pytest.raises(EmulatorError, match=r"ended while starting:\n(.|\n)*[Pp]ort"):
        Emulator(build).start()
