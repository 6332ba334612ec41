"""The IAM actions behind recorded requests: which permissions a program needs, by what it has asked for."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import botocore.loaders
import botocore.model

_SERVICES = {"states": "stepfunctions", "servicequotas": "service-quotas", "monitoring": "cloudwatch"}
# Where the permission has another name than the operation:
# https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html, …/list_awslambda.html
_ACTIONS = {
    "HeadBucket": "ListBucket",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "ListObjectVersions": "ListBucketVersions",
    "HeadObject": "GetObject",
    "DeleteObjects": "DeleteObject",
    "GetBucketLifecycleConfiguration": "GetLifecycleConfiguration",
    "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
    "DeleteBucketLifecycle": "PutLifecycleConfiguration",
    "GetBucketEncryption": "GetEncryptionConfiguration",
    "PutBucketEncryption": "PutEncryptionConfiguration",
    "DeleteBucketEncryption": "PutEncryptionConfiguration",
    "GetBucketCors": "GetBucketCORS",
    "GetBucketReplication": "GetReplicationConfiguration",
    "GetBucketAccelerateConfiguration": "GetAccelerateConfiguration",
    "GetBucketNotificationConfiguration": "GetBucketNotification",
    "GetObjectLockConfiguration": "GetBucketObjectLockConfiguration",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
    "DeletePublicAccessBlock": "PutBucketPublicAccessBlock",
    "DeleteBucketOwnershipControls": "PutBucketOwnershipControls",
    "DeleteBucketTagging": "PutBucketTagging",
    "Invoke": "InvokeFunction",
}
_NEED_NONE = {"sts:GetCallerIdentity"}


def actions(recording: Path, access_key: str) -> set[str]:
    """Of all requests that were signed with this key, as moto's recorder has written them."""
    return set(_actions(recording, access_key)) - _NEED_NONE


def _actions(recording: Path, access_key: str) -> Iterator[str]:
    for line in recording.read_text().splitlines():
        entry = json.loads(line)
        headers = {name.lower(): value for name, value in entry["headers"].items()}
        signed = re.search(r"Credential=([^/]+)/[^/]+/[^/]+/([^/]+)/", headers.get("authorization", ""))
        if signed is None or signed[1] != access_key:
            continue
        if target := headers.get("x-amz-target"):
            operation = target.rpartition(".")[2]
        else:
            body = base64.b64decode(entry["body"]) if entry["body_encoded"] else entry["body"].encode()
            asked = parse_qs(body.decode(errors="replace")).get("Action")
            operation = asked[0] if asked else _rest(signed[2], entry["method"], entry["url"])
        yield f"{signed[2]}:{_ACTIONS.get(operation, operation)}"


def _rest(signed: str, method: str, url: str) -> str:
    """The operation of a request to a REST service, by the service's own model in botocore."""
    service = _SERVICES.get(signed, signed)
    model = botocore.model.ServiceModel(botocore.loaders.Loader().load_service_model(service, "service-2"))
    at = urlsplit(url)
    parameters = parse_qs(at.query, keep_blank_values=True)
    if "x-id" in parameters:  # as the SDK for Go tells it
        return parameters["x-id"][0]
    operations = []
    for name in model.operation_names:
        http = model.operation_model(name).http
        path, _, query = http["requestUri"].partition("?")
        required = {**parse_qs(query, keep_blank_values=True), **_required(model.operation_model(name))}
        pattern = re.sub(r"\\{\w+\\\+\\}", ".+", re.escape(path))
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", pattern)
        matches = http["method"] == method and re.fullmatch(pattern, at.path.rstrip("/") or "/")
        if matches and all(
            key in parameters and value in ([""], parameters[key]) for key, value in required.items()
        ):
            operations.append((len(required), name))
    assert operations, f"{signed}: {method} {url} is not an operation in botocore's model"
    return max(operations)[1]


def _required(operation: botocore.model.OperationModel) -> dict[str, list[str]]:
    """What the query of an operation must have, such as ListParts' uploadId; GetObject has the same path."""
    shape = operation.input_shape
    fields = (shape.members[name].serialization for name in shape.required_members) if shape else ()
    return {one["name"]: [""] for one in fields if one.get("location") == "querystring"}
