"""The real root module, applied to an embedded AWS that all integration tests share."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import localstack_client.session
import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from cosmicai.deploy.terraform import Deployment, Outputs, emulated_variables
from cosmicai.emulator import Emulator
from cosmicai.emulator.environment import without_account
from cosmicai.packaging.places import BuildFolder

Json = dict[str, Any]
CONCURRENCY = 16  # ranks at once; more than that reduce over S3


@dataclass(frozen=True)
class Ran:
    """One ended execution: Step Functions' description of it and what it left in S3."""

    execution: Json
    cloud: Cloud
    payload: Json

    @property
    def status(self) -> str:
        return str(self.execution["status"])

    @property
    def cause(self) -> str:
        return str(self.execution.get("cause", ""))

    def objects(self) -> set[str]:
        """Names of all objects under the result path."""
        return self.cloud.keys(self.payload["bucket"], self.payload["result_path"] + "/")

    def read(self, name: str) -> Any:
        return json.loads(self.cloud.get(self.payload["bucket"], f"{self.payload['result_path']}/{name}"))

    def summaries(self) -> dict[str, bytes]:
        """What Summarize has written, by name."""
        names, folder = ("summary.json", "combined_data.json", "report.html"), self.payload["result_path"]
        return {name: self.cloud.get(self.payload["bucket"], f"{folder}/{name}") for name in names}

    def summarise_again(self) -> None:
        run = self.read("run.json")
        event = {name: self.payload[name] for name in ("bucket", "result_path")}
        event |= {name: run[name] for name in ("run_id", "world_size")}
        answer = self.cloud.aws.client("lambda").invoke(
            FunctionName=self.cloud.outputs.function_names["summarize"],
            Payload=json.dumps({**event, "tolerated_failure_percentage": 0}),
        )
        assert "FunctionError" not in answer, answer["Payload"].read()

    def predictions(self, rank: int) -> dict[str, np.ndarray]:
        key = f"{self.payload['result_path']}/predictions/{rank}.npz"
        with np.load(io.BytesIO(self.cloud.get(self.payload["bucket"], key))) as arrays:
            return dict(arrays)


@dataclass(frozen=True)
class Cloud:
    """The deployment under test, talked to through localstack-client and the aws command line."""

    aws: Emulator
    outputs: Outputs
    s3: Any
    stepfunctions: Any
    logs: Any

    @property
    def bucket(self) -> str:
        return self.outputs.bucket

    def put(self, key: str, body: bytes) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)

    def put_all(self, prefix: str, bodies: dict[str, bytes]) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda item: self.put(f"{prefix}/{item[0]}", item[1]), bodies.items()))

    def get(self, bucket: str, key: str) -> bytes:
        body: bytes = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        return body

    def keys(self, bucket: str, prefix: str) -> set[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", [])}

    def payload(self, prefix: str, **fields: Any) -> Json:
        return {"bucket": self.bucket, "data_prefix": prefix, "result_path": f"results/{prefix}", **fields}

    def start(self, file: Path) -> str:
        """Starts an execution as a user does: a payload file and the aws command line."""
        command = [
            str(Path(sys.executable).with_name("aws")), "stepfunctions", "start-execution",
            "--state-machine-arn", self.outputs.state_machine_arn,
            "--name", f"run-{uuid.uuid4().hex[:12]}",
            "--input", f"file://{file}",
        ]  # fmt: skip
        environment = {**without_account(os.environ), **self.aws.environment}
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return str(json.loads(process.stdout)["executionArn"])

    def wait(self, execution_arn: str, payload: Json, seconds: float = 240) -> Ran:
        deadline = time.monotonic() + seconds
        while True:
            execution = self.stepfunctions.describe_execution(executionArn=execution_arn)
            if execution["status"] != "RUNNING":
                return Ran(execution, self, payload)
            assert time.monotonic() < deadline, f"{execution_arn} still runs after {seconds} s"
            time.sleep(0.1)


@contextmanager
def no_ranks(cloud: Cloud) -> Iterator[None]:
    """No rank can start meanwhile: invocations are throttled, and runs wait."""
    client, name = cloud.aws.client("lambda"), cloud.outputs.function_names["inference"]
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    try:
        with pytest.raises(client.exceptions.TooManyRequestsException):
            client.invoke(FunctionName=name, Payload=b"{}")
        yield
    finally:
        client.delete_function_concurrency(FunctionName=name)


@pytest.fixture(scope="session")
def aws(build: BuildFolder) -> Iterator[Emulator]:
    with Emulator(build, CONCURRENCY) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def cloud(aws: Emulator) -> Cloud:
    """The default deployment: the lean image, no scripts."""
    return deployed(aws, "example", emulated_variables("example", aws))


@pytest.fixture(scope="session")
def torch_cloud(aws: Emulator, torch_build: BuildFolder) -> Cloud:
    """A second team in the same account, whose image carries torch and whose payloads may name scripts."""
    return deployed(aws, "torch", emulated_variables("torch", aws, "torch", inference={"allow_scripts": True}))


def deployed(aws: Emulator, team: str, variables: Json) -> Cloud:
    """A team's own deployment."""
    outputs = Deployment(aws.folder / f"deployment-{team}", aws.environment, os.environ).apply(variables)
    aws.publish_relay_key(outputs.bucket)
    session = localstack_client.session.Session(
        localstack_host=aws.endpoint.removeprefix("http://"),
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106
    )
    clients = {name: session.client(name) for name in ("s3", "stepfunctions", "logs")}
    return Cloud(aws, outputs, **clients)


@pytest.fixture
def start(cloud: Cloud, tmp_path: Path) -> Callable[[Json], str]:
    """Starts a payload's run; returns the execution's ARN."""

    def start_payload(payload: Json) -> str:
        file = tmp_path / "payload.json"
        file.write_text(json.dumps(payload))
        return cloud.start(file)

    return start_payload


@pytest.fixture
def run(cloud: Cloud, start: Callable[[Json], str]) -> Callable[[Json], Ran]:
    """Runs a payload to its end."""
    return lambda payload: cloud.wait(start(payload), payload)


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A data prefix of the test's own."""
    return str(request.node.name).removeprefix("test_").replace("[", "-").replace("]", "")


@pytest.fixture
def partitions(
    make_partition: Callable[..., TensorDataset], saved: Callable[[object], bytes]
) -> Callable[..., dict[str, bytes]]:
    """Some small valid partition files by name."""

    def make(count: int, rows: int = 2) -> dict[str, bytes]:
        return {f"{n}.pt": saved(make_partition(rows, seed=n)) for n in range(1, count + 1)}

    return make


@pytest.fixture(scope="session")
def reference() -> Callable[[bytes], np.ndarray]:
    """Redshifts of a partition by the torch network itself, run directly on the file."""
    from inference.engine import astromae
    from inference.engine.loading import BUNDLED_MODEL

    model = astromae.load(BUNDLED_MODEL)

    def predict(data: bytes) -> np.ndarray:
        dataset = torch.load(io.BytesIO(data), weights_only=False)
        with torch.inference_mode():
            predicted: np.ndarray = model(dataset.tensors[0], dataset.tensors[1]).numpy()
        return predicted

    return predict
