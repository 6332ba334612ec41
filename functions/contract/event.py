"""A rank's event, with the historic names, as one typed value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class EventError(ValueError):
    """An event lacks a field or holds one that Initialize would not have written."""


@dataclass(frozen=True)
class RankEvent:
    """What one rank is asked to do; `data_paths` are keys in data_bucket, read one after the other."""

    rank: int
    world_size: int
    run_id: str
    bucket: str
    result_path: str
    data_bucket: str
    data_prefix: str
    data_paths: tuple[str, ...]
    batch_size: int
    model: str | None
    engine: str
    precision: str
    save_predictions: bool
    script_folder: str | None
    script: str | None
    max_bad_fraction: float = 0.05  # of the galaxies, that may lack something (contract.flags)
    collectives: str = "none"
    rendezvous: str | None = None  # HOST:PORT of the rendezvous host, where there is one

    @property
    def private_prefix(self) -> str:
        """Where the run keeps its key and messages in `bucket`, until Summarize deletes them."""
        return f".cosmicai/{self.run_id}"

    @classmethod
    def parse(cls, event: Mapping[str, Any]) -> RankEvent:
        try:
            paths = event["DATA_PATH"]
            return cls(
                rank=int(event["RANK"]),
                world_size=int(event["WORLD_SIZE"]),
                run_id=str(event["RUN_ID"]),
                bucket=str(event["S3_BUCKET"]),
                result_path=str(event["RESULT_PATH"]),
                data_bucket=str(event["DATA_BUCKET"]),
                data_prefix=str(event["DATA_PREFIX"]),
                data_paths=(paths,) if isinstance(paths, str) else tuple(map(str, paths)),
                batch_size=int(event["BATCH_SIZE"]),
                model=event.get("MODEL"),
                engine=str(event.get("ENGINE", "auto")),
                precision=str(event.get("PRECISION", "auto")),
                save_predictions=bool(event.get("SAVE_PREDICTIONS", True)),
                script_folder=event.get("S3_OBJECT_NAME"),
                script=event.get("SCRIPT"),
                max_bad_fraction=float(event.get("MAX_BAD_FRACTION", 0.05)),
                collectives=str(event.get("COLLECTIVES", "none")),
                rendezvous=event.get("RENDEZVOUS"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EventError(
                f"rank event: {type(error).__name__} {error}; start runs through Initialize"
            ) from None
