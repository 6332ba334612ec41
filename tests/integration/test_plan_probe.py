"""`cosmicai plan --probe --local`: its figures are measured on the embedded AWS, stated, and used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cosmicai.cli import app
from cosmicai.emulator.environment import credentials
from cosmicai.processes import process_birth

from .conftest import CONCURRENCY, Cloud, Ran

Json = dict[str, Any]


@pytest.fixture
def embedded(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """The session's deployment as that of `cosmicai local up`."""
    state = {
        "pid": os.getpid(), "birth": process_birth(os.getpid()), "endpoint": cloud.aws.endpoint,
        "bucket": cloud.outputs.bucket, "state_machine_arn": cloud.outputs.state_machine_arn,
        "concurrency": CONCURRENCY, "rendezvous": cloud.aws.rendezvous,
    }  # fmt: skip
    (tmp_path / "state.json").write_text(json.dumps(state))
    monkeypatch.setenv("COSMICAI_LOCAL", str(tmp_path))
    for name, value in credentials(cloud.aws.endpoint).items():
        monkeypatch.setenv(name, value)
    return cloud


def _plan(*options: str) -> Json:
    result = CliRunner().invoke(app, ["plan", "--partition-mb", "5", *options, "--json"])
    assert result.exit_code == 0, result.output + str(result.exception)
    content: Json = json.loads(result.stdout)
    return content


def test_two_ranks_calibrate_the_plan_of_eight(
    embedded: Cloud, partitions: Callable[..., dict[str, bytes]], run: Callable[[Json], Ran], prefix: str
) -> None:
    galaxies = 5 * 2**20 // 20_504
    embedded.put(".last-runs/bundled.json", b"of an earlier run")
    before = embedded.keys(embedded.bucket, "")
    probed = _plan("--images", str(8 * galaxies), "--probe", "--local")
    assert embedded.keys(embedded.bucket, "") == before, "the probe left something, or took it"
    assert embedded.get(embedded.bucket, ".last-runs/bundled.json") == b"of an earlier run"

    basis, planned = probed["basis"], probed["recommended"]
    assert basis["source"].startswith("a probe of 2 ranks of 256 galaxies on this machine")
    assert all(one["assumed"] is False for one in basis["varies"])
    assert planned["ranks"] == 8
    assert planned["memory_mb"] == 3008  # of this deployment
    assert planned["architecture"] == "x86_64"
    assumed = _plan("--images", str(8 * galaxies), "--memory-mb", "3008", "--arch", "x86_64")
    assert planned["seconds"] != assumed["recommended"]["seconds"]
    assert basis["images per second and vCPU"] != assumed["basis"]["images per second and vCPU"]

    embedded.put_all(prefix, partitions(8, galaxies))
    ran = run(embedded.payload(prefix))
    infos = ran.read("combined_data.json")
    assert len(infos) == planned["ranks"]
    assert sum(not info["cold_start"] for info in infos) >= 2, (
        "the probe's sandboxes are warm, as its plan has it"
    )


def test_a_probe_begins_in_new_sandboxes_each_time(embedded: Cloud) -> None:
    """Otherwise a second probe would measure no cold start."""
    for _ in range(2):
        assert min(_plan("--images", "1000", "--probe", "--local")["basis"]["cold start (seconds)"]) > 0
