"""`from fmilib.fmi_operations import fmi_communicator`, as users' scripts import it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fmi import Communicator  # type: ignore[import-not-found]


def fmi_communicator(world_size: int | Mapping[str, Any], rank: int | None = None) -> Communicator:
    """This rank's communicator in the run that has started the script.

    Scripts call it as fmi_communicator(world_size, rank), or with one dictionary that has both. Raises
    RuntimeError outside of a run with collectives.
    """
    config = os.environ.get("FMI_CONFIG")
    if config is None:
        raise RuntimeError("this run has no collectives: start it with collectives = direct, redis or s3")
    size: Any = world_size
    if isinstance(world_size, Mapping):
        size, rank = world_size["world_size"], world_size["rank"]
    if rank is None:
        raise TypeError("fmi_communicator: rank is missing; call fmi_communicator(world_size, rank)")
    memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"))
    return Communicator(int(rank), int(size), config, os.environ["FMI_COMM_NAME"], memory)
