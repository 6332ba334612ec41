"""FMI, the FaaS Message Interface (Copik et al., ICS 2023): MPI-like messages between serverless functions.

Two interfaces over the same collectives: `Group`, for numpy arrays of any type with mpi4py's names, and
`Communicator`, the interface of FMI's own Python binding (https://github.com/spcl/fmi). Channels: Direct,
Redis, S3, Memory. It needs only numpy, and boto3 or redis-py for the two stores.
"""

from .channel import Channel, Deadline, Memory
from .communicator import Communicator
from .direct import Direct
from .errors import FmiError, MessageMismatch, PeerLost, PeerRefused, PeerTimeout, RelayRefused
from .group import Group
from .messages import Purpose
from .stores import S3, Redis
from .values import datatypes, func, hints, op, types

__all__ = [
    "S3",
    "Channel",
    "Communicator",
    "Deadline",
    "Direct",
    "FmiError",
    "Group",
    "Memory",
    "MessageMismatch",
    "PeerLost",
    "PeerRefused",
    "PeerTimeout",
    "Purpose",
    "Redis",
    "RelayRefused",
    "datatypes",
    "func",
    "hints",
    "op",
    "types",
]
