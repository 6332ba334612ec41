"""Runs whose reports tests open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from playwright.sync_api import Page

from inference.contract.accuracy import Metrics, Predicted
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import Run, Summary
from summarize.summary import summary

Json = dict[str, Any]
Open = Callable[..., Page]
STARTED = 1795305600.0
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


def made(
    ranks: int, per_rank: int = 40, hostile: bool = False, failed: int = 0
) -> tuple[Summary, list[RankInfo]]:
    """summary.json and rank infos of a run of `ranks` ranks, of which the last `failed` left no result."""
    rng = np.random.default_rng(0)
    name = HOSTILE if hostile else "25MB"
    infos = []
    for rank in range(ranks - failed):
        true = rng.uniform(0, 3, per_rank)
        guess = true + rng.standard_t(2, per_rank) * 0.03 * (1 + true)
        metrics = Metrics.of(guess, true, rng.uniform(17, 25, per_rank))
        cold, slow = rank % 7 != 0, 3.0 if rank == 5 else 1.0
        phases = {
            "init": 1.3 * cold, "download": 0.3 * slow, "inference": 1.1 * slow, "communication": 0.02,
            "upload": 0.05,
        }  # fmt: skip
        duration = sum(phases.values())
        infos.append({
            "rank": rank, "run_id": "r", "num_samples": per_rank, "cold_start": cold, "memory_limit (MB)": 3538,
            **{f"{phase} (seconds)": seconds for phase, seconds in phases.items()},
            "duration (seconds)": duration, "ended (unix seconds)": STARTED + 3 + rank / 100 + duration,
            "architecture": "arm64", "s3_num_requests": 9, "sample_persec": per_rank / 1.1 / slow,
            "total_process_memory (MB)": 160.0 + rank % 9, "data_path": f"{name}/{rank + 1}.pt",
            "engine": "onnxruntime", "precision": "int8", "accuracy_state": metrics.to_json(),
            "predicted_redshifts": Predicted.of(guess.tolist()).to_json(),
            **metrics.total.measures(),
        })  # fmt: skip
    run = {
        "run_id": name if hostile else "run-1", "started": "2026-11-22T00:00:00Z", "world_size": ranks,
        "bytes": ranks * 25 * 10**6,
        "payload": {"data_prefix": name, "result_path": "results/1", "batch_size": 256},
        "collectives": {"channel": "direct"},
    }  # fmt: skip
    lost = range(ranks - failed, ranks)
    failures = {one: {"error": "PartitionError", "cause": f"{name}/{one + 1}.pt is cut short"} for one in lost}
    read = [RankInfo.from_json(info) for info in infos]
    return summary(Run.from_json(run), read, failures), read
