"""moto_server with the two calls that Terraform's provider makes and moto lacks, and CodeBuild's builds.

ValidateStateMachineDefinition is answered by the parser of the Amazon States Language with which moto itself
runs state machines; it knows all but Express children. ListStateMachineVersions is answered from moto's record
of the state machine. moto denies whatever a statement with a condition denies, so a bucket that denies plain
HTTP would take no object: here requests count as encrypted.
"""

from __future__ import annotations

from typing import Any

import builds
from moto.core.responses import ActionResult
from moto.iam.access_control import IAMPolicyStatement, PermissionResult
from moto.server import main
from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser
from moto.stepfunctions.responses import StepFunctionResponse


def _validated(self: StepFunctionResponse) -> ActionResult:
    try:
        AmazonStateLanguageParser.parse(self._get_param("definition").replace('"EXPRESS"', '"STANDARD"'))
    except Exception as error:
        told = {"severity": "ERROR", "code": "SCHEMA_VALIDATION_FAILED", "message": str(error)}
        return ActionResult({"result": "FAIL", "diagnostics": [told], "truncated": False})
    return ActionResult({"result": "OK", "diagnostics": [], "truncated": False})


_moto_permits = IAMPolicyStatement.is_action_permitted


def _permits(self: IAMPolicyStatement, *asked: Any, **more: Any) -> PermissionResult:
    if self._statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}:
        return PermissionResult.NEUTRAL
    return _moto_permits(self, *asked, **more)


def _versions(self: StepFunctionResponse) -> ActionResult:
    machine = self.stepfunction_backend.describe_state_machine(self._get_param("stateMachineArn"))
    versions = [
        {"stateMachineVersionArn": one.arn, "creationDate": one.creation_date}
        for one in machine.versions.values()
    ]
    return ActionResult({"stateMachineVersions": versions})


StepFunctionResponse.validate_state_machine_definition = _validated
StepFunctionResponse.list_state_machine_versions = _versions

IAMPolicyStatement.is_action_permitted = _permits
builds.install()

if __name__ == "__main__":
    main()
