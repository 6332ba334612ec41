"""What a run costs on AWS, in USD at list prices of us-east-1."""

from __future__ import annotations

from typing import Any

PRICES = {
    "as of": "2026-11",
    # https://aws.amazon.com/lambda/pricing: configured memory times billed duration, init included
    "GB-second": {"x86_64": 0.0000166667, "arm64": 0.0000133334, "aarch64": 0.0000133334},
    "Lambda request": 0.20 / 1e6,
    # https://aws.amazon.com/step-functions/pricing: Standard workflows
    "state transition": 0.025 / 1e3,
    # https://aws.amazon.com/s3/pricing
    "S3 PUT": 0.005 / 1e3,
    "S3 GET": 0.0004 / 1e3,
}
TRANSITIONS_PER_RANK = 2  # a child execution's start and its one task
TRANSITIONS_PER_RUN = 5
PUTS_PER_RANK = 2  # rank info and predictions
GETS_OF_SUMMARIZE_PER_RANK = 1


def cost(infos: list[dict[str, Any]]) -> dict[str, Any]:
    """GB-seconds and USD of the ranks that finished, from their configured memory and measured duration.

    Attempts that failed, and Initialize and Summarize themselves, are not in it.
    """
    ranks = len(infos)
    gb_seconds = [info["memory_limit (MB)"] / 1024 * info["duration (seconds)"] for info in infos]
    rates = [PRICES["GB-second"][info["architecture"]] for info in infos]  # type: ignore[index]
    compute = sum(spent * rate for spent, rate in zip(gb_seconds, rates, strict=True))
    transitions = TRANSITIONS_PER_RUN + TRANSITIONS_PER_RANK * ranks
    gets = sum(max(info["s3_num_requests"] - 1, 0) for info in infos) + GETS_OF_SUMMARIZE_PER_RANK * ranks
    parts = {
        "Lambda compute (USD)": compute,
        "Lambda requests (USD)": ranks * _price("Lambda request"),
        "Step Functions (USD)": transitions * _price("state transition"),
        "S3 requests (USD)": PUTS_PER_RANK * ranks * _price("S3 PUT") + gets * _price("S3 GET"),
    }
    return {
        "GB-seconds": sum(gb_seconds),
        **parts,
        "total (USD)": sum(parts.values()),
        "prices as of": PRICES["as of"],
    }


def _price(name: str) -> float:
    price = PRICES[name]
    assert isinstance(price, float)
    return price
