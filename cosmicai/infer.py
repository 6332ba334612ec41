"""One machine, no cloud: the very code of a rank over local partitions, or over partitions in S3.

Every partition is a rank, processes take them one after the other, and the output folder has the layout of a
run in S3, with inference.png and Results.json (the historic keys) beside it.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import boto3

from cosmicai import historic
from inference.event import RankEvent
from inference.rank import Host, Worker
from inference.storage import Folder, ObjectError, Storage
from inference.torchfile import LocalFile, Source
from initialize.plan import PartitionFile, list_partitions, natural
from summarize.summary import summary

LOCAL = ""  # stands for the file system where S3 has a bucket's name
Json = dict[str, Any]
Progress = Callable[[int, int], None]


class InputError(ValueError):
    """What is to be inferred does not exist or holds no partition."""


class FileStorage(Storage):
    """A rank's storage whose nameless bucket is the file system."""

    def open(self, bucket: str, key: str) -> Source:
        if bucket != LOCAL:
            return super().open(bucket, key)
        try:
            return LocalFile(Path(key))
        except OSError as error:
            raise ObjectError(f"{key} could not be read: {error.strerror}") from None

    def folder(self, bucket: str, prefix: str, cache: Path) -> Folder:
        return LocalFolder(self, LOCAL, prefix, {path.name: "" for path in Path(prefix).iterdir()}, cache)

    def write(self, bucket: str, key: str, body: bytes, content_type: str) -> None:
        path = Path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)


class LocalFolder(Folder):
    """A folder that is here already."""

    def fetch(self, names: Sequence[str]) -> Path:
        missing = sorted(set(names) - set(self.etags))
        if missing:
            raise ObjectError(f"{self.prefix} holds no {', '.join(missing)}")
        return Path(self.prefix)


def infer(
    sources: Sequence[str],
    out: Path,
    batch_size: int,
    processes: int,
    model: Path | None = None,
    device: str = "cpu",
    engine: str = "auto",
    precision: str = "auto",
    progress: Progress = lambda done, total: None,
) -> Json:
    """Redshifts for all partitions of `sources` (files, folders, s3://bucket/prefix); returns the summary.

    Raises InputError, PartitionError, ObjectError, EngineError or ConfigError; results of the partitions
    that were done before stay in `out`.
    """
    files = [file for source in sources for file in _partitions(source)]
    run = _run(files, out, batch_size)
    _write(out / "run.json", run)
    plain = [_event(run, rank, file, out, model) for rank, file in enumerate(files)]
    events = [replace(event, engine=engine, precision=precision) for event in plain]
    processes = min(processes, len(events))
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(processes) as pool:
        ranks = [pool.submit(_infer_one, event, threads, device) for event in events]
        try:
            for done, rank in enumerate(as_completed(ranks), 1):
                rank.result()
                progress(done, len(events))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    infos = [json.loads((out / f"{rank}.json").read_text()) for rank in range(len(files))]
    return _finish(out, run, infos)


def _partitions(source: str) -> list[tuple[str, PartitionFile]]:
    """(bucket, file) of every partition of one source, in natural order."""
    if source.startswith("s3://"):
        bucket, _, prefix = source.removeprefix("s3://").partition("/")
        return [(bucket, file) for file in list_partitions(boto3.client("s3"), bucket, prefix.strip("/"))]
    path = Path(source)
    paths = sorted(path.glob("*.pt"), key=lambda p: natural(p.name)) if path.is_dir() else [path]
    if not paths or not paths[0].is_file():
        raise InputError(
            f"{source}: there is no partition file; give .pt files, folders of them or s3://bucket/prefix"
        )
    return [(LOCAL, PartitionFile(str(p), p.stat().st_size)) for p in paths]


def _run(files: list[tuple[str, PartitionFile]], out: Path, batch_size: int) -> Json:
    return {
        "run_id": f"local-{uuid.uuid4().hex[:12]}",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "payload": {"result_path": str(out), "batch_size": batch_size},
        "world_size": len(files),
        "data_map": {str(rank): file.key for rank, (_, file) in enumerate(files)},
        "files": len(files),
        "bytes": sum(file.size for _, file in files),
    }


def _event(run: Json, rank: int, file: tuple[str, PartitionFile], out: Path, model: Path | None) -> RankEvent:
    return RankEvent(
        rank=rank,
        world_size=run["world_size"],
        run_id=run["run_id"],
        bucket=LOCAL,
        result_path=str(out),
        data_bucket=file[0],
        data_prefix=str(Path(file[1].key).parent),
        data_paths=(file[1].key,),
        batch_size=run["payload"]["batch_size"],
        model=None if model is None else str(model),
        engine="auto",
        precision="auto",
        save_predictions=True,
        script_folder=None,
        script=None,
    )


def _infer_one(event: RankEvent, threads: int, device: str) -> None:
    _worker(threads, device).run(event)


@cache
def _worker(threads: int, device: str) -> Worker:
    """One per process, so that the network is loaded once."""
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024**2
    host = Host(memory_mb, threads, Path(), device)
    return Worker(lambda: FileStorage(boto3.client("s3", region_name="us-east-1")), host)


def _finish(out: Path, run: Json, infos: list[Json]) -> Json:
    content = summary(run, infos, {})
    _write(out / "combined_data.json", infos)
    _write(out / "summary.json", content)
    historic.write(out, content, infos)
    return content


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))
