"""Rank infos, whether the engine or a user's own script wrote them.

A script decides what it writes, so nothing is assumed here about a field's presence or type.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from .accuracy import NAMES
from .batch_prices import CAPACITIES
from .fields import Described, Field, Json, Keys, Record, RecordError, number, read_fields
from .names import COPY
from .pricing import BILLED_AS, GB_SECOND
from .untrusted import load

MOST_BYTES = 1 << 20  # of a rank info; the largest state of metrics takes a third of it
_MOST_DIGITS = 120  # of a whole number; the sums of a state of metrics have up to that
LEFT_OUT = "left_out"  # the field that lists the wrong fields which an info leaves out
_MOST_EARLIER = 20  # faults that are kept of those that the rank itself has listed


@dataclass(frozen=True, kw_only=True, slots=True)  # Summarize holds up to 100,000
class RankInfo(Record):
    """{rank}.json: what a rank did. `others`: additional fields that a script has written."""

    world_size: Annotated[int | None, Field("the ranks of the run")] = None
    copy: Annotated[
        int | None, Field("the number of the copy, from 1; left out by ranks that are not copies", COPY)
    ] = None
    data_paths: Annotated[Keys | None, Field("the key of the partition, or a list of keys", "data_path")] = None
    result_path: Annotated[str | None, Field("the result path of the payload; for a copy, copies/ in it")] = (
        None
    )
    init: Annotated[float | None, Field("process start, imports, network", "init (seconds)", "s")] = None
    download: Annotated[
        float | None, Field("the time that the rank waited for bytes", "download (seconds)", "s")
    ] = None
    inference: Annotated[
        float | None, Field("computing; the next data are read at the same time", "inference (seconds)", "s")
    ] = None
    communication: Annotated[
        float | None,
        Field("reducing metrics, including the wait for other ranks", "communication (seconds)", "s"),
    ] = None
    upload: Annotated[float | None, Field("writing predictions", "upload (seconds)", "s")] = None
    s3_num_requests: Annotated[int | None, Field("the number of requests to S3")] = None
    s3_total_time: Annotated[float | None, Field("the time of all requests to S3", unit="s")] = None
    s3_avg_time: Annotated[float | None, Field("the mean time of a request", unit="s")] = None
    s3_min_time: Annotated[float | None, Field("the time of the fastest request", unit="s")] = None
    s3_max_time: Annotated[float | None, Field("the time of the slowest request", unit="s")] = None
    memory_limit: Annotated[float | None, Field("the configured memory", "memory_limit (MB)", "MB")] = None
    threads: Annotated[int | None, Field("the number of threads that compute")] = None
    architecture: Annotated[
        str | None,
        Field(
            f"the architecture of the machine; without it the rank is billed as {BILLED_AS}",
            choices=tuple(GB_SECOND),
        ),
    ] = None
    capacity: Annotated[
        str | None,
        Field("what the rank ran on and is billed as; left out by `cosmicai infer`", choices=CAPACITIES),
    ] = None
    vcpus: Annotated[float | None, Field("the configured vCPUs of a rank on AWS Batch")] = None
    instance_type: Annotated[str | None, Field("the type of the EC2 instance that the rank ran on, if any")] = (
        None
    )
    public_address: Annotated[
        bool | None, Field("whether a rank on AWS Batch had a public address, which is billed")
    ] = None
    versions: Annotated[Any, Field("the versions of Python and of the libraries that compute")] = None
    num_samples: Annotated[
        int | None,
        Field("the number of galaxies; null if a script does not state it", unit="galaxies", null=True),
    ] = None
    batch_size: Annotated[int | None, Field("the batch size of the payload", unit="galaxies")] = None
    num_batches: Annotated[int | None, Field("the number of batches of that size")] = None
    total_cpu_time: Annotated[
        float | None,
        Field("CPU time of the process while it computed", "total_cpu_time (seconds)", "s"),
    ] = None
    execution_time: Annotated[
        float | None, Field("inference time per batch", "execution_time (seconds/batch)", "s/batch")
    ] = None
    throughput_bps: Annotated[
        float | None, Field("bits of images and magnitudes per second of inference", unit="bit/s")
    ] = None
    sample_persec: Annotated[float | None, Field("galaxies per second of inference", unit="galaxies/s")] = None
    total_cpu_memory: Annotated[
        float | None,
        Field("peak memory beyond that of the imports", "total_cpu_memory (MB)", "MB"),
    ] = None
    total_process_memory: Annotated[float | None, Field("peak memory", "total_process_memory (MB)", "MB")] = (
        None
    )
    library_overhead_memory: Annotated[
        float | None, Field("memory after the imports", "library_overhead_memory (MB)", "MB")
    ] = None
    total_image_memory: Annotated[
        float | None, Field("the largest block of images", "total_image_memory (MB)", "MB")
    ] = None
    total_model_memory: Annotated[float | None, Field("the network", "total_model_memory (MB)", "MB")] = None
    device: Annotated[str | None, Field("cpu or cuda")] = None
    engine: Annotated[str | None, Field("what executed the network; `script` for a user's own code")] = None
    instructions: Annotated[str | None, Field("the kernels' instruction set: avx2, avx512, neon, …")] = None
    cpu: Annotated[str | None, Field("the kind of its CPU, as `cosmicai bench` names it")] = None
    cpu_features: Annotated[
        list[str] | None,
        Field("the CPU's instruction sets that matter to networks: avx512_vnni, dotprod, i8mm, …"),
    ] = None
    precision: Annotated[str | None, Field("the precision of its arithmetic")] = None
    precision_reason: Annotated[str | None, Field("why this precision")] = None
    flags: Annotated[
        dict[str, int] | None,
        Field("number of galaxies by flag", unit="galaxies"),
    ] = None
    predicted_redshifts: Annotated[
        Any, Field("the histogram of z_pred, whether or not the true redshifts are known")
    ] = None
    columns: Annotated[list[str] | None, Field("the columns of predictions that an imported network gives")] = (
        None
    )
    measures: Annotated[
        Any, Field("the measures of an imported network whose true values are classes or another quantity")
    ] = None
    mae: Annotated[float | None, Field("mean |z_pred - z|", "MAE", signed=True)] = None
    mse: Annotated[float | None, Field("mean (z_pred - z)²", "MSE", signed=True)] = None
    bias: Annotated[float | None, Field("mean Δz/(1+z)", signed=True)] = None
    nmad: Annotated[
        float | None, Field("1.48 median |Δz/(1+z) - its median|", "precision (NMAD)", signed=True)
    ] = None
    r2: Annotated[float | None, Field("coefficient of determination", "R2", signed=True)] = None
    outlier_fraction: Annotated[
        float | None, Field("share of |Δz/(1+z)| > 0.15", "outlier fraction", signed=True)
    ] = None
    rail_measures: Annotated[
        Any, Field("RAIL's median bias, sigma_IQR, sigma_MAD and outlier rate", "RAIL's measures")
    ] = None
    probabilities: Annotated[Any, Field("PIT, coverage and scores of p(z), from a calibrated model")] = None
    undefined: Annotated[Any, Field("why a measure is null")] = None
    accuracy_state: Annotated[
        Any, Field("the sums and histograms from which Summarize merges the measures", null=True)
    ] = None
    collectives: Annotated[Any, Field("channel, partners, relays, bytes, seconds, faults")] = None
    catalogue: Annotated[
        Any, Field("its part of the catalogue that grows: file, rows, columns, grid of pdf, network, metadata")
    ] = None
    rank: Annotated[int, Field("the number of the rank, from 0")]
    run_id: Annotated[str, Field("the name of the execution that planned the run")]
    cold_start: Annotated[bool | None, Field("whether the sandbox was new")] = None
    duration: Annotated[float | None, Field("all phases, init included", "duration (seconds)", "s")] = None
    billed: Annotated[
        float | None,
        Field(
            "from the start of the image's download to the rank's end, as AWS Batch bills it",
            "billed (seconds)",
            "s",
        ),
    ] = None
    ended: Annotated[
        float | None,
        Field(
            "the end by the rank's clock; Summarize uses S3's time if the two differ by more than a minute",
            "ended (unix seconds)",
            "s",
        ),
    ] = None
    total_gpu_time: Annotated[
        float | None,
        Field("GPU time, if a script measures it", "total_gpu_time (seconds)", "s"),
    ] = None
    total_gpu_memory: Annotated[
        float | None, Field("GPU memory, if a script measures it", "total_gpu_memory (MB)", "MB")
    ] = None
    number_of_batches: Annotated[
        int | None, Field("num_batches, as a script may call it", "number of batches")
    ] = None
    historic_batch_size: Annotated[
        int | None, Field("batch_size, as a script may call it", "batch size", "galaxies")
    ] = None
    script_values: Annotated[
        Any, Field("what a script wrote under the name of a figure that the rank measures itself")
    ] = None
    left_out: Annotated[list[str] | None, Field("the wrong fields that are not in the info, and why")] = None
    others: Json = field(default_factory=dict)
    names: tuple[str, ...] = ()
    """The names in the order of the JSON that was read; () for an info that was not read from JSON."""

    @classmethod
    def from_json(cls, content: Any, faults: Iterable[str] = ()) -> Self:
        """Reads an info, without the fields whose values have a wrong type or are out of bounds.

        `left_out` lists these fields, `faults`, and what the rank itself has left out. Raises RecordError for
        an info without rank or run_id.
        """
        values, wrong = read_fields(cls, content)
        lacking = [fault for name, fault in wrong.items() if name in ("", "rank", "run_id")]
        if lacking:
            raise RecordError(f"rank info: {'; '.join(lacking)}")
        ours = {one.name for one in cls.described()}
        others = {name: value for name, value in content.items() if name not in ours}
        wrong.pop(LEFT_OUT, None)
        earlier = content.get(LEFT_OUT)
        listed = [one for one in earlier if isinstance(one, str)] if isinstance(earlier, list) else []
        values["left_out"] = [*listed[:_MOST_EARLIER], *faults, *wrong.values()] or None
        names = tuple(name for name in content if name not in wrong and name != LEFT_OUT)
        return cls(**values, others=others, names=names)

    def to_json(self) -> Json:
        """The object, in the order in which it was read."""
        content = Record.to_json(self) | self.others  # super() does not know a class with slots
        if not self.names:
            return content
        last = {LEFT_OUT: self.left_out} if self.left_out else {}
        return {**{name: content.get(name) for name in self.names}, **last}

    def _has_null(self, one: Described) -> bool:
        """A measure is written as null if `undefined` gives the reason."""
        return Record._has_null(self, one) or (one.name in NAMES and self.undefined is not None)

    def figure(self, name: str) -> float | None:
        """The number under a name of the JSON object, which may be an additional field of a script."""
        attribute = _ATTRIBUTES.get(name)
        return number(self.others.get(name) if attribute is None else getattr(self, attribute))


_ATTRIBUTES = {one.name: one.attribute for one in RankInfo.described()}


def parse(body: bytes) -> tuple[Any, list[str]]:
    """Reads a rank info or a failure record; also returns what was left out. Raises UntrustedError."""
    return load(body, MOST_BYTES, _MOST_DIGITS)


def is_result(content: Any, run_id: str, rank: int | None = None) -> bool:
    """Whether an object is the info of a finished rank of this run; rank: from the object's key.

    A script may write an object of the same key while it runs; until its rank has ended, that object lacks
    what the rank itself measures.
    """
    return (
        isinstance(content, dict)
        and content.get("run_id") == run_id
        and type(content.get("rank")) is int
        and rank in (None, content["rank"])
        and number(content.get("duration (seconds)")) is not None
        and number(content.get("memory_limit (MB)")) is not None
    )
