"""What the embedded AWS inherits from the environment of its owner: no account, no endpoint, no proxy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import boto3
import botocore.session
from botocore.config import Config

REGION = "us-east-1"
_OF_THE_MACHINE = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "OMP_NUM_THREADS",
)
_NO_PROXY = "127.0.0.1,localhost"
_NO_FILES = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


def credentials(endpoint: str) -> dict[str, str]:
    """What a process needs in its environment to talk to the embedded AWS at this endpoint."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def of_the_machine(inherited: Mapping[str, str]) -> dict[str, str]:
    """For a server of ours: what programs need to run at all, and the project's own settings."""
    kept = {k: v for k, v in inherited.items() if k in _OF_THE_MACHINE or k.startswith("COSMICAI_")}
    return {**kept, **_NO_FILES}


def without_account(inherited: Mapping[str, str]) -> dict[str, str]:
    """For a client of the embedded AWS: all but the user's AWS settings, and no proxy for loopback.

    A session token, a profile or an AWS_ENDPOINT_URL_S3 would override the endpoint. Terraform's
    TF_VAR_…, TF_CLI_ARGS… and TF_WORKSPACE are dropped as well: they change what is applied.
    """
    kept = {
        k: v
        for k, v in inherited.items()
        if not k.startswith(("AWS_", "TF_VAR_", "TF_CLI_ARGS", "TF_WORKSPACE"))
    }
    past = {name: ",".join(filter(None, (kept.get(name), _NO_PROXY))) for name in ("NO_PROXY", "no_proxy")}
    return {**kept, **past, **_NO_FILES}


def session() -> boto3.Session:
    """A boto3 session of the embedded AWS, whatever the environment and the user's AWS files say."""
    unset: dict[str, Any] = {
        "profile": (None, None, None, None),
        "config_file": (None, None, os.devnull, None),
        "credentials_file": (None, None, os.devnull, None),
        "use_fips_endpoint": (None, None, False, None),
        "use_dualstack_endpoint": (None, None, False, None),
        "ca_bundle": (None, None, None, None),
    }
    return boto3.Session(
        botocore_session=botocore.session.Session(session_vars=unset),
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - the emulator accepts any
        region_name=REGION,
    )


def direct(**options: Any) -> Config:
    """botocore's Config with `options`, for a client that ignores the environment's proxies."""
    return Config(s3={"addressing_style": "path"}, proxies={}, **options)
