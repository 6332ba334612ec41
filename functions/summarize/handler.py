"""AWS Lambda's entry point of Summarize."""

from __future__ import annotations

import json
from typing import Any

import boto3
from botocore.config import Config

from .fetching import Fetcher
from .gather import READERS, summarize_run

_s3 = boto3.client("s3", config=Config(max_pool_connections=READERS, signature_version="s3v4"))
_fetch = Fetcher(_s3, READERS)


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """event: what Initialize returned."""
    verdict = summarize_run(_s3, event, _fetch, lambda: boto3.client("batch"))
    print(json.dumps({"message": "run summarised", **verdict}))
    return verdict
