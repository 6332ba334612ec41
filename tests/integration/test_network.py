"""Ranks in private subnets, as Terraform makes them against an AWS that we did not write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.replica import ACCOUNT, DEPLOYER, Replica, replica
from tests.replica.calls import actions
from tests.replica.policies import lacking
from tests.replica.terraform import Root

NAME = "team3-cosmicai-ranks"
REPOSITORY = "inference"
IMAGE = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/{REPOSITORY}:1"


@dataclass(frozen=True)
class Applied:
    """The replica with a private subnet, its route table, and the ranks' function in it."""

    aws: Replica
    vpc: str
    subnet: str
    table: str
    root: Root


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Applied]:
    folder = tmp_path_factory.mktemp("network")
    with replica(folder / "log") as aws:
        ec2, ecr = aws.client("ec2"), aws.client("ecr")
        vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.1.1.0/24")["Subnet"]["SubnetId"]
        table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        ecr.create_repository(repositoryName=REPOSITORY)
        manifest = {
            "schemaVersion": 2, "layers": [],
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"size": 2, "digest": "sha256:" + "0" * 64},
        }  # fmt: skip
        ecr.put_image(repositoryName=REPOSITORY, imageTag="1", imageManifest=json.dumps(manifest))
        network = {"subnet_ids": [subnet], "route_table_ids": [table]}
        root = Root(
            aws,
            folder,
            {"team": "team3", "image_uri": IMAGE, "network": network, "rendezvous": {"enabled": False}},
        )
        root.run("apply", "module.inference", "module.network")
        yield Applied(aws, vpc, subnet, table, root)


def test_the_ranks_are_in_the_subnet_behind_a_group_that_lets_nothing_in(applied: Applied) -> None:
    configuration = applied.aws.client("lambda").get_function(FunctionName="team3-cosmicai-inference")[
        "Configuration"
    ]
    (group,) = applied.aws.client("ec2").describe_security_groups(
        Filters=[{"Name": "group-name", "Values": [NAME]}]
    )["SecurityGroups"]
    assert configuration["VpcConfig"]["SubnetIds"] == [applied.subnet]
    assert configuration["VpcConfig"]["SecurityGroupIds"] == [group["GroupId"]]
    assert (group["VpcId"], group["IpPermissions"]) == (applied.vpc, [])
    (out,) = group["IpPermissionsEgress"]
    assert (out["FromPort"], out["ToPort"], out["IpRanges"]) == (443, 443, [])
    assert len(out["PrefixListIds"]) == 1


def test_s3_is_reached_without_a_way_to_the_internet(applied: Applied) -> None:
    ec2 = applied.aws.client("ec2")
    (endpoint,) = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    assert (endpoint["VpcEndpointType"], endpoint["VpcId"]) == ("Gateway", applied.vpc)
    assert endpoint["ServiceName"] == "com.amazonaws.us-east-1.s3"
    assert endpoint["RouteTableIds"] == [applied.table]
    assert ec2.describe_nat_gateways()["NatGateways"] == []
    assert [one for one in ec2.describe_addresses()["Addresses"] if "PublicIp" in one] == []


def test_nothing_is_left_and_the_deployers_policies_were_enough(applied: Applied) -> None:
    """The last test: the team's own network stays."""
    applied.root.run("destroy", "module.inference", "module.network")
    ec2 = applied.aws.client("ec2")
    assert [one["State"] for one in ec2.describe_vpc_endpoints()["VpcEndpoints"]] in ([], ["deleted"])
    assert ec2.describe_subnets(SubnetIds=[applied.subnet])["Subnets"]
    assert lacking(actions(applied.aws.recording, DEPLOYER), "deployer", "deployer-network") == set()
