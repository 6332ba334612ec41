"""What would stop a deployment half-way: checks of the account before anything is created, each with a remedy.

Standard library and the aws command line, as scripts/deploy.sh: `python -m cosmicai.deploy.preflight` reads the
settings as JSON from its standard input, prints what does not hold, and exits with status 1 if there is any.
With --json it prints all findings. With --credentials REGION it reads nothing and checks the credentials alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from cosmicai.deploy.commandline import Ask, AskError, by_command_line

HOST_TYPE = "t4g.nano"  # as terraform/modules/rendezvous/main.tf has it
_LEAST_UNRESERVED = 100  # https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html
_NEW_ACCOUNT = 100  # ranks at once; accounts begin with 10 or 50, others have 1,000
_NEW_ACCOUNT_MB = 3008  # https://docs.aws.amazon.com/lambda/latest/dg/troubleshooting-deployment.html
_VPC_QUOTA = "L-F678F1CE"
_QUOTAS = "ask for more in the console under Service Quotas"


@dataclass(frozen=True)
class Settings:
    """A team's settings that the account may refuse. is_deployed: whether its bucket is in the state."""

    team: str
    region: str
    memory_mb: int
    bucket: str
    has_host: bool = False
    subnet_id: str | None = None
    max_concurrency: int | None = None
    reserved_concurrency: int | None = None
    is_deployed: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})


@dataclass(frozen=True)
class Finding:
    """One question, whether its answer lets a deployment succeed. detail: the answer, or the remedy."""

    name: str
    holds: bool
    detail: str


def examine(settings: Settings, ask: Ask) -> Iterator[Finding]:
    """Credentials first: without them nothing else is checked."""
    credentials = check_credentials(ask)
    yield credentials
    if not credentials.holds:
        return
    checks: dict[str, Callable[[Settings, Ask], Finding | None]] = {
        "bucket's name": _bucket,
        "concurrency": _concurrency,
    }
    if settings.has_host:
        checks |= {"type of the rendezvous host": _offered, "networks": _networks}
    for name, check in checks.items():
        try:
            finding = check(settings, ask)
        except AskError as error:  # the user may lack the permission to ask, which a deployment does not need
            finding = Finding(name, True, f"not checked: {error}")
        if finding:
            yield finding


def check_credentials(ask: Ask) -> Finding:
    try:
        account = str(ask("sts", "get-caller-identity")["Account"])
    except AskError as error:
        remedy = "sign in (`aws sso login`, `aws configure`), or set AWS_PROFILE"
        return Finding("credentials", False, f"{error}: {remedy}")
    return Finding("credentials", True, f"account {account}")


def _bucket(settings: Settings, ask: Ask) -> Finding | None:
    name = "bucket's name"
    try:
        ask("s3api", "head-bucket", "--bucket", settings.bucket)
    except AskError as error:
        if "(404)" in str(error) and not settings.is_deployed:
            return Finding(name, True, f"{settings.bucket} is free")
        if "(404)" in str(error):
            return Finding(name, True, f"{settings.bucket} is gone; it will be created again")
        if "(403)" in str(error) or "(301)" in str(error):
            fault = f"{settings.bucket} belongs to another account or region"
            return Finding(name, False, f"{fault}: set storage.bucket_name in the tfvars")
        raise
    if settings.is_deployed:
        return Finding(name, True, f"{settings.bucket} is the deployment's own")
    fault = f"{settings.bucket} exists already, outside this deployment's state"
    return Finding(name, False, f"{fault}: set storage.bucket_name in the tfvars, or restore the state")


def _concurrency(settings: Settings, ask: Ask) -> Finding:
    name = "concurrency"
    limits = ask("lambda", "get-account-settings")["AccountLimit"]
    limit, free = int(limits["ConcurrentExecutions"]), int(limits["UnreservedConcurrentExecutions"])
    if settings.memory_mb > _NEW_ACCOUNT_MB and limit <= _NEW_ACCOUNT:
        fault = f"an account with {limit} executions at once is new and allows {_NEW_ACCOUNT_MB} MB at most"
        remedy = f"set inference.memory_mb = {_NEW_ACCOUNT_MB}, or ask AWS Support for more memory"
        return Finding(name, False, f"{fault}: {remedy}")
    reserved = settings.reserved_concurrency
    if reserved is not None and not settings.is_deployed and free - reserved < _LEAST_UNRESERVED:
        fault = f"inference.reserved_concurrency = {reserved}, but {_LEAST_UNRESERVED} of {free} must stay free"
        most = max(0, free - _LEAST_UNRESERVED)
        return Finding(name, False, f"{fault}: reserve {most} at most, or {_QUOTAS}, Lambda")
    most_at_once = settings.max_concurrency
    if most_at_once is not None and most_at_once > limit:
        fault = f"inference.max_concurrency = {most_at_once}, but the account runs {limit} at once"
        return Finding(name, False, f"{fault}: set inference.max_concurrency = {limit}, or {_QUOTAS}, Lambda")
    at_once = min(value for value in (free, most_at_once, reserved) if value is not None)
    return Finding(name, True, f"{at_once:,} ranks at once")


def _offered(settings: Settings, ask: Ask) -> Finding:
    name, query = "type of the rendezvous host", ["ec2", "describe-instance-type-offerings"]
    type_filter = f"Name=instance-type,Values={HOST_TYPE}"
    answer = ask(*query, "--location-type", "availability-zone", "--filters", type_filter)
    zones = sorted(offer["Location"] for offer in answer["InstanceTypeOfferings"])
    without = "give rendezvous.address, or set rendezvous.enabled = false"
    if not zones:
        return Finding(name, False, f"no zone of {settings.region} offers {HOST_TYPE}: {without}")
    if settings.subnet_id:
        (subnet,) = ask("ec2", "describe-subnets", "--subnet-ids", settings.subnet_id)["Subnets"]
        if subnet["AvailabilityZone"] not in zones:
            fault = f"{settings.subnet_id} is in {subnet['AvailabilityZone']}, which does not offer {HOST_TYPE}"
            return Finding(name, False, f"{fault}: give a subnet in {', '.join(zones)}")
    return Finding(name, True, f"{HOST_TYPE} in {', '.join(zones)}")


def _networks(settings: Settings, ask: Ask) -> Finding | None:
    if settings.subnet_id:
        return None
    networks = ask("ec2", "describe-vpcs")["Vpcs"]
    own = f"{settings.team}-cosmicai-rendezvous-host"
    if any(tag == {"Key": "Name", "Value": own} for one in networks for tag in one.get("Tags", [])):
        return Finding("networks", True, "the deployment's own is there")
    code = ["--service-code", "vpc", "--quota-code", _VPC_QUOTA]
    quota = int(ask("service-quotas", "get-service-quota", *code)["Quota"]["Value"])
    count = f"{len(networks)} of {quota} VPCs in {settings.region}"
    if len(networks) >= quota:
        remedy = "give rendezvous.subnet_id, set rendezvous.enabled = false, or "
        return Finding("networks", False, f"{count}, and the rendezvous host needs one: {remedy}{_QUOTAS}, VPC")
    return Finding("networks", True, count)


def main() -> None:
    if sys.argv[1:2] == ["--credentials"]:
        findings = [check_credentials(by_command_line(sys.argv[2], os.environ))]
    else:
        settings = Settings.of(json.load(sys.stdin))
        findings = list(examine(settings, by_command_line(settings.region, os.environ)))
    if "--json" in sys.argv:
        print(json.dumps([asdict(finding) for finding in findings]))
        return
    for finding in findings:
        if not finding.holds:
            print(f"error: {finding.name}: {finding.detail}", file=sys.stderr)
    sys.exit(not all(finding.holds for finding in findings))


if __name__ == "__main__":
    main()
