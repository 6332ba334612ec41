"""AWS Lambda's entry point of the inference container."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import boto3

from .event import RankEvent
from .rank import Host, Worker

_host = Host.of_lambda(int(os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]), Path(tempfile.gettempdir()))
_worker = Worker(boto3.client("s3"), _host)


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """event: one element of manifest.json."""
    return _worker.run(RankEvent.parse(event))
