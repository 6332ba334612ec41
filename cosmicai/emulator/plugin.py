"""LocalStack's runtime-executor plugin that runs Lambda functions as processes on this machine.

LocalStack finds it through the entry point `localstack.lambda.runtime_executor` when LAMBDA_RUNTIME_EXECUTOR
is `cosmicai`. Here, a LocalStack executor only queues invocations: the processes belong to the SandboxPool.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from localstack.services.lambda_.invocation.lambda_models import FunctionVersion, InvocationResult
from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin
from localstack.services.lambda_.invocation.runtime_executor import RuntimeExecutor

from cosmicai.emulator.sandbox import Function, Invocation, SandboxPool
from cosmicai.emulator.settings import Settings


@cache
def _settings() -> Settings:
    return Settings.from_environment(dict(os.environ))


@cache
def _pool() -> SandboxPool:
    return SandboxPool(_settings().sandboxes, _settings().concurrency)


class ProcessExecutorPlugin(RuntimeExecutorPlugin):
    name = "cosmicai"

    def load(self, *args: Any, **kwargs: Any) -> type[RuntimeExecutor]:
        return ProcessExecutor


class ProcessExecutor(RuntimeExecutor):
    """Adapts the pool to LocalStack's interface."""

    _function: Function

    def start(self, env_vars: dict[str, Any]) -> None:
        environment = {k: str(v) for k, v in env_vars.items() if not k.startswith(("LOCALSTACK_", "EDGE_"))}
        self._function = _function(self.function_version, environment)

    def stop(self) -> None:
        """Nothing to end: the pool keeps the process for the next invocation."""

    def get_address(self) -> str:
        return "127.0.0.1"

    def get_endpoint_from_executor(self) -> str:
        return "127.0.0.1"

    def get_runtime_endpoint(self) -> str:
        return ""  # the pool serves the Runtime API itself

    def invoke(self, payload: dict[str, str]) -> InvocationResult:
        request_id = payload["invoke-id"]
        invocation = Invocation(request_id, payload["payload"].encode(), payload["trace-id"])
        outcome = _pool().invoke(self._function, invocation)
        return InvocationResult(request_id, outcome.payload, is_error=outcome.is_error, logs=outcome.log)

    def get_logs(self) -> str:
        return ""  # every invocation brings its own

    @classmethod
    def prepare_version(cls, function_version: FunctionVersion) -> None:
        if function_version.config.code:
            function_version.config.code.prepare_for_execution()
        else:
            _settings().image_folder(function_version.config.image.image_uri)

    @classmethod
    def cleanup_version(cls, function_version: FunctionVersion) -> None:
        _pool().retire(_key(function_version))


def _key(version: FunctionVersion) -> str:
    return f"{version.qualified_arn}@{version.config.internal_revision}"


def _function(version: FunctionVersion, environment: dict[str, str]) -> Function:
    config = version.config
    if config.code:
        folder, handler = Path(config.code.get_unzipped_code_location()), config.handler
    else:
        folder, handler = _settings().image_folder(config.image.image_uri), config.image_config.command[0]
    return Function(
        key=_key(version),
        arn=version.id.unqualified_arn(),
        version=version.id.qualifier,
        handler=handler,
        task_folder=folder,
        python=_settings().python,
        runtime=_settings().runtime if config.code else None,
        environment=environment,
        memory_mb=config.memory_size,
        timeout_seconds=config.timeout,
        module="awslambdaric" if config.code else "inference",  # the image's entry point
    )
