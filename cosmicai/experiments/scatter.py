"""What differs from run to run and from rank to rank, and by how much: the draws of a plan's simulated runs.

A plan simulates RUNS runs and states the time and the cost that 10, 50 and 90 % of them keep to. The levels of
a run are stratified: each of RUNS slices of a distribution, which are equally likely, is drawn from once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

RUNS = 101  # so that p10, p50 and p90 are the 11th, 51st and 91st run
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """What 10, 50 and 90 % of the simulated runs keep to."""

    p10: float
    p50: float
    p90: float

    @classmethod
    def of(cls, values: Floats) -> Band:
        """values: one for each run."""
        ordered = np.sort(values)
        return cls(*(float(ordered[round((len(ordered) - 1) * share)]) for share in (0.1, 0.5, 0.9)))


@dataclass(frozen=True)
class Varying:
    """A figure that varies. distribution: in words. source: of it. assumed: whether nobody has measured it."""

    figure: str
    distribution: str
    source: str
    assumed: bool


@dataclass(frozen=True)
class Scatter:
    """How far the figures of a run are from the plan's. Pairs are (least, most) of a uniform factor."""

    speed_level: tuple[float, float] = (0.925, 1.075)
    """Of all ranks of a run. The speed of Google's functions differs by up to 15 % between times of the day
    (Schirmer et al. 2023, https://arxiv.org/abs/2304.07177); nobody has measured it for this work on Lambda."""
    start_sigma: float = 0.22
    """Of the logarithm of a run's cold starts: 95 % of the starts of a small container take 0.6 to 1.4 s
    (https://mikhail.io/serverless/coldstarts/aws), a factor of 2.3 apart."""
    network_level: tuple[float, float] = (0.8, 1.25)
    service_level: tuple[float, float] = (0.5, 1.5)
    """Of Initialize and Summarize."""
    host_level: tuple[float, float] = (0.67, 1.33)
    """Of the rendezvous host's start."""
    slow_rank_share: float = 0.001
    slow_rank_factor: float = 2.0
    """Of the time that such a rank reads and computes for."""

    source: str | None = None
    """Of all its figures, where they were measured; None: as stated here."""

    def described(self, speed_source: str) -> list[Varying]:
        """Every figure that varies. speed_source: where the ranks' speeds and starts are from."""
        sigma = f"log-normal, sigma {self.start_sigma:g}"
        ranks = "evenly between the plan's least and most"
        google, starts = (
            "Google's functions, arXiv:2304.07177",
            "small containers, mikhail.io/serverless/coldstarts",
        )
        figures = [
            Varying("speed, between ranks", ranks, speed_source, False),
            Varying("speed, between runs", _factor(self.speed_level), google, True),
            Varying("cold start, between ranks", ranks, speed_source, False),
            Varying("cold start, between runs", sigma if self.start_sigma else "", starts, False),
            Varying("network, between runs", _factor(self.network_level), "none", True),
            Varying("slow ranks", self._slow_ranks if self.slow_rank_share else "", "none", True),
            Varying("Initialize and Summarize", _factor(self.service_level), "none", True),
            Varying("start of the rendezvous host", _factor(self.host_level), "none", True),
        ]
        varying = [one for one in figures if one.distribution]
        if self.source is None:
            return varying
        return [replace(one, source=self.source, assumed=False) for one in varying]

    @property
    def _slow_ranks(self) -> str:
        return f"{self.slow_rank_share * 1000:g} of 1,000 take {self.slow_rank_factor:g} times as long"


LAMBDA_SCATTER = Scatter()
NO_SCATTER = Scatter((1.0, 1.0), 0.0, (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), 0.0, 1.0)


def _factor(pair: tuple[float, float]) -> str:
    """In words; '' for a factor that is always the same."""
    return f"evenly between {pair[0]:.4g} and {pair[1]:.4g} times" if pair[0] < pair[1] else ""


@dataclass(frozen=True)
class Draws:
    """The figures of RUNS runs of some ranks.

    shares: (RUNS, ranks), uniform in 0..1, of a rank's place between the least and the most speed, and starts:
    the same of its cold start. slow: (RUNS, ranks), a factor of its time. Levels, (RUNS, 1): factors of a run.
    """

    shares: Floats
    starts: Floats
    slow: Floats
    speed: Floats
    start: Floats
    network: Floats
    service: Floats
    host: Floats


@lru_cache(maxsize=1)  # plans of as many ranks share them; of 100,000 they have 240 MB
def draw(scatter: Scatter, ranks: int, seed: int) -> Draws:
    """The same seed gives the same draws, and each run the same levels whatever the number of ranks."""
    dice = np.random.default_rng(seed)
    speed, network, service, host = (
        _between(pair, _stratified(dice))
        for pair in (scatter.speed_level, scatter.network_level, scatter.service_level, scatter.host_level)
    )
    normal = np.array([[NormalDist().inv_cdf(share)] for share in _stratified(dice)[:, 0]])
    uniform = dice.random((3, RUNS, ranks))
    slow = np.where(uniform[2] < scatter.slow_rank_share, scatter.slow_rank_factor, 1.0)
    start = np.exp(scatter.start_sigma * normal)
    return Draws(uniform[0], uniform[1], slow, speed, start, network, service, host)


def _stratified(dice: np.random.Generator) -> Floats:
    return ((dice.permutation(RUNS) + dice.random(RUNS)) / RUNS)[:, None]


def _between(pair: tuple[float, float], share: Floats) -> Floats:
    return pair[0] + (pair[1] - pair[0]) * share
