"""Limits and names that several parts share, each defined once."""

from __future__ import annotations

PHASES = ("init", "download", "inference", "communication", "upload")
"""The phases of a rank, whose info has the wall seconds of each."""

FANOUT = 32
"""Children that a rank may have at each level of the tree by which metrics are reduced: few ranks wait, and
none holds many connections. Initialize starts ranks in an order that fits it."""

MOST_RANKS = 10_000
"""Limit of one run: children of a Distributed Map that run at once
(https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html), and as many as Summarize was
measured for."""

MB_PER_VCPU = 1769
"""Memory of a function, in MB, for which Lambda gives it one vCPU
(https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html)."""
