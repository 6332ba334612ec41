"""AWS Lambda's entry point of Summarize."""

from __future__ import annotations

import json
from typing import Any

import boto3
from botocore.config import Config

from .fetching import Fetcher
from .gather import READERS, summarize_run

_session = boto3.Session()
_s3 = _session.client("s3", config=Config(max_pool_connections=READERS, signature_version="s3v4"))


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """event: what Initialize returned."""
    with Fetcher(_s3, _session.get_credentials(), event["bucket"]) as fetch:
        verdict = summarize_run(_s3, event, fetch, lambda: _session.client("batch"))
    print(json.dumps({"message": "run summarised", **verdict}))
    return verdict
