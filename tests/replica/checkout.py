"""A fresh copy of what git holds, from which make deploys a team into the replica.

Terraform, its provider and the aws command line are real. A stand-in for docker records its arguments, and
pushes an image's manifest where docker would push an image.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cosmicai.packaging.assembly import image_tag
from cosmicai.packaging.places import ROOT
from tests.replica import ACCOUNT, Replica

TEAM, BUCKET = "team3", "team3-cosmicai"
REGISTRY = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
REPOSITORY = "team3-cosmicai-inference"
IMAGE = f"{REGISTRY}/{REPOSITORY}:{image_tag()}-arm64-lean"
STATE = f".cosmicai/terraform/{TEAM}.tfstate"

_RECORD = """#!{python}
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    print(json.dumps(["{name}", *sys.argv[1:]]), file=calls)
"""
DOCKER = """
import boto3
if sys.argv[1] == "login":
    assert sys.stdin.read()
if sys.argv[1:3] == ["buildx", "build"]:
    repository, tag = sys.argv[sys.argv.index("-t") + 1].split("/")[1].split(":")
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    config = {"size": 2, "digest": "sha256:" + "0" * 64}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "layers": [], "config": config})
    boto3.client("ecr", "us-east-1").put_image(repositoryName=repository, imageTag=tag, imageManifest=manifest)
"""
TERRAFORM = '\nos.execv("{terraform}", ["terraform", *sys.argv[1:]])\n'


@dataclass(frozen=True)
class Checkout:
    """A fresh copy of what git holds, with the tfvars of a team."""

    folder: Path
    aws: Replica

    def make(self, target: str, *variables: str) -> tuple[str, list[list[str]]]:
        """What a target prints, and the calls of docker and terraform, which all succeed."""
        process, calls = self.run(target, *variables)
        assert process.returncode == 0, process.stdout[-3000:] + process.stderr
        return process.stdout, calls

    def run(self, target: str, *variables: str) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
        """Calls make, and reads the calls of docker and terraform."""
        process = self.start(target, *variables)
        output, errors = process.communicate()
        calls = self._calls.read_text().splitlines()
        result = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
        return result, [json.loads(line) for line in calls]

    def start(self, target: str, *variables: str) -> subprocess.Popen[str]:
        """Starts make."""
        self._calls.write_text("")
        return self.start_command(["make", target, f"TEAM={TEAM}", f"PYTHON={sys.executable}", *variables])

    def start_command(self, command: list[str]) -> subprocess.Popen[str]:
        """Starts a command in the copy, with the stand-ins and the replica's account."""
        tools = self.folder.parent / "tools"
        environment = {
            **self.aws.environment, "CALLS": str(self._calls), "APPROVE": TEAM,
            "PATH": f"{tools}:{Path(sys.executable).parent}:{self.aws.environment['PATH']}",
        }  # fmt: skip
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    @property
    def _calls(self) -> Path:
        return self.folder.parent / "calls"


def copy_project(folder: Path) -> None:
    """Copies the project there, with the tfvars of a team: the example's with another name."""
    held = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(held, capture_output=True, text=True, check=True).stdout.splitlines():
        if name.startswith(("terraform/", "statemachine/", "scripts/", "docker/", "functions/", "cosmicai/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    for name in ("Makefile", ".dockerignore"):
        shutil.copy(ROOT / name, folder)
    example = (folder / "terraform" / "teams" / "example.tfvars").read_text()
    assert example.count('"example"') == 1
    (folder / "terraform" / "teams" / f"{TEAM}.tfvars").write_text(example.replace('"example"', f'"{TEAM}"'))


def stand_in(tools: Path, name: str, then: str) -> None:
    """A program that records its arguments and then runs some lines of Python."""
    tools.mkdir(exist_ok=True)
    content = _RECORD.format(python=sys.executable, name=name) + then
    (tools / name).write_text(content.replace("{terraform}", str(shutil.which("terraform"))))
    (tools / name).chmod(0o755)
