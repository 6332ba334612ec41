"""Runs of a deployment from Python, against the embedded AWS."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cosmicai
from cosmicai.emulator.environment import credentials
from cosmicai.processes import process_birth
from cosmicai.runs.client import RunError
from cosmicai.runs.watch import Snapshot
from inference.contract.flags import Flag
from initialize.payload import PayloadError

from .conftest import Cloud, no_ranks

Partitions = Callable[..., dict[str, bytes]]


@pytest.fixture
def deployment(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cosmicai.Deployment:
    """The session's deployment as the local one; results go to a folder of the test's own."""
    state = {
        "pid": os.getpid(),
        "birth": process_birth(os.getpid()),
        "endpoint": cloud.aws.endpoint,
        "bucket": cloud.outputs.bucket,
        "state_machine_arn": cloud.outputs.state_machine_arn,
    }
    (tmp_path / "state.json").write_text(json.dumps(state))
    monkeypatch.setenv("COSMICAI_LOCAL", str(tmp_path))
    for name, value in credentials(cloud.aws.endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return cosmicai.Deployment(local=True)


def _payload(prefix: str, **fields: Any) -> dict[str, Any]:
    return {"data_prefix": prefix, "result_path": f"results/{prefix}", **fields}


def test_from_a_payload_to_tables(
    cloud: Cloud, deployment: cosmicai.Deployment, partitions: Partitions, prefix: str, tmp_path: Path
) -> None:
    assert deployment.bucket == cloud.bucket
    cloud.put_all(prefix, partitions(3, rows=20))
    seen: list[Snapshot] = []
    run = deployment.run(_payload(prefix), changes={"batch_size": 8, "outputs": "embedding"}).wait(
        240, seen.append
    )
    assert (seen[-1].status, seen[-1].finished, seen[-1].images) == ("SUCCEEDED", 3, 60)
    assert run.state().ended
    assert deployment.find(run.name) == run
    assert run.name in [listed["name"] for listed in deployment.runs()]
    assert any('"rank": 1' in line for line in run.log(1))
    asked: list[tuple[int, int]] = []
    results = cosmicai.load_results(run, progress=lambda finished, total: asked.append((finished, total)))
    assert results.folder == Path("results") / run.name
    assert asked[-1][0] == asked[-1][1] == len(results.files)
    assert results.summary.payload["batch_size"] == 8
    table = results.to_astropy()
    assert len(table) == len(results.to_pandas()) == 60
    assert table["embedding"].shape == (60, 96)
    assert "pdf" not in table.colnames
    assert np.isfinite(table["ood_p"]).all()  # of the bundled network, which every rank has
    assert set(np.asarray(table["flags"])[table["ood_p"] < 0.001] & Flag.UNFAMILIAR) <= {Flag.UNFAMILIAR}
    again = cosmicai.load_results(f"s3://{cloud.bucket}/results/{prefix}/", tmp_path / "again")
    assert np.array_equal(again.to_astropy()["z_pred"], table["z_pred"])
    assert again.summary == results.summary
    with pytest.raises(RunError, match="has ended already"):
        run.stop()


def test_a_payload_is_checked_before_anything_starts(
    deployment: cosmicai.Deployment, prefix: str, tmp_path: Path
) -> None:
    before = len(deployment.runs(1000))
    with pytest.raises(PayloadError, match="data_prefix: is missing"):
        deployment.run({"result_path": "results/a"})
    with pytest.raises(PayloadError, match="batch_size: 0 is not allowed"):
        deployment.run(_payload(prefix, batch_size=0))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(PayloadError, match="does not hold a JSON object"):
        deployment.run(tmp_path / "list.json")
    with pytest.raises(PayloadError, match="cannot be read as JSON"):
        deployment.run(tmp_path / "missing.json")
    assert len(deployment.runs(1000)) == before


def test_a_failed_run_is_told_and_resumed(
    cloud: Cloud, deployment: cosmicai.Deployment, partitions: Partitions, prefix: str
) -> None:
    bodies = partitions(2)
    cloud.put_all(prefix, {**bodies, "2.pt": b"not a partition"})
    run = deployment.run(_payload(prefix))
    with pytest.raises(cosmicai.RunFailed, match=f"{run.name} failed: .*2") as failed:
        run.wait(240)
    assert failed.value.last.failed == 1
    assert len(run.results().to_pandas()) == 2  # what the other rank has computed
    cloud.put(f"{prefix}/2.pt", bodies["2.pt"])
    resumed = run.resume().wait(240)
    assert resumed.name.startswith(run.name[:20])
    assert len(cosmicai.load_results(resumed).to_pandas()) == 4


def test_a_run_that_lasts_longer_continues_and_is_stopped(
    cloud: Cloud, deployment: cosmicai.Deployment, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(2))
    with no_ranks(cloud):
        run = deployment.run(_payload(prefix), name=f"waits-{os.getpid()}")
        with pytest.raises(TimeoutError, match="has not ended after 0 s; it continues"):
            run.wait(0)
        with pytest.raises(RunError, match="is still running"):
            run.resume()
        run.stop()
        with pytest.raises(cosmicai.RunFailed, match="aborted"):
            run.wait(60)


def test_no_results_in_s3(cloud: Cloud, deployment: cosmicai.Deployment) -> None:
    with pytest.raises(RunError, match=r"run\.json is not there: give the result_path of a run"):
        cosmicai.load_results(f"s3://{cloud.bucket}/nothing/here")
