"""AWS Lambda's entry point of Initialize."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

import boto3

from .run import Deployed, start

_s3 = boto3.client("s3")


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
    )
    planned = start(_s3, event["payload"], event["run_id"], event["started"], deployed)
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
