"""`make deploy` says in one line what is missing; with stand-ins for terraform, aws and docker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cosmicai.deploy.doctor import examine
from cosmicai.deploy.providers import PLUGIN_DIR_VARIABLE, PROVIDER, plugin_dir
from cosmicai.deploy.terraform import TERRAFORM
from cosmicai.packaging.assembly import image_tag
from cosmicai.packaging.packages import ExtraPackages
from cosmicai.packaging.places import ROOT

_TOOLS = ("sh", "sed", "cat", "dirname", "mkdir", "basename", "ln", "expr", "tr", "sort")
_RECORD = 'echo "$(basename "$0")" "$@" >> "$CALLS"; exit ${FAIL:-0}'
_NAMES = (
    'case "$*" in */any" console "*) echo "\\"\\""; exit;; esac; '  # names in groups that no variable has: none
)
_CONSOLE = _NAMES + 'case "$*" in *" console "*) cat >> "$CALLS"; echo "\\"$VALUES\\"";; *) :;; esac; '
_FOUND = '[ -z "$NO_IMAGE" ] || [ "$2" != describe-images ] || { echo "$NO_IMAGE" >&2; FAIL=1; }; '
_NO_IMAGE = "An error occurred (ImageNotFoundException) when calling the DescribeImages operation"
_VALUES = "team3 us-east-1 docker arm64 lean"  # team, region, builder, architecture, variant, extra_packages


def _deploy(
    folder: Path, *arguments: str, without: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs scripts/deploy.sh in a copy of what it reads, where the tools only record their arguments."""
    tree, tools = folder / "tree", folder / "tools"
    modules = ("cosmicai/packaging", "cosmicai/deploy/providers.py")
    locked = ("functions/inference", "functions/build-requirements.lock")
    for name in ("scripts", "docker", *modules, *locked):
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)  # type: ignore[operator]
    teams = tree / "terraform" / "teams"
    teams.mkdir(parents=True)
    shutil.copyfile(ROOT / "terraform" / "teams" / "example.tfvars", teams / "team3.tfvars")
    shutil.copyfile(ROOT / "terraform" / "variables.tf", tree / "terraform" / "variables.tf")
    tools.mkdir()
    for name in _TOOLS:
        (tools / name).symlink_to(str(shutil.which(name)))
    for name in {"terraform", "aws", "docker"} - set(without):
        answer = _CONSOLE if name == "terraform" else _FOUND if name == "aws" else ""
        (tools / name).write_text(f"#!/bin/sh\n{answer}{_RECORD}\n")
        (tools / name).chmod(0o755)
    variables = {
        **os.environ,
        "PATH": str(tools),
        "CALLS": str(folder / "calls"),
        "VALUES": _VALUES,
        "PREFLIGHT": "skip",
        **environment,
    }
    variables["PYTHON"] = sys._base_executable  # type: ignore[attr-defined]
    command = [str(tools / "sh"), str(tree / "scripts" / "deploy.sh"), *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "without", "message"),
    [
        ((), (), "error: which team? make deploy TEAM=team3"),
        (("team9",), (), "error: terraform/teams/team9.tfvars is missing: copy terraform/teams/example.tfvars"),
        (("team3",), ("aws",), "error: the aws command line is missing"),
        (("team3",), ("docker",), "error: docker buildx is missing: install Docker, build the image on AWS"),
    ],
)
def test_what_is_missing_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], without: tuple[str, ...], message: str
) -> None:
    process = _deploy(tmp_path, *arguments, without=without)
    assert process.returncode == 1
    assert process.stderr.startswith(message)
    assert process.stderr.count("\n") == 1


def test_an_image_of_somebody_else_is_applied_without_docker(tmp_path: Path) -> None:
    process = _deploy(tmp_path, "team3", without=("docker",), IMAGE="repository/image:v1")
    assert process.returncode == 0, process.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0].startswith("terraform -chdir=terraform init")
    assert calls[-1].endswith("-var-file=teams/team3.tfvars -var image_uri=repository/image:v1")


def test_deploy_takes_the_provider_from_where_the_doctor_finds_it(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    (mirror / PROVIDER).mkdir(parents=True)
    named = {PLUGIN_DIR_VARIABLE: str(mirror)}
    process = _deploy(tmp_path, "team3", IMAGE="i:v1", **named)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "calls").read_text().splitlines()[0].endswith(f"-plugin-dir={mirror}")
    checks = {check.name: check for check in examine(None, False, None, named, tmp_path)}
    assert checks["AWS provider"].detail == f"from {mirror}"


def test_a_named_mirror_without_the_provider_stops_deploy_and_fails_the_doctor(tmp_path: Path) -> None:
    named = {PLUGIN_DIR_VARIABLE: str(tmp_path)}
    process = _deploy(tmp_path, "team3", IMAGE="i:v1", **named)
    assert process.returncode == 1
    assert process.stderr.startswith(f"error: {PLUGIN_DIR_VARIABLE}={tmp_path} holds no {PROVIDER}")
    assert not (tmp_path / "calls").exists()
    checks = {check.name: check for check in examine(None, False, None, named, tmp_path)}
    assert not checks["AWS provider"].holds
    assert checks["AWS provider"].detail in process.stderr


def test_an_image_that_is_pushed_already_is_not_built_again(tmp_path: Path) -> None:
    """The stand-in for aws finds every image; the registry is applied first, then everything with its tag."""
    process = _deploy(tmp_path, "team3")
    assert process.returncode == 0, process.stderr
    calls = (tmp_path / "calls").read_text()
    assert f"-var image_tag={image_tag()} -target=module.registry" in calls
    assert f"--image-ids imageTag={image_tag()}-arm64-lean" in calls
    assert "docker buildx build" not in calls
    assert calls.rstrip().endswith(f"-var image_tag={image_tag()}")


def test_an_image_that_is_built_on_aws_needs_no_docker(tmp_path: Path) -> None:
    """Its builder is applied with the registry, and BUILD stands over the tfvars in every call."""
    process = _deploy(
        tmp_path, "team3", without=("docker",), BUILD="codebuild", VALUES="team3 us-east-1 codebuild arm64 lean"
    )
    assert process.returncode == 0, process.stderr
    calls = (tmp_path / "calls").read_text()
    targets = "-target=module.registry -target=module.storage -target=module.image_builder"
    values = "-var-file=teams/team3.tfvars -var image_builder=codebuild"
    assert f"{values} -var image_tag={image_tag()} {targets}\n" in calls
    assert calls.endswith(f"{values} -var image_tag={image_tag()}\n")
    assert calls.count(values) == calls.count("-var-file=teams/team3.tfvars")


@pytest.mark.parametrize("script", ["deploy.sh", "plan.sh", "destroy.sh"])
def test_an_unknown_way_to_build_is_refused(tmp_path: Path, script: str) -> None:
    command = ["sh", str(ROOT / "scripts" / script), "team3"]
    process = subprocess.run(command, env={**os.environ, "BUILD": "kaniko"}, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.startswith("error: BUILD is neither docker nor codebuild: leave it out, or give")


def test_extra_packages_go_into_the_image_and_its_tag(tmp_path: Path) -> None:
    packages = ("timm==0.4.12 --no-deps", "pillow==13.0.0")
    process = _deploy(
        tmp_path,
        "team3",
        VALUES=f"team3 us-east-1 docker x86_64 torch {' '.join(packages)}",
        NO_IMAGE=_NO_IMAGE,
    )
    assert process.returncode == 0, process.stderr
    calls = (tmp_path / "calls").read_text()
    tag = image_tag(ExtraPackages(packages))
    assert tag != image_tag()
    assert f"-t :{tag}-x86_64-torch --push ." in calls
    assert "buildx build --platform linux/amd64" in calls
    assert "--build-arg EXTRA_PACKAGES=timm==0.4.12 --no-deps pillow==13.0.0 " in calls
    assert calls.rstrip().endswith(f"-var image_tag={tag}")


def test_an_image_that_cannot_be_looked_for_is_not_taken_for_missing(tmp_path: Path) -> None:
    message = "An error occurred (AccessDeniedException) when calling the DescribeImages operation"
    process = _deploy(tmp_path, "team3", NO_IMAGE=message)
    assert process.returncode == 1
    assert process.stderr == f"error: {message}\n"
    assert "docker buildx build" not in (tmp_path / "calls").read_text()


def test_extra_packages_that_are_none_stop_it_before_anything_is_made(tmp_path: Path) -> None:
    process = _deploy(tmp_path, "team3", VALUES="team3 us-east-1 docker arm64 torch timm")
    assert process.returncode == 1
    assert "extra_packages: 'timm' is not allowed: give a package of PyPI and one version" in process.stderr
    assert "apply" not in (tmp_path / "calls").read_text()


def test_terraform_itself_reads_the_tfvars(tmp_path: Path) -> None:
    """deploy.sh's own expression, with the real terraform on the real variables and a list of several lines."""
    script = (ROOT / "scripts" / "deploy.sh").read_text()
    expression = re.findall(r"value_of '(join\(.*\))'", script)[0]
    variables = tmp_path / "team.tfvars"
    variables.write_text(
        'team = "team3"\nimage = { extra_packages = [\n'
        '  "timm==0.4.12", # old\n  "six==1.17.0 --no-deps",\n] }\n'
    )
    data = {"TF_DATA_DIR": str(tmp_path / "data"), "AWS_EC2_METADATA_DISABLED": "true"}
    environment = {**os.environ, **data}
    mirror = plugin_dir(os.environ)
    start = ["terraform", f"-chdir={TERRAFORM}"]
    initialise = [*start, "init", "-backend=false", *([f"-plugin-dir={mirror}"] if mirror else [])]
    subprocess.run(initialise, env=environment, capture_output=True, check=True)
    ask = [*start, "console", f"-state={tmp_path}/none", f"-var-file={variables}", "-var", "image_tag=none"]
    process = subprocess.run(ask, env=environment, input=expression, capture_output=True, text=True, check=True)
    assert (
        process.stdout.splitlines()[-1]
        == '"team3 us-east-1 docker arm64 lean timm==0.4.12 six==1.17.0 --no-deps"'
    )
