"""What a run did as one JSON object: totals, percentiles, accuracy, cost, and what is missing."""

from __future__ import annotations

import json
import math
from collections import Counter
from contextlib import suppress
from typing import Any

from .contract.images import copied, counted
from .contract.limits import PHASES
from .contract.pricing import cost
from .contract.rank_info import RankInfo
from .contract.run_records import LastRun, Run, Summary
from .states import States

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


def summary(
    run: Run, infos: list[RankInfo], failures: dict[int, Json], states: States | None = None
) -> Summary:
    """infos: of the ranks that finished, by rank; of copies, only times and cost count. failures: error and
    cause of ranks without a result. states: the sum of the infos' states, which the infos then may lack.
    """
    if states is None:
        states = States(run)
        for info in infos:
            states.add(info)
    finished = {info.rank for info in infos}
    missing = [rank for rank in range(run.world_size) if rank not in finished]
    samples, sources = counted(infos)
    metrics, predicted = states.metrics, states.predicted
    return Summary(
        run_id=run.run_id,
        started=run.started,
        payload=run.payload,
        world_size=run.world_size,
        finished_ranks=len(infos),
        missing_ranks=[rank for rank in missing if rank not in failures],
        failed_ranks={str(rank): failures[rank] for rank in sorted(failures)},
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
        flags=states.flags,
        metrics_source=states.source,
        left_out=_left_out(infos, states.faults),
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


def error_of(record: Json) -> dict[str, str]:
    """Error and cause of a record; of Lambda's JSON only the message, as failures/{rank}.json has the rest."""
    cause = record.get("cause", "")
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        cause = json.loads(cause)["errorMessage"]
    return {"error": str(record.get("error", "unknown")), "cause": str(cause)}


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


def _cpus(infos: list[RankInfo]) -> dict[str, int]:
    """Of the ranks that name their CPU. A script may write anything there, so few names are kept, and cut."""
    named = (
        f"{info.cpu[:80]}: {', '.join(info.cpu_features or ())[:80]}" for info in infos if info.cpu is not None
    )
    return dict(Counter(named).most_common(_MOST_CPUS))


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
        f"rank {rank}: {record['error']}: {shortened(record['cause'])}"
        for rank, record in list(failed.items())[:_NAMED_RANKS]
    ]
    without = [*map(int, failed), *missing]
    named = ", ".join(map(str, sorted(without)[:100])) + (", …" if len(without) > 100 else "")
    head = f"{len(without)} of {content.world_size} ranks left no result: {named}. See {where}."
    return " ".join([head, *lines])


def shortened(cause: str) -> str:
    """Its beginning and its end, which say most."""
    half = _CAUSE_CHARACTERS // 2
    return cause if len(cause) <= 2 * half else f"{cause[:half]} … {cause[-half:]}"
