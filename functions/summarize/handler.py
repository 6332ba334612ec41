"""AWS Lambda's entry point of Summarize."""

from __future__ import annotations

import json
import os
from typing import Any

import boto3

from .contract.s3 import boto3_client
from .contract.s3_rest.choice import new_client
from .gather import summarize_run

_s3 = boto3_client()
_reads = new_client(os.environ)


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """event: what Initialize returned."""
    verdict = summarize_run(_s3, event, _reads, lambda: boto3.client("batch"))
    print(json.dumps({"message": "run summarised", **verdict}))
    return verdict
