"""The deployment that a command refers to, a team's on AWS or that of `cosmicai local`, and clients for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOTokenLoadError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from cosmicai.commands import command
from cosmicai.emulator.environment import direct, session
from cosmicai.packaging.places import IS_INSTALLED, STATE

STATES = STATE / "terraform"  # where `make deploy` keeps them
_DEPLOY = "run `make deploy TEAM=…`" + (
    " in a checkout and set COSMICAI_HOME to that folder" if IS_INSTALLED else ""
)
_KEPT = (".tfstate", ".outputs.json")  # the state itself, or its outputs if the state is in S3


class TargetError(RuntimeError):
    """There is no such deployment, or it cannot be reached; the message says what to do."""


def local_folder(environment: Mapping[str, str]) -> Path:
    """Where the embedded AWS that runs keeps its state: COSMICAI_LOCAL, or a folder of STATE."""
    return Path(environment.get("COSMICAI_LOCAL") or STATE / "local")


@dataclass(frozen=True)
class Target:
    """A deployment: the outputs that commands need, and the session for its clients."""

    name: str
    bucket: str
    state_machine_arn: str
    session: Any
    endpoint: str | None = None
    profile: str | None = None  # of the AWS configuration; None: the environment's

    @property
    def region(self) -> str:
        return self.state_machine_arn.split(":")[3]

    @property
    def inference_function(self) -> str:
        return f"{self.state_machine_arn.rpartition(':')[2]}-inference"

    @property
    def batch_logs(self) -> str:
        """The log group of ranks on AWS Batch, as terraform/modules/batch names it."""
        return f"/aws/batch/{self.state_machine_arn.rpartition(':')[2]}-batch"

    def client(self, service: str) -> Any:
        options = {"max_pool_connections": 32, "retries": {"mode": "standard", "total_max_attempts": 4}}
        config = direct(**options) if self.endpoint else Config(**options)
        return self.session.client(service, region_name=self.region, endpoint_url=self.endpoint, config=config)

    def command(self, *words: str | Path) -> str:
        """A command for this deployment as messages write it, with --local or --team, and --profile."""
        options = ["--local"] if self.endpoint else ["--team", self.name]
        return command(*words, *options, *(["--profile", self.profile] if self.profile else []))

    def execution_arn(self, name: str) -> str:
        """The ARN of an execution by its name; an ARN is returned unchanged."""
        if name.startswith("arn:"):
            return name
        return f"{self.state_machine_arn.replace(':stateMachine:', ':execution:')}:{name}"


def find(team: str | None, local: bool, profile: str | None, folder: Path) -> Target:
    """The named deployment, or the only one. folder: the embedded AWS's. Raises TargetError."""
    if local and team is not None:
        raise TargetError("give --team or --local, not both")
    if local:
        return _local(folder)
    states = {path.name.partition(".")[0]: path for kind in _KEPT for path in STATES.glob(f"*{kind}")}
    deployed = sorted(states)
    if team is None:
        running = _local_state(folder) is not None
        if len(deployed) + running != 1:
            known = ", ".join([*(f"--team {name}" for name in deployed), *(["--local"] if running else [])])
            raise TargetError(
                f"there are several deployments: give {known}" if known else
                f"nothing is deployed from here: {_DEPLOY} for AWS, or `cosmicai local up`"
            )  # fmt: skip
        if running:
            return _local(folder)
        team = deployed[0]
    if team not in deployed:
        raise TargetError(
            f"team {team} is not deployed from here ({STATES} has {', '.join(deployed) or 'no state'}): "
            f"{_DEPLOY.replace('…', team)}, or give --local"
        )
    outputs = _outputs(states[team])
    session = boto3.Session(profile_name=profile) if profile else boto3.Session()
    return Target(team, outputs["bucket"], outputs["state_machine_arn"], session, profile=profile)


def _outputs(state: Path) -> dict[str, Any]:
    try:
        content = json.loads(state.read_text(encoding="utf-8"))
        values = content.get("outputs", {}) if state.suffix == ".tfstate" else content
        outputs = {name: value["value"] for name, value in values.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TargetError(f"{state} is not what Terraform writes; restore it, or deploy again") from error
    for name in ("bucket", "state_machine_arn"):
        if not outputs.get(name):
            raise TargetError(f"{state} has no output {name}: its deployment did not finish; deploy it again")
    return outputs


def _local(folder: Path) -> Target:
    state = _local_state(folder)
    if state is None:
        raise TargetError("the embedded AWS is not running: start it with `cosmicai local up`")
    return local_target(state)


def _local_state(folder: Path) -> dict[str, Any] | None:
    from cosmicai.deploy.local import (
        running_state,  # psutil and the emulator, which a team's commands need not load
    )

    return running_state(folder)


def local_target(state: Mapping[str, Any]) -> Target:
    """The deployment of the embedded AWS; state: what `cosmicai local up` has written."""
    return Target("local", state["bucket"], state["state_machine_arn"], session(), state["endpoint"])


_REMEDIES = {
    "ExpiredToken": "the credentials have expired: sign in again (`aws sso login`), or renew them",
    "ExpiredTokenException": "the credentials have expired: sign in again (`aws sso login`), or renew them",
    "InvalidClientTokenId": "AWS does not know these credentials: check AWS_PROFILE or the access key",
    "UnrecognizedClientException": "AWS does not know these credentials: check AWS_PROFILE or the access key",
    "AccessDenied": "these credentials may not do that: use the team's account and role",
    "AccessDeniedException": "these credentials may not do that: use the team's account and role",
    "ThrottlingException": "AWS asks to slow down: wait a minute and try again",
    "TooManyRequestsException": "AWS asks to slow down: wait a minute and try again",
    "StateMachineDoesNotExist": "the state machine is gone: was it destroyed, or is this another account?",
    "ExecutionAlreadyExists": "a run of this name exists already: give another --name",
    "NoSuchBucket": "the bucket is gone: was the deployment destroyed, or is this another account?",
}


def explained(error: Exception) -> str | None:
    """What an AWS error means and what to do, in a line or two; None for any other error."""
    if isinstance(error, ClientError):
        fault = error.response.get("Error", {})
        code, message = fault.get("Code", "unknown"), fault.get("Message", "")
        remedy = _REMEDIES.get(code)
        text = f"{error.operation_name}: {code}: {message}".rstrip(": ")
        return f"{text}\n{remedy}" if remedy else text
    if isinstance(error, ProfileNotFound):
        return f"{error}: `aws configure list-profiles` shows the profiles; set --profile or AWS_PROFILE"
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return f"{error}: sign in (`aws sso login`, `aws configure`), or set --profile or AWS_PROFILE"
    if isinstance(error, SSOTokenLoadError | TokenRetrievalError | UnauthorizedSSOTokenError):
        return f"{error}: sign in again with `aws sso login`"
    if isinstance(error, ConnectionError):
        return f"AWS cannot be reached ({error}): is there a network, and is the region right?"
    return str(error) if isinstance(error, BotoCoreError) else None
