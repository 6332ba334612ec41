"""Users' own scripts run over the partitions in the historic manner."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.unit.test_historic import KEYS

from .conftest import Cloud, Json, Ran
from .test_cli import Cli

Run = Callable[[Json], Ran]
Partitions = Callable[..., dict[str, bytes]]

FOLDER = "Anomaly Detection"
SCRIPT = f"/tmp/{FOLDER}/Inference/inference.py"  # noqa: S108

_MODEL = """
import torch
class Brightness(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(5, 1)
    def forward(self, images):
        return self.linear(images.mean((2, 3)))
"""

# As users wrote them: /tmp on the path, RANK from the environment, payload.json from a bucket named by a
# literal, a whole module unpickled, {rank}.json written by the script itself.
_HISTORIC = """
import sys
sys.path.append('/tmp/Anomaly Detection/')
import io, json, os, time
import boto3, torch
from Plain.brightness import Brightness

BUCKET = 'BUCKET_LITERAL'
s3 = boto3.client('s3')
rank, world_size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
payload = json.loads(s3.get_object(Bucket=BUCKET, Key='payload.json')['Body'].read())
key = payload['data_map'][str(rank)]
data = io.BytesIO(s3.get_object(Bucket=payload['data_bucket'], Key=key)['Body'].read())
dataset = torch.load(data, weights_only=False)
model = torch.load('/tmp/Anomaly Detection/model.pt', weights_only=False).eval()
start = time.time()
loader = torch.utils.data.DataLoader(dataset, batch_size=int(os.environ['BATCH_SIZE']))
with torch.no_grad():
    total = sum(float(model(batch[0]).sum()) for batch in loader)
print('rank', rank, 'of', world_size, 'total', total)
result = {'rank': rank, 'total': total, 'num_samples': len(dataset), 'data_path': key,
          'execution_time (seconds/batch)': time.time() - start, 'device': 'cpu'}
s3.put_object(Bucket=payload['data_bucket'], Key=payload['result_path'] + f'/{rank}.json',
              Body=json.dumps(result))
"""


def _upload(cloud: Cloud, script: str, folder: str = FOLDER) -> None:
    cloud.put(f"{folder}/Inference/inference.py", script.encode())


def _payload(cloud: Cloud, prefix: str, **fields: Any) -> Json:
    return cloud.payload(prefix, object_type="folder", S3_object_name=FOLDER, script=SCRIPT, **fields)


@pytest.fixture(scope="session")
def cloud(torch_cloud: Cloud) -> Cloud:
    return torch_cloud


@pytest.fixture
def model() -> nn.Module:
    """The user's own network, as pickled on their machine."""
    namespace: dict[str, Any] = {"__name__": "Plain.brightness"}
    exec(_MODEL, namespace)  # noqa: S102
    torch.manual_seed(0)
    network: nn.Module = namespace["Brightness"]()
    return network


def _pickled(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> bytes:
    import sys
    import types

    for name in ("Plain", "Plain.brightness"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["Plain.brightness"], "Brightness", type(model), raising=False)
    body = io.BytesIO()
    torch.save(model, body)
    return body.getvalue()


def test_a_historic_script_with_its_own_model(
    cloud: Cloud,
    run: Run,
    partitions: Partitions,
    prefix: str,
    model: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = partitions(6, rows=3)
    cloud.put_all(prefix, files)
    cloud.put(f"{FOLDER}/Plain/brightness.py", _MODEL.encode())
    cloud.put(f"{FOLDER}/model.pt", _pickled(model, monkeypatch))
    _upload(cloud, _HISTORIC.replace("BUCKET_LITERAL", cloud.bucket))
    ran = run(_payload(cloud, prefix, batch_size=2))
    assert ran.status == "SUCCEEDED", ran.cause
    combined = ran.read("combined_data.json")
    assert [info["rank"] for info in combined] == list(range(6))
    for rank, info in enumerate(combined):
        images = torch.load(io.BytesIO(files[f"{rank + 1}.pt"]), weights_only=False).tensors[0]
        with torch.no_grad():
            assert info["total"] == pytest.approx(float(model(images).sum()), abs=1e-4)
        assert info["run_id"] == ran.read("run.json")["run_id"]
    assert ran.read("summary.json")["num_samples"] == 18


def test_without_a_rank_info_of_its_own_ours_is_added_and_the_environment_is_complete(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(2))
    names = ["RANK", "WORLD_SIZE", "DATA_BUCKET", "DATA_PREFIX", "DATA_PATH", "RESULT_PATH", "BATCH_SIZE"]
    _upload(
        cloud,
        "import boto3, json, os\n"
        f"values = {{name: os.environ[name] for name in {[*names, 'S3_BUCKET', 'RUN_ID']}}}\n"
        "key = os.environ['RESULT_PATH'] + '/environment-' + os.environ['RANK'] + '.json'\n"
        "boto3.client('s3').put_object(Bucket=os.environ['S3_BUCKET'], Key=key, Body=json.dumps(values))\n",
    )
    ran = run(_payload(cloud, prefix, batch_size=7))
    assert ran.status == "SUCCEEDED", ran.cause
    assert [info["engine"] for info in ran.read("combined_data.json")] == ["script", "script"]
    assert ran.read("environment-1.json") == {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "DATA_BUCKET": cloud.bucket,
        "DATA_PREFIX": prefix,
        "DATA_PATH": f"{prefix}/2.pt",
        "RESULT_PATH": f"results/{prefix}",
        "BATCH_SIZE": "7",
        "S3_BUCKET": cloud.bucket,
        "RUN_ID": ran.read("run.json")["run_id"],
    }


@pytest.mark.parametrize(
    ("script", "faults"),
    [
        ("print('before')\nraise ValueError('no such galaxy')", ["exit status 1", "before", "no such galaxy"]),
        ("import sys; print('giving up'); sys.exit(3)", ["exit status 3", "giving up"]),
        ("import os; os.kill(os.getpid(), 11)", ["signal 11"]),
    ],
)
def test_a_script_that_fails_says_how(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str, script: str, faults: list[str]
) -> None:
    cloud.put_all("script-fails", partitions(1))
    _upload(cloud, script)
    ran = run(_payload(cloud, "script-fails"))
    assert ran.status == "FAILED"
    failure = ran.read("summary.json")["failed_ranks"]["0"]
    assert failure["error"] == "ScriptError"
    for fault in faults:
        assert fault in failure["cause"]


def test_a_changed_script_is_fetched_again(cloud: Cloud, run: Run, partitions: Partitions, prefix: str) -> None:
    cloud.put_all(prefix, partitions(1))
    for version in ("one", "two"):
        _upload(cloud, f"import sys; sys.exit('version {version}')")
        assert f"version {version}" in run(_payload(cloud, prefix)).read("failures/0.json")["cause"]


@pytest.fixture
def short_timeout(cloud: Cloud) -> Iterator[None]:
    name = cloud.outputs.function_names["inference"]
    client = cloud.aws.client("lambda")
    client.update_function_configuration(FunctionName=name, Timeout=3)
    client.get_waiter("function_updated_v2").wait(FunctionName=name)
    yield
    client.update_function_configuration(FunctionName=name, Timeout=900)
    client.get_waiter("function_updated_v2").wait(FunctionName=name)


@pytest.mark.fault(
    "a rank hangs",
    "a script that sleeps longer than the function's time limit",
    "Lambda ends the rank, and the run names it",
    "that rank's work",
)
@pytest.mark.usefixtures("short_timeout")
def test_a_script_that_hangs_is_ended_by_the_time_limit(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(1))
    _upload(cloud, "import time; time.sleep(1000)")
    ran = run(_payload(cloud, prefix))
    assert ran.status == "FAILED"
    failure = ran.read("summary.json")["failed_ranks"]["0"]
    assert failure["error"] == "Sandbox.Timedout"
    assert "Task timed out after 3.00 seconds" in failure["cause"]


def test_a_folder_or_file_that_does_not_exist_is_named(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(1))
    absent = cloud.payload(prefix, S3_object_name="nowhere", script="/tmp/nowhere/x.py")  # noqa: S108
    cause = run(absent).read("summary.json")["failed_ranks"]["0"]["cause"]
    assert f"S3_object_name: s3://{cloud.bucket}/nowhere/ holds no object" in cause
    _upload(cloud, "pass")
    other = {**_payload(cloud, prefix), "script": f"/tmp/{FOLDER}/other.py"}  # noqa: S108
    cause = json.dumps(run(other).read("summary.json")["failed_ranks"]["0"]["cause"])
    assert "there is no /tmp/Anomaly Detection/other.py; the folder has" in cause


def test_a_script_outside_its_folder_is_refused(cloud: Cloud, run: Run, prefix: str) -> None:
    payload = {**_payload(cloud, prefix), "script": "/tmp/elsewhere/x.py"}  # noqa: S108
    assert "give a file below /tmp/Anomaly Detection/" in run(payload).cause
    assert "a script needs both" in run(cloud.payload(prefix, S3_object_name=FOLDER)).cause


_COLLECTIVE = """
import json, os
import boto3
import fmi
from fmilib.fmi_operations import fmi_communicator

rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
communicator = fmi_communicator(world_size, rank)
two = fmi.types(fmi.datatypes.double_list, 2)
total = communicator.allreduce([rank + 1.0, 1.0], fmi.func(fmi.op.sum), two)
communicator.barrier()
communicator.close()
boto3.client("s3").put_object(
    Bucket=os.environ["DATA_BUCKET"], Key=f"{os.environ['RESULT_PATH']}/{rank}.json",
    Body=json.dumps({"total": total, "num_samples": 1}))
"""


@pytest.mark.parametrize("collectives", ["direct", "s3"])
def test_scripts_reduce_among_themselves_by_the_names_they_import(
    cloud: Cloud, run: Run, partitions: Partitions, collectives: str
) -> None:
    cloud.put_all(f"fmi-{collectives}", partitions(3))
    _upload(cloud, _COLLECTIVE)
    ran = run(_payload(cloud, f"fmi-{collectives}", collectives=collectives))
    assert ran.status == "SUCCEEDED", ran.cause
    assert [info["total"] for info in ran.read("combined_data.json")] == [[6.0, 3.0]] * 3


def test_a_script_without_collectives_is_told_so(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(2))
    _upload(cloud, _COLLECTIVE)
    ran = run(_payload(cloud, prefix, collectives="none"))
    assert ran.status == "FAILED"
    assert "this run has no collectives: start it with collectives = direct, redis or s3" in ran.cause


@pytest.mark.parametrize(
    ("written", "count", "images"),
    [
        (None, None, "unknown (the script wrote neither num_samples, nor num_batches and batch_size)"),
        ({"num_batches": 2, "batch_size": 8}, 32, "at most 32 (num_batches * batch_size of 2 ranks)"),
        ({"num_samples": 9, "throughput_bps": float("nan")}, 18, "18 (num_samples of 2 ranks)"),
    ],
    ids=["nothing", "batches", "images"],
)
def test_every_command_takes_what_a_script_has_written(
    cloud: Cloud,
    partitions: Partitions,
    prefix: str,
    tmp_path: Path,
    written: Json | None,
    count: int | None,
    images: str,
) -> None:
    cloud.put_all(prefix, partitions(2))
    put = (
        "boto3.client('s3').put_object(Bucket=os.environ['S3_BUCKET'], Key=key, Body="
        + repr(json.dumps(written))
        + ")"
    )
    _upload(
        cloud,
        "import boto3, json, os\n"
        "key = os.environ['RESULT_PATH'] + '/' + os.environ['RANK'] + '.json'\n"
        + ("" if written is None else put),
    )
    cli = Cli(cloud, tmp_path / "local")
    name = f"script-{uuid.uuid4().hex[:8]}"
    output = cli("run", cli.payload(**_payload(cloud, prefix)), "--local", "--name", name)
    assert f"succeeded: images: {images}" in output.replace("\n", " ")
    status = json.loads(cli("status", name, "--json", "--local"))
    assert (status["finished"], status["images"]) == (2, count)
    assert images[:10] in cli("status", name, "--local")
    out = tmp_path / "out"
    assert f"images: {images}" in cli("results", name, "--out", str(out), "--local").replace("\n", " ")
    results = json.loads((out / "Results.json").read_text())
    assert tuple(results)[: len(KEYS)] == KEYS
    assert results["number of batches"] == (None if written is None or "num_batches" not in written else 4)
    cli("report", str(out))
    assert f"<b>{images.partition(' (')[0]}</b>" in (out / "report.html").read_text()
    json.loads((out / "combined_data.json").read_text(), parse_constant=pytest.fail)


def test_what_a_script_left_before_it_failed_is_no_result(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    """It knows the run's id, and writes to the key of its rank's info."""
    cloud.put_all(prefix, partitions(1))
    write = (
        "import boto3, json, os, sys\n"
        "body = json.dumps({'run_id': os.environ['RUN_ID'], 'rank': 0, 'num_samples': 3})\n"
        "key = os.environ['RESULT_PATH'] + '/0.json'\n"
        "boto3.client('s3').put_object(Bucket=os.environ['S3_BUCKET'], Key=key, Body=body)\n"
    )
    _upload(cloud, write + "sys.exit('too late')")
    failed = run(_payload(cloud, prefix))
    assert failed.read("summary.json")["failed_ranks"].keys() == {"0"}
    _upload(cloud, write)
    resumed = run(_payload(cloud, prefix, resume=True))
    assert resumed.status == "SUCCEEDED", resumed.cause
    assert resumed.read("summary.json")["num_samples"] == 3
