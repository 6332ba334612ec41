"""What the ranks of a run have left in S3: infos, and records of failures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Self

from .contract.rank_files import Listed, RankFile, listed, rank_files
from .contract.rank_info import RankInfo, is_result
from .contract.run_records import Run
from .contract.s3 import read
from .summary import error_of, shortened

_WHOLE_CAUSES = 1000  # of failed ranks; those of the others are shortened

Json = dict[str, Any]


@dataclass(frozen=True)
class Bucket:
    """The run's bucket, from which `pool` reads several objects at a time; reads: the client for rank infos."""

    s3: Any
    name: str
    reads: Any
    pool: ThreadPoolExecutor

    def read(self, key: str) -> Json | None:
        """The object; {} if it is not ours, since foreign files must not stop a summary; None if missing."""
        try:
            content = json.loads(read(self.s3, self.name, key)[0])
        except self.s3.exceptions.NoSuchKey:
            return None
        except (ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class Place:
    """A folder in which ranks leave their results: which ranks have left any, or a failure below it."""

    bucket: Bucket
    folder: str
    results: Future[Listed]
    failed: Future[Listed]

    @classmethod
    def of(cls, bucket: Bucket, folder: str) -> Self:
        """Begins to list them."""
        places = (folder, f"{folder}/failures")
        return cls(bucket, folder, *(bucket.pool.submit(listed, bucket.s3, bucket.name, one) for one in places))

    def _files(self, folder: str, present: Listed, ranks: range) -> Iterator[RankFile]:
        return rank_files(self.bucket.reads, self.bucket.pool, self.bucket.name, folder, present, ranks)

    def finished(self, run: Run, ranks: range, unusable: dict[int, Json]) -> Iterator[tuple[RankInfo, float]]:
        """The infos of those of the ranks that finished, in order, and when S3 received them, in Unix seconds.

        Adds error and cause of infos that cannot be used to `unusable`.
        """
        for one in self._files(self.folder, self.results.result(), ranks):
            if is_result(one.content, run.run_id, one.rank):
                info = RankInfo.from_json(one.content, one.faults)
                copy = run.copy_of(one.rank)
                yield info if info.copy == copy else replace(info, copy=copy), one.modified
            elif one.fault or _is_of(run, one):
                where = f"s3://{self.bucket.name}/{self.folder}/{one.rank}.json"
                unusable[one.rank] = _unusable(one, where)

    def failures(self, run: Run, ranks: range) -> dict[int, Json]:
        """Error and cause of those of the ranks that have left a record of it."""
        errors: dict[int, Json] = {}
        for one in self._files(f"{self.folder}/failures", self.failed.result(), ranks):
            if _is_of(run, one):
                error = error_of(one.content)
                cause = error["cause"] if len(errors) < _WHOLE_CAUSES else shortened(error["cause"])
                errors[one.rank] = {**error, "cause": cause}
        return errors


def _is_of(run: Run, file: RankFile) -> bool:
    return isinstance(file.content, dict) and file.content.get("run_id") == run.run_id


def _unusable(file: RankFile, where: str) -> Json:
    """The failure record of a rank whose info is not valid."""
    reason = file.fault or "it lacks what a rank measures when it ends, or names another rank"
    return {"error": "RankInfoError", "cause": f"{where} is not the info of a finished rank: {reason}"}
