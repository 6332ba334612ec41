"""The operator's command line against the embedded AWS, as its users call it."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosmicai.processes import process_birth
from inference.contract.accuracy import NMAD_ERROR
from inference.engine.cpu import instructions
from summarize.contract.figures import seconds_text, usd_text
from tests.unit.test_historic import KEYS

from .conftest import Cloud, no_ranks

Partitions = Callable[..., dict[str, bytes]]
COSMICAI = str(Path(sys.executable).with_name("cosmicai"))


class Cli:
    """Calls cosmicai with the session's deployment as its local one, as a terminal of 120 columns would."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        state = {
            "pid": os.getpid(),
            "birth": process_birth(os.getpid()),
            "endpoint": cloud.aws.endpoint,
            "environment": cloud.aws.environment,
            "bucket": cloud.outputs.bucket,
            "state_machine_arn": cloud.outputs.state_machine_arn,
        }
        folder.mkdir()
        (folder / "state.json").write_text(json.dumps(state))
        self.environment = {**os.environ, "COSMICAI_LOCAL": str(folder), "COLUMNS": "120"}
        self.folder = folder

    def __call__(self, *arguments: str, expect: int = 0) -> str:
        process = subprocess.run(
            [COSMICAI, *arguments], env=self.environment, capture_output=True, text=True, cwd=self.folder
        )
        assert process.returncode == expect, process.stdout + process.stderr
        assert "Traceback" not in process.stderr
        return process.stdout if expect == 0 else process.stdout + process.stderr

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [COSMICAI, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            start_new_session=True,
        )

    def payload(self, **fields: Any) -> str:
        file = self.folder / "payload.json"
        file.write_text(json.dumps(fields))
        return str(file)


@pytest.fixture
def cli(cloud: Cloud, tmp_path: Path) -> Cli:
    return Cli(cloud, tmp_path / "local")


def test_from_partitions_to_a_report(cli: Cli, partitions: Partitions, prefix: str, tmp_path: Path) -> None:
    folder = tmp_path / "partitions"
    folder.mkdir()
    for name, body in partitions(3, rows=20).items():
        (folder / name).write_bytes(body)
    assert f"/{prefix}/" in cli("data", "upload", str(folder), prefix, "--local")
    file = cli.payload(data_prefix=prefix, result_path=f"results/{prefix}", collectives="direct")
    output = cli("run", file, "--local", "--name", "first", "--set", "batch_size=8")
    assert "succeeded: 60 redshifts in " in output
    assert "None" not in output
    assert "0 waiting" not in output
    status = json.loads(cli("status", "first", "--json", "--local"))
    assert (status["status"], status["ranks"], status["finished"], status["failed"], status["images"]) == (
        "SUCCEEDED", 3, 3, 0, 60,
    )  # fmt: skip
    assert status["usd_so_far"] > 0
    runs = json.loads(cli("list", "--json", "--local"))
    assert "first" in [run["name"] for run in runs]
    log = cli("logs", "1", "--run", "first", "--local")
    assert '"rank": 1' in log
    assert "REPORT RequestId" in log
    assert '"rank": 2' not in log
    out = tmp_path / "out"
    assert json.loads(cli("results", "first", "--out", str(out), "--json", "--local"))["files"] > 8
    for name in ("report.html", "inference.png", "Results.json", "predictions/2.npz", "metrics.json"):
        assert (out / name).exists()
    results = json.loads((out / "Results.json").read_text())
    assert tuple(results)[: len(KEYS)] == KEYS
    assert _disagreements(output, status, out, cli("status", "first", "--local")) == []
    assert (results["batch size"], results["number of batches"], results["device"]) == (8, 9, "cpu")
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["num_samples"], summary["num_samples_from"]) == (60, {"engine": 3})
    for theirs, ours in (("MAE", "MAE"), ("MSE", "MSE"), ("Bias", "bias"), ("R2", "R2")):
        assert results[theirs] == summary["accuracy"][ours]
    assert abs(results["Precision"] - summary["accuracy"]["precision (NMAD)"]) < NMAD_ERROR
    written = (out / "report.html").read_text()
    (out / "report.html").unlink()
    cli("report", str(out))
    assert (out / "report.html").read_text() == written  # the one that Summarize wrote
    assert json.loads((out / "run.json").read_text())["payload"]["batch_size"] == 8


def _disagreements(output: str, status: dict[str, Any], out: Path, screen: str) -> list[str]:
    """The numbers of summary.json that watch, `status --json`, report.html and `status` do not show alike."""
    summary = json.loads((out / "summary.json").read_text())
    wall, usd = summary["wall (seconds)"], summary["cost"]["total (USD)"]
    speed = summary["num_samples"] / wall
    numbers = {"wall_seconds": wall, "usd_so_far": usd, "images_per_second": speed}
    page = (out / "report.html").read_text().replace("&nbsp;", " ")
    texts = {
        "watch": (output, [f"in {seconds_text(wall)}, {usd_text(usd)}"]),
        "report.html": (
            page,
            [
                f"{seconds_text(wall)} from start to the last rank",
                f"<b>{usd_text(usd)}</b>",
                f"<b>{speed:,.0f}</b>",
            ],
        ),
        "status": (
            screen,
            [f"{seconds_text(wall)} from start to the last rank's end", f"{usd_text(usd)} at list prices"],
        ),
    }
    different = [f"status --json: {name}" for name, number in numbers.items() if status[name] != number]
    lacking = [
        f"{place}: {part}" for place, (text, parts) in texts.items() for part in parts if part not in text
    ]
    return different + lacking


def test_a_failed_run_says_why_and_is_resumed(
    cli: Cli, cloud: Cloud, partitions: Partitions, prefix: str, tmp_path: Path
) -> None:
    files = partitions(3)
    cloud.put_all(prefix, {**files, "2.pt": b"not yet there"})
    file = cli.payload(data_prefix=prefix, result_path=f"results/{prefix}")
    output = cli("run", file, "--local", "--name", "broken", expect=3)
    assert "rank 1: PartitionError" in output
    assert "1 of 3 ranks left no result: 1." in output
    assert "`cosmicai resume broken --local`" in output
    message = cli("results", "broken", "--local", "--out", str(tmp_path / "broken"))
    assert "1 of 3 ranks left no result: the report says why" in message
    again = cli("resume", "broken", "--local", expect=3)  # still broken: the error is that of this attempt
    assert [line.startswith("rank 1: PartitionError") for line in again.splitlines()].count(True) == 1
    cloud.put(f"{prefix}/2.pt", files["2.pt"])
    with no_ranks(cloud):  # so that it is looked at before the rank has a result
        cli("resume", "broken", "--local", "--detach")
        status = _until(lambda: json.loads(cli("status", "--local", "--json")), lambda one: one["ranks"] == 3)
        assert (status["finished"], status["failed"], status["errors"]) == (2, 0, {})
    output = cli("watch", "--local")
    assert "PartitionError" not in output
    status = json.loads(cli("status", "--local", "--json"))
    assert (status["status"], status["finished"], status["failed"]) == ("SUCCEEDED", 3, 0)
    out = tmp_path / "out"
    cli("results", "--local", "--out", str(out))
    assert "✓ Succeeded: all 3 ranks finished" in (out / "report.html").read_text()
    assert "has ended already" in cli("stop", "broken", "--local", expect=1)


def _until(look: Callable[[], Any], holds: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 120
    while not holds(status := look()):
        assert time.monotonic() < deadline, status
        time.sleep(0.2)
    return status


def test_ctrl_c_leaves_the_run_running_and_stop_ends_it(
    cli: Cli, cloud: Cloud, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(2))
    file = cli.payload(data_prefix=prefix, result_path=f"results/{prefix}")
    with no_ranks(cloud):
        watching = cli.start("run", file, "--local", "--name", "left-alone")
        assert watching.stdout is not None
        while "Ranks" not in watching.stdout.readline():
            assert watching.poll() is None
        os.killpg(watching.pid, signal.SIGINT)
        _, errors = watching.communicate(timeout=20)
        assert watching.returncode == 130
        assert "the run continues; come back with `cosmicai watch left-alone --local`" in errors
        assert "Traceback" not in errors
        assert json.loads(cli("status", "left-alone", "--json", "--local"))["status"] == "RUNNING"
        assert "is still running" in cli("resume", "left-alone", "--local", expect=1)
        cli("stop", "left-alone", "--local")
        assert "\naborted" in cli("watch", "left-alone", "--local", expect=3)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("run", "payload.json", "--local", "--set", "batch_sise=8"), "batch_sise: unknown field; did you"),
        (("run", "payload.json", "--team", "nobody"), "team nobody is not deployed from here"),
        (("run", "payload.json", "--team", "nobody", "--local"), "give --team or --local, not both"),
        (("status", "no-such-run", "--local"), "no run has the name no-such-run: `cosmicai list --local`"),
        (("report", "."), "summary.json is missing: give a folder of downloaded results"),
        (("sweep", "--partitions-mb", "77", "--local"), "/77MB/ holds no partition"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_a_line_or_two(cli: Cli, arguments: tuple[str, ...], fault: str) -> None:
    cli.payload(data_prefix="d", result_path="r")
    output = cli(*arguments, expect=1)
    assert fault in output
    assert len(output.strip().splitlines()) <= 2


def test_names_and_numbers_are_never_cut(cli: Cli, cloud: Cloud, partitions: Partitions, prefix: str) -> None:
    cloud.put_all(prefix, partitions(1))
    name = "a-name-of-eighty-characters-" + "x" * 52
    file = cli.payload(data_prefix=prefix, result_path=f"results/{prefix}")
    cli("run", file, "--local", "--name", name)
    took = json.loads(cli("list", "--json", "--local", "--limit", "1"))[0]["seconds"]
    for columns in ("40", "80", "120"):
        cli.environment["COLUMNS"] = columns
        (line,) = (line for line in cli("list", "--local").splitlines() if name in line)
        assert f"{took:,.1f}" in line
        cli.environment["FORCE_COLOR"] = "1"  # as a terminal
        shown = re.sub(r"\x1b\[[0-9;]*m", "", cli("list", "--local"))
        assert name in re.sub(r"[\s│┃]", "", shown) or all(part in shown for part in _folded(name, shown))
        assert f"{took:,.1f}" in shown
        assert "…" not in shown
        del cli.environment["FORCE_COLOR"]


def _folded(name: str, shown: str) -> list[str]:
    """The parts of a name that stand below each other in a table; together they are the name."""
    cells = [line.split("│")[1].strip() for line in shown.splitlines() if line.startswith("│")]
    start = next(index for index, cell in enumerate(cells) if cell and name.startswith(cell))
    parts = list[str]()
    while "".join(parts) != name:
        parts.append(cells[start + len(parts)])
        assert name.startswith("".join(parts))
    return parts


def test_a_full_disk_leaves_nothing_of_a_download(
    cli: Cli, cloud: Cloud, partitions: Partitions, prefix: str
) -> None:
    cloud.put_all(prefix, partitions(1))
    file = cli.payload(data_prefix=prefix, result_path=f"results/{prefix}")
    cli("run", file, "--local", "--name", "full")
    command = [COSMICAI, "results", "full", "--local", "--out", "new/out"]
    process = subprocess.run(
        command,
        env=cli.environment,
        capture_output=True,
        text=True,
        cwd=cli.folder,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048)),
    )
    assert process.returncode == 1
    assert process.stderr.startswith("error: new/out cannot be written: File too large")
    assert len(process.stderr.splitlines()) == 1
    assert not (cli.folder / "new").exists()


def test_credentials_and_networks_that_fail_are_explained(cli: Cli, tmp_path: Path) -> None:
    """A team's deployment, of which only the state is here."""
    from cosmicai.packaging.places import ROOT

    states = ROOT / ".cosmicai" / "terraform"
    states.mkdir(parents=True, exist_ok=True)
    state = states / f"test-{os.getpid()}.tfstate"
    arn = "arn:aws:states:us-east-1:123456789012:stateMachine:test-cosmicai"
    outputs = {"bucket": {"value": "test-cosmicai"}, "state_machine_arn": {"value": arn}}
    state.write_text(json.dumps({"outputs": outputs}))
    nobody = {
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    cli.environment |= nobody
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        cli.environment.pop(name, None)
    try:
        assert "sign in" in cli("list", "--team", state.stem, expect=1)
        assert "could not be found" in cli("list", "--team", state.stem, "--profile", "wrong", expect=1)
        cli.environment |= {
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        }
        output = cli("list", "--team", state.stem, expect=1)
        assert "AWS cannot be reached" in output
        assert len(output.strip().splitlines()) <= 2
    finally:
        state.unlink()


def test_the_doctor_finds_the_deployment(cli: Cli) -> None:
    checks = {check["name"]: check for check in json.loads(cli("doctor", "--local", "--json"))}
    assert checks["engine"]["detail"] == f"by {instructions()}"
    assert checks["inference function"]["detail"] == "3008 MB, x86_64, 900 s"
    assert all(check["holds"] for check in checks.values())


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_sweep_is_interrupted_and_goes_on(cli: Cli, cloud: Cloud, partitions: Partitions) -> None:
    for partition, rows in (("1", 20), ("2", 40)):
        cloud.put_all(
            f"{partition}MB", {f"{n}.pt": body for n, body in enumerate(partitions(2, rows).values(), 1)}
        )
    command = ["sweep", "--batch-sizes", "8,16", "--partitions-mb", "1,2", "--repeat", "3", "--local"]
    command += ["--prefix", "sweep", "--out", "swept"]
    sweeping = cli.start(*command)
    stats = cli.folder / "swept" / "result_stats.csv"
    deadline = time.monotonic() + 120
    while not stats.exists() or len(stats.read_text().splitlines()) < 4:
        assert time.monotonic() < deadline
        assert sweeping.poll() is None
        time.sleep(0.05)
    os.killpg(sweeping.pid, signal.SIGINT)
    _, errors = sweeping.communicate(timeout=30)
    assert (sweeping.returncode, "the same command continues from here" in errors) == (130, True)
    before = {row["run_id"] for row in _rows(stats)}
    output = cli(*command)
    assert "fastest is batch size " in output
    assert "cheapest is batch size " in output
    rows = _rows(stats)
    assert len(rows) == 12
    assert before <= {row["run_id"] for row in rows}  # none was made twice
    assert len({row["run_id"] for row in rows}) == 12
    assert {"batch_size", "sample_persec", "throughput_bps", "total_cpu_time (seconds)"} <= set(rows[0])
    cases = _rows(cli.folder / "swept" / "batch_varying_results.csv")
    assert [case["repeats"] for case in cases] == ["3"] * 4
    for name in ("by_batch_size.png", "by_partition_mb.png", "sweep.html"):
        assert (cli.folder / "swept" / name).stat().st_size > 5000
    paths = [key for key in cloud.keys(cloud.bucket, "sweep/") if key.endswith("summary.json")]
    assert len(paths) == 12
