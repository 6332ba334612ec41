"""Writes under a condition, by the boto3 that Lambda's oldest Python 3.12 had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cosmicai.packaging.places import FUNCTIONS
from tests.replica import replica

_WRITES = """
import boto3
from botocore.exceptions import ClientError
from contract.s3 import put_if, read

assert boto3.__version__ == "1.34.42"
s3 = boto3.client("s3", "us-east-1")
s3.create_bucket(Bucket="runs")

def write(body, **condition):
    try:
        named = {name.replace("_", "-"): value for name, value in condition.items()}
        put_if(s3, "runs", "run.json", body, named)
    except ClientError as error:
        return error.response["Error"]["Code"]

assert write(b"first", If_None_Match="*") is None
assert write(b"second", If_None_Match="*") == "PreconditionFailed"
body, version = read(s3, "runs", "run.json")
assert body == b"first"
assert write(b"third", If_Match=version) is None
assert write(b"fourth", If_Match=version) == "PreconditionFailed"
s3.put_object(Bucket="runs", Key="run.json", Body=b"as ever")  # the condition is no part of later writes
assert read(s3, "runs", "run.json")[0] == b"as ever"
"""


def test_an_old_boto3_writes_under_a_condition(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    old = ["boto3==1.34.42", "botocore==1.34.42", "s3transfer==0.10.4", "jmespath==1.0.1"]
    subprocess.run([*pip, "--target", str(tmp_path / "old"), *old], check=True)
    with replica(tmp_path / "log") as aws:
        path = f"{tmp_path / 'old'}:{FUNCTIONS}"
        environment = {**aws.environment, "PYTHONPATH": path}
        process = subprocess.run(
            [sys.executable, "-c", _WRITES], env=environment, capture_output=True, text=True
        )
    assert process.returncode == 0, process.stderr
