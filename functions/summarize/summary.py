"""What a run did as one JSON object: totals, percentiles, accuracy, cost, and what is missing."""

from __future__ import annotations

import math
from typing import Any

from .accuracy import NMAD_ERROR, NORMAL_NMAD_FACTOR, Accuracy, BinnedAccuracy
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
_CAUSE_CHARACTERS = 300


def summary(run: Json, infos: list[Json], failures: dict[int, Json]) -> Json:
    """run: run.json; infos: the rank infos by rank; failures: {rank: record} of ranks without a result."""
    done = {int(info["rank"]) for info in infos}
    missing = [rank for rank in range(run["world_size"]) if rank not in done]
    samples = sum(info["num_samples"] or 0 for info in infos)
    return {
        "run_id": run["run_id"],
        "started": run["started"],
        "payload": run["payload"],
        "world_size": run["world_size"],
        "finished_ranks": len(infos),
        "missing_ranks": [rank for rank in missing if rank not in failures],
        "failed_ranks": {str(rank): _error(failures[rank]) for rank in sorted(failures)},
        "num_samples": samples,
        "input_bytes": run["bytes"],
        "seconds": {name: _total(infos, f"{name} (seconds)") for name in (*PHASES, "duration")},
        "cold_starts": sum(bool(info["cold_start"]) for info in infos),
        "spread": {name: _spread(_numbers(infos, name)) for name in _SPREAD},
        "accuracy": _accuracy(infos),
        "metrics_source": "rank infos",
        "cost": cost(infos),
    }


def _total(infos: list[Json], name: str) -> float:
    return float(sum(_numbers(infos, name)))


def _numbers(infos: list[Json], name: str) -> list[float]:
    """A figure of all ranks that have it: a user's own script may have written other rank infos."""
    values = (info.get(name) for info in infos)
    return [value for value in values if isinstance(value, int | float)]


def _error(record: Json) -> Json:
    return {"error": record.get("error", "unknown"), "cause": record.get("cause", "")}


def _spread(values: list[float]) -> Json | None:
    """Least, median, 95th percentile (nearest rank) and greatest value; None for no value."""
    if not values:
        return None
    ordered = sorted(values)

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return {"min": ordered[0], "p50": at(0.5), "p95": at(0.95), "max": ordered[-1]}


def _accuracy(infos: list[Json]) -> Json | None:
    """The measures over all galaxies with a known redshift; None where no rank saw one."""
    states = [info["accuracy_state"] for info in infos if info.get("accuracy_state") is not None]
    if not states:
        return None
    total = Accuracy()
    for state in states:
        total.add(Accuracy.from_json(state))
    return {
        "count": total.count,
        **total.measures(),
        "precision (NMAD) error at most": NMAD_ERROR,
        "NMAD with factor 1.4826": total.measures(NORMAL_NMAD_FACTOR)["precision (NMAD)"],
        "undefined": total.undefined(),
        "by redshift": _binned(infos, "accuracy_state_by_redshift"),
        "by magnitude": _binned(infos, "accuracy_state_by_magnitude"),
    }


def _binned(infos: list[Json], name: str) -> list[Json]:
    states = [BinnedAccuracy.from_json(info[name]) for info in infos if info.get(name) is not None]
    if not states:
        return []
    total = states[0]
    for state in states[1:]:
        total.add(state)
    return total.table()


def failure_cause(content: Json, where: str) -> str:
    """One or a few sentences that name the ranks without a result, for the state machine's Fail state."""
    failed, missing = content["failed_ranks"], content["missing_ranks"]
    lines = [
        f"rank {rank}: {record['error']}: {record['cause'][:_CAUSE_CHARACTERS]}"
        for rank, record in list(failed.items())[:_NAMED_RANKS]
    ]
    without = [*map(int, failed), *missing]
    named = ", ".join(map(str, sorted(without)[:100])) + (", …" if len(without) > 100 else "")
    head = f"{len(without)} of {content['world_size']} ranks left no result: {named}. See {where}."
    return " ".join([head, *lines])
