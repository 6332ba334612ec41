"""The inference image: built by buildah from the context that `make deploy` sends, for both architectures."""

from __future__ import annotations

import io
import json
import platform
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from cosmicai.deploy.context import write_context
from cosmicai.emulator.sandbox import Function, Invocation, SandboxPool
from cosmicai.packaging.places import ROOT, BuildFolder
from inference.data.partition import read
from inference.engine.loading import BUNDLED_MODEL, load
from initialize.deployed import Deployed
from initialize.run import start
from tests import stand_in
from tests.replica import Replica, replica

HERE = {machine: name for name, machine in stand_in.MACHINES.items()}.get(platform.machine(), "")
ELSEWHERE = "amd64" if HERE == "arm64" else "arm64"
BUCKET = "team3-cosmicai"
DEPLOYED = Deployed(
    allow_scripts=False,
    has_redis=False,
    concurrency=lambda: 2,
    is_running=lambda name: False,
    memory_mb=3008,
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(stand_in.missing()), reason=stand_in.missing() or "-"),
    pytest.mark.skipif(not HERE, reason=f"no image is made for {platform.machine()}"),
]
Image = tuple[dict[str, Any], Path]
Build = Callable[[str], Image]


@pytest.fixture(scope="module")
def build_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    folder = tmp_path_factory.mktemp("image")
    packed = io.BytesIO()
    write_context(ROOT, packed)
    with tarfile.open(fileobj=io.BytesIO(packed.getvalue())) as archive:
        archive.extractall(folder / "context", filter="data")
    buildah = stand_in.Buildah(folder / "buildah")
    try:
        buildah.make_stand_in()
        yield lambda architecture: buildah.build(folder / "context", HERE, architecture)
    finally:
        buildah.close()
        shutil.rmtree(folder)  # more than a gigabyte


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[Replica]:
    with replica(tmp_path / "log") as running:
        yield running


@pytest.fixture
def galaxies(make_partition: Callable[..., TensorDataset], tmp_path: Path) -> bytes:
    path = tmp_path / "1.pt"
    torch.save(make_partition(70), path)
    return path.read_bytes()


def _function(build: BuildFolder, aws: Replica, python: Path) -> Function:
    variables = {name: value for name, value in aws.environment.items() if name.startswith("AWS_")}
    return Function(
        key=python.name,
        arn="arn:aws:lambda:us-east-1:123456789012:function:inference",
        version="$LATEST",
        handler="inference.handler.handler",
        task_folder=build.image("lean"),
        python=python,
        runtime=None,
        environment={
            **variables,
            "AWS_REGION": "us-east-1",
            "AWS_LAMBDA_FUNCTION_NAME": "inference",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
        },
        memory_mb=1769,
        timeout_seconds=120,
        module="inference",
    )


def _make_python(image: Image) -> Path:
    """A folder whose `bin/python`, which the emulator starts, runs the image's own command in the image."""
    described, root = image
    settings = described["config"]
    inside = ["/usr/bin/env", "-C", settings["WorkingDir"], *settings["Env"], "HOME=/tmp", "TMPDIR=/tmp"]
    command = stand_in.entering("ROOT", *inside, *settings["Entrypoint"], *settings["Cmd"])
    python = root / "bin" / "python"
    # The emulator binds the folder into a file system of the sandbox's own.
    python.write_text(f"#!/bin/sh\nexec {shlex.join(command)}\n".replace("ROOT", '"$(dirname "$0")/.."'))
    python.chmod(0o755)
    return root


def _redshifts(aws: Replica, function: Function, result_path: str, folder: Path) -> np.ndarray[Any, Any]:
    """Of a run with one rank, which is invoked as Lambda does it."""
    s3 = aws.client("s3")
    payload = {"bucket": BUCKET, "data_prefix": "data", "result_path": result_path, "collectives": "none"}
    start(s3, payload, "run-1", "2026-11-22T00:00:00Z", DEPLOYED)
    (event,) = json.load(s3.get_object(Bucket=BUCKET, Key=f"{result_path}/manifest.json")["Body"])
    pool = SandboxPool(folder, concurrency=1)
    try:
        outcome = pool.invoke(function, Invocation("r1", json.dumps(event).encode(), "Root=1"))
    finally:
        pool.retire(function.key)
    assert not outcome.is_error, outcome.payload.decode() + outcome.log
    (listed,) = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{result_path}/predictions/")["Contents"]
    body = s3.get_object(Bucket=BUCKET, Key=listed["Key"])["Body"].read()
    return np.load(io.BytesIO(body))["z_pred"]


def test_a_rank_in_the_image_gives_the_redshifts_of_the_task_folder(
    build_image: Build, build: BuildFolder, aws: Replica, galaxies: bytes, tmp_path: Path
) -> None:
    image = build_image(HERE)
    assert image[0]["architecture"] == HERE
    s3 = aws.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key="data/1.pt", Body=galaxies)
    ours = _redshifts(aws, _function(build, aws, build.python), "ours", tmp_path / "ours")
    theirs = _redshifts(aws, _function(build, aws, _make_python(image)), "theirs", tmp_path / "theirs")
    assert len(ours) == 70
    np.testing.assert_array_equal(ours, theirs)
    assert _code(image[1] / "var/task") == _code(build.image("lean"))


def _code(task: Path) -> dict[str, bytes]:
    files = (path for path in (task / "inference").rglob("*") if path.is_file())
    return {str(path.relative_to(task)): path.read_bytes() for path in files if "__pycache__" not in path.parts}


_PREDICT = """
import sys
sys.path.insert(0, "/var/task")
from inference.data.partition import read
from inference.engine.cpu import bfloat16_instructions
from inference.engine.loading import BUNDLED_MODEL, load
print(bfloat16_instructions())
for precision in ("float32", "bfloat16"):
    engine = load(BUNDLED_MODEL, "onnxruntime", precision, threads=1)
    for batch in engine.predict([read(open("/1.pt", "rb").read(), "1.pt")]):
        print(*batch.tolist())
"""


def test_an_image_for_another_architecture_is_built_without_running_it(
    build_image: Build, galaxies: bytes
) -> None:
    described, root = build_image(ELSEWHERE)
    machine = stand_in.MACHINES[ELSEWHERE]
    assert described["architecture"] == ELSEWHERE
    libraries = [path for path in (root / "var/task").rglob("*.so*") if path.is_file()]
    assert {path.name for path in libraries} >= {f"{machine}.so"}
    assert len(libraries) > 20
    descriptions = subprocess.run(["file", "-b", *libraries], capture_output=True, text=True, check=True).stdout
    word = {"x86_64": "x86-64", "aarch64": "ARM aarch64"}[machine]
    assert all(word in line for line in descriptions.splitlines()), descriptions
    emulator = shutil.which(f"qemu-{machine}-static")
    if emulator is None:
        pytest.skip("running it needs qemu-user-static")
    shutil.copy(emulator, root / "qemu")
    (root / "1.pt").write_bytes(galaxies)
    (interpreter,) = (root / "usr/bin").glob("python3.1?")
    inside = ["/qemu", "-cpu", "max", f"/usr/bin/{interpreter.name}", "-c", _PREDICT]
    # With this machine's /sys, onnxruntime looks for features of a CPU that is not there, and crashes.
    process = subprocess.run(
        stand_in.entering(str(root), *inside, mounted="proc dev"), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    products, *lines = process.stdout.splitlines()
    if ELSEWHERE == "arm64":  # qemu has no AVX-512
        assert products == "neon_bf16"
    theirs = np.array(" ".join(lines).split(), np.float64).reshape(2, -1)
    for redshifts, precision, tolerance in zip(theirs, ("float32", "bfloat16"), (1e-5, 1e-4), strict=True):
        engine = load(BUNDLED_MODEL, "onnxruntime", precision, threads=1)
        ours = np.concatenate(list(engine.predict([read(galaxies, "1.pt")])))
        np.testing.assert_allclose(redshifts, ours, rtol=0, atol=tolerance)
