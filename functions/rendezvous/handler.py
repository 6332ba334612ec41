"""AWS Lambda's entry point of Rendezvous: starts and watches the host on which ranks find each other.

The host is an EC2 instance of this deployment (INSTANCE_ID), or one that somebody else runs (ADDRESS), which is
only watched. Several runs share it, and the next run may find it still running: it stops by itself when no
ranks have met for a while.
"""

from __future__ import annotations

import json
import os
from typing import Any

import boto3

from .contract.host import health, public_address


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
        address = self._address
        if self._instance is not None:
            address = f"{public_address(boto3.client('ec2'), self._instance)}:{self._port}"
        return {"address": address, "health": health(address)}


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
