"""A script with FMI code in the historic manner: hint, barrier, and its seconds reduced to rank 0."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Cloud
from .test_cli import Cli

Partitions = Callable[..., dict[str, bytes]]

FOLDER = "Anomaly Detection"
SCRIPT = f"/tmp/{FOLDER}/Inference/inference.py"  # noqa: S108
ROWS = (5, 7, 9)

# As users have it: arguments from the environment, a communicator after the work, which is never closed.
_HISTORIC = """
import sys, argparse
sys.path.append('/tmp/Anomaly Detection/')
import io, json, os, time
import boto3, torch
import fmi
from fmilib.fmi_operations import fmi_communicator

s3 = boto3.client('s3')


def from_environment(name):
    return {'default': os.environ[name]}


def put(args, name, content):
    s3.put_object(Bucket=args.data_bucket, Key=f'{args.result_path}/{name}', Body=json.dumps(content))


def inference(args):
    t1 = time.time()
    body = s3.get_object(Bucket=args.data_bucket, Key=args.data_path)['Body'].read()
    data = torch.load(io.BytesIO(body), weights_only=False)
    batches = list(torch.utils.data.DataLoader(data, batch_size=args.batch_size))

    comm = fmi_communicator(args.world_size, args.rank)
    comm.hint(fmi.hints.fast)
    comm.barrier()
    t = time.time() - t1

    sum_t = comm.reduce(t, 0, fmi.func(fmi.op.sum), fmi.types(fmi.datatypes.double))
    galaxies = comm.gather(len(data), 0, fmi.types(fmi.datatypes.int))
    if args.rank == 0:
        timing = {'sum_t': sum_t, 'avg_t': sum_t / args.world_size, 'galaxies': galaxies}
        put(args, 'ResultsReduce.json', timing)
    execution_info = {
        'total_cpu_time (seconds)': t,
        'execution_time (seconds/batch)': t / len(batches),
        'num_batches': len(batches),
        'batch_size': args.batch_size,
        'device': 'cpu',
        'sample_persec': len(data) / t,
        'result_path': args.result_path,
        'data_path': args.data_path,
    }
    put(args, f'{args.rank}.json', execution_info)


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--rank', type=int, **from_environment('RANK'))
    parser.add_argument('--world_size', type=int, **from_environment('WORLD_SIZE'))
    parser.add_argument('--batch_size', type=int, **from_environment('BATCH_SIZE'))
    parser.add_argument('--data_bucket', type=str, **from_environment('DATA_BUCKET'))
    parser.add_argument('--result_path', type=str, **from_environment('RESULT_PATH'))
    parser.add_argument('--data_path', type=str, **from_environment('DATA_PATH'))
    inference(parser.parse_args())
"""


@pytest.fixture(scope="session")
def cloud(torch_cloud: Cloud) -> Cloud:
    return torch_cloud


@pytest.mark.parametrize("collectives", ["direct", "s3"])
def test_seconds_are_reduced_to_rank_0_and_the_results_can_be_had(
    cloud: Cloud, partitions: Partitions, tmp_path: Path, collectives: str
) -> None:
    prefix, cli = f"fmi-script-{collectives}", Cli(cloud, tmp_path / "local")
    for number, rows in enumerate(ROWS, 1):
        cloud.put(f"{prefix}/{number}.pt", partitions(1, rows=rows)["1.pt"])
    cloud.put(f"{FOLDER}/Inference/inference.py", _HISTORIC.encode())
    file = cli.payload(
        bucket=cloud.bucket,
        data_bucket=cloud.bucket,
        data_prefix=prefix,
        file_limit="3",
        world_size="3",
        batch_size=4,
        object_type="folder",
        S3_object_name=FOLDER,
        script=SCRIPT,
        result_path=f"results/{prefix}",
        collectives=collectives,
    )
    cli("run", file, "--local", "--name", prefix)
    out = tmp_path / "out"
    cli("results", prefix, "--out", str(out), "--local")
    infos = json.loads((out / "combined_data.json").read_text())
    timing = json.loads((out / "ResultsReduce.json").read_text())
    seconds = [info["total_cpu_time (seconds)"] for info in infos]
    assert timing["sum_t"] == pytest.approx(sum(seconds), rel=1e-12)
    assert timing["avg_t"] == pytest.approx(sum(seconds) / 3, rel=1e-12)
    assert timing["galaxies"] == list(ROWS)
    assert [info["num_batches"] for info in infos] == [2, 2, 3]
    assert (out / "report.html").exists()
