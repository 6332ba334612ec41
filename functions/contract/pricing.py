"""What a run costs on AWS, in USD at list prices of us-east-1."""

from __future__ import annotations

from typing import Any

AS_OF = "2026-11"
# https://aws.amazon.com/lambda/pricing: configured memory times billed duration, init included
GB_SECOND = {"x86_64": 0.0000166667, "arm64": 0.0000133334, "aarch64": 0.0000133334}
BILLED_AS = "x86_64"  # a rank that does not say what it ran on
LAMBDA_REQUEST = 0.20 / 1e6
# https://aws.amazon.com/step-functions/pricing: Standard workflows
STATE_TRANSITION = 0.025 / 1e3
# https://aws.amazon.com/step-functions/pricing: Express workflows, whose memory is counted in steps of 64 MB
EXPRESS_REQUEST = 1.00 / 1e6
EXPRESS_GB_SECOND = 0.00001667
EXPRESS_MEMORY_GB = 64 / 1024
# https://aws.amazon.com/s3/pricing
S3_PUT = 0.005 / 1e3
S3_GET = 0.0004 / 1e3
TRANSITIONS_PER_RANK = 2  # a Standard child's start and its one task
TRANSITIONS_PER_RUN = 11
# https://aws.amazon.com/ec2/pricing and https://aws.amazon.com/vpc/pricing: t4g.nano and its public IPv4
RENDEZVOUS_HOUR = 0.0042 + 0.005
RENDEZVOUS_LEAST_SECONDS = 60
PUTS_PER_RANK = 2  # rank info and predictions
GETS_OF_SUMMARIZE_PER_RANK = 1


def step_functions(ranks: int, seconds: float, children: str) -> float:
    """USD of a run's execution. seconds: of all ranks together; children: express or standard."""
    run = TRANSITIONS_PER_RUN * STATE_TRANSITION
    if children == "express":
        return run + ranks * EXPRESS_REQUEST + seconds * EXPRESS_MEMORY_GB * EXPRESS_GB_SECOND
    return run + ranks * TRANSITIONS_PER_RANK * STATE_TRANSITION


def cost(infos: list[dict[str, Any]], host_seconds: float = 0.0, children: str = "standard") -> dict[str, Any]:
    """GB-seconds and USD of the ranks that finished, from their configured memory and measured duration.

    host_seconds: that the rendezvous host was needed for; 0 where it was not. children: express or standard.

    Attempts that failed, and Initialize and Summarize themselves, are not in it. infos: `checked`; what one
    lacks counts as nothing.
    """
    ranks = len(infos)
    sizes = (info.get("memory_limit (MB)") or 0 for info in infos)
    seconds = [info.get("duration (seconds)") or 0.0 for info in infos]
    gb_seconds = [size / 1024 * duration for size, duration in zip(sizes, seconds, strict=True)]
    rates = [GB_SECOND[info.get("architecture") or BILLED_AS] for info in infos]
    compute = sum(spent * rate for spent, rate in zip(gb_seconds, rates, strict=True))
    requests = (int(info.get("s3_num_requests") or 0) for info in infos)
    gets = sum(max(count - 1, 0) for count in requests) + GETS_OF_SUMMARIZE_PER_RANK * ranks
    hours = max(host_seconds, RENDEZVOUS_LEAST_SECONDS) / 3600 if host_seconds else 0.0
    parts = {
        "Lambda compute (USD)": compute,
        "Lambda requests (USD)": ranks * LAMBDA_REQUEST,
        "Step Functions (USD)": step_functions(ranks, sum(seconds), children),
        "S3 requests (USD)": PUTS_PER_RANK * ranks * S3_PUT + gets * S3_GET,
        "rendezvous host (USD)": hours * RENDEZVOUS_HOUR,
    }
    return {
        "GB-seconds": sum(gb_seconds),
        **parts,
        "total (USD)": sum(parts.values()),
        "prices as of": AS_OF,
    }
