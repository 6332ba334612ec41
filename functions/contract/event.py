"""A rank's event, with the historic names, as one typed value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

from .fields import Field, Keys, Record, RecordError

OUTPUTS = ("redshift", "pdf", "embedding")
"""What a rank may write for every galaxy. redshift, with flags and quantiles, is always written."""
DEFAULT_OUTPUTS = ("redshift", "pdf")


def copy_of(rank: int, originals: int | None) -> int | None:
    """The number of the copy, from 1, that a rank belongs to; None for an original.

    originals: the number of ranks that compute the data for the first time; None: all of the run.
    """
    return rank // originals or None if originals else None


class EventError(ValueError):
    """A field of the event is missing, or holds a value that Initialize would not have written."""


@dataclass(frozen=True, kw_only=True)
class RankEvent(Record):
    """What one rank has to do: an element of manifest.json, with RENDEZVOUS if the run has such a host."""

    bucket: Annotated[str, Field("the bucket that the run writes to", "S3_BUCKET")]
    object_type: Annotated[str, Field("`folder`", "S3_OBJECT_TYPE")] = "folder"
    script_folder: Annotated[
        str | None, Field("the folder of the user's own code in that bucket", "S3_OBJECT_NAME", null=True)
    ] = None
    script: Annotated[str | None, Field("the file that is started, below /tmp", "SCRIPT", null=True)] = None
    world_size: Annotated[int, Field("the ranks of the run", "WORLD_SIZE")]
    originals: Annotated[
        int | None, Field("the number of ranks that are not copies, where there are copies", "ORIGINALS")
    ] = None
    data_bucket: Annotated[str, Field("the bucket of the partitions", "DATA_BUCKET")]
    data_prefix: Annotated[str, Field("the folder of the partitions", "DATA_PREFIX")]
    result_path: Annotated[
        str, Field("the folder that the rank writes to; for a copy, copies/ in that of the run", "RESULT_PATH")
    ]
    batch_size: Annotated[int, Field("galaxies per batch", "BATCH_SIZE", "galaxies")]
    run_id: Annotated[str, Field("the name of the execution that planned the run", "RUN_ID")]
    model: Annotated[
        str | None, Field("the folder of the model; null for the bundled one", "MODEL", null=True)
    ] = None
    engine: Annotated[str, Field("the engine, or `auto`", "ENGINE")] = "auto"
    precision: Annotated[str, Field("the precision, or `auto`", "PRECISION")] = "auto"
    collectives: Annotated[str, Field("the channel between the ranks", "COLLECTIVES")] = "none"
    save_predictions: Annotated[bool, Field("whether predictions are written", "SAVE_PREDICTIONS")] = True
    max_bad_fraction: Annotated[
        float, Field("the share of the galaxies that may lack something", "MAX_BAD_FRACTION")
    ] = 0.05
    outputs: Annotated[
        Keys, Field("what is written for each galaxy: `redshift`, `pdf`, `embedding`", "OUTPUTS")
    ] = DEFAULT_OUTPUTS
    catalogue: Annotated[
        str | None, Field("the folder of the catalogue that grows by this run", "CATALOGUE")
    ] = None
    rank: Annotated[int, Field("the number of the rank, from 0", "RANK")]
    data_paths: Annotated[Keys, Field("the key of its partition, or a list of keys", "DATA_PATH")]
    rendezvous: Annotated[
        str | None, Field("HOST:PORT of the rendezvous host, if there is one", "RENDEZVOUS")
    ] = None

    @property
    def copy(self) -> int | None:
        """The number of the copy, from 1, that the rank belongs to; None for an original."""
        return copy_of(self.rank, self.originals)

    @property
    def private_prefix(self) -> str:
        """Where the run keeps its key and messages in `bucket`, until Summarize deletes them."""
        return f".cosmicai/{self.run_id}"

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Raises EventError."""
        try:
            return super().from_json(content)
        except RecordError as error:
            raise EventError(f"rank event: {error}; start runs through Initialize") from error
