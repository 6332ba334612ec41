"""AWS's signature of a request, version 4
(https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, repr=False, eq=False)
class Credentials:
    """token: the session's, which every function on Lambda has; None if there is none."""

    access_key: str
    secret_key: str
    token: str | None = None


def path_of(key: str) -> str:
    """A key as part of a request's path."""
    return quote(key, safe="/-_.~")


def query_of(parameters: Mapping[str, str]) -> str:
    """Parameters as a request's query, in the order in which they are signed."""
    return "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(parameters.items()))


def signed(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    body: bytes,
    credentials: Credentials,
    region: str,
    at: datetime,
) -> dict[str, str]:
    """All headers of a request: its own, and those that authenticate it. All of them are signed.

    path, query: as path_of and query_of encode them. headers: the request's own, with Host. at: the time, in
    UTC.
    """
    stamp, digest = at.strftime("%Y%m%dT%H%M%SZ"), hashlib.sha256(body).hexdigest()
    whole = {**headers, "X-Amz-Content-SHA256": digest, "X-Amz-Date": stamp}
    if credentials.token is not None:
        whole["X-Amz-Security-Token"] = credentials.token
    lines = sorted((name.lower(), " ".join(value.split())) for name, value in whole.items())
    names = ";".join(name for name, _ in lines)
    canonical = "\n".join(
        [method, path, query, *(f"{name}:{value}" for name, value in lines), "", names, digest]
    )
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = "\n".join([_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    credential = f"Credential={credentials.access_key}/{scope}"
    whole["Authorization"] = f"{_ALGORITHM} {credential}, SignedHeaders={names}, Signature={signature}"
    return whole
