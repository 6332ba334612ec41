"""FMI, the FaaS Message Interface (Copik et al., ICS 2023): MPI-like messages between serverless functions.

Two interfaces over the same collectives: `Group`, for numpy arrays of any type with mpi4py's names, and
`Communicator`, the interface of FMI's own Python binding (https://github.com/spcl/fmi). Channels: Direct,
Redis, S3, Memory. It needs only numpy, and boto3 or redis-py for the two stores.

The module of a name is imported when the name is first used: a rank's cold start does without most of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
_PLACES = {
    "S3": "stores",
    "Channel": "channel",
    "Communicator": "communicator",
    "Deadline": "channel",
    "Direct": "direct",
    "FmiError": "errors",
    "Group": "group",
    "Memory": "channel",
    "MessageMismatch": "errors",
    "PeerLost": "errors",
    "PeerRefused": "errors",
    "PeerTimeout": "errors",
    "Purpose": "messages",
    "Redis": "stores",
    "RelayRefused": "errors",
    "datatypes": "values",
    "func": "values",
    "hints": "values",
    "op": "values",
    "types": "values",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES.values():  # a script may name a module after `import fmi` alone: fmi.errors.PeerLost
        return import_module(f".{name}", __name__)
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_PLACES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
