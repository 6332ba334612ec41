"""What a run on AWS Batch costs: by AWS's own examples, and where a price is not known."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import torch

from inference.contract import batch_prices
from inference.contract.event import RankEvent
from inference.job import Job, JobError
from inference.machine import instance_type, pull_started
from summarize.contract.pricing import cost
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import Run
from summarize.report import report
from summarize.summary import summary

RUN = Run(
    run_id="r", started="2026-11-22T00:00:00Z", payload={"backend": "batch"}, world_size=2, bytes=1,
    collectives={"channel": "none"},
)  # fmt: skip
INFO = RankInfo(
    rank=0, run_id="r", num_samples=9, cold_start=True, memory_limit=16384, duration=3500.0, billed=3600.0,
    capacity="fargate", vcpus=4, public_address=False, architecture="x86_64", s3_num_requests=3,
    ended=1795305600.0 + 3600,
)  # fmt: skip
MANIFEST = {"MANIFEST": "s3://b/k"}

TOKEN = "AQAAA"  # noqa: S105 - no secret
INSTANCE_TYPE = "/latest/meta-data/instance-type"
# The beginning of the answer for a task on Fargate in
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-fargate-examples.html
METADATA = b"""{
  "Cluster": "arn:aws:ecs:us-east-1:123456789012:cluster/clusterName",
  "TaskARN": "arn:aws:ecs:us-east-1:123456789012:task/MyEmptyCluster/bfa2636268144d039771334145e490c5",
  "Family": "sample-fargate", "Revision": "5", "DesiredStatus": "RUNNING", "KnownStatus": "RUNNING",
  "Limits": { "CPU": 0.25, "Memory": 512 },
  "PullStartedAt": "2023-07-21T15:45:33.532811081Z",
  "PullStoppedAt": "2023-07-21T15:45:38.541068435Z",
  "AvailabilityZone": "us-east-1d", "LaunchType": "FARGATE"
}"""


def test_the_example_of_awss_price_list() -> None:
    """Five tasks of 1 vCPU and 2 GB, 10 minutes a day for 30 days: 1.23 USD (https://aws.amazon.com/fargate/pricing)."""
    one = batch_prices.fargate(1, 2, 600, "x86_64", public=False)
    assert round(5 * 30 * one, 2) == 1.23
    assert round(batch_prices.fargate(1, 0, 1, "x86_64", public=False), 9) == 0.000011244


def test_a_rank_is_billed_from_its_images_download_and_a_minute_at_least() -> None:
    run_cost = summary(RUN, [INFO], {}).cost
    assert run_cost.batch == pytest.approx(4 * 0.04048 + 16 * 0.004445)
    assert (run_cost.compute, run_cost.requests, run_cost.notes) == (0.0, 0.0, None)
    assert run_cost.total == pytest.approx(run_cost.batch + run_cost.step_functions + run_cost.s3_requests)
    short = replace(INFO, duration=4.0, billed=20.0)
    assert cost([short], on_batch=True).batch == pytest.approx(run_cost.batch / 60)
    no_metadata = replace(INFO, billed=None)
    assert cost([no_metadata], on_batch=True).batch == pytest.approx(run_cost.batch * 3500 / 3600)
    public = replace(INFO, public_address=True)
    assert cost([public], on_batch=True).batch == pytest.approx(run_cost.batch + 0.005)
    arm = replace(INFO, architecture="aarch64")
    assert cost([arm], on_batch=True).batch == pytest.approx(4 * 0.03238 + 16 * 0.00356)


def test_spot_is_at_the_price_on_demand_and_says_so() -> None:
    spot = cost([replace(INFO, capacity="fargate_spot")], on_batch=True)
    assert spot.total == cost([INFO], on_batch=True).total
    (note,) = spot.notes or []
    assert "Spot costs up to 70 % less" in note


def test_ranks_that_do_not_say_what_they_ran_on_are_counted_in_words() -> None:
    """Those of an earlier version; and on Lambda, where nothing else was, they are Lambda's."""
    old = replace(INFO, capacity=None, vcpus=None, billed=None, public_address=None)
    run_cost = cost([old, replace(old, rank=1), replace(INFO, rank=2)], on_batch=True)
    assert run_cost.batch == cost([INFO], on_batch=True).batch
    (note,) = run_cost.notes or []
    assert note.startswith("2 ranks did not say what AWS Batch ran them on: what they cost is not known")
    on_lambda = cost([replace(old, memory_limit=2048.0)])
    assert (on_lambda.batch, on_lambda.compute) == (None, pytest.approx(2 * 3500 * 0.0000166667))


def test_a_run_that_began_on_lambda_is_billed_by_both() -> None:
    before = replace(
        INFO, rank=1, capacity="lambda", vcpus=None, billed=None, memory_limit=1024.0, duration=10.0
    )
    run_cost = cost([before, INFO], on_batch=True)
    assert run_cost.compute == pytest.approx(10 * 0.0000166667)
    assert run_cost.requests == pytest.approx(0.20 / 1e6)
    assert run_cost.batch == cost([INFO], on_batch=True).batch
    assert run_cost.gb_seconds == pytest.approx(10 + 16 * 3500)


ON_A_GPU = replace(INFO, capacity="ec2", vcpus=4, instance_type="g6.xlarge", billed=1800.0, device="cuda")


def test_a_rank_on_an_instance_pays_for_its_gpus_share() -> None:
    run_cost = cost([ON_A_GPU], on_batch=True)
    assert run_cost.batch == pytest.approx(0.8048 / 2)
    (note,) = run_cost.notes or []
    assert "not its start, its disk, and the minutes until AWS Batch ends it" in note
    several = replace(ON_A_GPU, instance_type="g6.12xlarge", public_address=True)
    assert cost([several], on_batch=True).batch == pytest.approx((4.6016 + 0.005) / 4 / 2)
    spot = cost([replace(ON_A_GPU, capacity="ec2_spot")], on_batch=True)
    assert spot.batch == run_cost.batch
    assert "EC2 Spot changes with supply and demand" in (spot.notes or [])[0]


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("p5.48xlarge", "1 rank ran on p5.48xlarge, which has no price here: what they cost is not known"),
        (None, "1 rank ran on an instance of an unknown type, which has no price here"),
    ],
)
def test_an_instance_without_a_price_is_told(kind: str | None, note: str) -> None:
    run_cost = cost([replace(ON_A_GPU, instance_type=kind)], on_batch=True)
    assert run_cost.batch == 0
    assert (run_cost.notes or [])[-1].startswith(note)


def test_the_report_shows_the_cost_and_what_it_cannot_hold() -> None:
    infos = [replace(INFO, capacity="fargate_spot"), replace(INFO, rank=1, vcpus=None)]
    page = report(summary(RUN, infos, {}), infos)
    assert "<td>AWS Batch compute</td><td>$0.2330</td>" in page
    assert "Spot costs up to 70 % less.</p>" in page
    assert "1 rank did not say their vCPUs or architecture" in page
    assert "on AWS Batch" in page


@pytest.fixture
def metadata() -> Iterator[dict[str, str]]:
    """ECS's endpoint, as a task's environment names it."""

    class Endpoint(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            token = self.headers.get("X-aws-ec2-metadata-token")
            self._answer({"/v4/id/task": METADATA, **({INSTANCE_TYPE: b"g6.xlarge"} if token == TOKEN else {})})

        def do_PUT(self) -> None:
            asked = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
            self._answer({"/latest/api/token": TOKEN.encode()} if asked else {})

        def _answer(self, known: dict[str, bytes]) -> None:
            self.send_response(200 if self.path in known else 404)
            self.end_headers()
            self.wfile.write(known.get(self.path, b""))

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Endpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"ECS_CONTAINER_METADATA_URI_V4": f"http://127.0.0.1:{server.server_port}/v4/id"}
        server.shutdown()


def test_a_job_learns_from_ecs_when_its_images_download_began(metadata: dict[str, str]) -> None:
    variables = {**MANIFEST, **metadata, "CAPACITY": "fargate_spot", "VCPUS": "4", "PUBLIC_ADDRESS": "true"}
    machine = Job.of(variables).machine
    assert (machine.capacity, machine.vcpus, machine.public_address) == ("fargate_spot", 4, True)
    assert machine.since == pytest.approx(1689954333.532811)


@pytest.mark.parametrize("place", ["", "file:///etc/passwd", "http://127.0.0.1:9/v4", "http://[", "nonsense"])
def test_a_job_runs_without_it(place: str) -> None:
    assert pull_started({"ECS_CONTAINER_METADATA_URI_V4": place}) is None


def test_a_job_learns_the_type_of_its_instance_for_a_token(metadata: dict[str, str]) -> None:
    service = metadata["ECS_CONTAINER_METADATA_URI_V4"].removesuffix("/v4/id")
    assert instance_type(service) == "g6.xlarge"
    assert instance_type(f"{service}/elsewhere") is None
    assert instance_type("http://127.0.0.1:9") is None


@pytest.mark.parametrize(
    ("asked", "engine", "script", "is_there", "runs_on"),
    [
        ("auto", "auto", None, True, "cuda"),
        ("auto", "torch", None, True, "cuda"),
        ("auto", "torch", None, False, "cpu"),
        ("auto", "onnxruntime", None, True, "cpu"),
        ("auto", "auto", "/tmp/x/x.py", True, "cpu"),  # noqa: S108 - a name alone
        ("cpu", "torch", None, True, "cpu"),
    ],
)
def test_a_rank_takes_a_gpu_that_is_there_for_the_torch_engine(
    monkeypatch: pytest.MonkeyPatch, asked: str, engine: str, script: str | None, is_there: bool, runs_on: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    event = RankEvent(
        bucket="b", data_bucket="b", data_prefix="p", data_paths=("p/1.pt",), rank=0, world_size=1,
        result_path="r", run_id="run", batch_size=8, engine=engine, script=script,
    )  # fmt: skip
    assert Job.of({**MANIFEST, "DEVICE": asked}).host(event).device == runs_on


def test_a_capacity_that_batch_does_not_have_is_told() -> None:
    with pytest.raises(
        JobError, match="CAPACITY is 'lambda'; give one of fargate, fargate_spot, ec2, ec2_spot"
    ):
        Job.of({**MANIFEST, "CAPACITY": "lambda"})
