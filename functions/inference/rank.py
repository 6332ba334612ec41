"""One rank of a run: read its partitions, predict, measure, write."""

from __future__ import annotations

import copy
import io
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import script
from .contract.accuracy import Metrics, Predicted, exact_nmad
from .contract.event import RankEvent
from .data.partition import READS_AHEAD, Block, Layout, Partition, PartitionError, PartitionFile, stream
from .data.storage import Storage
from .engine.choice import GRAPHS, Choice, choose, read_graphs, verify
from .engine.interface import Engine, EngineError, Floats
from .engine.loading import BUNDLED_MODEL, start
from .metrics import collectives
from .metrics.reduction import Reduction, Share

PHASES = ("init", "download", "inference", "communication", "upload")
REFERENCE_BAND = 3  # i of ugriz: the magnitude by which accuracy is binned
_MIB = 1024 * 1024


@dataclass(frozen=True)
class Host:
    """What the machine gives: configured memory in MB, threads, where files may be kept, cpu or cuda."""

    memory_mb: int
    threads: int
    scratch: Path
    device: str = "cpu"

    @classmethod
    def of_lambda(cls, memory_mb: int, scratch: Path) -> Host:
        """Threads follow the vCPUs that the memory buys, one per 1,769 MB
        (https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html)."""
        vcpus = max(1, round(memory_mb / 1769))
        return cls(memory_mb, min(vcpus, os.cpu_count() or 1), scratch)


@dataclass
class _Clock:
    """Wall seconds per phase."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


@dataclass
class _Results:
    """What a rank collects over its partitions, in their order."""

    predicted: list[Floats] = field(default_factory=list)
    true: list[Floats] = field(default_factory=list)
    magnitudes: list[Floats] = field(default_factory=list)  # the reference one of each galaxy
    rows: list[int] = field(default_factory=list)
    data_bytes: int = 0
    image_bytes: int = 0  # of the largest block, which is what memory holds
    has_redshift: bool = False
    cpu_seconds: float = 0.0
    _file: PartitionFile | None = None

    def add(self, block: Block) -> None:
        """The rows that are about to be computed."""
        if block.file is not self._file:
            self._file = block.file
            self.rows.append(block.file.count)
        rows = block.rows
        self.magnitudes.append(rows.magnitudes[:, min(REFERENCE_BAND, rows.magnitudes.shape[1] - 1)])
        self.data_bytes += rows.images.nbytes + rows.magnitudes.nbytes
        self.image_bytes = max(self.image_bytes, rows.images.nbytes)
        self.has_redshift |= rows.redshift is not None
        unknown = np.full(len(rows), np.nan, np.float32)
        self.true.append(unknown if rows.redshift is None else rows.redshift)

    def batches(self, size: int) -> int:
        """How many batches of the asked-for size they are; the engine cuts them as it likes."""
        return sum(-(-rows // size) for rows in self.rows)

    @property
    def z_pred(self) -> Floats:
        return np.concatenate([*self.predicted, np.empty(0, np.float32)])

    @property
    def z_true(self) -> Floats:
        return np.concatenate([*self.true, np.empty(0, np.float32)])

    @property
    def reference_magnitude(self) -> Floats:
        return np.concatenate([*self.magnitudes, np.empty(0, np.float32)])


class Worker:
    """Runs ranks in one sandbox; the engine is loaded once and reused by warm invocations."""

    def __init__(self, new_storage: Callable[[], Storage], host: Host) -> None:
        self._new_storage = new_storage  # one per invocation, which counts its requests
        self._host = host
        self._engines: dict[tuple[Path, Choice], Engine] = {}
        self._reading = ThreadPoolExecutor(READS_AHEAD, "reading")
        self._scripts = script.Scripts(host.scratch)
        self._overhead = _peak_memory()
        self._cold = True

    def run(self, event: RankEvent, seconds_left: Callable[[], float] = lambda: float("inf")) -> dict[str, Any]:
        """Writes predictions and rank info and returns a pointer to them; seconds_left: of the function's time.

        Raises PartitionError, ObjectError, ConfigError, EngineError or ScriptError, which name what is wrong.
        """
        began, cold, self._cold = time.perf_counter(), self._cold, False
        before = _process_age() if cold else 0.0  # Lambda bills its init phase too
        clock, storage = _Clock(), self._new_storage()
        clock.seconds["init"] = before
        if event.script is not None:
            info = self._run_script(event, storage, clock)
        else:
            with collectives.reduction(event, storage, seconds_left) as reduction:
                info = self._infer(event, storage, clock, reduction)
        info |= {
            "rank": event.rank,
            "run_id": event.run_id,
            "cold_start": cold,
            "duration (seconds)": before + time.perf_counter() - began,
            "ended (unix seconds)": time.time(),
        }
        storage.write_json(event.bucket, f"{event.result_path}/{event.rank}.json", info)
        count = info["num_samples"]
        known = {"num_samples": count} if isinstance(count, int) else {}
        return {"rank": event.rank, "run_id": event.run_id, **known}

    def _run_script(self, event: RankEvent, storage: Storage, clock: _Clock) -> dict[str, Any]:
        """Runs the user's own code, and adds what it wrote as its rank info to ours."""
        with clock.phase("download"):
            folder = self._scripts.fetch(event, storage)
            before = script.info_versions(event, storage)
        fmi = collectives.for_script(event, storage, self._host.scratch)
        with clock.phase("inference"), fmi as variables:
            script.run(event, folder, self._host.scratch, variables)
        written = script.written_info(event, storage, before)
        return script.rank_info(self._common(event, storage, clock), written)

    def _infer(self, event: RankEvent, storage: Storage, clock: _Clock, reduction: Reduction) -> dict[str, Any]:
        """The built-in way: the engine over the rank's partitions; then the metrics, among the ranks."""
        results = _Results()
        try:
            with clock.phase("init"):
                engine, choice = self._engine(event, storage)
            self._predict(event, engine, storage, clock, results)
            if not np.isfinite(results.z_pred).all():
                raise PartitionError(
                    f"{event.data_paths[0]}: the network gave values that are not finite for it"
                )
            if event.save_predictions:
                with clock.phase("upload"):
                    self._write_predictions(event, storage, results)
        except Exception:
            reduction.finish(Share([], 0, None))  # so that nobody waits for this rank
            raise
        metrics = _metrics(results)
        with clock.phase("communication"):
            share = reduction.finish(Share([event.rank], len(results.z_pred), copy.deepcopy(metrics)))
            told = collectives.publish(event, storage, share, reduction)
        return {**self._info(event, engine, choice, storage, clock, results, metrics), "collectives": told}

    def prepare(self) -> None:
        """Loads the bundled model before the first event asks for it, as most will."""
        with suppress(EngineError):
            self._start(BUNDLED_MODEL, choose(read_graphs(BUNDLED_MODEL), "auto", "auto", self._host.device))

    def _engine(self, event: RankEvent, storage: Storage) -> tuple[Engine, Choice]:
        if event.model is None:
            choice = self._choose(event, read_graphs(BUNDLED_MODEL))
            return self._start(BUNDLED_MODEL, choice), choice
        files = storage.folder(event.bucket, event.model, self._host.scratch / "models")
        graphs = read_graphs(files.fetch([GRAPHS])) if GRAPHS in files.etags else None
        choice = self._choose(event, graphs)
        folder = files.fetch([*choice.files, GRAPHS] if graphs else choice.files)
        if (folder, choice) not in self._engines:
            verify(folder, choice)
        return self._start(folder, choice), choice

    def _choose(self, event: RankEvent, graphs: dict[str, Any] | None) -> Choice:
        return choose(graphs, event.engine, event.precision, self._host.device)

    def _start(self, folder: Path, choice: Choice) -> Engine:
        if (folder, choice) not in self._engines:
            self._engines = {(folder, choice): start(folder, choice, self._host.threads, self._host.device)}
        return self._engines[folder, choice]

    def _predict(
        self, event: RankEvent, engine: Engine, storage: Storage, clock: _Clock, results: _Results
    ) -> None:
        """Reading and computing overlap: `download` is what the rank waited for bytes."""
        openers = [partial(self._open, event, key, engine.layout, storage) for key in event.data_paths]
        batch = engine.batch(event.batch_size)
        cpu, before, began = time.process_time(), clock.seconds["download"], time.perf_counter()

        def batches() -> Iterator[Partition]:
            blocks = stream(openers, batch, self._reading)
            while True:
                with clock.phase("download"):
                    block = next(blocks, None)
                if block is None:
                    return
                results.add(block)
                yield from block.rows.batches(batch)

        results.predicted += engine.predict(batches())
        waited = clock.seconds["download"] - before
        clock.seconds["inference"] += time.perf_counter() - began - waited
        results.cpu_seconds += time.process_time() - cpu

    def _open(self, event: RankEvent, key: str, layout: Layout, storage: Storage) -> PartitionFile:
        name = f"s3://{event.data_bucket}/{key}" if event.data_bucket else key
        return PartitionFile.open(storage.open(event.data_bucket, key), name, layout)

    def _write_predictions(self, event: RankEvent, storage: Storage, results: _Results) -> None:
        arrays: dict[str, Any] = {
            "index": np.arange(len(results.z_pred)),
            "z_pred": results.z_pred,
            "files": np.array(event.data_paths),
            "rows": np.array(results.rows),
            "run_id": np.array(event.run_id),
        }
        if results.has_redshift:
            arrays["z_true"] = results.z_true
        body = io.BytesIO()
        np.savez(body, **arrays)
        key = f"{event.result_path}/predictions/{event.rank}.npz"
        storage.write(event.bucket, key, body.getvalue(), "application/octet-stream")

    def _info(
        self,
        event: RankEvent,
        engine: Engine,
        choice: Choice,
        storage: Storage,
        clock: _Clock,
        results: _Results,
        metrics: Metrics | None,
    ) -> dict[str, Any]:
        return {
            **self._common(event, storage, clock),
            "num_samples": len(results.z_pred),
            **_speed(event, clock, results),
            **self._memory(engine, results),
            "device": engine.device,
            "engine": engine.name,
            "instructions": engine.instructions,
            "precision": engine.precision,
            "precision_reason": choice.reason,
            "predicted_redshifts": Predicted.of(results.z_pred.tolist()).to_json(),
            **_accuracy(results, metrics),
        }

    def _common(self, event: RankEvent, storage: Storage, clock: _Clock) -> dict[str, Any]:
        """What every rank info holds, whatever did the work."""
        return {
            "world_size": event.world_size,
            "data_path": event.data_paths[0] if len(event.data_paths) == 1 else list(event.data_paths),
            "result_path": event.result_path,
            **{f"{name} (seconds)": seconds for name, seconds in clock.seconds.items()},
            **storage.statistics(),
            "memory_limit (MB)": self._host.memory_mb,
            "threads": self._host.threads,
            "architecture": platform.machine(),
            "versions": _versions(),
        }

    def _memory(self, engine: Engine, results: _Results) -> dict[str, float]:
        peak = _peak_memory()
        return {
            "total_cpu_memory (MB)": (peak - self._overhead) / _MIB,
            "total_process_memory (MB)": peak / _MIB,
            "library_overhead_memory (MB)": self._overhead / _MIB,
            "total_image_memory (MB)": results.image_bytes / _MIB,
            "total_model_memory (MB)": engine.model_bytes / _MIB,
        }


def _metrics(results: _Results) -> Metrics | None:
    """What the ranks' measures are merged from; None without redshifts."""
    if not results.has_redshift:
        return None
    magnitudes = results.reference_magnitude.tolist()
    return Metrics.of(results.z_pred.tolist(), results.z_true.tolist(), magnitudes)


def _accuracy(results: _Results, metrics: Metrics | None) -> dict[str, Any]:
    """The measures of this rank, and the state that Summarize adds up; no measure without redshifts."""
    if metrics is None:
        return {"accuracy_state": None}
    return {
        **metrics.total.measures(),
        "precision (NMAD)": exact_nmad(results.z_pred.tolist(), results.z_true.tolist()),
        "undefined": metrics.total.undefined(),
        "accuracy_state": metrics.to_json(),
    }


def _speed(event: RankEvent, clock: _Clock, results: _Results) -> dict[str, float]:
    seconds = clock.seconds["inference"]
    return {
        "batch_size": event.batch_size,
        "num_batches": results.batches(event.batch_size),
        "total_cpu_time (seconds)": results.cpu_seconds,
        "execution_time (seconds/batch)": seconds / max(results.batches(event.batch_size), 1),
        "throughput_bps": 8 * results.data_bytes / seconds,
        "sample_persec": len(results.z_pred) / seconds,
    }


def _versions() -> dict[str, str]:
    """Of Python and of what computed."""
    loaded = ((name, sys.modules.get(name)) for name in ("numpy", "onnxruntime", "torch"))
    found = {name: str(getattr(module, "__version__", "")) for name, module in loaded if module is not None}
    return {"python": platform.python_version(), **found}


def _peak_memory() -> int:
    """Peak resident memory of this process in bytes.

    Linux's ru_maxrss would include what its parent had before it started this process.
    """
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS, where it is in bytes


def _process_age() -> float:
    """Seconds since this process was started; 0 where the system does not tell (only Linux does, cheaply)."""
    try:
        started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return 0.0
    return max(0.0, uptime - started_ticks / os.sysconf("SC_CLK_TCK"))
