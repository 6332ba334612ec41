"""AWS Lambda's entry point of Initialize."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from .contract.channels import Host
from .contract.host import NotHealthy, health, public_address
from .contract.pricing import BILLED_AS
from .contract.s3 import boto3_client
from .contract.s3_rest.choice import new_client
from .deployed import Deployed
from .model_folder import Model
from .run import start

_s3 = boto3_client()
_SOON = Config(connect_timeout=2, read_timeout=2, retries={"total_max_attempts": 2})
_HEALTH_SECONDS = 1.0  # a host that takes longer counts as stopped


def _concurrency() -> int:
    """How many executions may run at once: the deployment's limit if it has one, otherwise the account's."""
    configured = os.environ.get("MAX_CONCURRENCY")
    if configured:
        return int(configured)
    limits = boto3.client("lambda").get_account_settings()["AccountLimit"]
    return int(limits["UnreservedConcurrentExecutions"])


def _is_running(state_machine: str, name: str) -> bool:
    client = boto3.client("stepfunctions")
    arn = f"{state_machine.replace(':stateMachine:', ':execution:')}:{name}"
    try:
        return bool(client.describe_execution(executionArn=arn)["status"] == "RUNNING")
    except client.exceptions.ExecutionDoesNotExist:
        return False


def _host() -> Host:
    """The present state of the rendezvous host. A run may start it if it is the deployment's own."""
    own = os.environ.get("RENDEZVOUS_INSTANCE_ID")
    address = os.environ.get("RENDEZVOUS_ADDRESS", "")
    try:
        if own is not None:
            address = (
                f"{public_address(boto3.client('ec2', config=_SOON), own)}:{os.environ['RENDEZVOUS_PORT']}"
            )
        health(address, _HEALTH_SECONDS)
    except NotHealthy as error:
        return Host("absent" if own is None else "stopped", str(error))
    except (BotoCoreError, ClientError) as error:
        reason = f"EC2 does not say where the rendezvous host {own} is ({type(error).__name__})"
        return Host("stopped", reason)
    return Host("up", f"the rendezvous host at {address} is up")


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """event: "payload" (the execution's input), "run_id" (its name), "started" (ISO time), "state_machine"."""
    deployed = Deployed(
        allow_scripts=os.environ.get("ALLOW_SCRIPTS") == "true",
        has_redis=bool(os.environ.get("REDIS_HOST")),
        has_rendezvous=os.environ.get("RENDEZVOUS") != "false",
        concurrency=_concurrency,
        is_running=partial(_is_running, event["state_machine"]),
        has_batch=os.environ.get("BATCH") == "true",
        memory_mb=int(os.environ.get("INFERENCE_MEMORY_MB", 0)),
        host=_host,
        architecture=os.environ.get("INFERENCE_ARCHITECTURE", BILLED_AS),
        bundled=Model() if os.environ.get("FOREIGN_IMAGE") == "true" else Model.bundled(),
    )
    planned = start(
        _s3, event["payload"], event["run_id"], event["started"], deployed, partial(new_client, os.environ)
    )
    logged = (
        "run_id",
        "result_path",
        "world_size",
        "max_concurrency",
        "collectives",
        "children",
        "backend",
        "notes",
    )
    print(json.dumps({"message": "run planned", **{name: planned[name] for name in logged}}))
    return planned
