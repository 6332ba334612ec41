"""make deploy and make destroy from the example tfvars, against an AWS that we did not write.

Terraform, its provider and the aws command line are real. A stand-in for docker records its arguments, and
pushes an image's manifest where docker would push an image. The tests follow each other, as a team's
deployment goes from its first day to its last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cosmicai.packaging.assembly import image_tag
from tests.replica import DEPLOYER, Replica, replica
from tests.replica.calls import actions
from tests.replica.checkout import (
    BUCKET,
    DOCKER,
    IMAGE,
    REGISTRY,
    REPOSITORY,
    STATE,
    TEAM,
    TERRAFORM,
    Checkout,
    copy_project,
    stand_in,
)
from tests.replica.policies import MOST_CHARACTERS, findings_by_role, lacking, lengths

pytestmark = pytest.mark.timeout(1800)

ANY = f".cosmicai/terraform/{TEAM}/any"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    folder = tmp_path_factory.mktemp("deploy") / "tree"
    copy_project(folder)
    stand_in(folder.parent / "tools", "docker", DOCKER)
    stand_in(folder.parent / "tools", "terraform", TERRAFORM)
    with replica(folder.parent / "log") as aws:
        yield Checkout(folder, aws)


def _refused(call: Any, **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return str(caught.value.response["Error"]["Code"])


def _expected_calls(mirror: list[str]) -> list[list[str]]:
    """Of a first deployment, in this order and with nothing besides."""
    terraform = ["terraform", "-chdir=terraform"]
    apply = ["-var-file=teams/team3.tfvars", "-auto-approve", "-var", f"image_tag={image_tag()}"]
    build = ["buildx", "build", "--platform", "linux/arm64", "--provenance=false"]
    build += [
        "-f",
        "docker/inference.Dockerfile",
        "--build-arg",
        "VARIANT=lean",
        "--build-arg",
        "EXTRA_PACKAGES=",
    ]
    return [
        [*terraform, "init", "-input=false", "-lockfile=readonly", *mirror],
        [*terraform, "console", "-state=STATE", "-var-file=teams/team3.tfvars", "-var", "image_tag=none"],
        [*terraform, "console", "-state=STATE", "-var-file=teams/team3.tfvars", "-var", "image_tag=none"],
        ["terraform", "-chdir=ANY", "console", "-var-file=TFVARS"],
        [*terraform, "state", "list", "-state=STATE"],
        [*terraform, "console", "-state=STATE", "-var-file=teams/team3.tfvars", "-var", "image_tag=none"],
        ["docker", "buildx", "version"],
        [*terraform, "apply", "-state=STATE", *apply, "-target=module.registry"],
        [*terraform, "output", "-state=STATE", "-raw", "repository_url"],
        ["docker", "login", "--username", "AWS", "--password-stdin", REGISTRY],
        ["docker", *build, "-t", IMAGE, "--push", "."],
        [*terraform, "apply", "-state=STATE", *apply],
    ]


def test_the_example_is_deployed(checkout: Checkout) -> None:
    tree = checkout.folder
    printed, calls = checkout.make("deploy")
    paths = {f"-state={tree / STATE}": "-state=STATE", f"-chdir={tree / ANY}": "-chdir=ANY"}
    paths[f"-var-file={tree / 'terraform' / 'teams' / TEAM}.tfvars"] = "-var-file=TFVARS"
    calls = [[paths.get(word, word) for word in call] for call in calls]
    assert calls == _expected_calls([word for word in calls[0] if word.startswith("-plugin-dir=")])
    code = checkout.aws.client("lambda").get_function(FunctionName=REPOSITORY)["Code"]
    assert code["ImageUri"].startswith(IMAGE) or code["ResolvedImageUri"].startswith(
        f"{REGISTRY}/{REPOSITORY}@"
    )
    assert f"s3://{BUCKET}/25MB/" in printed
    findings = findings_by_role(checkout.aws)
    assert list(findings.values()) == [[]] * 6, findings


def test_a_second_deployment_moves_the_state_to_s3_and_changes_nothing(checkout: Checkout) -> None:
    s3, tree = checkout.aws.client("s3"), checkout.folder
    s3.create_bucket(Bucket="states")
    backend = 'bucket = "states"\nkey = "team3.tfstate"\nregion = "us-east-1"\nuse_lockfile = true\n'
    (tree / "terraform" / "teams" / f"{TEAM}.s3.tfbackend").write_text(
        f"{backend}skip_credentials_validation = true\nskip_requesting_account_id = true\n"
    )
    before = json.loads((tree / STATE).read_text())
    printed, calls = checkout.make("deploy")
    assert f"moved to S3: the state of {TEAM}" in printed
    assert "0 added, 0 changed, 0 destroyed" in printed
    assert ["buildx", "build"] not in [call[1:3] for call in calls]
    moved = json.load(s3.get_object(Bucket="states", Key="team3.tfstate")["Body"])
    assert _resources(moved) == _resources(before)  # and a new lineage, since the place was empty
    assert not (tree / STATE).exists()


def test_without_a_word_about_results_they_stay_and_are_protected_as_before(checkout: Checkout) -> None:
    s3 = checkout.aws.client("s3")
    s3.put_object(Bucket=BUCKET, Key="results/1/summary.json", Body=b"{}")
    printed, _ = checkout.make("destroy")
    assert f"kept: the bucket {BUCKET}, which holds objects" in printed
    assert s3.get_object(Bucket=BUCKET, Key="results/1/summary.json")["Body"].read() == b"{}"
    assert all(s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"].values())
    assert "DenyPlainHttp" in s3.get_bucket_policy(Bucket=BUCKET)["Policy"]
    assert s3.get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]["Rules"]
    assert _remaining(checkout.aws) == {}


def test_the_flag_that_the_tfvars_have_takes_effect_although_the_state_has_another(checkout: Checkout) -> None:
    s3, tree = checkout.aws.client("s3"), checkout.folder
    with (tree / "terraform" / "teams" / f"{TEAM}.tfvars").open("a") as variables:
        variables.write("storage = { delete_results_on_destroy = true }\n")
    checkout.make("destroy")
    assert _refused(s3.head_bucket, Bucket=BUCKET) == "404"
    assert s3.head_bucket(Bucket="states")


def test_the_deployers_policy_was_enough(checkout: Checkout) -> None:
    needed = actions(checkout.aws.recording, DEPLOYER)
    assert len(needed) > 80
    assert lacking(needed) == set()
    assert max(lengths().values()) <= MOST_CHARACTERS


def _resources(state: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(one.get("module", ""), one["type"], one["name"]) for one in state["resources"]}


def _remaining(aws: Replica) -> dict[str, list[str]]:
    """What the account holds apart from buckets and its default network: names by kind."""
    ec2 = aws.client("ec2")
    instances = [one for group in ec2.describe_instances()["Reservations"] for one in group["Instances"]]
    repositories = aws.client("ecr").describe_repositories()["repositories"]
    machines = aws.client("stepfunctions").list_state_machines()["stateMachines"]
    names = {
        "repositories": [one["repositoryName"] for one in repositories],
        "functions": [one["FunctionName"] for one in aws.client("lambda").list_functions()["Functions"]],
        "state machines": [one["name"] for one in machines],
        "roles": [one["RoleName"] for one in aws.client("iam").list_roles()["Roles"]],
        "log groups": [one["logGroupName"] for one in aws.client("logs").describe_log_groups()["logGroups"]],
        "instances": [one["InstanceId"] for one in instances if one["State"]["Name"] != "terminated"],
        "networks": [one["VpcId"] for one in ec2.describe_vpcs()["Vpcs"] if not one["IsDefault"]],
    }
    return {kind: listed for kind, listed in names.items() if listed}
