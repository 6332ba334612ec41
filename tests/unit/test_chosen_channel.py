"""What Initialize finds out for `collectives: auto`, of a deployment as moto answers for it: host and speed."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from moto import mock_aws

from cosmicai.emulator.localstack import free_port
from initialize.contract.estimate import ASSUMED
from initialize.contract.run_records import LastRun, last_run_key
from initialize.speed import speed

from .rendezvous import Host

BUCKET = "team3-cosmicai"
RANKS = 200
Json = dict[str, Any]
_LAST = LastRun(
    run_id="run-7", started="2026-11-22T00:00:00Z", memory=3538.0, slowest=700.0, fastest=800.0,
    typical_start=1.2, longest_start=2.5,
)  # fmt: skip


@dataclass
class Account:
    """An account of moto's with partitions in the bucket, an own host on EC2, and Initialize's entry point."""

    s3: Any
    ec2: Any
    instance: str
    runs: int = 0

    def initialize(self, **fields: Any) -> Json:
        """run.json of a run that Initialize has planned as the state machine calls it."""
        self.runs += 1
        handler = importlib.import_module("initialize.handler")
        payload = {"bucket": BUCKET, "data_prefix": "25MB", "result_path": f"r/{self.runs}", **fields}
        machine = "arn:aws:states:us-east-1:123456789012:stateMachine:team3-cosmicai"
        event = {"payload": payload, "run_id": f"run-{self.runs}", "started": "2026-11-22T00:00:00Z"}
        handler.handler({**event, "state_machine": machine}, None)
        body = self.s3.get_object(Bucket=BUCKET, Key=f"{payload['result_path']}/run.json")["Body"]
        return dict(json.load(body))

    def collectives(self, **fields: Any) -> Json:
        return dict(self.initialize(**fields)["collectives"])


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    variables = {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
        "MAX_CONCURRENCY": "1000", "INFERENCE_MEMORY_MB": "3538", "INFERENCE_ARCHITECTURE": "arm64",
        "RENDEZVOUS_PORT": "10000",
        "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",  # which takes seconds
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ENDPOINT_URL", "RENDEZVOUS", "RENDEZVOUS_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        handler = importlib.import_module("initialize.handler")
        s3, ec2 = boto3.client("s3"), boto3.client("ec2")
        monkeypatch.setattr(handler, "_s3", s3)
        s3.create_bucket(Bucket=BUCKET)
        for number in range(RANKS):
            s3.put_object(Bucket=BUCKET, Key=f"25MB/{number}.pt", Body=b"x" * 1000)
        started = ec2.run_instances(ImageId="ami-12c6146b", InstanceType="t4g.nano", MinCount=1, MaxCount=1)
        instance = started["Instances"][0]["InstanceId"]
        monkeypatch.setenv("RENDEZVOUS_INSTANCE_ID", instance)
        yield Account(s3, ec2, instance)


def test_an_own_host_that_is_stopped_would_have_to_be_waited_for(account: Account) -> None:
    account.ec2.stop_instances(InstanceIds=[account.instance])
    collectives = account.collectives()
    assert collectives["channel"] != "direct"
    assert f"the rendezvous host {account.instance} is stopped" in collectives["reason"]
    seconds = {name: one["seconds"] for name, one in collectives["candidates"].items()}
    assert set(seconds) == {"none", "s3", "direct"}
    assert seconds["direct"] > 25 + max(seconds["none"], seconds["s3"])


def test_an_own_host_that_runs_and_answers_is_up(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    real, host = importlib.import_module("initialize.handler"), Host()
    monkeypatch.setenv("RENDEZVOUS_PORT", str(host.port))
    # moto gives the instance an address of the Internet, at which nobody is to be asked
    asked: list[str] = []

    def on_loopback(ec2: Any, instance: str) -> str:
        states = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"]
        asked.append(states[0]["State"]["Name"])
        return "127.0.0.1"

    monkeypatch.setattr(real, "public_address", on_loopback)
    try:
        collectives = account.collectives()
    finally:
        host.stop()
    assert asked == ["running"]
    assert collectives["channel"] == "direct"
    assert f"the rendezvous host at {host.address} is up" in collectives["reason"]
    assert "does not answer" in account.collectives()["reason"]  # it was stopped meanwhile


def test_where_ec2_cannot_be_asked_the_run_starts_all_the_same(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENDEZVOUS_INSTANCE_ID", "i-0123456789abcdef0")
    collectives = account.collectives()
    assert collectives["channel"] != "direct"
    assert (
        "EC2 does not say where the rendezvous host i-0123456789abcdef0 is (ClientError)"
        in collectives["reason"]
    )


def test_a_host_of_somebody_else_that_is_silent_is_no_candidate(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RENDEZVOUS_INSTANCE_ID")
    monkeypatch.setenv("RENDEZVOUS_ADDRESS", f"127.0.0.1:{free_port()}")
    collectives = account.collectives()
    assert set(collectives["candidates"]) == {"none", "s3"}
    assert "does not answer" in collectives["reason"]
    monkeypatch.setenv("RENDEZVOUS", "false")
    assert "this deployment has no rendezvous host" in account.collectives()["reason"]


def test_a_named_channel_is_taken_and_nobody_is_asked(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> Any:
        raise AssertionError("the host was asked for")

    monkeypatch.setattr(importlib.import_module("initialize.handler"), "_host", refused)
    for channel in ("direct", "s3", "none"):
        assert account.collectives(collectives=channel) == {"channel": channel}
    assert account.collectives(file_limit=1)["channel"] == "none"


def test_the_speed_is_that_of_the_models_last_run(account: Account) -> None:
    assert "; estimated with an assumed speed: 385 to 440 images/s per vCPU" in account.collectives()["reason"]
    _put(account.s3, last_run_key(None), _LAST.to_json())
    reason = account.collectives()["reason"]
    assert "the speed of this model's last run, run-7: 350 to 400 images/s per vCPU" in reason
    for name in ("config.json", "model.safetensors"):
        _put(account.s3, f"models/mine/{name}", {})
    assert "assumed" in account.collectives(model="models/mine")["reason"]


def test_the_speed_of_a_model_that_has_not_run_is_that_on_its_card(s3: Any) -> None:
    card = {"speed": {"images per second and thread": 480.0, "machine": "AMD EPYC, avx2"}}
    _put(s3, "models/mine/card.json", card)
    card_speed = speed(s3, BUCKET, "models/mine")
    assert (card_speed.images_per_second_vcpu, card_speed.start_seconds) == (
        (420.0, 480.0),
        ASSUMED.start_seconds,
    )
    assert card_speed.source == "the speed on the model's card, measured on AMD EPYC, avx2"
    _put(s3, last_run_key("models/mine"), _LAST.to_json())
    assert speed(s3, BUCKET, "models/mine").start_seconds == (1.2, 2.5)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda last: b"not JSON",
        lambda last: json.dumps([last]).encode(),
        lambda last: b"[" * 100_000,
        lambda last: b" " * (2 << 20),
        lambda last: json.dumps({**last, "memory (MB)": 0}).encode(),
        lambda last: json.dumps({**last, "images per second, slowest rank": "fast"}).encode(),
        lambda last: json.dumps({**last, "images per second, slowest rank": 0}).encode(),
        lambda last: json.dumps({**last, "images per second, fastest rank": 1.0}).encode(),
        lambda last: json.dumps({**last, "init (seconds), slowest rank": 1e9}).encode(),
        lambda last: json.dumps({name: last[name] for name in ("run_id", "started")}).encode(),
    ],
)
def test_a_last_run_that_cannot_be_used_is_ignored_and_named_in_the_log(
    s3: Any, spoil: Callable[[Json], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    key = last_run_key("models/mine")
    s3.put_object(Bucket=BUCKET, Key=key, Body=spoil(_LAST.to_json()))
    assert speed(s3, BUCKET, "models/mine") == ASSUMED
    assert f"s3://{BUCKET}/{key} is not used: " in json.loads(capsys.readouterr().out)["message"]


@pytest.mark.parametrize("measured", [7, {}, {"images per second and thread": -1, "machine": "m"}])
def test_a_card_that_cannot_be_used_is_ignored(s3: Any, measured: Any) -> None:
    _put(s3, "models/mine/card.json", {"speed": measured})
    assert speed(s3, BUCKET, "models/mine") == ASSUMED


def _put(s3: Any, key: str, content: Json) -> None:
    s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(content).encode())
