"""The main job end to end on the embedded AWS, as `make demo` shows it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from cosmicai.data import copying, dc2
from cosmicai.data.places import Bucket
from cosmicai.deploy.terraform import Deployment, emulated_variables
from cosmicai.emulator import Emulator
from cosmicai.model import baselines
from cosmicai.packaging.assembly import assemble
from cosmicai.packaging.places import ROOT, BuildFolder
from cosmicai.runs import client as runs
from cosmicai.runs.download import download
from summarize.contract.figures import seconds_text, usd_text
from summarize.contract.run_records import Summary

GALAXIES = 5112
PARTITION_MB = 25
RANKS = 4  # at once, so that they can reduce among themselves
TEAM = "example"
PAYLOAD = ROOT / "payloads" / "demo.json"
_MEASURES = ("precision (NMAD)", "bias", "R2", "outlier fraction", "MAE")

Json = dict[str, Any]


class DemoError(RuntimeError):
    """The demo's run did not succeed; the message has its error."""


@dataclass
class _Steps:
    """One progress line per step."""

    progress: Progress

    @contextmanager
    def step(self, title: str, total: int = 1) -> Iterator[TaskID]:
        task = self.progress.add_task(title, total=total)
        yield task
        total = int(self.progress.tasks[task].total or 1)
        self.progress.update(task, total=total, completed=total)

    def reporter(self, task: TaskID) -> runs.Progress:
        return lambda finished, total: self.progress.update(task, completed=finished, total=total)


def demo(cache: Path, results: Path, console: Console) -> None:
    """Renders, deploys, uploads, runs, downloads and shows. Raises DemoError if the run fails."""
    columns = (
        SpinnerColumn("line", finished_text="✓"),
        TextColumn("{task.description:<26}"),
        BarColumn(),
        TimeElapsedColumn(),
    )
    build, payload = BuildFolder(), json.loads(PAYLOAD.read_text())
    with Progress(*columns, console=console) as progress:
        steps = _Steps(progress)
        with steps.step("Assembling the functions"):
            assemble(build)
        with steps.step("Rendering DC2 galaxies", GALAXIES) as task:
            report = steps.reporter(task)
            partitions = dc2.partitions("validation", GALAXIES, PARTITION_MB, cache, progress=report)
        with steps.step("Fitting the baselines"):
            validation = dc2.observations("validation", [0], cache)[:GALAXIES]
            simple = baselines.measure(dc2.observations("training", range(4), cache), validation, cache)
        with steps.step("Starting the embedded AWS"):
            aws = Emulator(build, RANKS)
            aws.start()
        try:
            summary = _run(aws, build, partitions, payload, results, steps)
        finally:
            with steps.step("Stopping the embedded AWS"):
                aws.stop()
    _show(summary, simple, results, console)


def _run(
    aws: Emulator, build: BuildFolder, partitions: Path, payload: Json, results: Path, steps: _Steps
) -> Summary:
    with steps.step("terraform apply"):
        outputs = _deployment(aws).apply(emulated_variables(TEAM, aws))
        aws.publish_relay_key(outputs.bucket)
    s3, stepfunctions = (aws.client(name) for name in ("s3", "stepfunctions"))
    with steps.step("Uploading partitions") as task:
        place = Bucket(s3, outputs.bucket, payload["data_prefix"])
        copying.copy(partitions, place, progress=steps.reporter(task))
    with steps.step("Running the ranks") as task:
        execution = stepfunctions.start_execution(
            stateMachineArn=outputs.state_machine_arn, name="demo", input=PAYLOAD.read_text()
        )["executionArn"]
        ended = runs.follow(stepfunctions, s3, execution, payload, steps.reporter(task))
    with steps.step("Downloading the results"):
        download(s3, outputs.bucket, payload["result_path"], "demo", results, overwrite=True)
    if not ended.succeeded:
        raise DemoError(f"the run ended as {ended.status}: {ended.error}: {ended.cause}")
    return Summary.from_json(json.loads((results / "summary.json").read_text()))


def _deployment(aws: Emulator) -> Deployment:
    return Deployment(aws.folder / "deployment", aws.environment, os.environ)


def _show(summary: Summary, simple: dict[str, Json], results: Path, console: Console) -> None:
    console.print(_accuracy_table(summary.accuracy or {}, simple))
    console.print(_run_table(summary))
    console.print(f"Results in {results}:")
    meanings = {
        "report.html": "a page about the run: open it in a browser",
        "summary.json": "totals, accuracy, cost, missing ranks",
        "combined_data.json": "all rank infos",
        "predictions/": "redshifts, one .npz per rank: index, z_pred, z_true",
        "run.json": "the complete payload, and which rank read which file",
    }
    for name, meaning in meanings.items():
        console.print(f"  {name:<20} {meaning}")


def _accuracy_table(accuracy: Json, simple: dict[str, Json]) -> Table:
    table = Table(title=f"Photometric redshifts of {accuracy['count']:,} galaxies not used in training")
    table.add_column("", no_wrap=True)
    for name in _MEASURES:
        table.add_column(name.replace("precision (NMAD)", "NMAD").replace(" fraction", "s"), justify="right")
    rows = {"AstroMAE, this run": accuracy, **simple}
    for name, measures in rows.items():
        table.add_row(name, *(f"{measures[measure]:.4f}" for measure in _MEASURES))
    return table


def _run_table(summary: Summary) -> Table:
    table = Table(title=f"Run {summary.run_id}: {summary.world_size} ranks", show_header=False)
    cost, wall, images = summary.cost, summary.wall_seconds, summary.num_samples
    assert cost is not None  # noqa: S101 - for the type checker: the engine's ranks say all three
    assert wall is not None  # noqa: S101
    assert images is not None  # noqa: S101
    rows = {
        "images": f"{images:,}",
        "start to the last rank's end": f"{seconds_text(wall)}, {images / wall:,.0f} images/s",
        "images/s of a rank, median": f"{summary.spread['sample_persec']['p50']:,.0f}",
        **{f"{name}, all ranks": f"{value:.2f} s" for name, value in summary.seconds.items()},
        "ranks at once on cores": f"{min(RANKS, summary.world_size)} on {os.cpu_count()}",
        "metrics from": summary.metrics_source,
        "cold starts": f"{summary.cold_starts} of {summary.world_size} ranks",
        "GB-seconds": f"{cost.gb_seconds:.1f}",
        "would cost on AWS": f"{usd_text(cost.total)} (list prices {cost.prices_as_of})",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
