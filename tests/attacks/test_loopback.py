"""Nothing that runs locally can be reached from another machine: all of it listens on 127.0.0.1 alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cosmicai.deploy.terraform import Deployment, emulated_variables
from cosmicai.emulator import Emulator, EmulatorError, localstack
from cosmicai.packaging.places import FUNCTIONS, BuildFolder
from tests.unit.conftest import redis_port  # noqa: F401 - the fixture
from tests.unit.rendezvous import Host

sys.path.append(str(FUNCTIONS / "inference"))
import fmi
from fmi.direct import Deadline


@pytest.fixture(scope="module")
def aws(build: BuildFolder) -> Iterator[Emulator]:
    """An embedded AWS with the bundle deployed, one warm sandbox included."""
    with Emulator(build) as emulator:
        outputs = Deployment(emulator.folder / "deployment", emulator.environment, os.environ).apply(
            emulated_variables("loopback", emulator)
        )
        function = outputs.function_names["initialize"]
        emulator.client("lambda").invoke(FunctionName=function, Payload=b"{}")
        yield emulator


def _own_addresses() -> list[str]:
    """Addresses of this machine other than 127.0.0.1; who listens on all interfaces answers on each."""
    addresses = {a.address.partition("%")[0] for each in psutil.net_if_addrs().values() for a in each
                 if a.family in (socket.AF_INET, socket.AF_INET6)}  # fmt: skip
    return sorted({"127.0.0.2", *addresses} - {"127.0.0.1"})


def _answers(address: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((address, port), timeout=2):
        return True
    return False


def _listening(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    addresses = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            connections = process.net_connections("inet")
            addresses |= {(c.laddr.ip, c.laddr.port) for c in connections if c.laddr and not c.raddr}
    return addresses


def test_every_socket_of_the_embedded_aws_is_on_loopback(aws: Emulator) -> None:
    """Its gateway, its rendezvous host and the Runtime API of a sandbox; UDP, too."""
    sockets = _listening(psutil.Process().children(recursive=True))
    ports = {port for _, port in sockets}
    assert {int(aws.endpoint.rpartition(":")[2]), int(aws.rendezvous.rpartition(":")[2])} < ports
    assert len(ports) >= 3
    assert {address for address, _ in sockets} == {"127.0.0.1"}


@pytest.mark.parametrize("address", _own_addresses())
def test_no_other_address_of_this_machine_answers(aws: Emulator, address: str) -> None:
    ports = {port for _, port in aws.listening}
    assert all(_answers("127.0.0.1", port) for port in ports)
    assert not [port for port in ports if _answers(address, port)]


@pytest.mark.parametrize("address", _own_addresses())
def test_the_tests_own_servers_are_on_loopback_too(address: str, redis_port: int) -> None:  # noqa: F811
    host = Host()
    try:
        for port in (host.port, redis_port):
            assert _answers("127.0.0.1", port)
            assert not _answers(address, port)
    finally:
        host.stop()


def test_a_rank_listens_for_its_peer_on_the_interface_that_leads_to_the_host() -> None:
    """Alone, it waits with an open socket for a partner that never comes."""
    host = Host()
    alone = fmi.Direct(0, 2, "alone-", "127.0.0.1", host.port, b"of this run")
    own = psutil.Process()
    before = _listening([own])

    def wait() -> None:
        with pytest.raises((fmi.PeerTimeout, fmi.PeerLost)):
            alone.connect(1, 0, Deadline(20))

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(wait)
        deadline = time.monotonic() + 10
        while not (opened := _listening([own]) - before):
            assert time.monotonic() < deadline
        alone.close()
        waiting.result()
    assert {address for address, _ in opened} == {"127.0.0.1"}
    host.stop()


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "", "::"])  # noqa: S104
def test_a_service_that_asks_for_every_interface_gets_loopback(wildcard: str) -> None:
    """What LocalStack's Twisted server does, and whatever another of its services may do."""
    family = "AF_INET6" if ":" in wildcard else "AF_INET"
    code = (
        "import json, socket, sys\n"
        "from cosmicai.emulator import runtime\n"
        "socket.socket.bind = runtime._bind_to_loopback\n"
        f"server = socket.socket(socket.{family}); server.bind(({wildcard!r}, 0)); server.listen()\n"
        "print(json.dumps(server.getsockname()[0]))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(process.stdout) == ("::1" if ":" in wildcard else "127.0.0.1")


def test_an_open_socket_is_not_served(build: BuildFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """LocalStack as it is by itself: the emulator notices and refuses to run."""
    original = Emulator._guarded

    def unconfined(self: Emulator, folder: Path, command: list[str], environment: dict[str, str]) -> Any:
        plain = [part.replace("cosmicai.emulator.runtime", "localstack.runtime.main") for part in command]
        return original(self, folder, plain, environment)

    monkeypatch.setattr(Emulator, "_guarded", unconfined)
    with pytest.raises(EmulatorError, match=r"listens on 0\.0\.0\.0:\d+, which others can reach"):
        Emulator(build).start()


def test_a_port_that_another_process_has_taken_is_not_taken_for_ours(
    aws: Emulator, build: BuildFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(aws.endpoint.rpartition(":")[2])
    monkeypatch.setattr(localstack, "free_port", lambda: port)
    with pytest.raises(EmulatorError, match=r"another process has taken|ended while starting"):
        Emulator(build).start()
