"""Applies the root module with Terraform, to AWS or to the embedded AWS, and reads its outputs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cosmicai.deploy.providers import plugin_dir
from cosmicai.emulator import Emulator
from cosmicai.emulator.environment import without_account
from cosmicai.emulator.guard import guard_command
from cosmicai.packaging.packages import NO_EXTRAS, ExtraPackages
from cosmicai.packaging.places import ROOT, image_name

TERRAFORM = ROOT / "terraform"


class DeploymentError(RuntimeError):
    """Terraform failed; the message holds what it printed."""


@dataclass(frozen=True)
class Outputs:
    """The root module's outputs."""

    bucket: str
    state_machine_arn: str
    function_names: dict[str, str]


class Deployment:
    """The root module with its state and working data in a folder of its own.

    environment: what Terraform and its provider need to reach the account, as in Emulator.environment.
    inherited: the environment of this process, without which no program starts; its own account is left out.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], inherited: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._plugins = plugin_dir(inherited)
        self._state = folder / "terraform.tfstate"
        data = {
            "TF_DATA_DIR": str(folder / "terraform"),
            "TF_IN_AUTOMATION": "1",
            "CHECKPOINT_DISABLE": "1",  # else Terraform asks the Internet for its newest release
        }
        self._environment = {**without_account(inherited), **environment, **data}

    def apply(self, variables: Mapping[str, Any]) -> Outputs:
        """Initialises and applies. Raises DeploymentError with Terraform's own message."""
        mirror = [] if self._plugins is None else [f"-plugin-dir={self._plugins}"]
        self._run("init", "-input=false", "-no-color", "-lockfile=readonly", *mirror)
        values = self._folder / "values.tfvars.json"
        values.write_text(json.dumps(dict(variables), indent=1))
        options = ("-input=false", "-no-color", "-auto-approve")
        self._run("apply", *options, f"-state={self._state}", f"-var-file={values}")
        return self.outputs()

    def outputs(self) -> Outputs:
        values = json.loads(self._run("output", "-json", f"-state={self._state}"))
        return Outputs(**{field.name: values[field.name]["value"] for field in fields(Outputs)})

    def _run(self, command: str, *options: str) -> str:
        completed = self._guarded(["terraform", command, *options])
        if completed.returncode:
            raise DeploymentError(
                f"terraform {command} failed:\n{(completed.stderr or completed.stdout).strip()}"
            )
        return completed.stdout

    def _guarded(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Runs Terraform so that it and its provider end with this process.

        Otherwise a provider tries for hours to reach an AWS that is gone.
        """
        guarded = guard_command(self._folder / "guard", command)
        theirs, ours = os.pipe()
        with os.fdopen(ours, "w") as owner, os.fdopen(theirs) as guards_input:
            process = subprocess.Popen(
                guarded,
                cwd=TERRAFORM,
                env=self._environment,
                stdin=guards_input,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            with process, owner:  # the pipe closes first, also on an exception; then the guard ends
                output, errors = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, output, errors)


def emulated_variables(
    team: str, aws: Emulator, variant: str = "lean", extra: ExtraPackages = NO_EXTRAS, **more: Any
) -> dict[str, Any]:
    """The variables that differ on the embedded AWS, and `more`, whose groups are added to these."""
    variables: dict[str, Any] = {
        "team": team,
        "s3_use_path_style": True,
        # The provider would wait a minute for lifecycle rules there.
        "storage": {
            "abort_uploads_after_days": 0,
            "expire_keys_after_days": 0,
            "delete_results_on_destroy": True,
        },
        # There is no ECR: the emulator knows the task folder.
        "image_uri": f"embedded/{image_name(variant, extra)}:latest",
        "build_folder": str(aws.build.root),
        "inference": {"architecture": "x86_64", "retry_seconds": 1, "max_concurrency": aws.concurrency},
        "rendezvous": {"address": aws.rendezvous},  # an EC2 instance is only a record there
    }
    for name, value in more.items():
        variables[name] = {**variables.get(name, {}), **value} if isinstance(value, dict) else value
    return variables
