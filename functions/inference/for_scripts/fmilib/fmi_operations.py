"""`from fmilib.fmi_operations import fmi_communicator`, as users' scripts have it."""

from __future__ import annotations

import os

from fmi import Communicator  # type: ignore[import-not-found]


def fmi_communicator(world_size: int, rank: int) -> Communicator:
    """This rank's communicator in the run whose environment the script has.

    Raises RuntimeError outside of a run with collectives.
    """
    config = os.environ.get("FMI_CONFIG")
    if config is None:
        raise RuntimeError("this run has no collectives: start it with collectives = direct, redis or s3")
    memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"))
    return Communicator(int(rank), int(world_size), config, os.environ["FMI_COMM_NAME"], memory)
