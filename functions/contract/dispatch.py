"""How a run's ranks are started: as Express children of the Distributed Map if each is sure to end in time.

Express children start ten times faster and cost a fraction of a Standard child, but Step Functions ends them
after five minutes and may start one twice (https://docs.aws.amazon.com/step-functions/latest/dg/choosing-workflow-type.html).
A rank that is started twice writes the same bytes twice.
"""

from __future__ import annotations

import math
from typing import Literal

from .limits import FANOUT, MB_PER_VCPU

Children = Literal["express", "standard"]

STARTS_PER_SECOND: dict[Children, float] = {"express": 1000.0, "standard": 100.0}
"""https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html"""

EXPRESS_SECONDS = 300
"""The time after which Step Functions ends an Express execution
(https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html)."""

ATTEMPT_SECONDS = 240
"""The time after which the state machine abandons an Express child's call: early enough to record a failure."""

_ATTEMPTS = 2  # of a rank whose sandbox dies, as statemachine/cosmicai.asl.json has it
_RESERVE_SECONDS = 30.0  # for the waits between attempts, and for the record of a failure
_START_SECONDS = 10.0  # the longest init phase of a Lambda
_BYTES_PER_SECOND = 50e6  # two thirds of a Lambda's sustained network
_BYTES_PER_IMAGE = 20_504  # float32: 5 bands of 32 x 32, 5 magnitudes, a redshift
_IMAGES_PER_SECOND_VCPU = 100.0
"""Less than the slowest engine (torch without a graph) reached on one thread of an AVX2 host:
benchmarks/engine.json."""
_PATIENCE_SECONDS = 20.0  # that a rank waits for others at each level of the reduction's tree


def attempt_seconds(largest: int, memory_mb: int) -> float:
    """The longest that one attempt of a rank may take in seconds, without waiting for other ranks.

    largest: bytes of the rank that reads most. memory_mb: of the inference function.
    """
    compute = largest / _BYTES_PER_IMAGE / (_IMAGES_PER_SECOND_VCPU * memory_mb / MB_PER_VCPU)
    return _START_SECONDS + largest / _BYTES_PER_SECOND + compute


def children(largest: int, memory_mb: int, world_size: int, script: bool) -> tuple[Children, str]:
    """What the Distributed Map starts for each rank, and why.

    memory_mb: of the inference function; 0 if unknown. script: whether the ranks run the user's own code.
    """
    if script:
        return "standard", "a user's script may take as long as the function"
    if memory_mb <= 0:
        return "standard", "the memory of the inference function is not known"
    levels = math.ceil(math.log(world_size, FANOUT)) if world_size > 1 else 0
    waiting = _PATIENCE_SECONDS * (levels + 1)
    longest = _ATTEMPTS * attempt_seconds(largest, memory_mb) + waiting + _RESERVE_SECONDS
    if longest <= EXPRESS_SECONDS:
        return "express", f"a rank ends within {longest:.0f} s, even if it is tried {_ATTEMPTS} times"
    return "standard", (
        f"a rank may take {longest:.0f} s if it is tried {_ATTEMPTS} times, but Express children end after "
        f"{EXPRESS_SECONDS} s"
    )
