"""Ranks behind real NATs, in network namespaces: two NATs, two ranks behind them, the host between them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from cosmicai.packaging import FUNCTIONS

HOST = "203.0.113.1"
_RANK = """
import json, sys
import numpy as np
import fmi
rank, secret = int(sys.argv[1]), sys.argv[2].encode() or None
channel = fmi.Direct(rank, 2, "nat-", "203.0.113.1", 10000, secret)
group = fmi.Group(channel, 20)
total = group.allreduce(np.full(1000, rank + 1.0), np.add)
print(json.dumps({"total": total.sum(), "relayed": sorted(channel.statistics.relayed)}))
group.close()
"""

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


def _meet(networks: Networks, secret: str) -> list[dict[str, Any]]:
    """What both ranks say, each from behind its NAT."""
    environment = {**os.environ, "PYTHONPATH": str(FUNCTIONS / "inference")}
    server = [sys.executable, str(FUNCTIONS / "rendezvous" / "server.py"), "--port", "10000"]
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
                    _inside(namespace, sys.executable, "-c", _RANK, str(rank), secret),
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
def test_two_ranks_behind_port_restricted_nats_punch_through(networks: Networks, secret: str) -> None:
    networks.build(symmetric=False)
    for found in _meet(networks, secret):
        assert found["total"] == 3000
        assert found["relayed"] == []


@needs_namespaces
def test_two_ranks_behind_symmetric_nats_meet_in_the_relay(networks: Networks) -> None:
    networks.build(symmetric=True)
    first, second = _meet(networks, "of this run")
    assert (first["total"], second["total"]) == (3000, 3000)
    assert (first["relayed"], second["relayed"]) == ([1], [0])
