"""What a run costs on AWS, in USD at list prices of us-east-1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from .dispatch import Children
from .fields import Field, Record

if TYPE_CHECKING:
    from .rank_info import RankInfo

AS_OF = "2026-11"
# https://aws.amazon.com/lambda/pricing: configured memory times billed duration, init included
GB_SECOND = {"x86_64": 0.0000166667, "arm64": 0.0000133334, "aarch64": 0.0000133334}
BILLED_AS = "x86_64"  # a rank that does not state its architecture
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


@dataclass(frozen=True, kw_only=True)
class Cost(Record):
    """What the finished ranks of a run cost."""

    gb_seconds: Annotated[float, Field("configured memory times billed duration", "GB-seconds", "GB s")]
    compute: Annotated[float, Field("what Lambda bills for them", "Lambda compute (USD)", "USD")]
    requests: Annotated[float, Field("invocations", "Lambda requests (USD)", "USD")]
    step_functions: Annotated[
        float, Field("state transitions, and Express children", "Step Functions (USD)", "USD")
    ]
    s3_requests: Annotated[float, Field("requests to S3", "S3 requests (USD)", "USD")]
    rendezvous_host: Annotated[float, Field("the host and its address", "rendezvous host (USD)", "USD")]
    total: Annotated[float, Field("the sum", "total (USD)", "USD")]
    prices_as_of: Annotated[str, Field("the month of the list prices", "prices as of")]


def step_functions(ranks: int, seconds: float, children: Children) -> float:
    """USD for a run's execution. seconds: the sum over all ranks."""
    run = TRANSITIONS_PER_RUN * STATE_TRANSITION
    if children == "express":
        return run + ranks * EXPRESS_REQUEST + seconds * EXPRESS_MEMORY_GB * EXPRESS_GB_SECOND
    return run + ranks * TRANSITIONS_PER_RANK * STATE_TRANSITION


def rendezvous_host(seconds: float) -> float:
    """USD of the host and its address for a time in which it is needed; 0 s: not at all."""
    return max(seconds, RENDEZVOUS_LEAST_SECONDS) / 3600 * RENDEZVOUS_HOUR if seconds else 0.0


def cost(infos: list[RankInfo], host_seconds: float = 0.0, children: Children = "standard") -> Cost:
    """GB-seconds and USD of the ranks that finished, from their configured memory and measured duration.

    host_seconds: how long the run needed the rendezvous host; 0 if it did not. children: express or standard.

    Failed attempts, Initialize and Summarize are not included. A field that an info lacks counts as 0.
    """
    ranks = len(infos)
    sizes = (info.memory_limit or 0 for info in infos)
    seconds = [info.duration or 0.0 for info in infos]
    gb_seconds = [size / 1024 * duration for size, duration in zip(sizes, seconds, strict=True)]
    rates = [GB_SECOND[info.architecture or BILLED_AS] for info in infos]
    compute = sum(spent * rate for spent, rate in zip(gb_seconds, rates, strict=True))
    requests = (info.s3_num_requests or 0 for info in infos)
    gets = sum(max(count - 1, 0) for count in requests) + GETS_OF_SUMMARIZE_PER_RANK * ranks
    parts = {
        "compute": compute,
        "requests": ranks * LAMBDA_REQUEST,
        "step_functions": step_functions(ranks, sum(seconds), children),
        "s3_requests": PUTS_PER_RANK * ranks * S3_PUT + gets * S3_GET,
        "rendezvous_host": rendezvous_host(host_seconds),
    }
    return Cost(gb_seconds=sum(gb_seconds), **parts, total=sum(parts.values()), prices_as_of=AS_OF)
