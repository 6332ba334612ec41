"""One rank of a run: read its partitions, predict, measure, write."""

from __future__ import annotations

import copy
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from . import process
from .contract.event import RankEvent
from .contract.names import COPY
from .contract.rank_info import RankInfo
from .data.partition import Layout, Partition, PartitionFile, stream
from .engine.cpu import cpu_kind, features
from .engine.interface import Engine, Floats
from .metrics import collectives
from .metrics.reduction import Reduction, Share
from .results import Clock, Results, npz
from .sandbox import Model, Sandbox

if TYPE_CHECKING:
    from .contract.growing import Part

_MIB = 1024 * 1024


class Rank:
    """One invocation: its event, where it reads and writes, and what it has measured so far."""

    def __init__(
        self, event: RankEvent, sandbox: Sandbox, seconds_left: Callable[[], float] = lambda: float("inf")
    ) -> None:
        """seconds_left: how much of the function's time is left."""
        self._began = time.perf_counter()
        self._event, self._sandbox, self._seconds_left = event, sandbox, seconds_left
        self._storage, self._cold = sandbox.invoked()
        self._clock, self._results = Clock(), Results()
        self._part: Part | None = None  # of a catalogue that grows
        if self._cold:  # Lambda bills its init phase too
            self._clock.seconds["init"] = process.age()
        self._before = self._clock.seconds["init"]

    def run(self) -> dict[str, Any]:
        """Writes predictions and rank info and returns a pointer to them.

        Raises PartitionError, ObjectError, ConfigError, EngineError or ScriptError, which name what is wrong.
        """
        event = self._event
        info = self._infer().to_json() if event.script is None else self._run_script()
        self._storage.write_json(event.bucket, f"{event.result_path}/{event.rank}.json", info)
        count = info["num_samples"]
        known = {"num_samples": count} if isinstance(count, int) else {}
        return {"rank": event.rank, "run_id": event.run_id, **known}

    def _run_script(self) -> dict[str, Any]:
        """Runs the user's own code, and adds the rank info that it wrote to ours."""
        from . import script  # only such runs need it

        event, storage, scratch = self._event, self._storage, self._sandbox.host.scratch
        with self._clock.phase("download"):
            folder = self._sandbox.scripts.fetch(event, storage)
            before = script.info_versions(event, storage)
        fmi = collectives.for_script(event, storage, self._sandbox.host.redis, scratch)
        with self._clock.phase("inference"), fmi as variables:
            script.run(event, folder, scratch, variables)
        written = script.written_info(event, storage, before)
        return script.rank_info(self._ended(self._measured()), written)

    def _infer(self) -> RankInfo:
        """Runs the engine over the rank's partitions, then reduces the metrics among the ranks."""
        event, storage, results = self._event, self._storage, self._results
        redis = self._sandbox.host.redis
        with collectives.reduction(event, storage, redis, self._seconds_left) as reduction:
            model = self._computed(reduction)
            engine = model.engine
            metrics = results.metrics
            with self._clock.phase("communication"):
                own = Share([event.rank], results.count, copy.deepcopy(metrics))
                share = reduction.finish(own)
                record = collectives.publish(event, storage, share, reduction)
        info = replace(
            self._measured(),
            device=engine.device,
            engine=engine.name,
            instructions=engine.instructions or None,
            cpu=cpu_kind(),
            cpu_features=list(features()),
            precision=engine.precision,
            precision_reason=model.choice.reason,
            flags=results.quality.counts(),
            predicted_redshifts=results.distribution(),
            columns=None if model.choice.mapping is None else list(model.choice.mapping.columns),
            collectives=record,
            catalogue=None if self._part is None else self._part.to_json(),
        )
        info = results.with_speed(info, event.batch_size, self._clock.seconds["inference"])
        return self._ended(results.with_accuracy(self._with_memory(info, engine), metrics))

    def _computed(self, reduction: Reduction) -> Model:
        """Fills the results and writes the predictions; returns the model that computed them."""
        event, results = self._event, self._results
        try:
            with self._clock.phase("init"):
                model = self._sandbox.model(event, self._storage)
            results.quality.rules, results.others.mapping = model.rules, model.choice.mapping
            self._predict(model)
            results.complete()
            results.quality.check(event.max_bad_fraction, self._name(event.data_paths[0]))
            if model.calibration is not None:
                with self._clock.phase("inference"):
                    results.find_probabilities(model.calibration)
            if event.save_predictions or event.catalogue is not None:
                with self._clock.phase("upload"):
                    self._write(model)
        except Exception:
            reduction.finish(Share([], 0, None))  # so that nobody waits for this rank
            raise
        return model

    def _write(self, model: Model) -> None:
        """What is kept of each galaxy: the rank's predictions, and its part of a catalogue that grows."""
        event = self._event
        arrays = self._results.arrays(event.data_paths, event.run_id, event.outputs)
        if event.copy is not None:
            arrays[COPY] = np.array(event.copy)
        if event.save_predictions:
            key = f"{event.result_path}/predictions/{event.rank}.npz"
            self._storage.write(event.bucket, key, npz(arrays), "application/octet-stream")
        if event.catalogue is not None:
            from .catalogue import write_part  # only such runs need it

            self._part = write_part(event, self._storage, arrays, model.network)

    def _predict(self, model: Model) -> None:
        """Reading and computing overlap: `download` is only the time that the rank waited for bytes."""
        event, seconds, results, engine = self._event, self._clock.seconds, self._results, model.engine
        results.novelty = model.novelty
        results.keeps_embedding = "embedding" in event.outputs
        with_embedding = results.keeps_embedding or model.novelty is not None
        waiting: deque[Floats] = deque()  # magnitudes of the batches that the engine has been given
        openers = [partial(self._open, key, engine.layout) for key in event.data_paths]
        batch = engine.batch(event.batch_size)
        cpu, before, began = time.process_time(), seconds["download"], time.perf_counter()

        def batches() -> Iterator[Partition]:
            blocks = stream(openers, batch, self._sandbox.reading)
            while True:
                with self._clock.phase("download"):
                    block = next(blocks, None)
                if block is None:
                    return
                for part in results.add(block).batches(batch):
                    waiting.append(part.magnitudes)
                    yield part

        with_density = model.calibration is not None and model.calibration.edges is not None
        for output in engine.outputs(batches(), with_embedding, with_density):
            results.keep(output, waiting.popleft())
        waited = seconds["download"] - before
        seconds["inference"] += time.perf_counter() - began - waited
        results.cpu_seconds += time.process_time() - cpu

    def _open(self, key: str, layout: Layout) -> PartitionFile:
        file = self._storage.open(self._event.data_bucket, key)
        return PartitionFile.open(file, self._name(key), layout)

    def _name(self, key: str) -> str:
        bucket = self._event.data_bucket
        return f"s3://{bucket}/{key}" if bucket else key

    def _measured(self) -> RankInfo:
        """The part of the rank info that does not depend on what computed: the engine or a script."""
        event, host, seconds = self._event, self._sandbox.host, self._clock.seconds
        info = RankInfo(
            world_size=event.world_size,
            copy=event.copy,
            data_paths=event.data_paths,
            result_path=event.result_path,
            init=seconds["init"],
            download=seconds["download"],
            inference=seconds["inference"],
            communication=seconds["communication"],
            upload=seconds["upload"],
            memory_limit=host.memory_mb,
            threads=host.threads,
            architecture=platform.machine(),
            capacity=host.machine.capacity,
            vcpus=host.machine.vcpus,
            instance_type=host.machine.instance_type,
            public_address=host.machine.public_address,
            versions=process.versions(),
            rank=event.rank,
            run_id=event.run_id,
            cold_start=self._cold,
        )
        return self._storage.with_requests(info)

    def _ended(self, info: RankInfo) -> RankInfo:
        """Adds the duration, and the current time as the end."""
        duration, ended = self._before + time.perf_counter() - self._began, time.time()
        since = self._sandbox.host.machine.since
        billed = None if since is None else max(ended - since, duration)
        return replace(info, duration=duration, billed=billed, ended=ended)

    def _with_memory(self, info: RankInfo, engine: Engine) -> RankInfo:
        peak, overhead = process.peak_memory(), self._sandbox.overhead
        return replace(
            info,
            total_cpu_memory=(peak - overhead) / _MIB,
            total_process_memory=peak / _MIB,
            library_overhead_memory=overhead / _MIB,
            total_image_memory=self._results.image_bytes / _MIB,
            total_model_memory=engine.model_bytes / _MIB,
        )
