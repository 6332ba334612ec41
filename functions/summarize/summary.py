"""What a run did as one JSON object: totals, percentiles, accuracy, cost, and what is missing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any

from .accuracy import Metrics
from .infos import counted, figure
from .pricing import cost

Json = dict[str, Any]

PHASES = ("init", "download", "inference", "communication", "upload")
_SPREAD = (
    *(f"{phase} (seconds)" for phase in PHASES),
    "duration (seconds)",
    "sample_persec",
    "throughput_bps",
    "total_process_memory (MB)",
)
_NAMED_RANKS = 10  # in the cause of a failed execution, which Step Functions cuts at 32,768 characters
_CAUSE_CHARACTERS = 400  # of each of them: the beginning says where, the end says what


def summary(run: Json, infos: list[Json], failures: dict[int, Json], reduced: Json | None = None) -> Json:
    """run: run.json; infos: the rank infos by rank; failures: {rank: record} of ranks without a result;
    reduced: metrics.json, where rank 0 has written one."""
    done = {int(info["rank"]) for info in infos}
    missing = [rank for rank in range(run["world_size"]) if rank not in done]
    samples, sources = counted(infos)
    metrics, source = _metrics(infos, reduced)
    return {
        "run_id": run["run_id"],
        "started": run["started"],
        "payload": run["payload"],
        "world_size": run["world_size"],
        "finished_ranks": len(infos),
        "missing_ranks": [rank for rank in missing if rank not in failures],
        "failed_ranks": {str(rank): _error(failures[rank]) for rank in sorted(failures)},
        "num_samples": samples,
        "num_samples_from": sources,
        "input_bytes": run["bytes"],
        "seconds": {name: _total(infos, f"{name} (seconds)") for name in (*PHASES, "duration")},
        "cold_starts": sum(bool(info["cold_start"]) for info in infos),
        "spread": {name: _spread(_numbers(infos, name)) for name in _SPREAD},
        "accuracy": None if metrics is None else metrics.report(),
        "accuracy_state": None if metrics is None else metrics.to_json(),
        "metrics_source": source,
        "wall (seconds)": _wall_seconds(run, infos),
        "collectives": run.get("collectives"),
        "cost": cost(infos, _host_seconds(run, infos) or 0.0),
    }


def _total(infos: list[Json], name: str) -> float:
    return float(sum(_numbers(infos, name)))


def _numbers(infos: list[Json], name: str) -> list[float]:
    """A figure of all ranks that have it: a user's own script may have written other rank infos."""
    values = (figure(info, name) for info in infos)
    return [value for value in values if value is not None]


def _error(record: Json) -> Json:
    """Error and cause; of Lambda's JSON the message alone, failures/{rank}.json has the rest."""
    cause = record.get("cause", "")
    with suppress(ValueError, KeyError, TypeError):
        cause = json.loads(cause)["errorMessage"]
    return {"error": record.get("error", "unknown"), "cause": cause}


def _spread(values: list[float]) -> Json | None:
    """Least, median, 95th percentile (nearest rank) and greatest value; None for no value."""
    if not values:
        return None
    ordered = sorted(values)

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return {"min": ordered[0], "p50": at(0.5), "p95": at(0.95), "max": ordered[-1]}


def _metrics(infos: list[Json], reduced: Json | None) -> tuple[Metrics | None, str]:
    """What the ranks have reduced among themselves, with those added that it lacks; and where it comes from.

    Where it covers a rank that left no result, nothing of it is used: no galaxy counts without its redshift.
    """
    done = {int(info["rank"]) for info in infos}
    covered = set(reduced["ranks"]) if reduced is not None else set()
    if reduced is None or not covered <= done:
        return _merged(info.get("accuracy_state") for info in infos), "rank infos"
    lacking = [info for info in infos if int(info["rank"]) not in covered]
    states = [reduced["accuracy_state"], *(info.get("accuracy_state") for info in lacking)]
    named = ", ".join(str(info["rank"]) for info in lacking[:_NAMED_RANKS])
    more = ", …" if len(lacking) > _NAMED_RANKS else ""
    rest = f"; from rank infos: {named}{more}" if lacking else ""
    return _merged(states), f"collectives ({reduced['channel']}) of {len(covered)} ranks{rest}"


def _merged(states: Iterable[Json | None]) -> Metrics | None:
    """One after the other: 10,000 ranks' histograms at once would not fit."""
    total: Metrics | None = None
    for state in states:
        if state is None:
            continue
        if total is None:
            total = Metrics.from_json(state)
        else:
            total.add(Metrics.from_json(state))
    return total


def _wall_seconds(run: Json, infos: list[Json]) -> float | None:
    """From the run's start to its last rank's end, by the ranks' clocks or S3's; None where they do not say.

    A resumed run has the time between in it.
    """
    ends = _numbers(infos, "ended (unix seconds)")
    if not ends:
        return None
    started = datetime.fromisoformat(run["started"].replace("Z", "+00:00")).timestamp()
    return max(max(ends) - started, 0.0)


def _host_seconds(run: Json, infos: list[Json]) -> float | None:
    """How long the run kept the rendezvous host; 0 where it had none."""
    direct = (run.get("collectives") or {}).get("channel") == "direct"
    return _wall_seconds(run, infos) if direct else 0.0


def failure_cause(content: Json, where: str) -> str:
    """One or a few sentences that name the ranks without a result, for the state machine's Fail state."""
    failed, missing = content["failed_ranks"], content["missing_ranks"]
    lines = [
        f"rank {rank}: {record['error']}: {_shortened(record['cause'])}"
        for rank, record in list(failed.items())[:_NAMED_RANKS]
    ]
    without = [*map(int, failed), *missing]
    named = ", ".join(map(str, sorted(without)[:100])) + (", …" if len(without) > 100 else "")
    head = f"{len(without)} of {content['world_size']} ranks left no result: {named}. See {where}."
    return " ".join([head, *lines])


def _shortened(cause: str) -> str:
    half = _CAUSE_CHARACTERS // 2
    return cause if len(cause) <= 2 * half else f"{cause[:half]} … {cause[-half:]}"
