"""A team's state moves to S3 once, and never over another one; with the real Terraform and moto's S3."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cosmicai.packaging.places import ROOT
from tests.replica import Replica, replica
from tests.root_module import ROOT_MODULE

MODULE = f"""{ROOT_MODULE}output "kept" {{ value = terraform_data.it.id }}
"""
BACKEND = """
bucket                      = "states"
key                         = "{key}"
region                      = "us-east-1"
use_lockfile                = true
skip_credentials_validation = true
skip_requesting_account_id  = true
"""


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with replica(tmp_path_factory.mktemp("moto") / "log") as aws:
        aws.client("s3").create_bucket(Bucket="states")
        yield aws


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The scripts over a module without AWS, deployed with its state in a file."""
    for name in ("scripts", "cosmicai/packaging", "functions/inference", "docker"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True)
    shutil.copytree(ROOT / "functions" / "contract", tmp_path / "functions" / "contract")
    for name in ("cosmicai/deploy/providers.py", "functions/build-requirements.lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("modules", "teams"):
        (tmp_path / "terraform" / name).mkdir(parents=True)
    (tmp_path / "terraform" / "main.tf").write_text(MODULE)
    (tmp_path / "terraform" / ".terraform.lock.hcl").touch()
    (tmp_path / "terraform" / "teams" / "team3.tfvars").write_text('team = "team3"\n')
    return tmp_path


def _call(tree: Path, aws: Replica, script: str = "deploy.sh") -> subprocess.CompletedProcess[str]:
    environment = {
        **aws.environment, "APPROVE": "team3", "IMAGE": "x/y:z", "PREFLIGHT": "skip", "PYTHON": sys.executable,
        "PATH": f"{Path(sys.executable).parent}:{aws.environment['PATH']}",
    }  # fmt: skip
    command = ["sh", str(tree / "scripts" / script), "team3"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def _state(tree: Path) -> Path:
    return tree / ".cosmicai" / "terraform" / "team3.tfstate"


def _resource(state: str) -> str:
    (resource,) = json.loads(state)["resources"]
    return str(resource["instances"][0]["attributes"]["id"])


def _remote(aws: Replica, key: str) -> str:
    body: bytes = aws.client("s3").get_object(Bucket="states", Key=key)["Body"].read()
    return body.decode()


def test_a_local_state_moves_once(tree: Path, aws: Replica) -> None:
    assert _call(tree, aws).returncode == 0
    before = _state(tree).read_text()
    backend = tree / "terraform" / "teams" / "team3.s3.tfbackend"
    backend.write_text(BACKEND.format(key="moved"))
    process = _call(tree, aws)
    assert process.returncode == 0, process.stderr
    assert "moved to S3: the state of team3" in process.stdout
    assert "0 added, 0 changed, 0 destroyed" in process.stdout
    assert _resource(_remote(aws, "moved")) == _resource(before)
    assert not _state(tree).exists()
    assert _state(tree).with_suffix(".tfstate.moved").read_text() == before
    process = _call(tree, aws)
    assert process.returncode == 0, process.stderr
    assert "moved" not in process.stdout

    backend.rename(tree / "kept")
    process = _call(tree, aws)
    assert process.returncode == 1
    assert "the state of team3 is in S3, and terraform/teams/team3.s3.tfbackend" in process.stderr
    (tree / "kept").rename(backend)
    assert _call(tree, aws, "destroy.sh").returncode == 0
    assert json.loads(_remote(aws, "moved"))["resources"] == []


def test_a_state_that_is_in_s3_already_is_not_overwritten(tree: Path, aws: Replica) -> None:
    assert _call(tree, aws).returncode == 0
    other = json.loads(_state(tree).read_text())
    other["lineage"] = "00000000-0000-0000-0000-000000000000"
    aws.client("s3").put_object(Bucket="states", Key="other", Body=json.dumps(other))
    before = _state(tree).read_text()
    (tree / "terraform" / "teams" / "team3.s3.tfbackend").write_text(BACKEND.format(key="other"))
    process = _call(tree, aws)
    assert process.returncode == 1
    assert "was not moved to S3, because another state is there; keep one of the two" in process.stderr
    assert json.loads(_remote(aws, "other")) == other
    assert _state(tree).read_text() == before


def test_a_state_of_nothing_does_not_move(tree: Path, aws: Replica) -> None:
    """What a destroy leaves behind would otherwise stand against another's state."""
    assert _call(tree, aws).returncode == 0
    assert _call(tree, aws, "destroy.sh").returncode == 0
    (tree / "terraform" / "teams" / "team3.s3.tfbackend").write_text(BACKEND.format(key="empty"))
    process = _call(tree, aws)
    assert process.returncode == 0, process.stderr
    assert "moved" not in process.stdout
