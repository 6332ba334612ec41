"""CodeBuild that builds, for moto, which only keeps records of builds: it carries out a project's buildspec.

The commands run in a shell of this machine, in a folder of their own, with the variables of the build and the
keys of the project's role. What they print goes to the project's log group. The first command that fails ends
the build, and is told in the words of CodeBuild. Docker can be had in privileged environments alone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import moto.codebuild.responses as codebuild
import yaml
from moto.codebuild.models import CodeBuildBackend
from moto.core.responses import ActionResult

BUILDER = "builder"  # the access key of the project's role
_ARCHITECTURES = {"ARM_CONTAINER": "aarch64", "LINUX_CONTAINER": "x86_64"}
_processes: dict[str, subprocess.Popen[str]] = {}
_moto_checks_source, _moto_start_build = (
    codebuild._validate_required_params_source,
    codebuild.CodeBuildResponse.start_build,
)
_moto_delete_project = CodeBuildBackend.delete_project


def install() -> None:
    """In this process' moto."""
    codebuild._validate_required_params_source = _source
    codebuild.CodeBuildResponse.start_build = _start_build
    CodeBuildBackend.batch_get_builds = lambda self, ids: [_build_of(self, one) for one in ids]
    CodeBuildBackend.stop_build = _stop_build
    CodeBuildBackend.delete_project = _delete_project


def _source(source: dict[str, Any]) -> None:
    """moto wants a location of NO_SOURCE too; AWS refuses one, and asks for a buildspec."""
    if source["type"] != "NO_SOURCE":
        _moto_checks_source(source)
    elif source.get("location") or not source.get("buildspec"):
        raise codebuild.InvalidInputException("NO_SOURCE has no location, and a buildspec")


def _delete_project(self: CodeBuildBackend, project_name: str) -> None:
    """By its ARN too, as Terraform's provider names it; moto would delete nothing without a word."""
    _moto_delete_project(self, project_name.rpartition("/")[2])


def _build_of(backend: CodeBuildBackend, build_id: str) -> dict[str, Any]:
    builds = (build for history in backend.build_metadata_history.values() for build in history)
    return next(build for build in builds if build["id"] == build_id)


def _start_build(self: codebuild.CodeBuildResponse) -> ActionResult:
    build = _moto_start_build(self).result["build"]
    project = self.codebuild_backend.codebuild_projects[build["projectName"]].project_metadata
    overrides = self._get_param("environmentVariablesOverride") or []
    variables = {one["name"]: one["value"] for one in overrides}
    build["environment"] = {**project["environment"], "environmentVariables": overrides}
    build["logs"] = {"groupName": project["logsConfig"]["cloudWatchLogs"]["groupName"]}
    threading.Thread(target=_carry_out, args=(build, project, variables), daemon=True).start()
    return ActionResult({"build": build})


def _stop_build(self: CodeBuildBackend, build_id: str) -> dict[str, Any]:
    build = _build_of(self, build_id)
    build["buildStatus"] = "STOPPED"
    if build_id in _processes:
        os.killpg(_processes[build_id].pid, signal.SIGKILL)
    return build


def _carry_out(build: dict[str, Any], project: dict[str, Any], variables: dict[str, str]) -> None:
    """Whatever happens here, the build ends."""
    folder = tempfile.mkdtemp()
    try:
        _phases(build, project, variables, folder)
    finally:
        shutil.rmtree(folder)
        if build["buildStatus"] == "IN_PROGRESS":
            build["buildStatus"] = "FAILED"
        build |= {"currentPhase": "COMPLETED", "buildComplete": True}


def _phases(build: dict[str, Any], project: dict[str, Any], variables: dict[str, str], folder: str) -> None:
    environment = project["environment"]
    assert _ARCHITECTURES[environment["type"]] in environment["image"]
    own = {**os.environ, **json.loads(os.environ["REPLICA_BUILDS"]), **variables}
    own |= {"AWS_ACCESS_KEY_ID": BUILDER, "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    own |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": os.environ["REPLICA_ENDPOINT"]}
    if not environment["privilegedMode"]:
        own["PATH"] = "/usr/bin:/bin"
    build["logs"]["streamName"] = build["id"].rpartition(":")[2]
    say = _log(build["logs"])
    spec = yaml.safe_load(project["source"]["buildspec"])
    assert spec["version"] == 0.2
    for name in ("install", "pre_build", "build"):
        for command in spec["phases"].get(name, {}).get("commands", []):
            if fault := _run(command, folder, own, build["id"], say):
                context = {"statusCode": "COMMAND_EXECUTION_ERROR", "message": fault}
                phase = {"phaseType": name.upper(), "phaseStatus": "FAILED", "contexts": [context]}
                build["phases"].append(phase)
                return
    if build["buildStatus"] == "IN_PROGRESS":
        build["buildStatus"] = "SUCCEEDED"


def _run(
    command: str, folder: str, environment: dict[str, str], build_id: str, say: Callable[[str], None]
) -> str:
    """What CodeBuild reports about a command that failed; otherwise nothing."""
    say(f"Running command {command}\n")
    process = subprocess.Popen(
        ["sh", "-c", command], cwd=Path(folder), env=environment, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    _processes[build_id] = process
    assert process.stdout
    for line in process.stdout:
        say(line)
    status = process.wait()
    return f"Error while executing command: {command}. Reason: exit status {status}" if status else ""


def _log(logs: dict[str, str]) -> Callable[[str], None]:
    keys = {"aws_access_key_id": BUILDER, "aws_secret_access_key": "secret"}
    client = boto3.client("logs", region_name="us-east-1", endpoint_url=os.environ["REPLICA_ENDPOINT"], **keys)
    where = {"logGroupName": logs["groupName"], "logStreamName": logs["streamName"]}
    client.create_log_stream(**where)

    def say(line: str) -> None:
        client.put_log_events(**where, logEvents=[{"timestamp": int(time.time() * 1000), "message": line}])

    return say
