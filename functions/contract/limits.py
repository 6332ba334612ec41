"""Limits and names that several parts share, each defined once."""

from __future__ import annotations

PHASES = ("init", "download", "inference", "communication", "upload")
"""The phases of a rank, whose info has the wall seconds of each."""

FANOUT = 32
"""Children that a rank may have at each level of the tree by which metrics are reduced: few ranks wait, and
none holds many connections. Initialize starts ranks in an order that fits it."""

MOST_AT_ONCE = 10_000
"""Children of a Distributed Map that run at once, and jobs of an array of AWS Batch
(https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html,
https://docs.aws.amazon.com/batch/latest/userguide/service_limits.html)."""

MOST_RANKS = 100_000
"""Of one run: as many as Initialize and Summarize were measured for. Those beyond MOST_AT_ONCE wait until
others have ended. A run on AWS Batch is one array of jobs, so it has MOST_AT_ONCE at most."""


def most_ranks(on_batch: bool) -> int:
    """Of one run."""
    return MOST_AT_ONCE if on_batch else MOST_RANKS


MB_PER_VCPU = 1769
"""Memory of a function, in MB, for which Lambda gives it one vCPU
(https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html)."""
