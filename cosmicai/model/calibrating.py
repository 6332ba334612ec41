"""Calibrating a model folder: fitting what turns its redshifts into probabilities.

A network that gives p(z) itself is calibrated on all galaxies. For any other network, half of the galaxies
fit the base distribution, a mixture density network (Bishop 1994) of the residual over predicted redshift,
magnitude and colours; the other half calibrates it. inference.probability.predictive says what is then
guaranteed, and why.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cosmicai.model import novelty
from cosmicai.model.usable import UNKNOWN_REDSHIFT, Tally, partitions, usable
from inference.contract.accuracy import exact_nmad
from inference.contract.model_files import CALIBRATION, GRAPHS, NOVELTY
from inference.data.rules import Rules
from inference.engine import astromae
from inference.engine.choice import network_digest, read_graphs
from inference.engine.interface import Floats, redshifts
from inference.engine.loading import load
from inference.probability.calibration import (
    WITHOUT_MIXTURE,
    Calibration,
    Layer,
    bin_edges,
    features,
)
from inference.probability.predictive import WIDTHS, pit

FEWEST_GALAXIES = 1000  # to calibrate with: half of them fit, and the outer levels need the others
MEMBERS = 5
COMPONENTS = 4
HIDDEN = 64
EPOCHS = 60
BATCH = 256
LEARNING_RATE = 0.01
WEIGHT_DECAY = 0.1
LEVELS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025),
    *(round(0.05 + 0.025 * i, 3) for i in range(37)),
    *(0.16, 0.84, 0.975, 0.99, 0.995, 0.9975, 0.999),
)  # at which the calibrator is exact
_KNOT_SPACING = 0.1  # of asinh(residual / unit)
_STEPS = (0.01, 0.005, 0.0025, 0.002, 0.001)  # of the grid of p(z): at most half of NMAD, if they can be

Doubles = NDArray[np.float64]
Json = dict[str, Any]
Progress = Callable[[int, int], None]


class CalibratingError(RuntimeError):
    """The galaxies are too few or not suitable; the message says what is missing."""


@dataclass(frozen=True)
class Predicted:
    """Galaxies with a known redshift and what the network predicts for them: (N,), magnitudes (N, M)."""

    z_pred: Floats
    magnitudes: Floats
    redshift: Floats
    embedding: Floats | None = None  # (N, D)
    bins: Floats | None = None  # (N, K): the network's own p(z)
    edges: Doubles | None = None  # (K + 1,): of the bins
    tally: Tally = field(default_factory=Tally)

    def __len__(self) -> int:
        return len(self.redshift)

    @property
    def digest(self) -> str:
        """SHA-256 of magnitudes and redshifts, as cosmicai.model.galaxies.digest has it."""
        return hashlib.sha256(self.magnitudes.tobytes() + self.redshift.tobytes()).hexdigest()

    def at(self, rows: NDArray[np.integer]) -> Predicted:
        embedding, bins = (None if one is None else one[rows] for one in (self.embedding, self.bins))
        known = self.z_pred[rows], self.magnitudes[rows], self.redshift[rows]
        return Predicted(*known, embedding, bins=bins, edges=self.edges)

    @property
    def residuals(self) -> Doubles:
        predicted = self.z_pred.astype(np.float64)
        return (self.redshift - predicted) / (1.0 + predicted)


def predicted(folder: Path, files: Sequence[Path], threads: int = 1) -> Predicted:
    """Predictions of the float32 engine for complete galaxies. Raises CalibratingError for too few."""
    engine = load(folder, "auto", "float32", threads)
    if not engine.embedding_width:
        raise CalibratingError(
            "calibration: the model's graphs are those of an earlier version, which give no embedding; run "
            "`cosmicai model optimise` on the model first"
        )
    parts, tally, with_bins = [], Tally(), engine.density_bins > 0
    edges = _edges(folder) if with_bins else None
    for part in usable(partitions(files, engine.layout), Rules.of_folder(folder), tally):
        outputs = list(engine.outputs(part.batches(engine.batch(256)), embedding=True, density=with_bins))
        z_pred = np.concatenate([*redshifts(outputs), np.empty(0, np.float32)])
        embedding = _rows((one.embedding for one in outputs), engine.embedding_width)
        bins = _rows((one.density for one in outputs), engine.density_bins) if with_bins else None
        redshift = np.empty(0, np.float32) if part.redshift is None else part.redshift
        within, finite = redshift >= 0, np.isfinite(z_pred) & (z_pred > -1)
        tally.left_out[UNKNOWN_REDSHIFT] += int((~within).sum())
        tally.left_out["without a prediction above -1"] += int((within & ~finite).sum())
        predictions = Predicted(z_pred, part.magnitudes, redshift, embedding, bins=bins)
        parts.append(predictions.at(np.flatnonzero(within & finite)))
    tally.left_out += Counter()  # reasons that no galaxy has
    if tally.used < FEWEST_GALAXIES:
        raise CalibratingError(
            f"calibration: {tally.used:,} galaxies with a known redshift are too few; give "
            f"{FEWEST_GALAXIES:,} or more" + "".join(f"; {note}" for note in tally.notes())
        )
    names = ("z_pred", "magnitudes", "redshift", "embedding")
    z_pred, magnitudes, redshift, embedding = (
        np.concatenate([getattr(part, name) for part in parts]) for name in names
    )
    bins = np.concatenate([part.bins for part in parts if part.bins is not None]) if with_bins else None
    return Predicted(z_pred, magnitudes, redshift, embedding, bins, edges, tally)


def _rows(parts: Iterable[Floats | None], width: int) -> Floats:
    return np.concatenate([*(part for part in parts if part is not None), np.empty((0, width), np.float32)])


def _edges(folder: Path) -> Doubles:
    config = astromae.Config.read(folder / "config.json")
    return bin_edges(config.density_bins, config.density_to)


def drop_calibration(folder: Path) -> None:
    """Deletes the calibration in a model folder whose network is replaced."""
    for name in (CALIBRATION, NOVELTY):
        (folder / name).unlink(missing_ok=True)


def calibrate_folder(
    folder: Path,
    files: Sequence[Path],
    command: str,
    seed: int = 0,
    progress: Progress = lambda finished, total: None,
    tell: Callable[[str], None] = lambda note: None,
) -> Calibration:
    """Writes calibration.json and novelty.json of a model folder, and records it in its card.

    tell: called with notes on what was left out. Raises CalibratingError for too few galaxies, and for those
    that the card says it was trained on.
    """
    card_path = folder / "card.json"
    card: Json = json.loads(card_path.read_text(encoding="utf-8")) if card_path.exists() else {}
    galaxies = predicted(folder, files)
    for note in galaxies.tally.notes():
        tell(note)
    if galaxies.digest == card.get("trained on", {}).get("sha256 of magnitudes and redshifts"):
        raise CalibratingError(
            "calibration: these are the galaxies that the network was trained on, whose redshifts it knows too "
            "well; give others"
        )
    graphs = read_graphs(folder)
    network = str(network_digest(folder, None))
    calibration = calibrate(network, galaxies, seed, progress)
    calibration.write(folder)
    assert galaxies.embedding is not None  # noqa: S101 - for the type checker
    fits = _fitting(galaxies, seed)
    known = novelty.learn(network, galaxies.embedding, galaxies.magnitudes, fits, seed)
    known.write(folder)
    if graphs is not None:
        (folder / GRAPHS).write_text(json.dumps({**graphs, "network": network}, indent=1) + "\n")
    card["calibration"] = {
        "commands": [command],
        "galaxies": len(galaxies),
        "left out": dict(galaxies.tally.left_out),
        "sha256 of magnitudes and redshifts": galaxies.digest,
        "fitted": calibration.fitted,
        "calibrated": calibration.calibrated,
        "a quantile's coverage exceeds its level by at most": 1.0 / (calibration.calibrated + 1),
        "galaxies whose scores give p-values": len(known.scores),
        "redshifts of p(z)": [0.0, calibration.redshift_to, calibration.redshift_step],
    }
    card_path.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return calibration


def calibrate(
    network: str, galaxies: Predicted, seed: int = 0, progress: Progress = lambda finished, total: None
) -> Calibration:
    """The calibration of a network (`network_digest`) from galaxies that it was not trained on."""
    spread = exact_nmad(galaxies.z_pred.tolist(), galaxies.redshift.tolist()) or 0.0
    if not spread > 0:
        raise CalibratingError("calibration: the predicted redshifts are those of the galaxies themselves")
    step = next((step for step in _STEPS if step <= spread / 2), _STEPS[-1])
    highest = max(float(galaxies.redshift.max()), float(np.quantile(galaxies.z_pred, 0.999)))
    if galaxies.edges is not None:
        return _of_bins(network, galaxies, galaxies.edges, step)
    stop = step * float(np.ceil(1.05 * highest / step))
    fitting, others = _halves(galaxies, seed)
    inputs = features(fitting.z_pred, fitting.magnitudes)
    started = Calibration(
        network=network,
        fitted=len(fitting),
        calibrated=len(others),
        magnitudes=galaxies.magnitudes.shape[1],
        centre=np.nanmedian(inputs, axis=0),
        scale=np.maximum(np.nanstd(inputs, axis=0), 1e-3),
        unit=round(float(spread), 6),
        residuals=_knots(spread, stop),
        members=(),
        base=np.array([0.0, 1.0]),
        level=np.array([0.0, 1.0]),
        redshift_to=round(stop, 6),
        redshift_step=step,
    )
    members = _members(started, fitting, seed, progress)
    fitted = Calibration(**{**vars(started), "members": members})
    base, level = _calibrator(pit(fitted, others.z_pred, others.magnitudes, others.redshift, calibrated=False))
    return Calibration(**{**vars(fitted), "base": base, "level": level})


def _of_bins(network: str, galaxies: Predicted, edges: Doubles, step: float) -> Calibration:
    """Nothing is fitted: the network's own p(z) is the base distribution, and all galaxies calibrate it."""
    started = Calibration(
        network=network,
        fitted=0,
        calibrated=len(galaxies),
        magnitudes=galaxies.magnitudes.shape[1],
        **WITHOUT_MIXTURE,
        base=np.array([0.0, 1.0]),
        level=np.array([0.0, 1.0]),
        redshift_to=round(step * float(np.ceil(round(float(edges[-1]) / step, 6))), 6),
        redshift_step=step,
        edges=edges,
    )
    columns = galaxies.z_pred, galaxies.magnitudes, galaxies.redshift
    base, level = _calibrator(pit(started, *columns, calibrated=False, bins=galaxies.bins))
    return Calibration(**{**vars(started), "base": base, "level": level})


def _fitting(galaxies: Predicted, seed: int) -> NDArray[np.bool_]:
    """The half that fits. Renderings of one galaxy, which have the same redshift, stay in one half."""
    _, galaxy = np.unique(galaxies.redshift, return_inverse=True)
    order = np.random.default_rng(seed).permutation(int(galaxy.max()) + 1)
    return np.isin(galaxy, order[: len(order) // 2])


def _halves(galaxies: Predicted, seed: int) -> tuple[Predicted, Predicted]:
    fits = _fitting(galaxies, seed)
    return galaxies.at(np.flatnonzero(fits)), galaxies.at(np.flatnonzero(~fits))


def _knots(spread: float, stop: float) -> Doubles:
    """Residuals from -1, a redshift of 0, to `stop`, dense around 0."""
    unit = 0.7 * spread
    low, high = np.arcsinh(-1.0 / unit), np.arcsinh(stop / unit)
    return np.round(unit * np.sinh(np.linspace(low, high, 1 + int(np.ceil((high - low) / _KNOT_SPACING)))), 7)


def _calibrator(values: Doubles) -> tuple[Doubles, Doubles]:
    """The order statistic of each level, (1) the level a's being the ceil(a (n + 1))-th of n."""
    ordered, count = np.sort(values), len(values)
    levels = np.array([level for level in sorted(LEVELS) if 2 / count <= level <= 1 - 2 / count])
    ranks = np.ceil(np.round(levels * (count + 1), 9)).astype(int)
    base, first = np.unique(np.clip(ordered[ranks - 1], 1e-9, 1 - 1e-9), return_index=True)
    return np.array([0.0, *base, 1.0]), np.array([0.0, *levels[first], 1.0])


def _members(
    started: Calibration, fitting: Predicted, seed: int, progress: Progress
) -> tuple[tuple[Layer, ...], ...]:
    """The members; each is fitted to four fifths of the galaxies and stopped by its own fifth."""
    inputs = torch.from_numpy(started.features(fitting.z_pred, fitting.magnitudes))
    targets = torch.from_numpy((fitting.residuals / started.unit).astype(np.float32))
    parts = np.array_split(np.random.default_rng(seed).permutation(len(targets)), MEMBERS)
    members = []
    for number, part in enumerate(parts):
        held = torch.zeros(len(targets), dtype=torch.bool)
        held[torch.from_numpy(part)] = True
        with _alone(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + number)
            network = _fitted((inputs[~held], targets[~held]), (inputs[held], targets[held]))
        members.append(
            tuple(
                Layer(layer.weight.detach().numpy(), layer.bias.detach().numpy())
                for layer in network
                if isinstance(layer, nn.Linear)
            )
        )
        progress(number + 1, MEMBERS)
    return tuple(members)


@contextmanager
def _alone() -> Iterator[None]:
    """Makes torch use one thread: the threads of so small a network would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fitted(known: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor]) -> nn.Sequential:
    network = _network(known[0].shape[1])
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * -(-len(known[1]) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, steps)
    least, best = float("inf"), network.state_dict()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(known[1])).split(BATCH):
            loss = _loss(network(known[0][rows]), known[1][rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            held_loss = float(_loss(network(held[0]), held[1]))
        if held_loss < least:
            least, best = held_loss, {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(best)
    return network


def _network(inputs: int) -> nn.Sequential:
    """Its components begin side by side, one unit wide."""
    last = nn.Linear(HIDDEN, 3 * COMPONENTS)
    network = nn.Sequential(nn.Linear(inputs, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), last)
    with torch.no_grad():
        last.weight.mul_(0.3)
        last.bias.zero_()
        last.bias[COMPONENTS : 2 * COMPONENTS] = torch.linspace(-1.5, 1.5, COMPONENTS)
    return network


def _loss(outputs: Tensor, residuals: Tensor) -> Tensor:
    """The mean negative log likelihood of residuals, in units, under the mixture of logistic distributions."""
    logits, centres, widths = outputs.chunk(3, dim=1)
    widths = widths.clamp(*WIDTHS)
    distance = (residuals[:, None] - centres) * torch.exp(-widths)
    log_density = -distance - 2 * nn.functional.softplus(-distance) - widths
    return -torch.logsumexp(torch.log_softmax(logits, 1) + log_density, 1).mean()
