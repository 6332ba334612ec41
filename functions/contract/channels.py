"""The channel by which ranks reduce their metrics if a payload says `auto`: a run's time and cost with each.

Latency and price follow FMI's model (Copik et al. 2023, https://doi.org/10.1145/3577193.3593718, section 4): a
message takes an overhead and its bytes over a bandwidth, and an operation costs the time of the functions, the
requests, and its share of the rendezvous host. Here it is applied to the tree of
functions/inference/metrics/reduction.py, and `none` is a candidate too: then Summarize adds up the metrics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from . import pricing
from .estimate import Ranks
from .figures import seconds_text, usd_text
from .limits import FANOUT, MB_PER_VCPU

Channel = Literal["direct", "redis", "s3", "none"]
HostState = Literal["up", "stopped", "absent"]

# FMI's example configuration (functions/inference/fmi/cost_model.py has it, in FMI's units; a test compares)
DIRECT_SECONDS = 0.34e-3
DIRECT_BYTES_PER_SECOND = 400e6
S3_SECONDS = 40.4e-3
S3_BYTES_PER_SECOND = 50e6

LOOK_SECONDS = 0.2
"""Between two looks of a rank for an object that is not there yet: the longest of inference/fmi/stores.py."""
HOST_START_SECONDS = 30.0
"""From a stopped t4g.nano to one that answers; an estimate, no account was at hand."""
HOST_IDLE_SECONDS = 900.0
"""For which a host that was started for a run stays up after it: rendezvous.idle_minutes of the tfvars."""

# Of the metrics of 1,278 galaxies (25 MB) by the bundled network with its p(z), on one core of an AMD EPYC
MESSAGE_BYTES = 15_458
PACK_SECONDS = 0.004
"""Packing them into a message."""
MERGE_SECONDS = 0.002
"""Unpacking those of one rank and adding them to others', in a rank or in Summarize."""


@dataclass(frozen=True)
class Host:
    """The rendezvous host when the run starts. description: a sentence about it, without a full stop."""

    state: HostState
    description: str


@dataclass(frozen=True)
class Candidate:
    """A channel, and what the whole run would take and cost with it: seconds from start to end, and USD."""

    channel: Channel
    seconds: float
    usd: float

    def __str__(self) -> str:
        return f"{seconds_text(self.seconds)} and {usd_text(self.usd)} with {self.channel}"


@dataclass(frozen=True)
class Choice:
    """The channel that was chosen, a sentence that says why, and all that could have been."""

    channel: Channel
    reason: str
    candidates: list[Candidate] = field(default_factory=list)


def choose(ranks: Ranks, host: Host, script: bool = False) -> Choice:
    """The channel with the smallest product of the run's time and cost, which weighs 1 % of either alike.

    script: users' own code runs in the ranks, which may send messages that nobody knows of; these runs always
    have a channel.
    """
    if ranks.count == 1:
        return Choice("s3" if script else "none", "a single rank has nothing to reduce")
    possible: list[Channel] = ["none", "s3"]
    about = host.description
    if ranks.at_once < ranks.count:
        about = f"only {ranks.at_once:,} of {ranks.count:,} ranks can run at once, so they cannot meet directly"
    elif host.state != "absent":
        possible.append("direct")
    if script:
        direct = "direct" in possible
        return Choice(
            "direct" if direct else "s3",
            f"a user's script may send messages of its own; {about}"
            + ("" if direct else ": they go through S3"),
        )
    candidates = [_candidate(channel, ranks, host.state) for channel in possible]
    best = min(candidates, key=lambda one: one.seconds * one.usd)
    return Choice(best.channel, _reason(candidates, ranks, about), candidates)


def _reason(candidates: Iterable[Candidate], ranks: Ranks, about: str) -> str:
    least, most = ranks.speed.images_per_second_vcpu
    estimates = ", ".join(map(str, candidates))
    return (
        f"it has the smallest product of time and cost ({estimates}); {about}; estimated with "
        f"{ranks.speed.source}: {least:,.0f} to {most:,.0f} images/s per vCPU"
    )


def host_seconds(channel: Channel, host: HostState) -> float:
    """The seconds for which a run waits for the host before its ranks start."""
    return HOST_START_SECONDS if channel == "direct" and host == "stopped" else 0.0


def host_usd(channel: Channel, ranks: Ranks, host: HostState) -> float:
    """What the host costs; one that was stopped stays up after the run."""
    if channel != "direct":
        return 0.0
    started = HOST_START_SECONDS + HOST_IDLE_SECONDS if host == "stopped" else 0.0
    return pricing.rendezvous_host(ranks.seconds + started)


def reduction_seconds(channel: Channel, ranks: Ranks) -> float:
    """From the end of the slowest rank until the metrics of all are known."""
    if channel == "none":
        return (ranks.count - 1) * MERGE_SECONDS
    metrics_json = S3_SECONDS
    return _levels(ranks.count) * (PACK_SECONDS + _hop(channel) + MERGE_SECONDS) + metrics_json


def reduction_usd(channel: Channel, ranks: Ranks) -> float:
    """What the reduction costs in time of ranks or of Summarize, and in requests."""
    if channel == "none":
        summarize = MB_PER_VCPU / 1024 * pricing.GB_SECOND[pricing.BILLED_AS]
        return reduction_seconds(channel, ranks) * summarize
    messages, above = ranks.count - 1, math.ceil(ranks.count / FANOUT)
    # A rank with others below it is a typical one, and waits until the slowest of them has ended.
    waited = above * max(ranks.slowest_seconds - ranks.mean_seconds, 0.0)
    billed = waited + messages * (PACK_SECONDS + _sent(channel) + MERGE_SECONDS)
    usd = billed * ranks.usd_second + pricing.S3_PUT + pricing.S3_GET  # of metrics.json
    if channel == "direct":
        return usd
    looks = messages * (1 + ranks.mean_seconds / LOOK_SECONDS)  # from the start of the rank that waits
    return usd + messages * pricing.S3_PUT + looks * pricing.S3_GET


def _candidate(channel: Channel, ranks: Ranks, host: HostState) -> Candidate:
    return Candidate(
        channel,
        ranks.seconds + host_seconds(channel, host) + reduction_seconds(channel, ranks),
        ranks.usd + host_usd(channel, ranks, host) + reduction_usd(channel, ranks),
    )


def _levels(ranks: int) -> int:
    """Of the tree below rank 0."""
    levels, reached = 0, 1
    while reached < ranks:
        levels, reached = levels + 1, reached * FANOUT
    return levels


def _sent(channel: Channel) -> float:
    """Seconds that a message keeps the rank that sends it."""
    if channel == "direct":
        return DIRECT_SECONDS + MESSAGE_BYTES / DIRECT_BYTES_PER_SECOND
    return S3_SECONDS + MESSAGE_BYTES / S3_BYTES_PER_SECOND


def _hop(channel: Channel) -> float:
    """Seconds from a message's sending until the next rank has it: in S3 that looks only now and then."""
    return _sent(channel) + (0.0 if channel == "direct" else LOOK_SECONDS / 2)
