"""Threads of numpy's BLAS: one in a rank on Lambda, as threadpoolctl counts them, and few in a pool."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from cosmicai.packaging.places import FUNCTIONS
from cosmicai.processes import pool

_HANDLER = """
import json, os, inference.handler, threadpoolctl
pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
print(json.dumps({"pools": pools, "handed on": os.environ.get("OPENBLAS_NUM_THREADS")}))
"""


@pytest.mark.parametrize("own", [None, "2"])
def test_a_rank_has_one_thread_of_blas_unless_it_was_given_more(own: str | None) -> None:
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(FUNCTIONS), "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "3538",
        "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_SESSION_TOKEN": "c",
        **({} if own is None else {"OPENBLAS_NUM_THREADS": own}),
    }  # fmt: skip
    started = subprocess.run(
        [sys.executable, "-c", _HANDLER], env=environment, capture_output=True, text=True, check=True
    )
    cores = len(os.sched_getaffinity(0))
    threads = 1 if own is None else min(int(own), cores)
    assert json.loads(started.stdout) == {"pools": [threads], "handed on": own}


def test_the_processes_of_a_pool_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    processes = (os.cpu_count() or 1) + 1
    with pool(processes) as workers:
        assert workers.submit(os.getenv, "OPENBLAS_NUM_THREADS").result() == "1"
    assert "OPENBLAS_NUM_THREADS" not in os.environ
