"""What a rank collects while it computes: predictions by galaxy, seconds by phase."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract.accuracy import Metrics, Predicted, exact_nmad
from .contract.event import DEFAULT_OUTPUTS
from .contract.field_measures import exact_field_measures
from .contract.flags import BAD, Flag
from .contract.limits import PHASES
from .contract.metrics import AnyMetrics
from .contract.rank_info import RankInfo
from .data.objects import Objects, joined
from .data.partition import Block, Partition, PartitionFile
from .data.quality import Quality
from .engine.interface import Floats, Output
from .imported_outputs import ImportedOutputs
from .probability import scores
from .probability.calibration import REFERENCE_BAND, Calibration
from .probability.novelty import RARE, Novelty
from .probability.predictive import Densities, densities

HalfFloats = NDArray[np.float16]


@dataclass
class Clock:
    """Wall seconds per phase."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


def npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of an .npz."""
    body = io.BytesIO()
    np.savez(body, **arrays)  # type: ignore[arg-type]
    return body.getvalue()


@dataclass(repr=False, eq=False)
class Results:
    """What a rank collects from its partitions, in their order."""

    quality: Quality = field(default_factory=Quality)
    others: ImportedOutputs = field(default_factory=ImportedOutputs)  # besides redshifts
    predicted: list[Floats] = field(default_factory=list)
    keeps_embedding: bool = False
    embeddings: list[HalfFloats] = field(default_factory=list)
    novelty: Novelty | None = None  # of the model
    scores: list[Floats] = field(default_factory=list)  # from `novelty`
    densities: list[Floats] = field(default_factory=list)  # of a network with a head for p(z)
    true: list[Floats] = field(default_factory=list)  # redshifts, or what an imported network is compared with
    rows: list[int] = field(default_factory=list)
    objects: list[Objects | None] = field(default_factory=list)  # of each partition
    data_bytes: int = 0
    image_bytes: int = 0  # of the largest block, which is what memory holds
    has_truth: bool = False
    cpu_seconds: float = 0.0
    probabilities: Densities | None = None  # of a calibrated model
    _file: PartitionFile | None = None
    _bands: int = 0

    def add(self, block: Block) -> Partition:
        """Records rows that are about to be computed, and returns them in a form that the network can use."""
        if block.file is not self._file:
            self._file = block.file
            self.rows.append(block.file.count)
            self.objects.append(block.file.objects)
        rows = block.rows
        self._bands = rows.magnitudes.shape[1]
        self.data_bytes += rows.images.nbytes + rows.magnitudes.nbytes
        self.image_bytes = max(self.image_bytes, rows.images.nbytes)
        self.has_truth |= rows.redshift is not None
        unknown = np.full(len(rows), np.nan, np.float32)
        self.true.append(unknown if rows.redshift is None else rows.redshift)
        return self.quality.usable(rows)

    def keep(self, output: Output, magnitudes: Floats) -> None:
        """Stores what the engine has computed for the next rows, which have these magnitudes."""
        self.others.keep(output.others)
        if output.redshift is not None:
            self.predicted.append(output.redshift)
        if output.density is not None:
            self.densities.append(output.density)
        if output.embedding is None:
            return
        if self.keeps_embedding:
            self.embeddings.append(output.embedding.astype(np.float16))
        if self.novelty is not None:
            self.scores.append(self.novelty.score(output.embedding, magnitudes))

    def image_arrays(self) -> dict[str, NDArray[np.floating]]:
        """Arrays with a row per galaxy: its embedding, in half precision, its novelty score and p-value.

        All are NaN for galaxies without a usable image; score and p-value also for those that lack something
        else.
        """
        arrays: dict[str, NDArray[np.floating]] = {}
        if self.keeps_embedding and self.embeddings:
            embedding = np.concatenate(self.embeddings)
            embedding[(self.quality.flags & np.uint16(Flag.IMAGE | Flag.BLANK)) != 0] = np.nan
            arrays["embedding"] = embedding
        score, p_value = self._unlikely()
        if score is not None and p_value is not None:
            arrays |= {"ood_score": score, "ood_p": p_value}
        return arrays

    def _unlikely(self) -> tuple[Floats | None, Floats | None]:
        if self.novelty is None:
            return None, None
        score = np.concatenate([*self.scores, np.empty(0, np.float32)])
        score[(self.quality.flags & np.uint16(BAD)) != 0] = np.nan
        return score, self.novelty.p_value(score)

    def batches(self, size: int) -> int:
        """The number of batches of the requested size, which may differ from the engine's own batches."""
        return sum(-(-rows // size) for rows in self.rows)

    def complete(self) -> None:
        """To be called when all is computed: galaxies without a prediction get NaN in all of them."""
        finite = self.others.finite(self.count)
        if self.gives_redshift:
            finite &= np.isfinite(self.z_pred)
        self.others.without(self.quality.without(finite))
        if self.gives_redshift:
            self.predicted = [self.quality.redshifts(self.z_pred)]
        _, p_value = self._unlikely()
        if p_value is not None:
            self.quality.note(Flag.UNFAMILIAR, p_value < RARE)

    @property
    def count(self) -> int:
        """Galaxies of the files that were begun."""
        return sum(self.rows)

    @property
    def gives_redshift(self) -> bool:
        mapping = self.others.mapping
        return mapping is None or mapping.redshift is not None

    @property
    def compares_redshift(self) -> bool:
        """Whether the true values that partitions may have are redshifts."""
        mapping = self.others.mapping
        return mapping is None or (mapping.redshift is not None and mapping.compared is mapping.redshift)

    @property
    def z_pred(self) -> Floats:
        """(N,), NaN for galaxies without a redshift."""
        return np.concatenate([*self.predicted, np.empty(0, np.float32)])

    def _measured(self) -> tuple[list[float], list[float], list[float]]:
        """z_pred, z_true and the reference magnitude of the galaxies that have a redshift."""
        has = np.isfinite(self.z_pred)
        return tuple(values[has].tolist() for values in (self.z_pred, self.z_true, self.reference_magnitude))

    @property
    def z_true(self) -> Floats:
        return np.concatenate([*self.true, np.empty(0, np.float32)])

    @property
    def reference_magnitude(self) -> Floats:
        if not self._bands:
            return np.full(self.count, np.nan, np.float32)
        return self.quality.magnitudes(self._bands)[:, min(REFERENCE_BAND, self._bands - 1)]

    def find_probabilities(self, calibration: Calibration) -> None:
        """Computes p(z), but not for galaxies that lack something: such galaxies were not used to calibrate."""
        lacking = (self.quality.flags & np.uint16(BAD)) != 0
        z_pred = np.where(lacking, np.float32(np.nan), self.z_pred)
        magnitudes = self.quality.magnitudes(calibration.magnitudes)
        true = self.z_true if self.has_truth else None
        bins = np.concatenate(self.densities) if self.densities else None
        self.probabilities = densities(calibration, z_pred, magnitudes, true, bins)
        self.densities = []

    @property
    def metrics(self) -> AnyMetrics | None:
        """This rank's part of the run's metrics; None without true values."""
        if not self.has_truth:
            return None
        if not self.compares_redshift:
            return self.others.metrics(self.z_true)
        metrics = Metrics.of(*self._measured())
        if self.probabilities is not None:
            columns = (self.z_pred, self.z_true, self.reference_magnitude)
            metrics.probabilities = scores.state(self.probabilities, *columns)
        return metrics

    def arrays(
        self, paths: Sequence[str], run_id: str, outputs: Sequence[str] = DEFAULT_OUTPUTS
    ) -> dict[str, NDArray[Any]]:
        """What predictions/{rank}.npz holds: z_pred (N,) in the order of the partitions and, where known,
        z_true (N,).

        An imported network has the columns of its outputs, and perhaps no z_pred; true values have the column
        of the output that they are compared with, and column_metadata is the JSON of their units, UCDs and
        descriptions.

        flags (N,) are bits of contract.flags; a galaxy without a redshift has NaN. files and rows say which
        partition each galaxy comes from. id, ra, dec and kept columns (N,) are those of the partitions, if they
        have them. A calibrated model adds the arrays of Densities, each with a row per galaxy except z_grid;
        outputs without pdf leave out pdf and z_grid. See `image_arrays` for the others.
        """
        arrays: dict[str, NDArray[Any]] = {
            "index": np.arange(self.count),
            **({"z_pred": self.z_pred} if self.gives_redshift else {}),
            **self.others.columns(),
            **self.others.metadata(),
            "flags": self.quality.flags,
            "files": np.array(paths),
            "rows": np.array(self.rows),
            "run_id": np.array(run_id),
        }
        if self.has_truth:
            arrays |= (
                {"z_true": self.z_true} if self.compares_redshift else self.others.true_column(self.z_true)
            )
        if self.probabilities is not None:
            arrays |= self.probabilities.arrays()
            if "pdf" not in outputs:
                del arrays["pdf"], arrays["z_grid"]
        arrays |= self.image_arrays()
        return arrays | joined(list(zip(self.objects, self.rows, strict=True)))

    def with_accuracy(self, info: RankInfo, metrics: AnyMetrics | None) -> RankInfo:
        """Adds the measures of this rank, and the state that Summarize adds up; nothing without true values."""
        if metrics is None:
            return info
        if not isinstance(metrics, Metrics):
            return replace(info, measures=metrics.report(), accuracy_state=metrics.to_json())
        measures = metrics.total.measures()
        return replace(
            info,
            mae=measures["MAE"],
            mse=measures["MSE"],
            bias=measures["bias"],
            nmad=exact_nmad(*self._measured()[:2]),
            r2=measures["R2"],
            outlier_fraction=measures["outlier fraction"],
            rail_measures=exact_field_measures(*self._measured()[:2]),
            probabilities=None if metrics.probabilities is None else metrics.probabilities.measures(),
            undefined=metrics.total.undefined(),
            accuracy_state=metrics.to_json(),
        )

    def with_speed(self, info: RankInfo, batch_size: int, seconds: float) -> RankInfo:
        """Adds the historic figures of speed; seconds: of the phase inference."""
        batches = self.batches(batch_size)
        return replace(
            info,
            num_samples=self.count,
            batch_size=batch_size,
            num_batches=batches,
            total_cpu_time=self.cpu_seconds,
            execution_time=seconds / max(batches, 1),
            throughput_bps=8 * self.data_bytes / seconds,
            sample_persec=self.count / seconds,
        )

    def distribution(self) -> Any:
        """The histogram of the predicted redshifts, as JSON; None if there are none."""
        return Predicted.of(self._measured()[0]).to_json() if self.gives_redshift else None
