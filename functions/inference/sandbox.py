"""What lives in a Lambda sandbox across its invocations: the engine, the readers, fetched scripts."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import process
from .contract.event import RankEvent
from .contract.limits import MB_PER_VCPU
from .contract.model_files import CALIBRATION, GRAPHS, NOVELTY
from .data.partition import READS_AHEAD
from .data.rules import CARD_FILES, Rules
from .data.storage import Storage
from .engine.choice import Choice, choose, network_digest, read_graphs, verify
from .engine.interface import Engine, EngineError
from .engine.loading import BUNDLED_MODEL, start
from .machine import NOT_BILLED, Machine
from .probability.calibration import Calibration
from .probability.novelty import Novelty

if TYPE_CHECKING:
    from .script import Scripts


@dataclass(frozen=True)
class Host:
    """What the machine offers: configured memory in MB, threads, a folder for temporary files, cpu or cuda.

    redis: HOST or HOST:PORT of the deployment's Redis; None if it has none. machine: what is billed.
    """

    memory_mb: int
    threads: int
    scratch: Path
    device: str = "cpu"
    redis: str | None = None
    machine: Machine = NOT_BILLED

    @classmethod
    def of_lambda(cls, memory_mb: int, scratch: Path, redis: str | None) -> Host:
        """Threads follow the vCPUs that the memory buys, one per MB_PER_VCPU."""
        vcpus = max(1, round(memory_mb / MB_PER_VCPU))
        threads = min(vcpus, os.cpu_count() or 1)
        return cls(memory_mb, threads, scratch, redis=redis, machine=Machine("lambda"))

    @classmethod
    def of_machine(cls, scratch: Path, device: str) -> Host:
        """All of this machine that the process may use."""
        return cls(process.machine_memory(), len(os.sched_getaffinity(0)), scratch, device)


@dataclass(frozen=True, repr=False, eq=False)
class Model:
    """A loaded model folder; calibration, novelty: None if the folder has none. network: SHA-256 of its
    weights, None if they are not here."""

    engine: Engine
    choice: Choice
    rules: Rules
    calibration: Calibration | None
    novelty: Novelty | None
    network: str | None


class Sandbox:
    """Serves one rank at a time; the engine is loaded once and reused by warm invocations."""

    def __init__(self, new_storage: Callable[[], Storage], host: Host) -> None:
        """new_storage: makes a storage for each invocation, whose requests it counts."""
        self.host = host
        self.reading = ThreadPoolExecutor(READS_AHEAD, "reading")
        self.overhead = process.peak_memory()  # bytes of the imports
        self._new_storage = new_storage
        self._models: dict[tuple[Path, Choice], Model] = {}
        self._cold = True

    @cached_property
    def scripts(self) -> Scripts:
        from .script import Scripts  # only runs of users' own scripts need it

        return Scripts(self.host.scratch)

    def invoked(self) -> tuple[Storage, bool]:
        """For each invocation: a storage of its own, and whether this is the sandbox's first."""
        cold, self._cold = self._cold, False
        return self._new_storage(), cold

    def prepare(self) -> None:
        """Loads the bundled model before the first event, which will probably ask for it."""
        with suppress(EngineError):
            self._start(BUNDLED_MODEL, choose(read_graphs(BUNDLED_MODEL), "auto", "auto", self.host.device))

    def model(self, event: RankEvent, storage: Storage) -> Model:
        """The event's model, fetched from S3 unless it is the bundled one. Raises EngineError."""
        if event.model is None:
            return self._start(BUNDLED_MODEL, self._choose(event, read_graphs(BUNDLED_MODEL)))
        files = storage.folder(event.bucket, event.model, self.host.scratch / "models")
        graphs = read_graphs(files.fetch([GRAPHS])) if GRAPHS in files.etags else None
        choice = self._choose(event, graphs)
        optional = [file for file in (*CARD_FILES, CALIBRATION, NOVELTY) if file in files.etags]
        folder = files.fetch(list(dict.fromkeys([*choice.files, *optional, *([GRAPHS] if graphs else [])])))
        if (folder, choice) not in self._models:
            verify(folder, choice)
        return self._start(folder, choice)

    def _choose(self, event: RankEvent, graphs: dict[str, Any] | None) -> Choice:
        return choose(graphs, event.engine, event.precision, self.host.device)

    def _start(self, folder: Path, choice: Choice) -> Model:
        if (folder, choice) not in self._models:
            engine = start(folder, choice, self.host.threads, self.host.device)
            network, magnitudes = network_digest(folder, read_graphs(folder)), engine.layout.magnitudes
            calibration = Calibration.read(folder) if (folder / CALIBRATION).exists() else None
            if calibration is not None:
                calibration.check(network, magnitudes, engine.density_bins)
            novelty = Novelty.read(folder) if (folder / NOVELTY).exists() else None
            if novelty is not None:
                novelty.check(network, engine.embedding_width, magnitudes)
            rules = Rules.of_folder(folder)
            if choice.mapping is not None and choice.mapping.taken("values") is not None:
                rules = replace(rules, in_ab=False)
            self._models = {(folder, choice): Model(engine, choice, rules, calibration, novelty, network)}
        return self._models[folder, choice]
