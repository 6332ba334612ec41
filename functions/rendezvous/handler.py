"""AWS Lambda's entry point of Rendezvous: starts and watches the host on which ranks find each other.

The host is an EC2 instance of this deployment (INSTANCE_ID), or one that somebody else runs (ADDRESS), which is
only watched. Several runs share it, and the next run may find it still running: it stops by itself when no
ranks have met for a while.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import boto3

_HEALTH = b"\x01"
_SECONDS = 2.0  # for one protocol round trip


class NotHealthy(Exception):
    """The host does not answer yet; the state machine asks again."""


class Host:
    """instance_id: of the EC2 instance; None for somebody else's host at `address` (HOST:PORT)."""

    def __init__(self, instance_id: str | None, address: str, port: int) -> None:
        self._instance, self._address, self._port = instance_id, address, port

    @classmethod
    def of_environment(cls) -> Host:
        environment = os.environ
        return cls(environment.get("INSTANCE_ID"), environment.get("ADDRESS", ""), int(environment["PORT"]))

    def start(self) -> dict[str, Any]:
        """Starts the host unless it runs already. Raises ClientError while it is still stopping."""
        if self._instance is not None:
            boto3.client("ec2").start_instances(InstanceIds=[self._instance])
        return {"started": self._instance is not None}

    def status(self) -> dict[str, Any]:
        """{"address": HOST:PORT, "health": the host's own counters}. Raises NotHealthy."""
        address = self._address or f"{self._public_address()}:{self._port}"
        return {"address": address, "health": health(address)}

    def _public_address(self) -> str:
        answer = boto3.client("ec2").describe_instances(InstanceIds=[self._instance])
        instance = answer["Reservations"][0]["Instances"][0]
        state, address = instance["State"]["Name"], instance.get("PublicIpAddress")
        if state != "running" or not address:
            raise NotHealthy(f"the rendezvous host {self._instance} is {state}, without a public address yet")
        return str(address)


def health(address: str) -> dict[str, Any]:
    """The health line of the host at HOST:PORT, by a round trip of its protocol. Raises NotHealthy."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), _SECONDS) as connection:
            connection.sendall(_HEALTH)
            with connection.makefile() as lines:
                answer: Any = json.loads(lines.readline(4096))
    except (OSError, ValueError) as error:
        raise NotHealthy(f"the rendezvous host at {address} does not answer: {error}") from error
    if not isinstance(answer, dict) or not answer.get("healthy"):
        raise NotHealthy(f"the rendezvous host at {address} is not healthy, it answers {answer}")
    return answer


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """event: {"action": "start" | "status", "execution": ARN of the execution that asks}."""
    host = Host.of_environment()
    match event["action"]:
        case "start":
            answer = host.start()
        case "status":
            answer = host.status()
        case other:
            raise ValueError(f"action: {other!r} is neither start nor status")
    print(json.dumps({"message": f"rendezvous {event['action']}", "execution": event["execution"], **answer}))
    return answer
