"""AWS Lambda's entry point of Initialize."""

from __future__ import annotations

import os
from typing import Any

import boto3

from .run import start

_s3 = boto3.client("s3")
_allow_scripts = os.environ.get("ALLOW_SCRIPTS") == "true"


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """event: {"payload": the execution's input, "run_id": its name, "started": ISO time}."""
    return start(_s3, event["payload"], event["run_id"], event["started"], _allow_scripts)
