"""make smoke's script against the embedded AWS: it leaves nothing, and touches no other deployment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosmicai.deploy.terraform import emulated_variables
from cosmicai.emulator import Emulator
from cosmicai.emulator.environment import without_account
from cosmicai.packaging.places import ROOT, BuildFolder
from tests.conftest import CACHE

TEAM, BUCKET = "smoke", "smoke-cosmicai"


class Tree:
    """A copy of what git holds, with the tfvars of a team and an embedded AWS of its own."""

    def __init__(self, folder: Path, aws: Emulator) -> None:
        self.folder, self.aws = folder, aws
        variables = emulated_variables(TEAM, aws)
        self._image = variables.pop("image_uri")
        del variables["storage"]["delete_results_on_destroy"]  # as in the example
        lines = (f"{name} = {json.dumps(value)}\n" for name, value in variables.items())
        (folder / "terraform" / "teams" / f"{TEAM}.tfvars").write_text("".join(lines))

    def smoke(self, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **without_account(os.environ), **self.aws.environment, "IMAGE": self._image, "APPROVE": TEAM,
            "PREFLIGHT": "skip",  # the embedded AWS has no quotas
            "PYTHON": sys.executable, "PYTHONPATH": f"{self.folder}:{self.folder / 'functions'}",
            "PATH": f"{self.folder / 'tools'}:{Path(sys.executable).parent}:{os.environ['PATH']}", **variables,
        }  # fmt: skip
        return subprocess.run(
            ["sh", "scripts/smoke.sh", TEAM], cwd=self.folder, env=environment, capture_output=True, text=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def left(self) -> list[str]:
        """What the account holds."""
        client = self.aws.client
        return [
            *(one["Name"] for one in client("s3").list_buckets()["Buckets"]),
            *(one["FunctionName"] for one in client("lambda").list_functions()["Functions"]),
            *(one["name"] for one in client("stepfunctions").list_state_machines()["stateMachines"]),
            *(one["RoleName"] for one in client("iam").list_roles()["Roles"]),
            *(one["logGroupName"] for one in client("logs").describe_log_groups()["logGroups"]),
        ]


@pytest.fixture(scope="module")
def tree(build: BuildFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    folder = tmp_path_factory.mktemp("smoke") / "tree"
    held = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(held, capture_output=True, text=True, check=True).stdout.splitlines():
        if name.startswith(("terraform/", "statemachine/", "scripts/", "functions/", "cosmicai/", "pyproject")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    kernels = Path("functions", "inference", "engine", "kernels")
    shutil.copytree(ROOT / kernels, folder / kernels, dirs_exist_ok=True)
    (folder / ".cosmicai").mkdir()
    CACHE.mkdir(parents=True, exist_ok=True)
    (folder / ".cosmicai" / "cache").symlink_to(CACHE)
    (folder / "tools").mkdir()
    with Emulator(build, 4) as aws:
        yield Tree(folder, aws)


def _instead_of(tree: Tree, name: str, content: str) -> None:
    (tree.folder / "tools" / name).write_text(f"#!/bin/sh\n{content}\n")
    (tree.folder / "tools" / name).chmod(0o755)


@pytest.mark.timeout(1200)
def test_it_runs_real_galaxies_and_leaves_nothing(tree: Tree) -> None:
    before = tree.left()
    process = tree.smoke()
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr
    assert "less than 1 USD" in process.stdout
    assert "120 redshifts agree with those of this machine" in process.stdout
    assert "smoke test passed" in process.stdout
    assert tree.left() == before


@pytest.mark.timeout(1200)
def test_it_destroys_what_failed(tree: Tree) -> None:
    """The run fails: the command line that starts it does."""
    before = tree.left()
    real = Path(sys.executable).with_name("cosmicai")
    _instead_of(tree, "cosmicai", f'[ "$1" != run ] || exit 3\nexec {real} "$@"')
    process = tree.smoke()
    (tree.folder / "tools" / "cosmicai").unlink()
    assert process.returncode == 3
    assert "destroying smoke" in process.stdout
    assert "smoke test passed" not in process.stdout
    assert tree.left() == before


def test_it_starts_for_nobody_who_has_not_said_so(tree: Tree) -> None:
    before = tree.left()
    process = tree.smoke(APPROVE="")
    assert process.returncode == 1
    assert "nothing was done" in process.stderr
    assert tree.left() == before


def test_a_bucket_that_exists_is_left_alone(tree: Tree) -> None:
    """As one of a deployment from another machine, of which no state is here."""
    s3 = tree.aws.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key="results/1/summary.json", Body=b"{}")
    process = tree.smoke()
    assert process.returncode == 1
    assert f"the bucket {BUCKET} exists; a smoke test makes a deployment of its own" in process.stderr
    assert s3.get_object(Bucket=BUCKET, Key="results/1/summary.json")["Body"].read() == b"{}"
    s3.delete_object(Bucket=BUCKET, Key="results/1/summary.json")
    s3.delete_bucket(Bucket=BUCKET)


def test_a_deployment_is_left_alone(tree: Tree) -> None:
    outputs = tree.folder / ".cosmicai" / "terraform" / f"{TEAM}.tfstate"
    outputs.parent.mkdir(exist_ok=True)
    kept = outputs.read_text() if outputs.exists() else None
    resource = {
        "mode": "managed", "type": "terraform_data", "name": "x", "instances": [{"attributes": {"id": "1"}}],
        "provider": 'provider["terraform.io/builtin/terraform"]',
    }  # fmt: skip
    state: dict[str, Any] = {"version": 4, "terraform_version": "1.11.4", "serial": 1, "lineage": "a"}
    outputs.write_text(json.dumps({**state, "outputs": {}, "resources": [resource]}))
    before = tree.left()
    process = tree.smoke()
    assert process.returncode == 1
    assert "smoke is deployed; a smoke test makes a deployment of its own" in process.stderr
    assert json.loads(outputs.read_text())["resources"]
    assert tree.left() == before
    outputs.unlink() if kept is None else outputs.write_text(kept)


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        ({"0.npz": [0.1, 0.2]}, "has predictions 0.npz, expected 0.npz, 1.npz"),
        ({"0.npz": [0.1, 0.2], "1.npz": [0.3]}, "has other galaxies"),
        ({"0.npz": [0.1, 0.2], "1.npz": [0.3, 0.1]}, "has other galaxies"),
        ({"0.npz": [0.1, 0.201], "1.npz": [0.3, np.nan]}, "differs by 0.001"),
        ({}, "has predictions of no rank"),
    ],
)
def test_other_redshifts_are_told(tmp_path: Path, ours: dict[str, list[float]], message: str) -> None:
    expected = {"0.npz": [0.1, 0.2], "1.npz": [0.3, np.nan]}
    for folder, files in (("ours", ours), ("expected", expected)):
        (tmp_path / folder / "predictions").mkdir(parents=True)
        for name, redshifts in files.items():
            np.savez(tmp_path / folder / "predictions" / name, z_pred=np.array(redshifts, np.float32))
    command = [sys.executable, str(ROOT / "scripts" / "compare.py")]
    paths = [str(tmp_path / "ours"), str(tmp_path / "expected")]
    process = subprocess.run([*command, *paths], capture_output=True, text=True)
    assert process.returncode == 1
    assert message in process.stderr
    same = subprocess.run([*command, paths[1], paths[1]], capture_output=True, text=True)
    assert same.returncode == 0
    assert same.stdout.startswith("4 redshifts agree")
