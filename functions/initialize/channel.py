"""The channel of a run: the one that the payload names, if it is available, or the one that `auto` chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .contract.channels import Choice, Host, choose
from .contract.estimate import Ranks, Speed
from .contract.limits import MB_PER_VCPU
from .contract.run_records import Run
from .deployed import Deployed

Json = dict[str, Any]

_NOT_ON_BATCH = {
    "channel": "none",
    "reason": "ranks on AWS Batch start minutes apart, and would be billed while they wait for each other",
}
_RESUMED = {"channel": "none", "reason": "missing ranks cannot reduce with ranks that have already ended"}
_NO_HOST = Host("absent", "this deployment has no rendezvous host")


def collectives(
    asked: str, run: Run, resume: bool, at_once: int, deployed: Deployed, speed: Callable[[], Speed]
) -> Json:
    """The channel, and the reason for it unless the payload names this channel.

    speed: looks up that of the ranks. Speed and host are looked up only if the choice depends on them.
    """
    if run.on_batch:
        return _NOT_ON_BATCH
    if resume and asked != "none":
        return _RESUMED
    if asked == "auto":
        return _as_json(_chosen(run, at_once, deployed, speed))
    ranks = run.world_size
    if asked in ("direct", "redis"):
        if ranks == 1:
            return {"channel": "s3", "reason": "a single rank has no other to connect to"}
        if at_once < ranks:
            return {
                "channel": "s3",
                "reason": f"only {at_once:,} of {ranks:,} ranks can run at once, so messages wait in S3",
            }
    if asked == "direct" and not deployed.has_rendezvous:
        return {"channel": "s3", "reason": _NO_HOST.description}
    return {"channel": asked}


def _chosen(run: Run, at_once: int, deployed: Deployed, speed: Callable[[], Speed]) -> Choice:
    script, can_meet = "script" in run.payload, at_once >= run.world_size
    ranks = Ranks(
        count=run.world_size,
        bytes=run.bytes,
        largest=max(run.bytes_per_rank or [run.bytes]),
        at_once=at_once,
        memory_mb=deployed.memory_mb or MB_PER_VCPU,
        architecture="arm64" if deployed.architecture == "arm64" else "x86_64",
        children=run.child_type,
        speed=speed(),
    )
    host = deployed.host() if deployed.has_rendezvous and can_meet and run.world_size > 1 else _NO_HOST
    return choose(ranks, host, script)


def _as_json(choice: Choice) -> Json:
    content: Json = {"channel": choice.channel, "reason": choice.reason}
    if choice.candidates:
        content["candidates"] = {
            one.channel: {"seconds": round(one.seconds, 3), "usd": round(one.usd, 6)}
            for one in choice.candidates
        }
    return content
