"""Where a run's time goes: python benchmarks/run.py OUT.json [--ranks 517] [--latency-ms 25] [--repeats 5]
[--before FUNCTIONS] [--embedded RANKS] [--many RANKS]

Runs Initialize and Summarize alone, each in a process of its own, for --ranks ranks with 25 MB each. S3 is
another process that answers every request after a fixed time. Measures their seconds and CPU seconds.
Summarize runs with metrics that the ranks have reduced, by HTTP and by HTTPS, and without such metrics.
--before FUNCTIONS: the folder `functions` of an earlier checkout, which is measured in turn with this one's.
--embedded RANKS: a whole run of that many ranks on the embedded AWS, with partitions of one galaxy, and the
seconds in each of its states.
--many RANKS: Initialize and Summarize for a run of that many ranks with ten partitions each, called once.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3
import certifi
import numpy as np
import torch
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from torch.utils.data import TensorDataset

from cosmicai.cli import run as cli
from cosmicai.deploy.terraform import Deployment, emulated_variables
from cosmicai.emulator import Emulator
from cosmicai.packaging.assembly import assemble
from cosmicai.packaging.places import FUNCTIONS, BuildFolder

Json = dict[str, Any]
BUCKET = "run"
_KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
GALAXIES = 1278  # of 25 MB

_S3 = Path(__file__).with_name("slow_s3.py")

_CALL = """
import json, os, ssl, sys, time
import botocore.httpsession
if certificates := os.environ["CERTIFICATES"]:
    botocore.httpsession.where = lambda: certificates
    trusting = ssl.create_default_context
    ssl.create_default_context = lambda cafile: trusting(cafile=certificates)
kind, event = sys.argv[1], json.loads(sys.argv[2])
if kind.startswith("summarize"):
    from summarize import gather, handler
    if kind == "summarize without a report":
        gather.report = lambda *_: ""
    call = lambda: handler.handler(event, None)
else:
    from initialize import handler
    from initialize.contract.channels import Host
    handler._is_running, handler._host = lambda *_: False, lambda: Host("up", "the host is up")
    call = lambda: handler.handler(event, None)
wall, cpu = time.perf_counter(), time.process_time()
call()
seconds, cpu = time.perf_counter() - wall, time.process_time() - cpu
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps({"seconds": seconds, "CPU (s)": cpu, "peak memory (MB)": peak / 1024}))
"""


def put_all(s3: Any, bucket: str, bodies: Iterable[tuple[str, bytes]]) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda item: s3.put_object(Bucket=bucket, Key=item[0], Body=item[1]), bodies))


@dataclass(frozen=True)
class Store:
    """Where an S3 answers. certificates: a file of those that its clients trust; None without TLS."""

    endpoint: str
    certificates: str | None

    def client(self) -> Any:
        style = Config(s3={"addressing_style": "path"}, max_pool_connections=16)
        trust = {"verify": self.certificates} if self.certificates else {}
        return boto3.client("s3", "us-east-1", endpoint_url=self.endpoint, config=style, **_KEYS, **trust)

    def environment(self, functions: Path) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(functions), "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
            "MAX_CONCURRENCY": "1000", "INFERENCE_MEMORY_MB": "3538", "INFERENCE_ARCHITECTURE": "arm64",
            "CERTIFICATES": self.certificates or "",
        }  # fmt: skip


def certificate() -> tuple[bytes, bytes]:
    """A key, and its certificate for 127.0.0.1."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    number, tomorrow = x509.random_serial_number(), now + timedelta(days=1)
    unsigned = x509.CertificateBuilder(name, name, key.public_key(), number, now, tomorrow, [])
    signed = unsigned.add_extension(address, critical=False).sign(key, SHA256())
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        signed.public_bytes(Encoding.PEM),
    )


@contextmanager
def store(latency: float, tls: Path | None = None) -> Iterator[Store]:
    """An S3 that answers after `latency` seconds. tls: a folder for certificates; without it, by plain HTTP."""
    command = [sys.executable, str(_S3), str(latency)]
    scheme, certificates = "http", None
    if tls is not None:
        key, ours = certificate()
        (tls / "server.pem").write_bytes(key + ours)
        trusted = tls / "trusted.pem"  # besides the real ones, which take their time to read
        trusted.write_bytes(Path(certifi.where()).read_bytes() + ours)
        scheme, certificates = "https", str(trusted)
        command.append(str(tls / "server.pem"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None  # noqa: S101 - for the type checker
        try:
            yield Store(f"{scheme}://127.0.0.1:{server.stdout.readline().strip()}", certificates)
        finally:
            server.kill()


@dataclass(frozen=True)
class Measurement:
    """Of the functions in this checkout, and in an earlier one, called in turn."""

    folders: Mapping[str, Path]  # `functions` by what they are called in the result
    repeats: int

    def of(self, store: Store, kind: str, event: Json) -> Json:
        """The fastest of some calls, each in a process of its own, as Lambda's are after their start."""
        calls_by_name: dict[str, list[Json]] = {name: [] for name in self.folders}
        for _ in range(self.repeats):
            for name, folder in self.folders.items():
                command = [sys.executable, "-c", _CALL, kind, json.dumps(event)]
                process = subprocess.run(command, env=store.environment(folder), capture_output=True, text=True)
                if process.returncode:
                    raise SystemExit(process.stderr)
                calls_by_name[name].append(json.loads(process.stdout.splitlines()[-1]))
        return {
            name: {figure: min(one[figure] for one in calls) for figure in calls[0]}
            for name, calls in calls_by_name.items()
        }


def initialize(measurement: Measurement, store: Store, ranks: int) -> Json:
    put_all(store.client(), BUCKET, ((f"data/{number}.pt", b"x" * 100) for number in range(ranks)))
    payload = {"bucket": BUCKET, "data_prefix": "data", "result_path": "results/initialize"}
    event = {"payload": payload, "run_id": "r", "started": "2026-11-22T00:00:00Z", "state_machine": "none"}
    return measurement.of(store, "initialize", event)


def partition(galaxies: int) -> bytes:
    rng, body = np.random.default_rng(0), io.BytesIO()
    images = torch.from_numpy(rng.standard_normal((galaxies, 5, 32, 32), np.float32))
    magnitudes, redshifts = rng.uniform(20, 26, (galaxies, 5)), rng.uniform(0, 3, galaxies)
    columns = (torch.from_numpy(one.astype(np.float32)) for one in (magnitudes, redshifts))
    torch.save(TensorDataset(images, *columns), body)
    return body.getvalue()


def rank_info(folder: Path) -> Json:
    """The info of a rank that has really run: the bundled network over galaxies of one partition."""
    data = folder / "partitions"
    data.mkdir()
    (data / "1.pt").write_bytes(partition(GALAXIES))
    if cli(["infer", str(data), "--out", str(folder / "out")]):
        raise SystemExit("the rank failed")
    info: Json = json.loads((folder / "out" / "0.json").read_text())
    return {**info, "run_id": "r", "memory_limit (MB)": 3538.0, "architecture": "arm64"}


def summarize(
    measurement: Measurement, store: Store, ranks: int, info: Json, reduced: bool, kind: str = "summarize"
) -> Json:
    channel, folder = ("direct" if reduced else "none"), f"results/{reduced}"
    run = {
        "run_id": "r", "started": "2026-11-22T00:00:00Z", "world_size": ranks, "bytes": ranks * 25 << 20,
        "payload": {"bucket": BUCKET}, "collectives": {"channel": channel},
    }  # fmt: skip
    bodies = {f"{rank}.json": {**info, "rank": rank} for rank in range(ranks)}
    bodies["run.json"] = run
    if reduced:  # of one rank; what matters here is that no other state is needed
        header = {"run_id": "r", "ranks": list(range(ranks)), "channel": channel}
        bodies["metrics.json"] = {**header, "accuracy_state": info["accuracy_state"]}
    written = ((f"{folder}/{name}", json.dumps(body).encode()) for name, body in bodies.items())
    put_all(store.client(), BUCKET, written)
    event = {
        "bucket": BUCKET, "result_path": folder, "run_id": "r", "world_size": ranks,
        "tolerated_failure_percentage": 0,
    }  # fmt: skip
    return measurement.of(store, kind, event)


def many(store: Store, ranks: int, info: Json) -> Json:
    """Of a run whose objects are made when they are read: they would not fit into memory."""
    client, once = store.client(), Measurement({"now": FUNCTIONS}, 1)

    def put(prefix: str, suffix: str, count: int, body: str) -> None:
        content = {"prefix": prefix, "suffix": suffix, "count": count, "body": body}
        client.put_object(Bucket=BUCKET, Key="@many", Body=json.dumps(content).encode())

    put("many/", ".pt", 10 * ranks, "x")
    payload = {"bucket": BUCKET, "data_prefix": "many", "result_path": "results/many", "world_size": ranks}
    event = {"payload": payload, "run_id": "r", "started": "2026-11-22T00:00:00Z", "state_machine": "none"}
    measured = {"Initialize": once.of(store, "initialize", event)}
    put("results/many/", ".json", ranks, json.dumps({**info, "rank": 12345}).replace("12345", "@RANK@"))
    event = {
        "bucket": BUCKET, "result_path": "results/many", "run_id": "r", "world_size": ranks,
        "tolerated_failure_percentage": 0,
    }  # fmt: skip
    reduced = {"run_id": "r", "channel": "s3", "accuracy_state": info["accuracy_state"]}
    for name, covered in (("reduced by the ranks", ranks), ("from rank infos", 0)):
        metrics = {**reduced, "ranks": list(range(covered))}
        client.put_object(Bucket=BUCKET, Key="results/many/metrics.json", Body=json.dumps(metrics).encode())
        measured[f"Summarize, metrics {name}"] = once.of(store, "summarize", event)
    return {"ranks": ranks, **measured}


def states(ranks: int) -> Json:
    """The seconds that a whole run on the embedded AWS spends in each state."""
    build = BuildFolder()
    assemble(build)
    with Emulator(build, 4) as aws:
        variables = emulated_variables("states", aws)
        outputs = Deployment(aws.folder / "deployment", aws.environment, os.environ).apply(variables)
        machine, body = aws.client("stepfunctions"), partition(1)
        put_all(aws.client("s3"), outputs.bucket, ((f"data/{n}.pt", body) for n in range(ranks)))
        payload = {"bucket": outputs.bucket, "data_prefix": "data", "result_path": "results/states"}
        arn = machine.start_execution(stateMachineArn=outputs.state_machine_arn, input=json.dumps(payload))
        while (ran := machine.describe_execution(executionArn=arn["executionArn"]))["status"] == "RUNNING":
            time.sleep(0.5)
        if ran["status"] != "SUCCEEDED":
            raise SystemExit(f"{ran['status']}: {ran.get('cause')}")
        pages = machine.get_paginator("get_execution_history").paginate(executionArn=arn["executionArn"])
        events = [event for page in pages for event in page["events"]]
    entered = [event for event in events if "stateEnteredEventDetails" in event]
    names = [event["stateEnteredEventDetails"]["name"] for event in entered]
    times = [event["timestamp"] for event in entered] + [ran["stopDate"]]
    seconds = {
        name: (after - at).total_seconds() for name, (at, after) in zip(names, pairwise(times), strict=True)
    }
    return {
        "ranks": ranks,
        "seconds": (ran["stopDate"] - ran["startDate"]).total_seconds(),
        "by state": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ranks", type=int, default=517)
    parser.add_argument("--latency-ms", type=float, default=25.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--embedded", type=int)
    parser.add_argument("--many", type=int)
    arguments = parser.parse_args()
    before = {} if arguments.before is None else {"before": arguments.before.resolve()}
    measurement, ranks = Measurement({"now": FUNCTIONS, **before}, arguments.repeats), arguments.ranks
    latency = arguments.latency_ms / 1e3
    with (
        TemporaryDirectory() as scratch,
        store(latency) as plain,
        store(latency, Path(scratch)) as encrypted,
    ):
        info = rank_info(Path(scratch))
        measurements = {
            "Initialize": initialize(measurement, plain, ranks),
            "Summarize, metrics reduced by the ranks": summarize(measurement, plain, ranks, info, True),
            "Summarize, the same over TLS": summarize(measurement, encrypted, ranks, info, True),
            "Summarize, metrics from rank infos": summarize(measurement, plain, ranks, info, False),
            "Summarize, the first without its report": summarize(
                measurement, plain, ranks, info, True, "summarize without a report"
            ),
        }
        if arguments.many:
            measurements["many ranks"] = many(plain, arguments.many, info)
    if arguments.embedded:
        measurements["a whole run on the embedded AWS"] = states(arguments.embedded)
    for name, one in measurements.items():
        print(name, json.dumps(one))
    arguments.out.write_text(json.dumps({"ranks": arguments.ranks, **measurements}, indent=1) + "\n")


if __name__ == "__main__":
    main()
