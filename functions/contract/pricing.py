"""What a run costs on AWS, in USD at list prices of us-east-1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from . import batch_prices
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
RENDEZVOUS_HOUR = 0.0042 + batch_prices.PUBLIC_ADDRESS_HOUR
RENDEZVOUS_LEAST_SECONDS = 60
PUTS_PER_RANK = 2  # rank info and predictions
GETS_OF_SUMMARIZE_PER_RANK = 1


@dataclass(frozen=True, kw_only=True)
class Cost(Record):
    """What the finished ranks of a run cost."""

    gb_seconds: Annotated[
        float, Field("configured memory times duration, on Lambda and AWS Batch", "GB-seconds", "GB s")
    ]
    compute: Annotated[float, Field("what Lambda bills for them", "Lambda compute (USD)", "USD")]
    requests: Annotated[float, Field("invocations", "Lambda requests (USD)", "USD")]
    batch: Annotated[
        float | None,
        Field(
            "vCPUs, memory and public addresses of ranks on AWS Batch, or their share of instances with a GPU, "
            "for at least a minute each; left out for a run on Lambda",
            "AWS Batch compute (USD)",
            "USD",
        ),
    ] = None
    step_functions: Annotated[
        float, Field("state transitions, and Express children", "Step Functions (USD)", "USD")
    ]
    s3_requests: Annotated[float, Field("requests to S3", "S3 requests (USD)", "USD")]
    rendezvous_host: Annotated[float, Field("the host and its address", "rendezvous host (USD)", "USD")]
    total: Annotated[float, Field("the sum", "total (USD)", "USD")]
    prices_as_of: Annotated[str, Field("the month of the list prices, the oldest of them", "prices as of")]
    notes: Annotated[
        list[str] | None,
        Field("sentences on what the figures cannot hold: prices that vary, or are not known", "notes"),
    ] = None


def step_functions(ranks: int, seconds: float, children: Children) -> float:
    """USD for a run's execution. seconds: the sum over all ranks."""
    run = TRANSITIONS_PER_RUN * STATE_TRANSITION
    if children == "express":
        return run + ranks * EXPRESS_REQUEST + seconds * EXPRESS_MEMORY_GB * EXPRESS_GB_SECOND
    return run + ranks * TRANSITIONS_PER_RANK * STATE_TRANSITION


def rendezvous_host(seconds: float) -> float:
    """USD of the host and its address for a time in which it is needed; 0 s: not at all."""
    return max(seconds, RENDEZVOUS_LEAST_SECONDS) / 3600 * RENDEZVOUS_HOUR if seconds else 0.0


def cost(
    infos: list[RankInfo],
    host_seconds: float = 0.0,
    children: Children = "standard",
    on_batch: bool = False,
) -> Cost:
    """GB-seconds and USD of the ranks that finished, from their configured memory and measured duration.

    host_seconds: how long the run needed the rendezvous host; 0 if it did not. children: express or standard,
    of the ranks on Lambda. on_batch: whether the run was sent to AWS Batch, at least at last.

    Failed attempts, Initialize and Summarize are not included. A field that an info lacks counts as 0.
    """
    assumed = None if on_batch else "lambda"  # of a rank of an earlier version, which does not say it
    on_lambda = [info for info in infos if (info.capacity or assumed) == "lambda"]
    others = [info for info in infos if (info.capacity or assumed) != "lambda"]
    gb_seconds = [_gb_seconds(info) for info in on_lambda]
    rates = [GB_SECOND[info.architecture or BILLED_AS] for info in on_lambda]
    batch, notes = batch_prices.compute(others)
    requests = (info.s3_num_requests or 0 for info in infos)
    gets = sum(max(count - 1, 0) for count in requests) + GETS_OF_SUMMARIZE_PER_RANK * len(infos)
    parts = {
        "compute": sum(spent * rate for spent, rate in zip(gb_seconds, rates, strict=True)),
        "requests": len(on_lambda) * LAMBDA_REQUEST,
        **({"batch": batch} if others or on_batch else {}),
        "step_functions": step_functions(
            len(on_lambda), sum(info.duration or 0.0 for info in on_lambda), children
        ),
        "s3_requests": PUTS_PER_RANK * len(infos) * S3_PUT + gets * S3_GET,
        "rendezvous_host": rendezvous_host(host_seconds),
    }
    return Cost(
        gb_seconds=sum(gb_seconds) + sum(map(_gb_seconds, others)),
        **parts,
        total=sum(parts.values()),
        prices_as_of=min(AS_OF, batch_prices.AS_OF) if others else AS_OF,
        notes=notes or None,
    )


def _gb_seconds(info: RankInfo) -> float:
    return (info.memory_limit or 0.0) / 1024 * (info.duration or 0.0)
