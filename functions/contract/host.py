"""The rendezvous host as a Lambda function sees it: the state of its machine, and whether it answers."""

from __future__ import annotations

import json
import socket
from typing import Any

_HEALTH = b"\x01"
_SECONDS = 2.0  # for one protocol round trip


class NotHealthy(Exception):
    """The host does not answer, or not yet; the message says what is known about it."""


def health(address: str, seconds: float = _SECONDS) -> dict[str, Any]:
    """The health line of the host at HOST:PORT, by a round trip of its protocol. Raises NotHealthy."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), seconds) as connection:
            connection.sendall(_HEALTH)
            with connection.makefile() as lines:
                answer: Any = json.loads(lines.readline(4096))
    except (OSError, ValueError) as error:
        raise NotHealthy(f"the rendezvous host at {address} does not answer: {error}") from error
    if not isinstance(answer, dict) or not answer.get("healthy"):
        raise NotHealthy(f"the rendezvous host at {address} is not healthy: it answers {answer}")
    return answer


def public_address(ec2: Any, instance_id: str) -> str:
    """The address of the host's instance. Raises NotHealthy while it does not run, and botocore's ClientError.

    ec2: boto3's client.
    """
    answer = ec2.describe_instances(InstanceIds=[instance_id])
    instance = answer["Reservations"][0]["Instances"][0]
    state, address = instance["State"]["Name"], instance.get("PublicIpAddress")
    if state != "running" or not address:
        raise NotHealthy(f"the rendezvous host {instance_id} is {state}, without a public address yet")
    return str(address)
