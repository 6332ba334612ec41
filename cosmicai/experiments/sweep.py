"""An experiment: runs every case of a grid as often as asked, and collects the results with the historic columns."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from cosmicai.commands import command
from cosmicai.deploy.target import Target
from cosmicai.experiments import sweep_page
from cosmicai.results.outputs import made, write_text
from cosmicai.runs import client
from initialize.plan import PlanError, list_partitions
from summarize.contract.limits import MOST_RANKS
from summarize.contract.run_records import Summary

Json = dict[str, Any]
Progress = Callable[[int, int, str], None]

_POLL_SECONDS = 1.0
_NEAR_ENOUGH = 0.95  # of an amount of data: partitions have headers, and differ in size
RESULT_STATS = "result_stats.csv"
BATCH_VARYING = "batch_varying_results.csv"


class SweepError(RuntimeError):
    """A sweep cannot be made, or one of its runs failed; the message says what to do."""


@dataclass(frozen=True)
class Swept:
    """The page of a sweep, and sentences that say which cases won."""

    page: Path
    verdicts: list[str]


@dataclass(frozen=True)
class Amount:
    """How an amount of data is made of the partitions that there are.

    files: how many of them; None for all. times: how often each of these is computed.
    """

    files: int | None = None
    times: int = 1

    def bytes(self, sizes: list[int]) -> int:
        """All that is read of partitions of these bytes."""
        return sum(sizes[: self.files]) * self.times

    def in_words(self, sizes: list[int], place: str) -> str:
        """What the partitions of these bytes in `place` are, and what is computed of them."""
        computed = self.bytes(sizes) / 1e9
        partitions = "1 partition is" if self.files == 1 else f"{self.files or len(sizes):,} partitions are"
        times = "" if self.times == 1 else f" {self.times:,} times each"
        return f"{sum(sizes) / 1e9:.3g} GB in {place}: {partitions} computed{times}, which is {computed:.3g} GB"

    @property
    def fields(self) -> Json:
        """Of the payload."""
        limit = {} if self.files is None else {"file_limit": self.files}
        return limit if self.times == 1 else {**limit, "repeat_data": self.times}


@dataclass(frozen=True)
class Case:
    """One run of the grid; data_gb is None for all the data."""

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

    def payload(self, bucket: str, amount: Amount) -> Json:
        return {
            "bucket": bucket,
            "data_prefix": self.data_prefix,
            "result_path": self.result_path,
            "batch_size": self.batch_size,
            **amount.fields,
        }


@dataclass(frozen=True)
class Grid:
    """The cases to run: every combination of these, `repeat` times. data_gb: None is all the data."""

    batch_sizes: tuple[int, ...]
    partitions_mb: tuple[float, ...]
    data_gb: tuple[float | None, ...]
    repeat: int
    prefix: str

    def cases(self) -> list[Case]:
        """Repeats are the outermost loop, so that an interrupted sweep has run each case equally often."""
        numbers = range(1, self.repeat + 1)
        grid = product(numbers, self.partitions_mb, self.data_gb, self.batch_sizes)
        return [
            Case(partition, amount, batch, number, self.prefix) for number, partition, amount, batch in grid
        ]


def sweep(target: Target, grid: Grid, out: Path, progress: Progress, say: Callable[[str], None]) -> Swept:
    """Runs what is missing, one run after the other. Raises SweepError and OutputError.

    say: called with a sentence for each amount that the partitions do not give as it is, and for runs that are
    not repeated, before anything runs.
    """
    s3, stepfunctions = target.client("s3"), target.client("stepfunctions")
    amounts, sizes = {}, {}
    for partition in grid.partitions_mb:
        sizes[partition] = _sizes(s3, target, partition)
        place = f"s3://{target.bucket}/{partition:g}MB/"
        for data_gb in grid.data_gb:
            amounts[partition, data_gb] = amount = amount_of(sizes[partition], data_gb, place)
            if sentence := _difference(amount, sizes[partition], data_gb, place):
                say(sentence)
    cases, rows = grid.cases(), []
    data = {case: _Data(amounts[case.partition_mb, case.data_gb], sizes[case.partition_mb]) for case in cases}
    summaries = {case: _summary(s3, target.bucket, case, data[case]) for case in cases}
    earlier = {case: summary for case, summary in summaries.items() if summary is not None}
    if earlier:
        first = min(one.started for one in earlier.values())[:10]
        say(
            f"{len(earlier)} of {len(cases)} runs have succeeded before, the first on {first}. Their results are "
            "used; give another --prefix to run them again"
        )
    with made(out):
        for finished, case in enumerate(cases):
            progress(finished, len(cases), case.result_path)
            summary = earlier.get(case) or _new_summary(target, s3, stepfunctions, case, data[case])
            rows.append(_row(case, summary))
            _write(out, rows)
        progress(len(cases), len(cases), "done")
        collected = list(over_repeats(rows))
        page = sweep_page.write(out, rows, collected)
    return Swept(page, sweep_page.verdicts(collected))


@dataclass(frozen=True)
class _Data:
    """What a case reads: an amount of the partitions of these bytes."""

    amount: Amount
    sizes: list[int]


def _difference(amount: Amount, sizes: list[int], data_gb: float | None, place: str) -> str | None:
    """A sentence about an amount that is larger than the data, or that whole partitions do not give."""
    if data_gb is None:
        return None
    if amount.times > 1:
        return f"{data_gb:g} GB are more than the {amount.in_words(sizes, place)}"
    if not _is_near(amount.bytes(sizes), data_gb):
        return f"{data_gb:g} GB are not whole partitions of the {amount.in_words(sizes, place)}"
    return None


def _is_near(computed: int, data_gb: float) -> bool:
    """Whether these bytes may be called data_gb."""
    return abs(computed / 1e9 - data_gb) <= (1 - _NEAR_ENOUGH) * data_gb


def _new_summary(target: Target, s3: Any, stepfunctions: Any, case: Case, data: _Data) -> Summary:
    """Runs a case, and returns its summary. Raises SweepError."""
    _run(stepfunctions, target, case, case.payload(target.bucket, data.amount))
    summary = _summary(s3, target.bucket, case, data)
    if summary is None:
        raise SweepError(f"s3://{target.bucket}/{case.result_path} has no summary of a run that succeeded")
    return summary


def _sizes(s3: Any, target: Target, partition_mb: float) -> list[int]:
    """Bytes of each partition of this size. Raises SweepError if there is none."""
    prefix = f"{partition_mb:g}MB"
    try:
        return [file.size for file in list_partitions(s3, target.bucket, prefix).files]
    except PlanError as error:
        size = ("--partition-mb", f"{partition_mb:g}")
        prepare = command("data", "prepare", "SOURCE", "--out", "PARTITIONS", *size)
        upload = target.command("data", "upload", "PARTITIONS", prefix)
        raise SweepError(
            f"s3://{target.bucket}/{prefix}/ holds no partition: cut some with {prepare} and upload them with "
            f"{upload} ({error})"
        ) from error


def amount_of(sizes: list[int], data_gb: float | None, place: str) -> Amount:
    """Of partitions of these bytes in `place`; data_gb: None for all of them.

    As few times as come within 5 % of the amount, each with as many partitions as then are needed. Raises
    SweepError if that takes more ranks than one run has.
    """
    if data_gb is None:
        return Amount()
    total, requested = sum(sizes), data_gb * 1e9
    times = max(1, math.ceil(_NEAR_ENOUGH * requested / total))
    files = min(len(sizes), max(1, round(requested / times / (total / len(sizes)))))
    if files * times > MOST_RANKS:
        raise SweepError(
            f"--data-gb {data_gb:g}: {files:,} partitions of {place} {times:,} times are {files * times:,} ranks, "
            f"more than the {MOST_RANKS:,} of one run; give larger --partitions-mb, or less data"
        )
    return Amount(files, times)


def _summary(s3: Any, bucket: str, case: Case, data: _Data) -> Summary | None:
    """The summary of a run of this case over as many bytes as there are now, in which no rank is missing."""
    try:
        body = s3.get_object(Bucket=bucket, Key=f"{case.result_path}/summary.json")["Body"]
    except s3.exceptions.NoSuchKey:
        return None
    summary = Summary.from_json(json.load(body))
    complete = summary.finished_ranks == summary.world_size
    of_run = (summary.payload["batch_size"], summary.times, summary.input_bytes)
    same = of_run == (case.batch_size, data.amount.times, data.amount.bytes(data.sizes))
    return summary if complete and same else None


def _run(stepfunctions: Any, target: Target, case: Case, payload: Json) -> None:
    """Runs a case, or waits for a run of the same case that an interrupted sweep has started."""
    arn = _running(stepfunctions, target, case)
    if arn is None:
        name = f"sweep-{case.result_path}-{time.time_ns() // 10**6}".replace("/", "-")
        arn = client.start(target, payload, name[-80:].lstrip("-"))
    while True:
        execution = stepfunctions.describe_execution(executionArn=arn)
        if execution["status"] == "SUCCEEDED":
            return
        if execution["status"] != "RUNNING":
            raise SweepError(
                f"{case.result_path} ended as {execution['status']}: {execution.get('error', '')}: "
                f"{execution.get('cause', '')[:500]}; the same command continues from here"
            )
        time.sleep(_POLL_SECONDS)


def _running(stepfunctions: Any, target: Target, case: Case) -> str | None:
    running = stepfunctions.list_executions(
        stateMachineArn=target.state_machine_arn, statusFilter="RUNNING", maxResults=100
    )
    for item in running["executions"]:
        execution = stepfunctions.describe_execution(executionArn=item["executionArn"])
        if json.loads(execution["input"]).get("result_path") == case.result_path:
            return str(item["executionArn"])
    return None


def _row(case: Case, summary: Summary) -> Json:
    """One run, with the historic names and some additional ones."""
    spread, wall = summary.spread, summary.wall_seconds
    nominal = case.data_gb is not None and _is_near(summary.input_bytes, case.data_gb)
    computed, cost = summary.computed, summary.cost
    return {
        "partition_mb": case.partition_mb,
        "data_gb": case.data_gb if nominal else round(summary.input_bytes / 1e9, 4),
        "batch_size": case.batch_size,
        "experiment": case.number,
        "world_size": summary.world_size,
        "num_samples": summary.num_samples,
        "repeat_data": summary.times,
        "duration (seconds)": wall,
        "total_cpu_time (seconds)": summary.seconds["inference"],
        "sample_persec": spread["sample_persec"]["p50"],
        "throughput_bps": spread["throughput_bps"]["p50"],
        "images_per_second": computed / wall if wall and computed is not None else None,
        "total_process_memory (MB)": spread["total_process_memory (MB)"]["max"],
        "GB-seconds": None if cost is None else cost.gb_seconds,
        "total (USD)": None if cost is None else cost.total,
        "run_id": summary.run_id,
    }


def _write(out: Path, rows: list[Json]) -> None:
    """result_stats.csv: every run; batch_varying_results.csv: each case over its repeats."""
    _write_csv(out / RESULT_STATS, rows)
    _write_csv(out / BATCH_VARYING, list(over_repeats(rows)))


def _write_csv(path: Path, rows: list[Json]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def over_repeats(rows: list[Json]) -> Iterable[Json]:
    """Mean and standard deviation of each case; runs far from the others are counted, not dropped."""
    keys = ("partition_mb", "data_gb", "batch_size", "repeat_data")
    groups: dict[tuple[Any, ...], list[Json]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    figures = [
        "duration (seconds)", "sample_persec", "throughput_bps", "images_per_second",
        "total_process_memory (MB)", "total (USD)",
    ]  # fmt: skip
    for key, group in groups.items():
        case: Json = {**dict(zip(keys, key, strict=True)), "repeats": len(group)}
        for figure in figures:
            values = [row[figure] for row in group]
            case[f"{figure} mean"] = statistics.fmean(values)
            case[f"{figure} std"] = statistics.stdev(values) if len(values) > 1 else 0.0
        times = [row["duration (seconds)"] for row in group]
        case["outliers"] = sum(_is_outlier(value, times) for value in times)
        yield case


def _is_outlier(value: float, values: list[float]) -> bool:
    """By the modified z-score of Iglewicz and Hoaglin (1993): 0.6745 |x - median| / MAD above 3.5."""
    middle = statistics.median(values)
    spread = statistics.median(abs(other - middle) for other in values)
    return spread > 0 and 0.6745 * abs(value - middle) / spread > 3.5
