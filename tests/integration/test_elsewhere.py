"""docs/elsewhere.md: its commands, as they are written, against an AWS that we did not write."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cosmicai.packaging.places import ROOT
from tests.replica import Replica, replica

PAGE = (ROOT / "docs" / "elsewhere.md").read_text()
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/team3-cosmicai-inference:1"


def _commands(heading: str) -> str:
    """The sh blocks below a heading, in order."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with replica(tmp_path_factory.mktemp("replica") / "log") as running:
        yield running


def test_the_commands_for_sagemaker_start_a_job(aws: Replica, tmp_path: Path) -> None:
    """The image's URI would come from the deployment."""
    commands = re.sub(r"^IMAGE=.*$", f"IMAGE={IMAGE}", _commands("SageMaker Batch Transform"), flags=re.M)
    environment = {
        **aws.environment, "PATH": f"{Path(sys.executable).parent}:{aws.environment['PATH']}",
    }  # fmt: skip
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="team3-cosmicai")
    for name in ("1.pt", "2.pt", "photometry.json"):
        s3.put_object(Bucket="team3-cosmicai", Key=f"25MB/{name}", Body=b"x")
    script = ["bash", "-euc", commands]
    process = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    sagemaker = aws.client("sagemaker")
    job = sagemaker.describe_transform_job(TransformJobName="team3-cosmicai-1")
    source = job["TransformInput"]["DataSource"]["S3DataSource"]
    assert source == {"S3DataType": "ManifestFile", "S3Uri": "s3://team3-cosmicai/sagemaker/1.manifest"}
    manifest = s3.get_object(Bucket="team3-cosmicai", Key="sagemaker/1.manifest")["Body"].read()
    assert json.loads(manifest) == [{"prefix": "s3://team3-cosmicai/"}, "25MB/1.pt", "25MB/2.pt"]
    assert job["TransformOutput"]["Accept"] == "text/csv"
    model = sagemaker.describe_model(ModelName=job["ModelName"])
    assert model["PrimaryContainer"]["Image"] == IMAGE
    role = aws.client("iam").get_role(RoleName=model["ExecutionRoleArn"].rpartition("/")[2])["Role"]
    (trusted,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert trusted["Principal"] == {"Service": "sagemaker.amazonaws.com"}
