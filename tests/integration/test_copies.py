"""Runs of sizes beyond the data: partitions are computed several times, and originals stay as they are."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .conftest import Cloud, Json, Ran
from .test_cli import Cli

Run = Callable[[Json], Ran]
Start = Callable[[Json], str]
Partitions = Callable[..., dict[str, bytes]]


def _arrays(ran: Ran, name: str) -> dict[str, np.ndarray]:
    with np.load(
        io.BytesIO(ran.cloud.get(ran.payload["bucket"], f"{ran.payload['result_path']}/{name}"))
    ) as file:
        return dict(file)


def _once_and(times: int, channel: str, cloud: Cloud, run: Run, prefix: str) -> tuple[Ran, Ran]:
    """A run of what is there, and one that repeats it."""
    payload = {**cloud.payload(prefix), "collectives": channel}
    once = run({**payload, "result_path": f"results/{prefix}/once"})
    return once, run({**payload, "result_path": f"results/{prefix}/repeated", "repeat_data": times})


def test_originals_are_computed_as_without_copies(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(3, rows=20))
    once, repeated = _once_and(3, "s3", cloud, run, prefix)
    assert (once.status, repeated.status) == ("SUCCEEDED", "SUCCEEDED"), once.cause + repeated.cause
    copies = {f"copies/{rank}.json" for rank in range(3, 9)}
    copies |= {f"copies/predictions/{rank}.npz" for rank in range(3, 9)} | {"copies/combined_data.json"}
    assert repeated.objects() == once.objects() | copies
    for rank in range(3):
        expected, arrays = once.predictions(rank), repeated.predictions(rank)
        assert arrays.keys() == expected.keys()
        for name in expected.keys() - {"run_id"}:
            assert arrays[name].tobytes() == expected[name].tobytes()
    for rank in range(3, 9):
        arrays, expected = _arrays(repeated, f"copies/predictions/{rank}.npz"), once.predictions(rank % 3)
        assert arrays.keys() == expected.keys() | {"copy_number"}
        assert arrays["copy_number"] == rank // 3
        assert arrays["z_pred"].tobytes() == expected["z_pred"].tobytes()
        info = repeated.read(f"copies/{rank}.json")
        assert (info["rank"], info["copy_number"], info["world_size"]) == (rank, rank // 3, 9)
        assert info["result_path"] == f"results/{prefix}/repeated/copies"
    for name in ("ranks", "num_samples", "accuracy", "accuracy_state"):
        assert repeated.read("metrics.json")[name] == once.read("metrics.json")[name]
    assert once.read("metrics.json")["ranks"] == [0, 1, 2]
    first, second = once.read("summary.json"), repeated.read("summary.json")
    for name in ("num_samples", "accuracy", "accuracy_state", "predicted_redshifts", "flags", "metrics_source"):
        assert second[name] == first[name]
    assert (first["num_samples"], second["copied_samples"], second["originals"]) == (60, 120, 3)
    assert (second["finished_ranks"], second["input_bytes"]) == (9, 3 * first["input_bytes"])
    assert [info["rank"] for info in repeated.read("combined_data.json")] == [0, 1, 2]
    assert [info["copy_number"] for info in repeated.read("copies/combined_data.json")] == [1, 1, 1, 2, 2, 2]


def test_copies_over_direct_connections_leave_the_metrics_as_they_are(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(2, rows=20))
    once, repeated = _once_and(4, "direct", cloud, run, prefix)
    assert (once.status, repeated.status) == ("SUCCEEDED", "SUCCEEDED"), once.cause + repeated.cause
    assert repeated.read("run.json")["collectives"] == {"channel": "direct"}
    assert repeated.read("0.json")["collectives"]["faults"] == {}
    assert repeated.read("0.json")["collectives"]["partners"] == [1, 2, 3, 4, 5, 6, 7]
    metrics = [{**ran.read("metrics.json"), "run_id": "", "world_size": 0} for ran in (once, repeated)]
    assert metrics[0] == metrics[1]


def test_a_resumed_run_computes_the_copies_that_are_missing(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(2))
    payload = cloud.payload(prefix, repeat_data=2)
    before = run(payload)
    assert before.status == "SUCCEEDED", before.cause
    kept = cloud.get(cloud.bucket, f"{payload['result_path']}/copies/2.json")
    cloud.s3.delete_object(Bucket=cloud.bucket, Key=f"{payload['result_path']}/copies/3.json")
    after = run({**payload, "resume": True})
    assert after.status == "SUCCEEDED", after.cause
    assert [event["RANK"] for event in after.read("manifest.json")] == [3]
    assert cloud.get(cloud.bucket, f"{payload['result_path']}/copies/2.json") == kept
    assert after.read("copies/3.json")["copy_number"] == 1
    assert after.read("summary.json")["finished_ranks"] == 4


def test_a_copy_that_fails_is_recorded_apart(
    cloud: Cloud, run: Run, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, {**partitions(1), "2.pt": b"no partition"})
    ran = run(cloud.payload(prefix, repeat_data=2))
    assert ran.status == "FAILED"
    assert "2 of 4 ranks left no result: 1, 3" in ran.cause
    assert {"failures/1.json", "copies/failures/3.json", "0.json", "copies/2.json"} <= ran.objects()
    assert {"failures/3.json", "copies/failures/1.json"}.isdisjoint(ran.objects())


def test_the_commands_say_that_data_are_repeated(
    cloud: Cloud, partitions: Partitions, prefix: str, tmp_path: Path
) -> None:
    cli = Cli(cloud, tmp_path / "local")
    files = partitions(2, rows=40)
    cloud.put_all("4MB", files)
    (cli.folder / "payload.json").write_text(json.dumps({"data_prefix": "4MB", "result_path": f"r/{prefix}"}))
    shown = cli("run", "payload.json", "--repeat-data", "3", "--name", "repeated", "--local")
    assert "note: repeat_data is 3: the ranks from 2 on are copies" in shown
    assert "6 of 6 ranks done" in shown
    assert "succeeded: images: 80, and 160 again by copies" in shown
    assert "images: 80, computed 3 times each" in cli("results", "repeated", "--out", "out", "--local")
    assert not (cli.folder / "out" / "copies").exists()
    cli("results", "repeated", "--out", "out", "--copies", "--format", "csv", "--local")
    assert len(list((cli.folder / "out" / "copies" / "predictions").iterdir())) == 4
    assert len((cli.folder / "out" / "catalogue.csv").read_text().splitlines()) == 1 + 80
    size = sum(map(len, files.values())) / 1e9
    options = ["--partitions-mb", "4", "--batch-sizes", "64", "--repeat", "1", "--prefix", f"s/{prefix}"]
    swept = cli("sweep", *options, "--data-gb", f"{3 * size:.7f}", "--out", "swept", "--local")
    assert "in s3://" in swept
    assert "2 partitions are computed 3 times each" in " ".join(swept.split())
    with (cli.folder / "swept" / "result_stats.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["world_size"], row["num_samples"], row["repeat_data"]) == ("6", "80", "3")
    assert float(row["images_per_second"]) * float(row["duration (seconds)"]) == pytest.approx(240)
