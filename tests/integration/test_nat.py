"""Real networks in namespaces: ranks behind NATs, the host between them, and a line that is slow and lossy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cosmicai.packaging.places import FUNCTIONS

HOST = "203.0.113.1"
_RANK = """
import json, sys
import numpy as np
import fmi
rank, secret, key = int(sys.argv[1]), sys.argv[2].encode() or None, sys.argv[3].encode()
channel = fmi.Direct(rank, 2, "nat-", "203.0.113.1", 10000, secret, lambda: key)
group = fmi.Group(channel, 20)
total = group.allreduce(np.full(1000, rank + 1.0), np.add)
print(json.dumps({"total": total.sum(), "relayed": sorted(channel.statistics.relayed)}))
group.close()
"""

pytestmark = pytest.mark.network
needs_namespaces = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("iptables") or not shutil.which("ip"),
    reason="network namespaces need root on Linux, and the packages iproute2 and iptables",
)


def _ip(*arguments: str, inside: str | None = None) -> None:
    command = ["ip", *(["-n", inside] if inside else []), *arguments]
    subprocess.run(command, check=True, capture_output=True)


def _inside(namespace: str, *command: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, *command]


@dataclass(frozen=True)
class Networks:
    """Names of the namespaces: `public`, and for each rank its NAT and itself."""

    public: str
    nats: tuple[str, str]
    ranks: tuple[str, str]

    def build(self, symmetric: bool) -> None:
        """Each NAT lets in what answers something, drops the rest, and gives connections to other addresses
        the same port (port-restricted cone) or another one each (symmetric)."""
        for name in (self.public, *self.nats, *self.ranks):
            _ip("netns", "add", name)
            _ip("link", "set", "lo", "up", inside=name)
        _ip("link", "add", "street", "type", "bridge", inside=self.public)
        _ip("addr", "add", f"{HOST}/24", "dev", "street", inside=self.public)
        _ip("link", "set", "street", "up", inside=self.public)
        for number, (nat, rank) in enumerate(zip(self.nats, self.ranks, strict=True)):
            door = f"door{number}"
            _ip("link", "add", door, "netns", self.public, "type", "veth", "peer", "name", "out", "netns", nat)
            _ip("link", "set", door, "master", "street", "up", inside=self.public)
            _ip("addr", "add", f"203.0.113.{11 + number}/24", "dev", "out", inside=nat)
            _ip("link", "set", "out", "up", inside=nat)
            _ip("link", "add", "in", "netns", nat, "type", "veth", "peer", "name", "home", "netns", rank)
            _ip("addr", "add", "192.168.1.1/24", "dev", "in", inside=nat)
            _ip("link", "set", "in", "up", inside=nat)
            _ip("addr", "add", "192.168.1.2/24", "dev", "home", inside=rank)
            _ip("link", "set", "home", "up", inside=rank)
            _ip("route", "add", "default", "via", "192.168.1.1", inside=rank)
            rules = [
                "-P FORWARD DROP",
                "-A FORWARD -i in -o out -j ACCEPT",
                "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
                "-A INPUT -i out -j DROP",
                f"-t nat -A POSTROUTING -o out -j MASQUERADE{' --random-fully' if symmetric else ''}",
            ]
            for rule in rules:
                subprocess.run(_inside(nat, "iptables", *rule.split()), check=True, capture_output=True)
            forward = _inside(nat, "sysctl", "-qw", "net.ipv4.ip_forward=1")
            subprocess.run(forward, check=True, capture_output=True)

    def remove(self) -> None:
        for name in (self.public, *self.nats, *self.ranks):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.fixture
def networks() -> Iterator[Networks]:
    tag = f"c{os.getpid() % 100_000}"
    made = Networks(f"{tag}p", (f"{tag}na", f"{tag}nb"), (f"{tag}ra", f"{tag}rb"))
    try:
        yield made
    finally:
        made.remove()


def _meet(networks: Networks, secret: str, folder: Path) -> list[dict[str, Any]]:
    """What both ranks say, each from behind its NAT."""
    environment = {**os.environ, "PYTHONPATH": str(FUNCTIONS / "inference")}
    key = "0123456789abcdef" * 2
    (folder / "key").write_text(key)
    server = [sys.executable, str(FUNCTIONS / "rendezvous" / "server.py"), "--port", "10000"]
    server += ["--relay-key-file", str(folder / "key")]
    with ExitStack() as stack:
        host = stack.enter_context(
            subprocess.Popen(_inside(networks.public, *server), stdout=subprocess.PIPE, text=True)
        )
        stack.callback(host.terminate)
        assert host.stdout is not None
        assert json.loads(host.stdout.readline())["port"] == 10_000
        ranks = [
            stack.enter_context(
                subprocess.Popen(
                    _inside(namespace, sys.executable, "-c", _RANK, str(rank), secret, key),
                    env=environment,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for rank, namespace in enumerate(networks.ranks)
        ]
        return [json.loads(rank.communicate(timeout=60)[0]) for rank in ranks]


@needs_namespaces
@pytest.mark.parametrize("secret", ["of this run", ""])
def test_two_ranks_behind_port_restricted_nats_punch_through(
    networks: Networks, secret: str, tmp_path: Path
) -> None:
    networks.build(symmetric=False)
    for outcome in _meet(networks, secret, tmp_path):
        assert outcome["total"] == 3000
        assert outcome["relayed"] == []


@pytest.mark.fault(
    "networks that cannot be punched through",
    "two symmetric NATs in network namespaces",
    "the two ranks connect through the host's relay",
    "nothing",
)
@needs_namespaces
def test_two_ranks_behind_symmetric_nats_meet_in_the_relay(networks: Networks, tmp_path: Path) -> None:
    networks.build(symmetric=True)
    first, second = _meet(networks, "of this run", tmp_path)
    assert (first["total"], second["total"]) == (3000, 3000)
    assert (first["relayed"], second["relayed"]) == ([1], [0])


# Carries packets between namespaces that it gives a device each, 50 ms late and one in ten not at all. The
# kernel may lack netem; TUN devices it has. Arguments: namespaces; the address of the nth is 198.51.100.n.
_BAD_LINE = """
import ctypes, fcntl, heapq, os, random, select, struct, subprocess, sys, time
libc, devices, late = ctypes.CDLL(None, use_errno=True), {}, []
for number, name in enumerate(sys.argv[1:], 1):
    with open(f"/run/netns/{name}") as namespace:
        assert libc.setns(namespace.fileno(), 0x40000000) == 0
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", b"bad", 0x1001))  # TUNSETIFF: IFF_TUN | IFF_NO_PI
    for command in (f"addr add 198.51.100.{number}/24 dev bad", "link set bad up"):
        subprocess.run(["ip", *command.split()], check=True)
    devices[number] = device
print("ready", flush=True)
dice, lost = random.Random(1), 0
while True:
    pause = max(late[0][0] - time.monotonic(), 0) if late else 1
    for device in select.select(list(devices.values()), [], [], pause)[0]:
        packet = os.read(device, 65535)
        if packet[0] >> 4 == 4 and packet[19] in devices and dice.random() >= 0.1:
            heapq.heappush(late, (time.monotonic() + 0.05, dice.random(), packet))
    while late and late[0][0] <= time.monotonic():
        packet = heapq.heappop(late)[2]
        os.write(devices[packet[19]], packet)
"""


@pytest.mark.fault(
    "a slow and lossy network",
    "10 % of packets lost and 50 ms delay, on TUN devices",
    "the collective takes longer",
    "nothing",
)
@needs_namespaces
@pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="the kernel has no TUN devices")  # noqa: PTH110
def test_a_line_that_loses_every_tenth_packet_is_slow_but_right() -> None:
    names = [f"c{os.getpid() % 100_000}{letter}" for letter in "hxyz"]
    program = _RANK.replace("203.0.113.1", "198.51.100.1").replace(", 2, ", ", 3, ").replace(", 20)", ", 60)")
    environment = {**os.environ, "PYTHONPATH": str(FUNCTIONS / "inference")}
    python = [sys.executable, "-c"]
    with ExitStack() as stack:
        for name in names:
            stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=False, capture_output=True)
            _ip("netns", "add", name)
            _ip("link", "set", "lo", "up", inside=name)

        def started(command: list[str], **more: Any) -> subprocess.Popen[str]:
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **more))
            stack.callback(process.kill)
            return process

        line = started([*python, _BAD_LINE, *names])
        assert line.stdout is not None
        assert line.stdout.readline() == "ready\n"
        server = [sys.executable, str(FUNCTIONS / "rendezvous" / "server.py"), "--port", "10000"]
        host = started(_inside(names[0], *server))
        assert host.stdout is not None
        host.stdout.readline()
        ranks = [
            started(_inside(name, *python, program, str(rank), "of this run", "no relay"), env=environment)
            for rank, name in enumerate(names[1:])
        ]
        for rank in ranks:
            assert json.loads(rank.communicate(timeout=120)[0])["total"] == 6000
