"""Checks of what runs and deployments need."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from cosmicai.deploy.providers import ProviderError, plugin_dir
from cosmicai.deploy.target import Target, TargetError, explained, find
from cosmicai.packaging.places import IS_INSTALLED, ROOT
from inference.engine.cpu import KERNELS, instructions


@dataclass(frozen=True)
class Check:
    """One check: whether it holds. detail: what was found, or the remedy."""

    name: str
    holds: bool
    detail: str


def examine(
    team: str | None, local: bool, profile: str | None, environment: Mapping[str, str], folder: Path
) -> Iterator[Check]:
    """Checks of this machine, then of the deployment. folder: the embedded AWS's."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check("Python", sys.version_info >= (3, 11), version)
    yield _tool("Terraform", ["terraform", "version"], "install Terraform 1.11 or newer")
    instruction_set = instructions()
    yield Check(
        "engine", instruction_set is not None, f"by {instruction_set}" if instruction_set else _no_kernels()
    )
    yield _provider(environment)
    if not local:
        yield _tool("AWS CLI", ["aws", "--version"], "install AWS CLI v2; `make deploy` needs it")
        remedy = "install Docker, or deploy with BUILD=codebuild, or with IMAGE=URI of an image that exists"
        yield _tool("Docker buildx", ["docker", "buildx", "version"], remedy)
        if team is not None:
            yield from _preflight(team, environment)
    try:
        target = find(team, local, profile, folder)
    except TargetError as error:
        yield Check("deployment", False, str(error))
        return
    yield Check("deployment", True, f"{target.name}, bucket {target.bucket}, {target.region}")
    yield from (_asked(name, ask) for name, ask in _questions(target).items())


def _provider(environment: Mapping[str, str]) -> Check:
    try:
        mirror = plugin_dir(environment)
    except ProviderError as error:
        return Check("AWS provider", False, str(error))
    return Check("AWS provider", True, f"from {mirror}" if mirror else "from the public registry")


def _preflight(team: str, environment: Mapping[str, str]) -> list[Check]:
    """What would stop `make deploy` of this team, which is possible only from a checkout."""
    if IS_INSTALLED:
        return [Check("settings", True, "not checked: a team is deployed from a checkout")]
    command = ["sh", str(ROOT / "scripts" / "preflight.sh"), team]
    own = {**environment, "PYTHON": sys.executable}
    completed = subprocess.run(command, env=own, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if completed.returncode:
        return [
            Check("settings", False, (completed.stderr.strip().splitlines() or ["no reason was given"])[-1])
        ]
    return [Check(**finding) for finding in json.loads(completed.stdout)]


def _no_kernels() -> str:
    if not KERNELS.exists():
        return "its kernels are not compiled: run `make environment`; until then torch computes"
    return "this CPU lacks AVX2, which its kernels need; torch computes"


def _questions(target: Target) -> dict[str, Callable[[], str]]:
    def identity() -> str:
        return str(target.client("sts").get_caller_identity()["Arn"])

    def machine() -> str:
        description = target.client("stepfunctions").describe_state_machine(
            stateMachineArn=target.state_machine_arn
        )
        return str(description["status"]).lower()

    def bucket() -> str:
        target.client("s3").head_bucket(Bucket=target.bucket)
        return "there"

    def inference() -> str:
        settings = target.client("lambda").get_function_configuration(FunctionName=target.inference_function)
        return f"{settings['MemorySize']} MB, {', '.join(settings['Architectures'])}, {settings['Timeout']} s"

    def concurrency() -> str:
        limit = target.client("lambda").get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"]
        return f"{limit:,} ranks at once; if a run has more, the others wait and metrics go through S3"

    return {
        "credentials": identity,
        "state machine": machine,
        "bucket": bucket,
        "inference function": inference,
        "concurrency": concurrency,
    }


def _asked(name: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(name, True, ask())
    except (BotoCoreError, ClientError) as error:
        return Check(name, False, explained(error) or str(error))


def _tool(name: str, command: list[str], remedy: str) -> Check:
    if shutil.which(command[0]) is None:
        return Check(name, False, remedy)
    completed = subprocess.run(command, capture_output=True, text=True)
    lines = (completed.stdout or completed.stderr).strip().splitlines()
    return Check(name, completed.returncode == 0, lines[0] if lines and completed.returncode == 0 else remedy)
