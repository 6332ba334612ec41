"""Express children of a Distributed Map, which LocalStack's grammar does not know: it has only STANDARD.

A definition is parsed with STANDARD in their place. Each such Map then ends a child after Express' limit and
counts it as timed out.
"""

from __future__ import annotations

import json
from typing import Any

from localstack.services.stepfunctions.asl.component.common.timeouts.timeout import (
    EvalTimeoutError,
    TimeoutSeconds,
)
from localstack.services.stepfunctions.asl.component.program.program import Program
from localstack.services.stepfunctions.asl.eval.environment import Environment
from localstack.services.stepfunctions.asl.eval.program_state import ProgramTimedOut
from localstack.services.stepfunctions.asl.parse.asl_parser import AmazonStateLanguageParser


class _Limited(Program):
    """A child execution with a time limit."""

    def eval(self, env: Environment) -> None:
        super().eval(env)
        if isinstance(env.program_state(), ProgramTimedOut):
            raise EvalTimeoutError


def learn_express(seconds: int) -> None:
    """Lets this process's LocalStack run Express children, each for `seconds` at most."""
    parse = AmazonStateLanguageParser.parse

    def parse_with_express(definition: str) -> Any:
        standard, express = _as_standard(definition)
        program, tree = parse(standard)
        for name in express:
            _limit(program.states.states[name].iteration_component, seconds)
        return program, tree

    AmazonStateLanguageParser.parse = staticmethod(parse_with_express)


def _as_standard(definition: str) -> tuple[str, list[str]]:
    """The definition with only Standard children, and the names of the Map states that had Express ones."""
    try:
        content = json.loads(definition)
        states = content["States"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        return definition, []  # LocalStack says what is wrong with it
    express = []
    for name, state in states:
        config = state.get("ItemProcessor", {}).get("ProcessorConfig", {})
        if config.get("ExecutionType") == "EXPRESS" and config.get("Mode") == "DISTRIBUTED":
            config["ExecutionType"] = "STANDARD"
            express.append(name)
    return (json.dumps(content), express) if express else (definition, [])


def _limit(component: Any, seconds: int) -> None:
    def program() -> Program:
        return _Limited(
            query_language=component._query_language,
            start_at=component._start_at,
            states=component._states,
            timeout_seconds=TimeoutSeconds(timeout_seconds=seconds),
            comment=component._comment,
        )

    component._get_iteration_program = program
