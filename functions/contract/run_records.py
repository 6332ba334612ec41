"""run.json, metrics.json and summary.json as typed values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Self

from .dispatch import Children
from .event import copy_of
from .fields import Field, Json, Record, RecordError, read_fields
from .pricing import Cost


def text_of(collectives: Json | None, name: str) -> str | None:
    """A text of a run's collectives; None if there is none."""
    text = (collectives or {}).get(name)
    return text if isinstance(text, str) else None


COPIES = "copies"
"""The folder below a run's result path in which copies leave their results, as the other ranks do above it."""

_CHANNEL = (
    "the channel; for `auto`, or if it differs from the payload's, the reason; and the estimated time and cost "
    "of the run with each channel"
)


@dataclass(frozen=True, kw_only=True)
class Run(Record):
    """run.json: what Initialize has planned."""

    schema_version: Annotated[int | None, Field("the version of this object's form")] = None
    run_id: Annotated[str, Field("the name of the execution that planned the run")]
    started: Annotated[str, Field("when it was started, in UTC")]
    payload: Annotated[Json, Field("the payload with every default")]
    world_size: Annotated[int, Field("the number of ranks, copies included")]
    first_ranks: Annotated[
        int | None,
        Field(
            "the number of originals in a run with copies: rank r computes the partitions of rank r modulo "
            "this number",
            "originals",
        ),
    ] = None
    data_map: Annotated[dict[str, Any] | None, Field("the key, or list of keys, of each rank's partitions")] = (
        None
    )
    files: Annotated[int | None, Field("the number of partitions")] = None
    bytes: Annotated[int, Field("the size of what all ranks read, copies included", unit="bytes")]
    bytes_per_rank: Annotated[list[int] | None, Field("the size of each rank's partitions", unit="bytes")] = (
        None
    )
    not_taken: Annotated[
        dict[str, int] | None, Field("the number of files that the run leaves out, by reason")
    ] = None
    notes: Annotated[list[str] | None, Field("sentences about files that are left out and idle ranks")] = None
    execution: Annotated[str | None, Field("the execution that runs it, or the last one that resumed it")] = (
        None
    )
    executions: Annotated[list[str] | None, Field("all executions that have run it, the first one first")] = (
        None
    )
    collectives: Annotated[Json | None, Field(_CHANNEL)] = None
    children: Annotated[
        Json | None,
        Field("how Step Functions starts the ranks on Lambda, express or standard, and why"),
    ] = None

    @property
    def originals(self) -> int:
        """The number of ranks that are not copies; they are the first ones."""
        return self.first_ranks or self.world_size

    @property
    def has_copies(self) -> bool:
        return self.originals < self.world_size

    def copy_of(self, rank: int) -> int | None:
        """The number of the copy, from 1, that a rank belongs to; None for an original."""
        return copy_of(rank, self.first_ranks)

    def folder_of(self, rank: int) -> str:
        """The key of the folder in which a rank leaves its results."""
        folder = str(self.payload["result_path"])
        return folder if self.copy_of(rank) is None else f"{folder}/{COPIES}"

    @property
    def child_type(self) -> Children:
        """How Step Functions starts the ranks; standard if the run does not say it, as in earlier versions."""
        return "express" if (self.children or {}).get("type") == "express" else "standard"

    def was_run_by(self, execution: str) -> bool:
        """Whether an execution, by its name, has planned or resumed this run."""
        return execution in {self.run_id, self.execution, *(self.executions or [])}

    @property
    def on_batch(self) -> bool:
        """Whether AWS Batch runs the ranks, not Lambda."""
        return bool(self.payload.get("backend") == "batch")

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Raises RecordError. A wrong optional field counts as missing: a script may have replaced it."""
        values, faults = read_fields(cls, content)
        optional = {one.name for one in cls.described() if not one.required}
        serious = [fault for name, fault in faults.items() if name not in optional]
        if serious:
            raise RecordError("; ".join(serious))
        return cls(**values)

    @property
    def channel(self) -> str | None:
        """The channel by which the ranks reduce their metrics; None for a run on one machine."""
        return text_of(self.collectives, "channel")

    @property
    def channel_reason(self) -> str:
        """Why the ranks use this channel; '' where the payload has named it."""
        return text_of(self.collectives, "reason") or ""

    @property
    def began(self) -> float:
        """`started` in Unix seconds."""
        return datetime.fromisoformat(self.started.replace("Z", "+00:00")).timestamp()


@dataclass(frozen=True, kw_only=True)
class ReducedMetrics(Record):
    """metrics.json: the metrics that the ranks have reduced among themselves, written by rank 0."""

    run_id: Annotated[str, Field("the name of the execution that planned the run")]
    world_size: Annotated[int | None, Field("the number of ranks")] = None
    channel: Annotated[str, Field("the channel that the metrics took")] = ""
    ranks: Annotated[list[int], Field("the ranks that the metrics cover, none of them a copy")]
    num_samples: Annotated[int | None, Field("the number of their galaxies", unit="galaxies")] = None
    accuracy: Annotated[
        Json | None, Field("the measures over all galaxies, and by redshift and magnitude", null=True)
    ] = None
    accuracy_state: Annotated[
        Any, Field("the sums and histograms from which the measures follow", null=True)
    ] = None


@dataclass(frozen=True, kw_only=True)
class Grown(Record):
    """What a run has done to the catalogue that it names, or why it could not; the catalogue stays then."""

    place: Annotated[str, Field("the catalogue's address")]
    arrival: Annotated[str, Field("the arrival's value in the column `arrival`")]
    version: Annotated[int | None, Field("the version of the table that holds the arrival")] = None
    galaxies: Annotated[int | None, Field("the arrival's galaxies", unit="galaxies")] = None
    replaced_files: Annotated[
        int | None, Field("the files that the arrival had in the catalogue's folder before")
    ] = None
    fault: Annotated[str | None, Field("why the arrival is not in the catalogue, and what to do")] = None


@dataclass(frozen=True, kw_only=True)
class Summary(Record):
    """summary.json: what a run did, by Summarize or `cosmicai infer`."""

    run_id: Annotated[str, Field("the name of the execution that planned the run")]
    started: Annotated[str, Field("when it was started, in UTC")]
    payload: Annotated[Json, Field("the payload with every default")]
    world_size: Annotated[int, Field("the number of ranks, copies included")]
    finished_ranks: Annotated[int, Field("the number of ranks with a result")]
    missing_ranks: Annotated[list[int], Field("the ranks that left neither a result nor an error")]
    failed_ranks: Annotated[dict[str, dict[str, str]], Field("error and cause by rank")]
    num_samples: Annotated[
        int | None,
        Field(
            "the number of galaxies, without those of copies; null if a script's ranks do not state it",
            unit="galaxies",
            null=True,
        ),
    ] = None
    originals: Annotated[
        int | None, Field("the number of ranks that are not copies, where there are copies")
    ] = None
    copied_samples: Annotated[
        int | None,
        Field("the galaxies that copies have computed; no other count includes them", unit="galaxies"),
    ] = None
    num_samples_from: Annotated[
        dict[str, int],
        Field("ranks by the field they were counted by; batches * batch size is an upper bound"),
    ]
    input_bytes: Annotated[int, Field("the size of what all ranks read, copies included", unit="bytes")]
    seconds: Annotated[dict[str, float], Field("seconds by phase, summed over the ranks", unit="s")]
    cold_starts: Annotated[int, Field("the number of ranks in new sandboxes")]
    cpus: Annotated[
        dict[str, int],
        Field("the number of ranks by kind of CPU, with its instruction sets; of the 20 most frequent"),
    ] = field(default_factory=dict)
    spread: Annotated[
        dict[str, Any], Field("minimum, median, 95th percentile and maximum of the ranks' figures")
    ]
    accuracy: Annotated[
        Json | None, Field("the measures over all galaxies, and by redshift and magnitude", null=True)
    ] = None
    accuracy_state: Annotated[Json | None, Field("what report.html draws", null=True)] = None
    predicted_redshifts: Annotated[Json | None, Field("the histogram of z_pred over all ranks", null=True)] = (
        None
    )
    flags: Annotated[
        dict[str, int] | None,
        Field("galaxies by flag; null if no rank reports any", unit="galaxies", null=True),
    ] = None
    metrics_source: Annotated[
        str, Field("collectives, with the ranks that were added from their infos, or rank infos")
    ]
    left_out: Annotated[dict[str, list[str]], Field("wrong fields that are not used, by rank")] = field(
        default_factory=dict
    )
    wall_seconds: Annotated[
        float | None,
        Field("the time from the start to the last rank's end", "wall (seconds)", "s", null=True),
    ] = None
    collectives: Annotated[Json | None, Field(_CHANNEL, null=True)] = None
    children: Annotated[
        Json | None,
        Field("how Step Functions started the ranks, express or standard, and why", null=True),
    ] = None
    catalogue: Annotated[Grown | None, Field("what the run did to its catalogue")] = None
    cost: Annotated[Cost | None, Field("GB-seconds and USD at list prices; null on one machine", null=True)] = (
        None
    )

    @property
    def computed(self) -> int | None:
        """The galaxies that all ranks have computed, each once for every time; None if that is not known."""
        return None if self.num_samples is None else self.num_samples + (self.copied_samples or 0)

    @property
    def times(self) -> int:
        """How often each partition was to be computed, repeat_data of the payload."""
        return self.world_size // (self.originals or self.world_size or 1)

    @property
    def times_text(self) -> str:
        """'computed 3 times each'; '' of a run without copies."""
        if self.times == 1:
            return ""
        all_are_there = self.computed == self.times * (self.num_samples or 0)
        return f"computed {'' if all_are_there else 'up to '}{self.times:,} times each"

    @property
    def began(self) -> float:
        """`started` in Unix seconds."""
        return datetime.fromisoformat(self.started.replace("Z", "+00:00")).timestamp()


@dataclass(frozen=True, kw_only=True)
class LastRun(Record):
    """How fast the ranks of a model's last run on Lambda were, for the plan of its next one."""

    run_id: Annotated[str, Field("the name of the execution that planned the run")]
    started: Annotated[str, Field("when it was started, in UTC")]
    memory: Annotated[float, Field("the configured memory of a rank", "memory (MB)", "MB")]
    slowest: Annotated[float, Field("of the slowest rank", "images per second, slowest rank", "galaxies/s")]
    fastest: Annotated[float, Field("of the fastest rank", "images per second, fastest rank", "galaxies/s")]
    typical_start: Annotated[float, Field("init of a typical rank", "init (seconds), typical rank", "s")]
    longest_start: Annotated[
        float, Field("init of the rank that took longest", "init (seconds), slowest rank", "s")
    ]


def last_run_key(model: str | None) -> str:
    """Of the LastRun of a model folder, or of the bundled model, in the bucket that the run writes to."""
    return f".last-runs/models/{model}.json" if model else ".last-runs/bundled.json"
