"""One machine, no cloud: the code of a rank over local partitions, or over partitions in S3.

Every partition is a rank, and processes take one after the other. The output folder is laid out like a run in
S3, with report.html, inference.png and Results.json (the historic keys).
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import boto3

from cosmicai.data import photometry
from cosmicai.data.listing import partitions_in
from cosmicai.data.photometry import Photometry
from cosmicai.processes import pool
from cosmicai.results.outputs import write_text
from cosmicai.results.run_results import Results
from cosmicai.results.runfolder import run_folder
from cosmicai.runs.shares import Share, run_id
from inference import process
from inference.contract.event import DEFAULT_OUTPUTS, OUTPUTS, RankEvent
from inference.contract.model_files import REDUCED
from inference.data.partition import PartitionError
from inference.data.storage import Folder, LocalFolder, ObjectError, Storage
from inference.data.torchfile import LocalFile, Source
from inference.engine.choice import network_digest, read_graphs
from inference.engine.loading import BUNDLED_MODEL
from inference.rank import Rank
from inference.sandbox import Host, Sandbox
from initialize.photometry import described_by
from initialize.plan import Listing, PartitionFile, list_partitions
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import Run, Summary
from summarize.report import report
from summarize.summary import summary

MOST_GALAXIES, MOST_PROCESSES = 65_536, 1024  # of a batch; at once
DEVICES, ENGINES = ("cpu", "cuda"), ("auto", "onnxruntime", "torch")
PRECISIONS = ("auto", "float32", *REDUCED)
LOCAL = ""  # in place of a bucket's name: the file system
Json = dict[str, Any]
Progress = Callable[[int, int], None]
Moved = tuple[str, str]
"""The result folder that events name, and the folder to write to instead."""


class InputError(ValueError):
    """A source does not exist, holds no partition, or is given twice."""


class InferenceError(RuntimeError):
    """No partition could be computed; the message says why."""


class FileStorage(Storage):
    """A rank's storage whose nameless bucket is the file system."""

    def __init__(self, client: Any, moved: Moved | None = None) -> None:
        super().__init__(client)
        self._moved = moved

    def open(self, bucket: str, key: str) -> Source:
        if bucket != LOCAL:
            return super().open(bucket, key)
        try:
            return LocalFile(Path(key))
        except OSError as error:
            raise ObjectError(f"{key} could not be read: {error.strerror}") from error

    def folder(self, bucket: str, prefix: str, cache: Path) -> Folder:
        return LocalFolder.of(self, Path(prefix))

    def write(self, bucket: str, key: str, body: bytes, content_type: str) -> None:
        path = Path(key)
        if self._moved is not None:
            path = Path(self._moved[1]) / path.relative_to(self._moved[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)


def infer(
    sources: str | Path | Sequence[str | Path],
    out: str | Path = "results/local",
    batch_size: int = 256,
    processes: int = 1,
    model: str | Path | None = None,
    device: str = "cpu",
    engine: str = "auto",
    precision: str = "auto",
    progress: Progress = lambda finished, total: None,
    max_bad_fraction: float = 0.05,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda note: None,
    outputs: Sequence[str] = DEFAULT_OUTPUTS,
    share: Share | None = None,
) -> Results:
    """Predicts redshifts on this machine with the code of a rank, for one or more sources of partitions.

    sources: .pt files, folders of them, s3://bucket/prefix. A partition has images (N, 5, 32, 32) and
    magnitudes (N, 5), or what the model's config says, and may have redshifts (N,). out: folder for the files
    of a run, which appear together at the end; overwrite: replace those of an earlier call. batch_size:
    galaxies. processes: partitions at once, which share the cores. model: its folder, or the bundled model.
    device: cpu or cuda. engine: auto, onnxruntime or torch. precision: auto, float32, int8 or bfloat16.
    progress: called with (partitions done, all partitions). tell: called with each note, such as on files that
    are left out. outputs: what is written for each galaxy: redshift (always), pdf, embedding. share: computes
    only this share of the partitions, into a folder below `out`, for merging.py.

    A partition that cannot be computed is a failed rank of the results' summary, as is one of which more than
    `max_bad_fraction` of the galaxies lack something. Raises InputError for a source or an option that is not
    allowed, PhotometryError for a photometry.json that contradicts the model's card, InferenceError if no
    partition could be computed, EngineError, ConfigError, EmptyShareError, and OutputError if other results are
    there; then nothing has changed.
    """
    _check_options(batch_size, processes, max_bad_fraction, device, engine, precision)
    if isinstance(outputs, str) or not set(outputs) <= set(OUTPUTS):
        raise InputError(f"outputs: {outputs!r}: give a list of {', '.join(OUTPUTS)}")
    out, model = Path(out), None if model is None else Path(model)
    places = [str(one) for one in ([sources] if isinstance(sources, str | Path) else sources)]
    listings = {place: _partitions(place) for place in dict.fromkeys(places)}
    files = [file for place in places for file in listings[place].files]
    _check_each_once(files)
    photometry.check(
        [one for listed in listings.values() for one in listed.described],
        BUNDLED_MODEL if model is None else model,
    )
    notes = [note for listed in listings.values() for note in listed.notes]
    for note in notes:
        tell(note)
    run = _run(files, out, batch_size, notes)
    options: Json = {
        "engine": engine,
        "precision": precision,
        "max_bad_fraction": max_bad_fraction,
        "outputs": tuple(name for name in OUTPUTS if name in outputs or name == OUTPUTS[0]),
    }
    ranks, place = list(range(len(files))), out
    if share is not None:
        ranks, place = share.ranks([file.size for _, file in files]), share.folder(out)
        run = replace(run, run_id=_id_of_shares(run, files, share, {**options, "device": device}, model))
    events = [replace(_event(run, rank, files[rank], out, model), **options) for rank in ranks]
    with run_folder(place, run.run_id, overwrite) as scratch:
        failures = _computed(events, min(processes, len(events)), device, (str(out), str(scratch)), progress)
        if share is not None:
            _finish_share(scratch, run, ranks, failures)
            return Results(place)
        if len(failures) == len(events):
            cause = failures[0]["cause"]
            raise InferenceError(
                cause if len(events) == 1 else f"no partition could be computed; the first: {cause}"
            )
        finish(scratch, run, ranks, failures)
    return Results(place)


def _check_options(
    batch_size: int, processes: int, max_bad_fraction: float, device: str, engine: str, precision: str
) -> None:
    """Raises InputError, which names the option and its allowed values."""
    for name, number, most in (
        ("batch_size", batch_size, MOST_GALAXIES),
        ("processes", processes, MOST_PROCESSES),
    ):
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= most:
            raise InputError(f"{name}: {number!r}: give a whole number from 1 to {most:,}")
    if not 0 <= max_bad_fraction <= 1:
        raise InputError(f"max_bad_fraction: {max_bad_fraction!r}: give a number from 0 to 1")
    for name, value, allowed in (
        ("device", device, DEVICES),
        ("engine", engine, ENGINES),
        ("precision", precision, PRECISIONS),
    ):
        if value not in allowed:
            raise InputError(f"{name}: {value!r}: give {', '.join(allowed[:-1])} or {allowed[-1]}")


def _computed(
    events: list[RankEvent], processes: int, device: str, moved: Moved, progress: Progress
) -> dict[int, Json]:
    """Computes every event; returns the records of those that failed, by rank."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    failures: dict[int, Json] = {}
    with pool(processes) as workers:
        ranks = {workers.submit(_infer_one, event, threads, device, moved): event.rank for event in events}
        for finished, rank in enumerate(as_completed(ranks), 1):
            failure = _failure(rank)
            if failure is not None:
                failures[ranks[rank]] = failure
            progress(finished, len(events))
    return failures


def _failure(rank: Future[None]) -> Json | None:
    """The record of a rank whose partition cannot be computed; raises what concerns all ranks."""
    try:
        rank.result()
    except (PartitionError, ObjectError) as error:
        return {"error": type(error).__name__, "cause": str(error)}
    except BrokenProcessPool as error:
        raise InferenceError(
            "a process was killed, perhaps because memory ran out: give fewer --processes or a smaller "
            "--batch-size"
        ) from error
    return None


@dataclass(frozen=True)
class _Listed:
    """One source. files: (bucket, file) of every partition, in natural order. notes: on what is left out.
    described: each photometry.json by its place."""

    files: list[tuple[str, PartitionFile]]
    described: list[tuple[str, Photometry]]
    notes: list[str]


def _partitions(source: str) -> _Listed:
    """What a run would read from a source. Raises PlanError, PartitionError, PhotometryError and InputError."""
    if source.startswith("s3://"):
        bucket, _, prefix = source.removeprefix("s3://").partition("/")
        s3 = boto3.client("s3")
        listing = list_partitions(s3, bucket, prefix.strip("/"))
        described, notes = described_by(s3, bucket, listing.descriptions)
        return _Listed(
            [(bucket, file) for file in listing.files], described, [*_notes(listing, source), *notes]
        )
    path = Path(source)
    if path.is_dir():
        listing = partitions_in(path)
        files = [PartitionFile(str(path / file.key), file.size) for file in listing.files]
        return _Listed([(LOCAL, file) for file in files], photometry.beside(path), _notes(listing, source))
    if not path.is_file():
        raise InputError(
            f"{source}: there is no such file; give .pt files, folders of them or s3://bucket/prefix"
        )
    return _Listed([(LOCAL, PartitionFile(source, path.stat().st_size))], photometry.beside(path), [])


def _notes(listing: Listing, source: str) -> list[str]:
    note = listing.note(source)
    return [note] if note else []


def _check_each_once(files: list[tuple[str, PartitionFile]]) -> None:
    """Raises InputError if a partition is given twice: its galaxies would count twice."""
    places = Counter(
        str(Path(file.key).resolve()) if bucket == LOCAL else f"s3://{bucket}/{file.key}"
        for bucket, file in files
    )
    twice = [place for place, count in places.items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]} is given {places[twice[0]]} times; give each partition once")


def _run(files: list[tuple[str, PartitionFile]], out: Path, batch_size: int, notes: list[str]) -> Run:
    return Run(
        run_id=f"local-{uuid.uuid4().hex[:12]}",
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        payload={"result_path": str(out), "batch_size": batch_size},
        world_size=len(files),
        data_map={str(rank): file.key for rank, (_, file) in enumerate(files)},
        files=len(files),
        bytes=sum(file.size for _, file in files),
        notes=notes,
    )


def _event(run: Run, rank: int, file: tuple[str, PartitionFile], out: Path, model: Path | None) -> RankEvent:
    return RankEvent(
        rank=rank,
        world_size=run.world_size,
        run_id=run.run_id,
        bucket=LOCAL,
        result_path=str(out),
        data_bucket=file[0],
        data_prefix=str(Path(file[1].key).parent),
        data_paths=(file[1].key,),
        batch_size=run.payload["batch_size"],
        model=None if model is None else str(model),
    )


def _infer_one(event: RankEvent, threads: int, device: str, moved: Moved) -> None:
    Rank(event, _sandbox(threads, device, moved)).run()


@cache
def _sandbox(threads: int, device: str, moved: Moved | None = None) -> Sandbox:
    """One per process, so that the network is loaded once."""
    host = Host(process.machine_memory(), threads, Path(), device)
    return Sandbox(lambda: FileStorage(boto3.client("s3", region_name="us-east-1"), moved), host)


def _id_of_shares(
    run: Run, files: list[tuple[str, PartitionFile]], share: Share, options: Json, model: Path | None
) -> str:
    """An id made from all that the results depend on: shares of different data or options are never merged."""
    folder = BUNDLED_MODEL if model is None else model
    listed = [(bucket, file.key, file.size) for bucket, file in files]
    network = network_digest(folder, read_graphs(folder))
    return run_id([listed, run.payload, share.of, options, network, None if model is None else str(model)])


def _finish_share(folder: Path, run: Run, ranks: list[int], failures: dict[int, Json]) -> None:
    """Writes what `merge` needs, and a summary, in which the ranks of other shares are missing."""
    _write_failures(folder, run, failures)
    infos = _infos(folder, [rank for rank in ranks if rank not in failures])
    _write_records(folder, run, summary(run, infos, failures), infos)


def finish(folder: Path, run: Run, ranks: list[int], failures: dict[int, Json]) -> None:
    """Writes everything that concerns the whole run."""
    from cosmicai.results import historic  # imports matplotlib, which no process of the pool needs

    _write_failures(folder, run, failures)
    infos = _infos(folder, [rank for rank in ranks if rank not in failures])
    # Lambda's price of as much memory as this machine has would mean nothing.
    content = replace(summary(run, infos, failures), cost=None)
    _write_records(folder, run, content, infos)
    write_text(folder / "report.html", report(content, infos))
    historic.write(folder, content, infos)


def _write_records(folder: Path, run: Run, content: Summary, infos: list[RankInfo]) -> None:
    _write(folder / "run.json", run.to_json())
    _write(folder / "combined_data.json", [info.to_json() for info in infos])
    _write(folder / "summary.json", content.to_json())


def _write_failures(folder: Path, run: Run, failures: dict[int, Json]) -> None:
    for rank, record in failures.items():
        _write(folder / "failures" / f"{rank}.json", {"rank": rank, "run_id": run.run_id, **record})


def _infos(folder: Path, ranks: list[int]) -> list[RankInfo]:
    bodies = ((folder / f"{rank}.json").read_text(encoding="utf-8") for rank in ranks)
    return [RankInfo.from_json(json.loads(body)) for body in bodies]


def _write(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, indent=1))
