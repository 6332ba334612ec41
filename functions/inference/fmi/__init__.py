"""FMI, the FaaS Message Interface (Copik et al., ICS 2023): MPI-like messages between serverless functions.

Two interfaces over the same collectives: `Group`, for numpy arrays of any type, and `Communicator`, which takes
what FMI's own Python binding takes (https://github.com/spcl/fmi). Needs numpy alone.
"""

from .channel import Channel, Deadline, Memory
from .communicator import Communicator, datatypes, func, hints, op, types
from .direct import Direct
from .errors import FmiError, MessageMismatch, PeerLost, PeerRefused, PeerTimeout
from .group import Group

__all__ = [
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
    "datatypes",
    "func",
    "hints",
    "op",
    "types",
]
