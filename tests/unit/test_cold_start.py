"""A cold start imports what every rank needs, and the rest only in runs that need it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from cosmicai.packaging.places import FUNCTIONS

_HANDLER = """
import inference.handler, dataclasses, gc, json, sys
ours = [module for name, module in sys.modules.items() if name.startswith("inference")]
classes = [one for module in ours for one in vars(module).values() if isinstance(one, type)]
comparing = {
    f"{one.__module__}.{one.__qualname__}": sorted(str(field.type) for field in dataclasses.fields(one))
    for one in classes if dataclasses.is_dataclass(one) and {"__eq__", "__repr__"} & vars(one).keys()
}
print(json.dumps({
    "modules": sorted(sys.modules), "comparing": comparing,
    "collects": gc.isenabled(), "kept": gc.get_freeze_count(),
}))
"""
_OF_SOME_RUNS = {
    "users' own scripts": {"inference.script", "subprocess", "importlib.metadata"},
    "a catalogue that grows": {"inference.catalogue", "inference.contract.growing", "inference.table", "arro3"},
    "rank 0 with collectives": {"inference.contract.run_records"},
    "ranks on AWS Batch": {"urllib.request", "inference.job"},
    "listings and errors of S3": {"xml.etree.ElementTree"},
    "settings that our S3 client lacks": {"boto3", "botocore", "urllib3"},
    "other engines and channels": {"torch", "redis", "inference.engine.torch_engine"},
    "no run": {"statistics"},
}


@pytest.fixture(scope="module")
def started() -> Any:
    """What a new process has once it has imported the handler, as on Lambda."""
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(FUNCTIONS), "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "3538",
        "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_SESSION_TOKEN": "c",
    }  # fmt: skip
    command = [sys.executable, "-c", _HANDLER]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(process.stdout)


def test_a_cold_start_imports_nothing_that_only_some_runs_need(started: Any) -> None:
    imported = set(started["modules"])
    assert {"inference.rank", "inference.engine.onnx_engine", "onnxruntime"} <= imported
    superfluous = {run: sorted(modules & imported) for run, modules in _OF_SOME_RUNS.items()}
    assert superfluous == {run: [] for run in _OF_SOME_RUNS}


def test_of_fmi_a_cold_start_imports_what_every_channel_has(started: Any) -> None:
    """The channel's own modules are imported when it is opened, in the background."""
    ours = {name for name in started["modules"] if name.startswith("inference.fmi.")}
    assert ours == {"inference.fmi.channel", "inference.fmi.errors", "inference.fmi.messages"}


def test_a_script_may_name_fmis_modules_after_one_import() -> None:
    """As when all of them were imported with the package."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(FUNCTIONS / "inference" / "shims")}
    command = [
        sys.executable,
        "-c",
        "import fmi; print(fmi.errors.PeerLost is fmi.PeerLost, fmi.values.__name__)",
    ]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["True", "fmi.values"]


def test_no_comparison_is_made_for_classes_with_arrays(started: Any) -> None:
    """It takes a third of the time that a dataclass takes to be made, and fails for arrays anyway."""
    arrays = re.compile(r"NDArray|Array\b|Floats|Doubles|Mask\b|memoryview")
    assert {"inference.contract.event.RankEvent", "inference.contract.accuracy.Metrics"} <= started[
        "comparing"
    ].keys()
    with_arrays = [name for name, types in started["comparing"].items() if arrays.search(" ".join(types))]
    assert with_arrays == []


def test_garbage_is_collected_again_after_the_imports(started: Any) -> None:
    assert started["collects"]
    assert started["kept"] > 10_000  # objects of the imports, which the collector leaves alone
