"""moto_server with what Terraform's provider asks for and moto lacks.

ValidateStateMachineDefinition is answered by the parser of the Amazon States Language with which moto itself
runs state machines; it knows all but Express children. ListStateMachineVersions is answered from moto's record
of the state machine. Of an instance's CPU credits moto says "standard" whatever it was started with; here they
are those it was started with.
"""

from __future__ import annotations

from moto.core.responses import ActionResult
from moto.ec2.responses.instances import InstanceResponse
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


def _versions(self: StepFunctionResponse) -> ActionResult:
    machine = self.stepfunction_backend.describe_state_machine(self._get_param("stateMachineArn"))
    versions = [
        {"stateMachineVersionArn": one.arn, "creationDate": one.creation_date}
        for one in machine.versions.values()
    ]
    return ActionResult({"stateMachineVersions": versions})


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


InstanceResponse.run_instances = _run_instances
InstanceResponse.describe_instance_credit_specifications = _credits
StepFunctionResponse.validate_state_machine_definition = _validated
StepFunctionResponse.list_state_machine_versions = _versions

if __name__ == "__main__":
    main()
