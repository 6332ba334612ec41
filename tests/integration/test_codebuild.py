"""make deploy BUILD=codebuild, from a machine without Docker, against an AWS that we did not write.

moto keeps the project, the context and the logs; tests/replica/builds.py carries out the buildspec. A stand-in
for docker on CodeBuild's machine records its arguments and its context, and pushes an image's manifest.

The tests follow each other: from builds that end without an image to a deployment, and to its end.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cosmicai.deploy.context import context_files
from cosmicai.packaging.assembly import image_tag
from tests.replica import DEPLOYER, replica
from tests.replica.calls import actions
from tests.replica.checkout import (
    BUCKET,
    DOCKER,
    IMAGE,
    REGISTRY,
    REPOSITORY,
    TEAM,
    TERRAFORM,
    Checkout,
    copy_project,
    stand_in,
)
from tests.replica.policies import MOST_CHARACTERS, allowed, findings_by_role, lacking, lengths, role_policy

pytestmark = pytest.mark.timeout(1800)

BUILDER = f"{TEAM}-cosmicai-image-builder"
_NO_DOCKER = "\nsys.exit('no Docker here')\n"
_ON_CODEBUILD = """
import hashlib, pathlib
if os.path.exists(os.environ["FAULT"]):
    print("ERROR: failed to solve: " + open(os.environ["FAULT"]).read())
    sys.exit(17)
if sys.argv[1:3] == ["buildx", "build"]:
    files = sorted(one for one in pathlib.Path().rglob("*") if one.is_file() and not one.is_symlink())
    context = {str(one): hashlib.sha256(one.read_bytes()).hexdigest() for one in files}
    links = {str(one): os.readlink(one) for one in pathlib.Path().rglob("*") if one.is_symlink()}
    with open(os.environ["CALLS"], "a") as calls:
        print(json.dumps(["context", {**context, **links}]), file=calls)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    folder = tmp_path_factory.mktemp("codebuild") / "tree"
    copy_project(folder)
    stand_in(folder.parent / "tools", "docker", _NO_DOCKER)
    stand_in(folder.parent / "tools", "terraform", TERRAFORM)
    stand_in(folder.parent / "machine", "docker", _ON_CODEBUILD + DOCKER)
    machine = folder.parent / "machine"
    path = f"{machine}:{Path(sys.executable).parent}:/usr/bin:/bin"
    variables = {"PATH": path, "CALLS": f"{machine}/calls", "FAULT": f"{machine}/fault"}
    with replica(folder.parent / "log", **variables) as aws:
        yield Checkout(folder, aws)


@dataclass(frozen=True)
class Deployment:
    """What `make deploy BUILD=codebuild` prints, and the calls of tools on this machine and on the builder."""

    printed: str
    calls: list[list[str]]
    built: list[list[Any]]


@pytest.fixture(scope="module")
def deployment(checkout: Checkout) -> Deployment:
    record = checkout.folder.parent / "machine" / "calls"
    record.write_text("")
    printed, calls = checkout.make("deploy", "BUILD=codebuild")
    return Deployment(printed, calls, [json.loads(line) for line in record.read_text().splitlines()])


@pytest.fixture
def fault(checkout: Checkout) -> Iterator[Path]:
    """What the stand-in for docker on the builder fails with, once it is written."""
    path = checkout.folder.parent / "machine" / "fault"
    yield path
    path.unlink(missing_ok=True)


def _contexts(checkout: Checkout) -> list[str]:
    listed = checkout.aws.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return [one["Key"] for one in listed]


def _functions(checkout: Checkout) -> list[str]:
    return [one["FunctionName"] for one in checkout.aws.client("lambda").list_functions()["Functions"]]


def test_a_build_that_fails_stops_the_deployment_with_its_own_words(checkout: Checkout, fault: Path) -> None:
    """What is there stays for the next attempt."""
    fault.write_text("no space left on device")
    process, _ = checkout.run("deploy", "BUILD=codebuild")
    assert process.returncode != 0
    assert "ERROR: failed to solve: no space left on device" in process.stdout
    message = f"error: the image was not built in {BUILDER}:"
    (line,) = (line for line in process.stderr.splitlines() if line.startswith(message))
    assert "phase PRE_BUILD: Error while executing command: aws ecr get-login-password" in line
    assert f"in CloudWatch: /aws/codebuild/{BUILDER}, " in line
    assert _contexts(checkout) == []
    assert _functions(checkout) == []


_BUILD = [sys.executable, "-m", "cosmicai.deploy.codebuild", "--region", "us-east-1", "--project", BUILDER]
_BUILD += ["--bucket", BUCKET, "--image", IMAGE, "--architecture", "arm64", "--variant", "lean"]


@pytest.mark.parametrize(
    ("start", "number"),
    [
        pytest.param(
            lambda checkout: checkout.start("deploy", "BUILD=codebuild"), signal.SIGTERM, id="SIGTERM"
        ),
        pytest.param(lambda checkout: checkout.start_command(_BUILD), signal.SIGINT, id="Ctrl-C"),
    ],
)
def test_an_interrupted_build_is_stopped(
    checkout: Checkout, fault: Path, start: Callable[[Checkout], subprocess.Popen[str]], number: int
) -> None:
    """By a CI system that ends make, which ends deploy.sh, and by Ctrl-C, in the project of the first."""
    os.mkfifo(fault)  # the stand-in for docker waits for a writer
    with start(checkout) as process:
        assert process.stdout
        assert process.stderr
        printed = ""
        while "Running command " not in printed:
            printed += (line := process.stdout.readline())
            assert line, process.stderr.read()
        process.send_signal(number)
        printed += process.stdout.read()  # of whatever make has left running, to its end
        (build_id,) = re.findall(rf"^building .* in ({BUILDER}:\S+); Ctrl-C stops it$", printed, re.MULTILINE)
        assert printed.splitlines()[-1] == f"stopped {build_id}", process.stderr.read()
    assert process.returncode != 0
    (build,) = checkout.aws.client("codebuild").batch_get_builds(ids=[build_id])["builds"]
    assert build["buildStatus"] == "STOPPED"
    assert _contexts(checkout) == []
    assert _functions(checkout) == []


def test_an_image_is_built_on_aws_of_what_this_machine_holds(
    checkout: Checkout, deployment: Deployment
) -> None:
    assert not [call for call in deployment.calls if call[0] == "docker"]
    assert f"building {IMAGE} in {BUILDER}:" in deployment.printed
    login, build, context = deployment.built
    assert login == ["docker", "login", "--username", "AWS", "--password-stdin", REGISTRY]
    arguments = ["--build-arg", "VARIANT=lean", "--build-arg", "EXTRA_PACKAGES="]
    command = ["buildx", "build", "--platform", "linux/arm64", "--provenance=false"]
    command += ["-f", "docker/inference.Dockerfile", *arguments, "-t", IMAGE, "--push", "."]
    assert build == ["docker", *command]
    assert set(context[1]) - {"context.tar.gz"} == set(context_files(checkout.folder))
    for name in context_files(checkout.folder):
        path = checkout.folder / name
        held = str(path.readlink()) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        assert context[1][name] == held, name
    assert _contexts(checkout) == []


@pytest.mark.usefixtures("deployment")
def test_the_image_is_deployed_and_the_builder_stays(checkout: Checkout) -> None:
    function = checkout.aws.client("lambda").get_function(FunctionName=REPOSITORY)
    assert function["Configuration"]["PackageType"] == "Image"
    assert image_tag() in IMAGE
    project = checkout.aws.client("codebuild").batch_get_projects(names=[BUILDER])["projects"][0]
    assert project["environment"]["type"] == "ARM_CONTAINER"
    logs = checkout.aws.client("logs")
    (group,) = logs.describe_log_groups(logGroupNamePrefix="/aws/codebuild/")["logGroups"]
    assert (group["logGroupName"], group["retentionInDays"]) == (f"/aws/codebuild/{BUILDER}", 30)


@pytest.mark.usefixtures("deployment")
def test_policies_are_sound_and_the_builders_is_just_enough(checkout: Checkout) -> None:
    findings = findings_by_role(checkout.aws)
    assert list(findings.values()) == [[]] * 7, findings
    document = role_policy(checkout.aws, BUILDER)
    # The stand-in pushes no layers: https://docs.aws.amazon.com/AmazonECR/latest/userguide/image-push-iam.html
    layers = {"BatchCheckLayerAvailability", "BatchGetImage", "CompleteLayerUpload", "InitiateLayerUpload"}
    unused = {f"ecr:{action}" for action in (*layers, "UploadLayerPart")}
    assert actions(checkout.aws.recording, "builder") | unused == allowed(document)
    resources = {one["Sid"]: one["Resource"] for one in document["Statement"]}
    assert resources["ReadContext"] == f"arn:aws:s3:::{BUCKET}/.cosmicai/build/*"
    assert resources["PushImage"].endswith(f":repository/{REPOSITORY}")


@pytest.mark.usefixtures("deployment")
def test_nothing_is_left_and_the_deployers_policy_was_enough(checkout: Checkout) -> None:
    """The last test: the deployment is destroyed."""
    checkout.make("destroy")
    assert checkout.aws.client("codebuild").list_projects()["projects"] == []
    assert checkout.aws.client("logs").describe_log_groups()["logGroups"] == []
    assert BUCKET not in {one["Name"] for one in checkout.aws.client("s3").list_buckets()["Buckets"]}
    assert lacking(actions(checkout.aws.recording, DEPLOYER)) == set()
    assert max(lengths().values()) <= MOST_CHARACTERS
