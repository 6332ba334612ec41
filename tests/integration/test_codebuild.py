"""make deploy BUILD=codebuild, from a machine without Docker, against an AWS that we did not write.

moto keeps the project, the context and the logs; tests/replica/builds.py carries out the buildspec. A stand-in
for docker on CodeBuild's machine records its arguments and its context, and pushes an image's manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

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
from tests.replica.policies import assert_policies_are_sound, assert_the_deployer_may

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


def _contexts(checkout: Checkout) -> list[str]:
    listed = checkout.aws.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return [one["Key"] for one in listed]


@pytest.mark.timeout(1800)
def test_an_image_is_built_on_aws_and_deployed(checkout: Checkout) -> None:
    machine, tree = checkout.folder.parent / "machine", checkout.folder

    # A build that fails stops the deployment with its own words; what is there stays for the next attempt.
    (machine / "fault").write_text("no space left on device")
    process, _ = checkout.run("deploy", "BUILD=codebuild")
    assert process.returncode != 0
    assert "ERROR: failed to solve: no space left on device" in process.stdout
    message = f"error: the image was not built in {BUILDER}:"
    (line,) = (line for line in process.stderr.splitlines() if line.startswith(message))
    assert "phase PRE_BUILD: Error while executing command: aws ecr get-login-password" in line
    assert f"in CloudWatch: /aws/codebuild/{BUILDER}, " in line
    assert _contexts(checkout) == []
    assert checkout.aws.client("lambda").list_functions()["Functions"] == []

    (machine / "fault").unlink()
    _assert_an_interrupted_build_is_stopped(checkout, machine / "fault")
    (machine / "calls").write_text("")
    printed, calls = checkout.make("deploy", "BUILD=codebuild")
    assert not [call for call in calls if call[0] == "docker"]
    assert f"building {IMAGE} in {BUILDER}:" in printed
    login, build, context = (json.loads(line) for line in (machine / "calls").read_text().splitlines())
    assert login == ["docker", "login", "--username", "AWS", "--password-stdin", REGISTRY]
    arguments = ["--build-arg", "VARIANT=lean", "--build-arg", "EXTRA_PACKAGES="]
    command = ["buildx", "build", "--platform", "linux/arm64", "--provenance=false"]
    command += ["-f", "docker/inference.Dockerfile", *arguments, "-t", IMAGE, "--push", "."]
    assert build == ["docker", *command]
    assert set(context[1]) - {"context.tar.gz"} == set(context_files(tree))
    for name in context_files(tree):
        path = tree / name
        held = str(path.readlink()) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        assert context[1][name] == held, name
    assert _contexts(checkout) == []
    function = checkout.aws.client("lambda").get_function(FunctionName=REPOSITORY)
    assert function["Configuration"]["PackageType"] == "Image"
    assert image_tag() in IMAGE

    project = checkout.aws.client("codebuild").batch_get_projects(names=[BUILDER])["projects"][0]
    assert project["environment"]["type"] == "ARM_CONTAINER"
    (group,) = checkout.aws.client("logs").describe_log_groups(logGroupNamePrefix="/aws/codebuild/")[
        "logGroups"
    ]
    assert (group["logGroupName"], group["retentionInDays"]) == (f"/aws/codebuild/{BUILDER}", 30)
    assert_policies_are_sound(checkout.aws, roles=7)
    _assert_the_role_is_just_enough(checkout)

    checkout.make("destroy")
    assert checkout.aws.client("codebuild").list_projects()["projects"] == []
    assert checkout.aws.client("logs").describe_log_groups()["logGroups"] == []
    assert BUCKET not in {one["Name"] for one in checkout.aws.client("s3").list_buckets()["Buckets"]}
    assert_the_deployer_may(actions(checkout.aws.recording, DEPLOYER))


def _assert_an_interrupted_build_is_stopped(checkout: Checkout, fault: Path) -> None:
    """By a CI system that ends make, which ends deploy.sh, and by Ctrl-C."""
    os.mkfifo(fault)  # the stand-in for docker waits for a writer
    command = [sys.executable, "-m", "cosmicai.deploy.codebuild", "--region", "us-east-1", "--project", BUILDER]
    command += ["--bucket", BUCKET, "--image", IMAGE, "--architecture", "arm64", "--variant", "lean"]
    for start, number in (
        (lambda: checkout.start("deploy", "BUILD=codebuild"), signal.SIGTERM),
        (lambda: checkout.start_command(command), signal.SIGINT),
    ):
        with start() as process:
            assert process.stdout
            assert process.stderr
            printed = ""
            while "Running command " not in printed:
                printed += (line := process.stdout.readline())
                assert line, process.stderr.read()
            process.send_signal(number)
            printed += process.stdout.read()  # of whatever make has left running, to its end
            (build_id,) = re.findall(
                rf"^building .* in ({BUILDER}:\S+); Ctrl-C stops it$", printed, re.MULTILINE
            )
            assert printed.splitlines()[-1] == f"stopped {build_id}", process.stderr.read()
        assert process.returncode != 0
        (build,) = checkout.aws.client("codebuild").batch_get_builds(ids=[build_id])["builds"]
        assert build["buildStatus"] == "STOPPED"
        assert _contexts(checkout) == []
    fault.unlink()
    assert checkout.aws.client("lambda").list_functions()["Functions"] == []


def _assert_the_role_is_just_enough(checkout: Checkout) -> None:
    iam = checkout.aws.client("iam")
    document = iam.get_role_policy(RoleName=BUILDER, PolicyName=BUILDER)["PolicyDocument"]
    listed = (one["Action"] for one in document["Statement"])
    allowed = {action for one in listed for action in ([one] if isinstance(one, str) else one)}
    # The stand-in pushes no layers: https://docs.aws.amazon.com/AmazonECR/latest/userguide/image-push-iam.html
    layers = {"BatchCheckLayerAvailability", "BatchGetImage", "CompleteLayerUpload", "InitiateLayerUpload"}
    unused = {f"ecr:{action}" for action in (*layers, "UploadLayerPart")}
    assert actions(checkout.aws.recording, "builder") | unused == allowed
    resources = {one["Sid"]: one["Resource"] for one in document["Statement"]}
    assert resources["ReadContext"] == f"arn:aws:s3:::{BUCKET}/.cosmicai/build/*"
    assert resources["PushImage"].endswith(f":repository/{REPOSITORY}")
