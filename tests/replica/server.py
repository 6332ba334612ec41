"""moto_server with what Terraform's provider asks for and moto lacks, and CodeBuild's builds.

ValidateStateMachineDefinition is answered by the parser of the Amazon States Language with which moto itself
runs state machines; it knows all but Express children. ListStateMachineVersions is answered from moto's record
of the state machine. Of an instance's CPU credits moto says "standard" whatever it was started with; here they
are those it was started with. It applies a bucket's denials without their conditions; here those of plain HTTP
are left out, as AWS is reached by TLS. Its recorder may write two requests into each other. AWS Batch has a
role of its own, which moto wants to be named. moto's state machines do not translate the arguments that
Step Functions writes in its own way for AWS Batch. Its jobs end well; here those of a manifest in a folder
`killed`, but the first of an array, end as AWS Batch ends jobs that lack memory.
"""

from __future__ import annotations

import json
import threading
from typing import Any

import botocore.session
import builds
from botocore.exceptions import ParamValidationError
from botocore.validate import ParamValidator
from moto.batch.models import BatchBackend, Job
from moto.core.responses import ActionResult
from moto.ec2.responses.instances import InstanceResponse
from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.moto_api._internal.recorder.models import Recorder
from moto.s3.models import FakeBucket
from moto.server import main
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_batch import (
    StateTaskServiceBatch,
)
from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser
from moto.stepfunctions.responses import StepFunctionResponse


def _validated(self: StepFunctionResponse) -> ActionResult:
    try:
        AmazonStateLanguageParser.parse(self._get_param("definition").replace('"EXPRESS"', '"STANDARD"'))
    except Exception as error:
        diagnostic = {"severity": "ERROR", "code": "SCHEMA_VALIDATION_FAILED", "message": str(error)}
        return ActionResult({"result": "FAIL", "diagnostics": [diagnostic], "truncated": False})
    return ActionResult({"result": "OK", "diagnostics": [], "truncated": False})


def _versions(self: StepFunctionResponse) -> ActionResult:
    machine = self.stepfunction_backend.describe_state_machine(self._get_param("stateMachineArn"))
    versions = [
        {"stateMachineVersionArn": one.arn, "creationDate": one.creation_date}
        for one in machine.versions.values()
    ]
    return ActionResult({"stateMachineVersions": versions})


def _as_batch_writes(value: Any) -> Any:
    """{"JobName": …} as {"jobName": …}, at every level."""
    if isinstance(value, list):
        return [_as_batch_writes(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {name[0].lower() + name[1:]: _as_batch_writes(one) for name, one in value.items()}


def _arguments(self: StateTaskServiceBatch, parameters: dict[str, Any], *_: Any, **__: Any) -> None:
    """Raises botocore's ParamValidationError for an argument that AWS Batch does not know."""
    changed = _as_batch_writes(parameters)
    shape = botocore.session.get_session().get_service_model("batch").operation_model("SubmitJob").input_shape
    report = ParamValidator().validate(changed, shape)
    if report.has_errors():
        raise ParamValidationError(report=report.generate_report())
    parameters.clear()
    parameters.update(changed)


def _answer(self: StateTaskServiceBatch, response: Any, *_: Any, **__: Any) -> None:
    for name in list(response):
        response[name[0].upper() + name[1:]] = response.pop(name)


StateTaskServiceBatch._normalise_parameters = _arguments
StateTaskServiceBatch._normalise_response = _answer
_named = BatchBackend.create_compute_environment


def _with_role(self: BatchBackend, *arguments: Any, service_role: str = "", **named: Any) -> Any:
    """With AWS Batch's service-linked role where none is named."""
    if not service_role:
        name = "AWSServiceRoleForBatch"
        path = "/aws-service-role/batch.amazonaws.com/"
        roles = {role.name: role for role in self.iam_backend.get_roles()}
        role = roles.get(name) or self.iam_backend.create_role(name, "{}", path, None, "", {}, "3600", None)
        service_role = role.arn
    return _named(self, *arguments, service_role=service_role, **named)


BatchBackend.create_compute_environment = _with_role
_stopped = Job._mark_stopped


def _ended(self: Job, success: bool = True) -> None:
    places = (
        one["value"] for one in self.container_overrides.get("environment", []) if one["name"] == "MANIFEST"
    )
    parent = "size" in self.array_properties
    if any("/killed/" in place for place in places) and not self.job_id.endswith(":0"):
        success = False
        self.job_stopped_reason = "Array Child Job failed" if parent else "Essential container in task exited"
        if self.latest_attempt is not None:
            ending = {"exitCode": 137, "reason": "OutOfMemoryError: Container killed due to memory usage"}
            self.latest_attempt["container"] |= ending
    _stopped(self, success)


Job._mark_stopped = _ended


_CREDITS: dict[str, str] = {}  # by instance
_run = InstanceResponse.run_instances


def _run_instances(self: InstanceResponse) -> ActionResult:
    started = _run(self)
    for instance in started.result.instances:
        _CREDITS[instance.id] = self._get_param("CreditSpecification.CpuCredits", "standard")
    return started


def _credits(self: InstanceResponse) -> ActionResult:
    asked = [{"InstanceId": one, "CpuCredits": _CREDITS[one]} for one in self._get_param("InstanceIds", [])]
    return ActionResult({"InstanceCreditSpecifications": asked})


def _permission(self: FakeBucket, action: str, resource: str) -> Any:
    if self.policy is None:
        return PermissionResult.NEUTRAL
    policy = json.loads(self.policy)
    plain_http = {"Bool": {"aws:SecureTransport": "false"}}
    policy["Statement"] = [one for one in policy["Statement"] if one.get("Condition") != plain_http]
    return IAMPolicy(json.dumps(policy)).is_action_permitted(action, resource)


_recording = threading.Lock()
_record = Recorder._record_request


def _recorded_alone(self: Recorder, *request: Any) -> None:
    with _recording:
        _record(self, *request)


Recorder._record_request = _recorded_alone
FakeBucket.get_permission = _permission
InstanceResponse.run_instances = _run_instances
InstanceResponse.describe_instance_credit_specifications = _credits
StepFunctionResponse.validate_state_machine_definition = _validated
StepFunctionResponse.list_state_machine_versions = _versions

builds.install()

if __name__ == "__main__":
    main()
