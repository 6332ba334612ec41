"""An experiment: every case of a grid run as often as asked, collected with the historic columns, and drawn."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from cosmicai.target import Target

Json = dict[str, Any]
Progress = Callable[[int, int, str], None]

_POLL_SECONDS = 1.0
RESULT_STATS = "result_stats.csv"
BATCH_VARYING = "batch_varying_results.csv"
_DRAWN = {
    "execution time": ("duration (seconds)", "s, end to end"),
    "throughput": ("images_per_second", "images/s of the run"),
    "memory": ("total_process_memory (MB)", "MB, the largest rank"),
    "cost": ("total (USD)", "USD"),
}
_AXES = {"batch_size": "batch size", "partition_mb": "partition, MB", "data_gb": "data, GB"}


class SweepError(RuntimeError):
    """A sweep cannot be made or has failed; the message says what to do."""


@dataclass(frozen=True)
class Case:
    """One run of the grid; data_gb is None for all that is there."""

    partition_mb: float
    data_gb: float | None
    batch_size: int
    number: int
    prefix: str

    @property
    def data_prefix(self) -> str:
        return f"{self.partition_mb:g}MB"

    @property
    def result_path(self) -> str:
        """As the historic scripts laid it out, with the batch size: no two cases share one."""
        amount = "all" if self.data_gb is None else f"{self.data_gb:g}GB"
        return f"{self.prefix}/{self.data_prefix}/{amount}/batch-{self.batch_size}/{self.number}"

    def payload(self, bucket: str, files: int | None) -> Json:
        limit = {} if files is None else {"file_limit": files}
        return {
            "bucket": bucket,
            "data_prefix": self.data_prefix,
            "result_path": self.result_path,
            "batch_size": self.batch_size,
            **limit,
        }


@dataclass(frozen=True)
class Grid:
    batch_sizes: tuple[int, ...]
    partitions_mb: tuple[float, ...]
    data_gb: tuple[float | None, ...]
    repeat: int
    prefix: str

    @classmethod
    def parse(cls, batch_sizes: str, partitions_mb: str, data_gb: str | None, repeat: int, prefix: str) -> Grid:
        """Raises SweepError for what is no list of numbers above 0."""
        amounts: tuple[float | None, ...] = (None,) if data_gb is None else _numbers("data-gb", data_gb)
        sizes = _numbers("batch-sizes", batch_sizes)
        if not all(size.is_integer() for size in sizes):
            raise SweepError(f"--batch-sizes {batch_sizes}: give whole numbers")
        partitions = _numbers("partitions-mb", partitions_mb)
        return cls(tuple(map(int, sizes)), partitions, amounts, repeat, prefix.strip("/"))

    def cases(self) -> list[Case]:
        """Repeats outermost, so that a sweep that is cut off has each case as often."""
        numbers = range(1, self.repeat + 1)
        grid = product(numbers, self.partitions_mb, self.data_gb, self.batch_sizes)
        return [
            Case(partition, amount, batch, number, self.prefix) for number, partition, amount, batch in grid
        ]


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        found = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        found = ()
    if not found or min(found) <= 0:
        raise SweepError(f"--{name} {text}: give numbers above 0 with commas")
    return found


def sweep(target: Target, grid: Grid, out: Path, progress: Progress) -> Path:
    """Runs what is missing, one after the other, and returns the page. Raises SweepError."""
    s3, stepfunctions = target.client("s3"), target.client("stepfunctions")
    limits = {
        (partition, amount): _files(s3, target.bucket, partition, amount)
        for partition, amount in product(grid.partitions_mb, grid.data_gb)
    }
    cases, rows = grid.cases(), []
    for done, case in enumerate(cases):
        progress(done, len(cases), case.result_path)
        summary = _summary(s3, target.bucket, case)
        if summary is None:
            payload = case.payload(target.bucket, limits[case.partition_mb, case.data_gb])
            _run(stepfunctions, target, case, payload)
            summary = _summary(s3, target.bucket, case)
        if summary is None:
            raise SweepError(f"s3://{target.bucket}/{case.result_path} has no summary of a run that succeeded")
        rows.append(_row(case, summary))
        _write(out, rows)
    progress(len(cases), len(cases), "done")
    return _page(out, rows)


def _files(s3: Any, bucket: str, partition_mb: float, data_gb: float | None) -> int | None:
    """How many partitions hold so much data; None for all. Raises SweepError where there are too few."""
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=f"{partition_mb:g}MB/", Delimiter="/"
    )
    sizes = [o["Size"] for page in pages for o in page.get("Contents", []) if o["Key"].endswith(".pt")]
    if not sizes:
        raise SweepError(
            f"s3://{bucket}/{partition_mb:g}MB/ holds no partition: cut some with `cosmicai data prepare "
            f"--partition-mb {partition_mb:g}` and upload them there"
        )
    if data_gb is None:
        return None
    if sum(sizes) < data_gb * 1e9 * 0.95:
        raise SweepError(
            f"--data-gb {data_gb:g}: s3://{bucket}/{partition_mb:g}MB/ holds {sum(sizes) / 1e9:.2f} GB alone"
        )
    return max(1, round(data_gb * 1e9 / (sum(sizes) / len(sizes))))


def _summary(s3: Any, bucket: str, case: Case) -> Json | None:
    """Of a run of this very case in which no rank is missing."""
    try:
        body = s3.get_object(Bucket=bucket, Key=f"{case.result_path}/summary.json")["Body"]
    except s3.exceptions.NoSuchKey:
        return None
    found: Json = json.load(body)
    complete = found["finished_ranks"] == found["world_size"]
    same = found["payload"]["batch_size"] == case.batch_size
    return found if complete and same else None


def _run(stepfunctions: Any, target: Target, case: Case, payload: Json) -> None:
    """To its end; one of the same case that still runs, of a sweep that was cut off, is waited for."""
    arn = _running(stepfunctions, target, case)
    if arn is None:
        name = f"sweep-{case.result_path}-{time.time_ns() // 10**6}".replace("/", "-")
        arn = stepfunctions.start_execution(
            stateMachineArn=target.state_machine_arn, name=name[-80:].lstrip("-"), input=json.dumps(payload)
        )["executionArn"]
    while True:
        found = stepfunctions.describe_execution(executionArn=arn)
        if found["status"] == "SUCCEEDED":
            return
        if found["status"] != "RUNNING":
            raise SweepError(
                f"{case.result_path} ended as {found['status']}: {found.get('error', '')}: "
                f"{found.get('cause', '')[:500]}; the same command goes on from here"
            )
        time.sleep(_POLL_SECONDS)


def _running(stepfunctions: Any, target: Target, case: Case) -> str | None:
    running = stepfunctions.list_executions(
        stateMachineArn=target.state_machine_arn, statusFilter="RUNNING", maxResults=100
    )
    for item in running["executions"]:
        found = stepfunctions.describe_execution(executionArn=item["executionArn"])
        if json.loads(found["input"]).get("result_path") == case.result_path:
            return str(item["executionArn"])
    return None


def _row(case: Case, summary: Json) -> Json:
    """One run, with the historic names and what they never had."""
    spread, wall = summary["spread"], summary["wall (seconds)"]
    samples = summary["num_samples"]
    return {
        "partition_mb": case.partition_mb,
        "data_gb": round(summary["input_bytes"] / 1e9, 4) if case.data_gb is None else case.data_gb,
        "batch_size": case.batch_size,
        "experiment": case.number,
        "world_size": summary["world_size"],
        "num_samples": samples,
        "duration (seconds)": wall,
        "total_cpu_time (seconds)": summary["seconds"]["inference"],
        "sample_persec": spread["sample_persec"]["p50"],
        "throughput_bps": spread["throughput_bps"]["p50"],
        "images_per_second": samples / wall if wall else None,
        "total_process_memory (MB)": spread["total_process_memory (MB)"]["max"],
        "GB-seconds": summary["cost"]["GB-seconds"],
        "total (USD)": summary["cost"]["total (USD)"],
        "run_id": summary["run_id"],
    }


def _write(out: Path, rows: list[Json]) -> None:
    """result_stats.csv: every run; batch_varying_results.csv: each case over its repeats."""
    out.mkdir(parents=True, exist_ok=True)
    _write_csv(out / RESULT_STATS, rows)
    _write_csv(out / BATCH_VARYING, list(_cases(rows)))


def _write_csv(path: Path, rows: list[Json]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())


def _cases(rows: list[Json]) -> Iterable[Json]:
    """Mean and standard deviation over the repeats; runs far from the others are counted, not dropped."""
    keys = ("partition_mb", "data_gb", "batch_size")
    groups: dict[tuple[Any, ...], list[Json]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    figures = [
        "duration (seconds)", "sample_persec", "throughput_bps", "images_per_second",
        "total_process_memory (MB)", "total (USD)",
    ]  # fmt: skip
    for key, group in groups.items():
        found: Json = {**dict(zip(keys, key, strict=True)), "repeats": len(group)}
        for figure in figures:
            values = [row[figure] for row in group]
            found[f"{figure} mean"] = statistics.fmean(values)
            found[f"{figure} std"] = statistics.stdev(values) if len(values) > 1 else 0.0
        times = [row["duration (seconds)"] for row in group]
        found["outliers"] = sum(_is_outlier(value, times) for value in times)
        yield found


def _is_outlier(value: float, values: list[float]) -> bool:
    """By the modified z-score of Iglewicz and Hoaglin (1993): 0.6745 |x - median| / MAD above 3.5."""
    middle = statistics.median(values)
    spread = statistics.median(abs(other - middle) for other in values)
    return spread > 0 and 0.6745 * abs(value - middle) / spread > 3.5


def _page(out: Path, rows: list[Json]) -> Path:
    """Plots as PNGs, and one page with all of them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    pictures = []
    for axis, label in _AXES.items():
        if len({row[axis] for row in rows}) < 2:
            continue
        figure, places = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
        for place, (title, (column, unit)) in zip(places.flat, _DRAWN.items(), strict=True):
            _draw(place, rows, axis, column)
            place.set(title=title, xlabel=label, ylabel=unit)
            place.grid(alpha=0.3)
        places.flat[0].legend(fontsize="small")
        path = out / f"by_{axis}.png"
        figure.savefig(path, dpi=120)
        plt.close(figure)
        pictures.append((f"By {label}", path))
    page = out / "sweep.html"
    page.write_text(_html(rows, pictures))
    return page


def _draw(place: Any, rows: list[Json], axis: str, column: str) -> None:
    """The mean with its spread, a line for each combination of the other axes, and every run as a point."""
    others = [name for name in _AXES if name != axis]
    lines: dict[tuple[Any, ...], list[Json]] = {}
    for row in rows:
        lines.setdefault(tuple(row[name] for name in others), []).append(row)
    for key, group in sorted(lines.items()):
        named = dict(zip(others, key, strict=True))
        label = ", ".join(f"{_AXES[name]} {value:g}" for name, value in named.items())
        xs = sorted({row[axis] for row in group})
        values = [[row[column] for row in group if row[axis] == x] for x in xs]
        means = [statistics.fmean(each) for each in values]
        spread = [statistics.stdev(each) if len(each) > 1 else 0.0 for each in values]
        drawn = place.errorbar(xs, means, spread, marker="o", capsize=3, label=label)
        points = [(x, value) for x, each in zip(xs, values, strict=True) for value in each]
        place.scatter(*zip(*points, strict=True), s=12, alpha=0.5, color=drawn[0].get_color())


def _html(rows: list[Json], pictures: list[tuple[str, Path]]) -> str:
    images = "".join(
        f"<h2>{html.escape(title)}</h2><img alt='{html.escape(title)}: execution time, throughput, memory, cost' "
        f"src='data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}'>"
        for title, path in pictures
    )
    found = list(_cases(rows))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in found[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{value:,.6g}</td>" for value in row.values()) + "</tr>" for row in found
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        "<title>CosmicAI sweep</title><style>body{font:16px/1.5 system-ui,sans-serif;margin:1rem auto;max-width:70rem;"
        "padding:0 1rem;color-scheme:light dark}img{max-width:100%;background:#fff}div{overflow-x:auto}"
        "table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.85rem}"
        "th,td{padding:.25rem .5rem;text-align:right;border-bottom:1px solid #8886}</style>"
        f"<h1>Sweep of {len(rows)} runs</h1>{images}<h2>Cases</h2><p>Mean and standard deviation over the repeats; "
        f"every run is a point in the plots and a line in {RESULT_STATS}.</p><div><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div></html>"
    )
