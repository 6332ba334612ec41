"""`make deploy` says in one line what is missing; with stand-ins for terraform, aws and docker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cosmicai.packaging import ROOT, image_tag

_TOOLS = ("sh", "sed", "cut", "cat", "dirname", "mkdir", "basename", "ln")
_RECORD = 'echo "$(basename "$0")" "$@" >> "$CALLS"; exit ${FAIL:-0}'


def _deploy(
    folder: Path, *arguments: str, without: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs scripts/deploy.sh in a copy of what it reads, where the tools only record their arguments."""
    tree, tools = folder / "tree", folder / "tools"
    for name in ("scripts", "docker", "cosmicai/packaging.py", "functions/inference", "requirements.lock"):
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)  # type: ignore[operator]
    teams = tree / "terraform" / "teams"
    teams.mkdir(parents=True)
    shutil.copyfile(ROOT / "terraform" / "teams" / "example.tfvars", teams / "team3.tfvars")
    tools.mkdir()
    for name in _TOOLS:
        (tools / name).symlink_to(str(shutil.which(name)))
    for name in {"terraform", "aws", "docker"} - set(without):
        (tools / name).write_text(f"#!/bin/sh\n{_RECORD}\n")
        (tools / name).chmod(0o755)
    variables = {**os.environ, "PATH": str(tools), "CALLS": str(folder / "calls"), **environment}
    variables["PYTHON"] = sys._base_executable  # type: ignore[attr-defined]
    command = [str(tools / "sh"), str(tree / "scripts" / "deploy.sh"), *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "without", "message"),
    [
        ((), (), "error: which team? make deploy TEAM=team3"),
        (("team9",), (), "error: terraform/teams/team9.tfvars is missing: copy terraform/teams/example.tfvars"),
        (("team3",), ("aws",), "error: the aws command line is missing"),
        (("team3",), ("docker",), "error: docker buildx is missing: install Docker, or pass an image"),
    ],
)
def test_what_is_missing_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], without: tuple[str, ...], message: str
) -> None:
    done = _deploy(tmp_path, *arguments, without=without)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_an_image_of_somebody_else_is_applied_without_docker(tmp_path: Path) -> None:
    done = _deploy(tmp_path, "team3", without=("docker",), IMAGE="repository/image:v1")
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0].startswith("terraform -chdir=terraform init")
    assert calls[1].endswith("-var-file=teams/team3.tfvars -var inference_image=repository/image:v1")


def test_an_image_that_is_pushed_already_is_not_built_again(tmp_path: Path) -> None:
    """The stand-in for aws finds every image; the registry is applied first, then everything with its tag."""
    done = _deploy(tmp_path, "team3")
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text()
    assert f"-var image_tag={image_tag()} -target=module.registry" in calls
    assert f"--image-ids imageTag={image_tag()}" in calls
    assert "docker buildx build" not in calls
    assert calls.rstrip().endswith(f"-var image_tag={image_tag()}")
