"""JSON objects that a plan uses if they exist: those of an earlier run, or of a model folder."""

from __future__ import annotations

import json
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from .contract.s3 import BROKEN, read_small
from .contract.untrusted import UntrustedError, load

_MOST_BYTES = 1 << 20
_MOST_DIGITS = 30


def read_json(s3: Any, bucket: str, key: str) -> Any:
    """The JSON object; None if it is missing or cannot be used. The log says why it is not used."""
    try:
        return load(read_small(s3, bucket, key, _MOST_BYTES), _MOST_BYTES, _MOST_DIGITS)[0]
    except (UntrustedError, ValueError, BotoCoreError, *BROKEN) as error:
        ignore(bucket, key, error)
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchKey":
            ignore(bucket, key, error)
    return None


def ignore(bucket: str, key: str, error: Exception) -> None:
    """Says in the log why an object is not used."""
    print(json.dumps({"message": f"s3://{bucket}/{key} is not used: {error}"}))
