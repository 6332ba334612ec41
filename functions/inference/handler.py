"""AWS Lambda's entry point of the inference container."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import boto3

from .event import RankEvent
from .rank import Host, Worker
from .storage import Storage

_host = Host.of_lambda(int(os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]), Path(tempfile.gettempdir()))
_s3 = boto3.client("s3")
_worker = Worker(lambda: Storage(_s3), _host)


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """event: one element of manifest.json."""
    done = _worker.run(RankEvent.parse(event))
    print(json.dumps({"message": "rank done", **done}))
    return done
