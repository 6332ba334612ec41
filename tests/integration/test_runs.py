"""Whole runs that go well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import TensorDataset

from cosmicai.data import dc2
from cosmicai.deploy.terraform import emulated_variables
from cosmicai.emulator import Emulator
from cosmicai.packaging.places import ROOT
from inference.contract.accuracy import NMAD_ERROR, Accuracy
from inference.engine.loading import BUNDLED_MODEL
from tests.conftest import CACHE
from tests.small_network import SMALL

from .conftest import Cloud, Json, Ran, deployed

Run = Callable[[Json], Ran]
Partitions = Callable[..., dict[str, bytes]]
Reference = Callable[[bytes], np.ndarray]


def test_sixty_partitions(cloud: Cloud, run: Run, reference: Reference) -> None:
    """60 partitions of 1 MB: every result is there, in rank order, in the partition's order, and right."""
    folder = dc2.partitions("validation", 60 * dc2.rows_per_partition(1), 1, CACHE)
    files = {path.name: path.read_bytes() for path in folder.glob("*.pt")}
    cloud.put_all("1MB", files)
    ran = run(cloud.payload("1MB", precision="float32"))
    assert ran.status == "SUCCEEDED", ran.cause
    assert {f"{rank}.json" for rank in range(60)} <= ran.objects()
    assert {f"predictions/{rank}.npz" for rank in range(60)} <= ran.objects()
    combined = ran.read("combined_data.json")
    assert [info["rank"] for info in combined] == list(range(60))
    assert [info["data_path"] for info in combined] == [f"1MB/{n}.pt" for n in range(1, 61)]
    predicted, true = [], []
    for rank in range(60):
        arrays = ran.predictions(rank)
        assert np.array_equal(arrays["index"], np.arange(dc2.rows_per_partition(1)))
        assert arrays["z_pred"] == pytest.approx(reference(files[f"{rank + 1}.pt"]), abs=1e-5)
        predicted.append(arrays["z_pred"])
        true.append(arrays["z_true"])
    expected = Accuracy.of(np.concatenate(predicted).tolist(), np.concatenate(true).tolist()).measures()
    summary = ran.read("summary.json")
    assert summary["num_samples"] == 60 * dc2.rows_per_partition(1)
    assert summary["accuracy"]["precision (NMAD)"] == pytest.approx(
        expected["precision (NMAD)"], abs=NMAD_ERROR
    )
    assert summary["accuracy"]["MAE"] == pytest.approx(expected["MAE"])
    assert summary["cost"]["GB-seconds"] > 0
    assert summary["failed_ranks"] == {}
    assert summary["missing_ranks"] == []


def test_the_historic_payload_runs_as_it_is(cloud: Cloud, partitions: Partitions) -> None:
    file = ROOT / "payloads" / "historic.json"
    payload = json.loads(file.read_text())
    cloud.put_all(payload["data_prefix"], partitions(4))
    ran = cloud.wait(cloud.start(file), payload)
    assert ran.status == "SUCCEEDED", ran.cause
    historic = {
        "total_cpu_time (seconds)", "total_cpu_memory (MB)", "total_process_memory (MB)",
        "library_overhead_memory (MB)", "total_image_memory (MB)", "total_model_memory (MB)",
        "execution_time (seconds/batch)", "num_batches", "batch_size", "device", "throughput_bps",
        "sample_persec", "result_path", "data_path", "s3_num_requests", "s3_total_time", "s3_avg_time",
        "s3_min_time", "s3_max_time",
    }  # fmt: skip
    for info in ran.read("combined_data.json"):
        assert historic <= set(info)
        assert info["batch_size"] == 512


def test_fewer_ranks_than_files_read_several_each(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str, reference: Reference
) -> None:
    files = partitions(5, rows=3)
    cloud.put_all(prefix, files)
    ran = run(cloud.payload(prefix, world_size=2, batch_size="2", precision="float32"))
    assert ran.status == "SUCCEEDED", ran.cause
    seen = []
    for rank in range(2):
        arrays = ran.predictions(rank)
        names = [str(key).rpartition("/")[2] for key in arrays["files"]]
        assert arrays["rows"].tolist() == [3] * len(names)
        assert arrays["z_pred"] == pytest.approx(
            np.concatenate([reference(files[name]) for name in names]), abs=1e-5
        )
        seen += names
    assert sorted(seen) == sorted(files)


def test_a_thousand_and_a_half_partitions_are_all_found(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    body = partitions(1, rows=1)["1.pt"]
    cloud.put_all(prefix, {f"{n}.pt": body for n in range(1, 1501)})
    ran = run(cloud.payload(prefix, world_size=4))
    assert ran.status == "SUCCEEDED", ran.cause
    assert ran.read("run.json")["files"] == 1500
    assert ran.read("summary.json")["num_samples"] == 1500


def test_data_without_redshifts_has_no_accuracy(
    cloud: Cloud,
    run: Run,
    prefix: str,
    make_partition: Callable[..., TensorDataset],
    saved: Callable[[object], bytes],
) -> None:
    cloud.put_all(prefix, {"1.pt": saved(make_partition(2, with_redshift=False))})
    ran = run(cloud.payload(prefix))
    assert ran.status == "SUCCEEDED", ran.cause
    assert ran.read("summary.json")["accuracy"] is None
    assert "MAE" not in ran.read("0.json")
    assert "z_true" not in ran.predictions(0)


def test_predictions_can_be_left_out_and_files_limited(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(3))
    ran = run(cloud.payload(prefix, file_limit="2", save_predictions=False))
    assert ran.status == "SUCCEEDED", ran.cause
    assert ran.read("run.json")["data_map"] == {"0": f"{prefix}/1.pt", "1": f"{prefix}/2.pt"}
    assert not any(key.startswith("predictions/") for key in ran.objects())


def test_results_of_an_earlier_run_are_not_mixed_in(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(3))
    first = run(cloud.payload(prefix))
    second = run(cloud.payload(prefix, file_limit=1))
    assert (first.status, second.status) == ("SUCCEEDED", "SUCCEEDED")
    assert "2.json" in second.objects()  # left there by the first run
    assert [info["rank"] for info in second.read("combined_data.json")] == [0]


def test_a_model_of_ones_own(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str, tmp_path: Path
) -> None:
    import torch

    from cosmicai.model.optimise import optimise
    from inference.engine import astromae

    torch.manual_seed(1)
    model = astromae.AstroMAE(SMALL).eval()
    astromae.save(model, tmp_path)
    optimise(tmp_path)
    for path in tmp_path.iterdir():
        cloud.put(f"models/mine/{path.name}", path.read_bytes())
    cloud.put_all(prefix, partitions(1))
    ran = run(cloud.payload(prefix, model="models/mine"))
    assert ran.status == "SUCCEEDED", ran.cause
    images, magnitudes, _ = torch.load(_saved(tmp_path, partitions(1)["1.pt"]), weights_only=False).tensors
    with torch.inference_mode():
        assert ran.predictions(0)["z_pred"] == pytest.approx(model(images, magnitudes).numpy(), abs=1e-5)


def test_a_run_in_bfloat16(
    cloud: Cloud, run: Run, partitions: Partitions, reference: Reference, prefix: str
) -> None:
    files = partitions(2)
    cloud.put_all(prefix, files)
    ran = run(cloud.payload(prefix, precision="bfloat16"))
    assert ran.status == "SUCCEEDED", ran.cause
    infos = ran.read("combined_data.json")
    assert [info["precision"] for info in infos] == ["bfloat16"] * 2
    assert {info["precision_reason"].partition(";")[0] for info in infos} == {"requested"}
    for rank in range(2):
        expected = reference(files[f"{rank + 1}.pt"])
        differences = np.abs(ran.predictions(rank)["z_pred"] - expected) / (1 + expected)
        assert 0 < differences.max() < 0.003


def test_a_100_mb_partition_runs_in_512_mb(
    aws: Emulator, saved: Callable[[object], bytes], make_partition: Any, tmp_path: Path
) -> None:
    """The sandbox kills what takes more than the function's memory."""
    small = deployed(aws, "small", emulated_variables("small", aws, inference={"memory_mb": 512}))
    data = saved(make_partition(5112))
    assert len(data) > 100 * 1000**2
    small.put("large/1.pt", data)
    file, payload = tmp_path / "payload.json", small.payload("large")
    file.write_text(json.dumps(payload))
    ran = small.wait(small.start(file), payload)
    assert ran.status == "SUCCEEDED", ran.cause
    (info,) = ran.read("combined_data.json")
    assert (info["num_samples"], info["memory_limit (MB)"]) == (5112, 512)
    assert info["total_process_memory (MB)"] < 300


def test_a_model_without_graphs_needs_the_torch_image(
    cloud: Cloud, torch_cloud: Cloud, run: Run, partitions: Partitions, prefix: str, tmp_path: Path
) -> None:
    for where in (cloud, torch_cloud):
        for name in ("config.json", "model.safetensors"):
            where.put(f"models/plain/{name}", (BUNDLED_MODEL / name).read_bytes())
        where.put_all(prefix, partitions(1))
    lean = run(cloud.payload(prefix, model="models/plain"))
    assert lean.status == "FAILED"
    assert "run `cosmicai model optimise` on the model, or deploy the image variant `torch`" in lean.cause
    file = tmp_path / "torch.json"
    file.write_text(json.dumps(torch_cloud.payload(prefix, model="models/plain")))
    ran = torch_cloud.wait(torch_cloud.start(file), json.loads(file.read_text()))
    assert ran.status == "SUCCEEDED", ran.cause
    assert [info["engine"] for info in ran.read("combined_data.json")] == ["torch"]


def _saved(folder: Path, data: bytes) -> Path:
    path = folder / "1.pt"
    path.write_bytes(data)
    return path


def test_logs_and_cold_starts_are_reported(cloud: Cloud, run: Run, partitions: Partitions, prefix: str) -> None:
    cloud.put_all(prefix, partitions(6))
    ran = run(cloud.payload(prefix))
    infos = ran.read("combined_data.json")
    assert ran.read("summary.json")["cold_starts"] == sum(info["cold_start"] for info in infos)
    group = f"/aws/lambda/{cloud.outputs.function_names['inference']}"
    pages = cloud.logs.get_paginator("filter_log_events").paginate(logGroupName=group)
    messages = [event["message"] for page in pages for event in page["events"]]
    reports = [message for message in messages if message.startswith("REPORT RequestId: ")]
    assert len(reports) >= 6
    assert any("Init Duration" in report for report in reports)
    assert all("Max Memory Used" in report for report in reports)
