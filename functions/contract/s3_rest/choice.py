"""Which S3 client a function uses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .client import S3
from .signing import Credentials

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_OF_BOTO3 = (
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "AWS_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE", "AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
)  # fmt: skip
"""Settings that our client does not support."""


def new_client(environment: Mapping[str, str]) -> Any:
    """Our client if the environment has credentials, as on Lambda, and no setting that only boto3 supports."""
    asked = [name for name in _OF_BOTO3 if environment.get(name) not in (None, "", os.devnull)]
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    key, secret = (environment.get(name) for name in _KEYS)
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or None
    is_url = endpoint is None or endpoint.startswith(("http://", "https://"))  # boto3 says what is wrong
    if asked or not (key and secret and region and is_url):
        return _boto3()
    return S3(Credentials(key, secret, environment.get("AWS_SESSION_TOKEN") or None), region, endpoint)


def _boto3() -> Any:
    import boto3  # takes 0.3 s with its client
    from botocore.config import Config

    retries = {"total_max_attempts": 5, "mode": "standard"}
    return boto3.client("s3", config=Config(max_pool_connections=16, read_timeout=30, retries=retries))


def broken(client: Any) -> tuple[type[Exception], ...]:
    """The exceptions that a client raises if a connection breaks; the request may be made again."""
    if isinstance(client, S3):
        return client.BROKEN
    from ..s3 import BROKEN

    return BROKEN
