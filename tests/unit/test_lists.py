"""Lists that are written to S3 in parts, and times as S3 gives them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from initialize.contract import s3 as module
from initialize.contract.s3 import ListUpload, boto3_client, put_list

BUCKET = "team3-cosmicai"


class _Counting:
    """boto3's client, and how often each method was called."""

    def __init__(self, client: Any) -> None:
        self._client, self.calls = client, list[str]()

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self._client, name)


def _read(s3: Any, key: str) -> Any:
    return json.load(s3.get_object(Bucket=BUCKET, Key=key)["Body"])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_short_list_is_one_request(s3: Any, count: int) -> None:
    content, counting = [{"rank": number} for number in range(count)], _Counting(s3)
    put_list(counting, BUCKET, "r/manifest.json", content)
    assert counting.calls == ["put_object"]
    assert _read(s3, "r/manifest.json") == content
    body = s3.get_object(Bucket=BUCKET, Key="r/manifest.json")["Body"].read()
    assert body.count(b"\n") == max(count - 1, 0)  # an element has a line of its own


@pytest.mark.parametrize("count", [8, 9, 20])
def test_a_long_list_is_one_object_of_several_parts(s3: Any, count: int) -> None:
    """moto refuses parts below 5 MiB, as S3 does."""
    content, counting = [{"rank": number, "more": "x" * (1 << 20)} for number in range(count)], _Counting(s3)
    put_list(counting, BUCKET, "r/combined_data.json", content)
    assert counting.calls.count("upload_part") == count // 8 + 1
    assert _read(s3, "r/combined_data.json") == content
    head = s3.head_object(Bucket=BUCKET, Key="r/combined_data.json")
    assert head["ContentType"] == "application/json"


def test_a_list_that_is_not_finished_leaves_nothing(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART_BYTES", 5 << 20)
    with ListUpload(s3, BUCKET, "r/broken.json") as upload:
        upload.add("x" * (6 << 20))
        assert s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"][0]["Key"] == "r/broken.json"
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)


def test_times_are_those_of_boto3(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="a", Body=b"x")
    ours = boto3_client()
    for client in (ours, s3):
        assert client.list_objects_v2(Bucket=BUCKET)["Contents"][0]["LastModified"].utcoffset() is not None
    listed, expected = (one.list_objects_v2(Bucket=BUCKET)["Contents"] for one in (ours, s3))
    assert listed == expected
    answers = [one.get_object(Bucket=BUCKET, Key="a")["LastModified"] for one in (ours, s3)]
    assert answers[0] == answers[1]
