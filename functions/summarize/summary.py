"""What a run did as one JSON object: totals, percentiles, accuracy, cost, and what is missing."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from .contract.accuracy import Predicted
from .contract.flags import NAMES
from .contract.images import copied, counted
from .contract.limits import PHASES
from .contract.metrics import AnyMetrics, added, read_metrics
from .contract.pricing import cost
from .contract.rank_info import RankInfo
from .contract.run_records import LastRun, ReducedMetrics, Run, Summary

Json = dict[str, Any]

_SPREAD = (
    *(f"{phase} (seconds)" for phase in PHASES),
    "duration (seconds)",
    "sample_persec",
    "throughput_bps",
    "total_process_memory (MB)",
)
_NAMED_RANKS = 10  # in the cause of a failed execution, which Step Functions cuts at 32,768 characters
_MOST_CPUS = 20
_CAUSE_CHARACTERS = 400  # for each of them: the beginning says where, the end says what


def summary(run: Run, infos: list[RankInfo], failures: dict[int, Json], reduced: Json | None = None) -> Summary:
    """infos: the rank infos by rank; of copies, only times and cost count. failures: {rank: record} of ranks
    without a result; reduced: metrics.json, if rank 0 has written one."""
    finished = {info.rank for info in infos}
    missing = [rank for rank in range(run.world_size) if rank not in finished]
    originals = [info for info in infos if info.copy is None]
    samples, sources = counted(infos)
    metrics, source, faults = _metrics(run, originals, reduced)
    predicted = _predicted(originals, faults)
    return Summary(
        run_id=run.run_id,
        started=run.started,
        payload=run.payload,
        world_size=run.world_size,
        finished_ranks=len(infos),
        missing_ranks=[rank for rank in missing if rank not in failures],
        failed_ranks={str(rank): _error(failures[rank]) for rank in sorted(failures)},
        num_samples=samples,
        originals=run.first_ranks,
        copied_samples=copied(infos) if run.has_copies else None,
        num_samples_from=sources,
        input_bytes=run.bytes,
        seconds={name: _total(infos, f"{name} (seconds)") for name in (*PHASES, "duration")},
        cold_starts=sum(bool(info.cold_start) for info in infos),
        cpus=_cpus(infos),
        spread={name: _spread(_numbers(infos, name)) for name in _SPREAD},
        accuracy=None if metrics is None else metrics.report(),
        accuracy_state=None if metrics is None else metrics.to_json(),
        predicted_redshifts=None if predicted is None else predicted.to_json(),
        flags=_flags(originals),
        metrics_source=source,
        left_out=_left_out(infos, faults),
        wall_seconds=_wall_seconds(run, infos),
        collectives=run.collectives,
        children=run.children,
        cost=cost(infos, _host_seconds(run, infos) or 0.0, run.child_type, run.on_batch),
    )


def last_run(run: Run, content: Summary, infos: list[RankInfo]) -> LastRun | None:
    """The speed of the engine's ranks on Lambda; None of others, or where they do not say it."""
    speed, start = content.spread.get("sample_persec"), content.spread.get("init (seconds)")
    memory = max((info.memory_limit or 0.0 for info in infos), default=0.0)
    if run.on_batch or "script" in run.payload or speed is None or start is None or not memory:
        return None
    if speed["min"] <= 0:
        return None
    return LastRun(
        run_id=run.run_id,
        started=run.started,
        memory=memory,
        slowest=speed["min"],
        fastest=speed["max"],
        typical_start=start["p50"],
        longest_start=start["max"],
    )


def _total(infos: list[RankInfo], name: str) -> float:
    return float(sum(_numbers(infos, name)))


def _numbers(infos: list[RankInfo], name: str) -> list[float]:
    """A figure of all ranks that have it: a user's own script may write rank infos without it."""
    values = (info.figure(name) for info in infos)
    return [value for value in values if value is not None]


def _error(record: Json) -> dict[str, str]:
    """Error and cause; of Lambda's JSON only the message, as failures/{rank}.json has the rest."""
    cause = record.get("cause", "")
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        cause = json.loads(cause)["errorMessage"]
    return {"error": str(record.get("error", "unknown")), "cause": str(cause)}


def _predicted(infos: list[RankInfo], faults: dict[int, str]) -> Predicted | None:
    """The distribution of predicted redshifts of all ranks that have one; adds the faults of the others."""
    total: Predicted | None = None
    for info in infos:
        state = info.predicted_redshifts
        if state is None:
            continue
        try:
            part = Predicted.from_json(state)
        except ValueError as error:
            earlier = faults.get(info.rank)
            faults[info.rank] = "; ".join(filter(None, (earlier, f"predicted_redshifts: {error}")))
            continue
        if total is None:
            total = part
        else:
            total.add(part)
    return total


def _left_out(infos: list[RankInfo], faults: dict[int, str]) -> dict[str, list[str]]:
    """{rank: messages about wrong fields left out of its info, or about a state of metrics not counted}."""
    named = {info.rank: [*(info.left_out or [])] for info in infos}
    for rank, fault in faults.items():
        named[rank].append(fault)
    return {str(rank): messages for rank, messages in sorted(named.items()) if messages}


def _spread(values: list[float]) -> Json | None:
    """Least, median, 95th percentile (nearest rank) and greatest value; None for no value."""
    if not values:
        return None
    ordered = sorted(values)

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return {"min": ordered[0], "p50": at(0.5), "p95": at(0.95), "max": ordered[-1]}


def _metrics(
    run: Run, infos: list[RankInfo], reduced: Json | None
) -> tuple[AnyMetrics | None, str, dict[int, str]]:
    """The run's metrics, where they come from, and {rank: why its state cannot be used}.

    They are what the ranks have reduced among themselves, plus the states of ranks that this lacks. If it
    covers a rank without a result, it is not used: metrics must not count galaxies whose redshifts are lost.
    """
    finished = {info.rank for info in infos}
    unused = ""
    try:
        share = None if reduced is None else _share(reduced, run.originals)
    except ValueError as error:
        share, unused = None, f"; metrics.json is not used: {error}"
    if share is None or not share[0] <= finished:
        total, faults = _merged(infos, None)
        return total, f"rank infos{unused}", faults
    covered, state, channel = share
    lacking = [info for info in infos if info.rank not in covered]
    total, faults = _merged(lacking, state)
    named = ", ".join(str(info.rank) for info in lacking[:_NAMED_RANKS])
    more = ", …" if len(lacking) > _NAMED_RANKS else ""
    rest = f"; from rank infos: {named}{more}" if lacking else ""
    return total, f"collectives ({channel[:20]}) of {len(covered)} ranks{rest}", faults


def _share(reduced: Json, ranks: int) -> tuple[set[int], AnyMetrics | None, str]:
    """The ranks that metrics.json covers, their metrics, and the channel. Raises ValueError."""
    share = ReducedMetrics.from_json(reduced)
    if not all(rank < ranks for rank in share.ranks):
        raise ValueError("its ranks are not those of the run")
    state = share.accuracy_state
    return set(share.ranks), None if state is None else read_metrics(state), share.channel


def _merged(infos: Iterable[RankInfo], total: AnyMetrics | None) -> tuple[AnyMetrics | None, dict[int, str]]:
    """Adds the states of rank infos to `total` one by one: 10,000 histograms would not fit in memory."""
    faults: dict[int, str] = {}
    for info in infos:
        state = info.accuracy_state
        if state is None:
            continue
        try:
            total = added(total, read_metrics(state))
        except ValueError as error:
            faults[info.rank] = f"accuracy_state: {error}"
    return total, faults


def _cpus(infos: list[RankInfo]) -> dict[str, int]:
    """Of the ranks that name their CPU. A script may write anything there, so few names are kept, and cut."""
    named = (
        f"{info.cpu[:80]}: {', '.join(info.cpu_features or ())[:80]}" for info in infos if info.cpu is not None
    )
    return dict(Counter(named).most_common(_MOST_CPUS))


def _flags(infos: list[RankInfo]) -> dict[str, int] | None:
    """Galaxies by flag, over the ranks that report flags; None if none does."""
    counts = [info.flags for info in infos if info.flags is not None]
    return {flag: sum(count.get(flag, 0) for count in counts) for flag in NAMES} if counts else None


def _wall_seconds(run: Run, infos: list[RankInfo]) -> float | None:
    """From the run's start to its last rank's end, by the ranks' clocks or S3's; None if no rank has an end.

    For a resumed run this includes the time between its executions.
    """
    ends = _numbers(infos, "ended (unix seconds)")
    if not ends:
        return None
    return max(max(ends) - run.began, 0.0)


def _host_seconds(run: Run, infos: list[RankInfo]) -> float | None:
    """How long the run used the rendezvous host; 0 if it did not."""
    return _wall_seconds(run, infos) if run.channel == "direct" else 0.0


def failure_cause(content: Summary, where: str) -> str:
    """One or a few sentences that name the ranks without a result, for the state machine's Fail state."""
    failed, missing = content.failed_ranks, content.missing_ranks
    lines = [
        f"rank {rank}: {record['error']}: {_shortened(record['cause'])}"
        for rank, record in list(failed.items())[:_NAMED_RANKS]
    ]
    without = [*map(int, failed), *missing]
    named = ", ".join(map(str, sorted(without)[:100])) + (", …" if len(without) > 100 else "")
    head = f"{len(without)} of {content.world_size} ranks left no result: {named}. See {where}."
    return " ".join([head, *lines])


def _shortened(cause: str) -> str:
    half = _CAUSE_CHARACTERS // 2
    return cause if len(cause) <= 2 * half else f"{cause[:half]} … {cause[-half:]}"
