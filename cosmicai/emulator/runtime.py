"""LocalStack's own main program, with every socket that it listens on bound to 127.0.0.1.

GATEWAY_LISTEN names a host, but LocalStack's Twisted server does not pass it on
(localstack/runtime/server/twisted.py: `TODO: interface = host?`) and listens on all interfaces. Its Hypercorn
server does pass it on, but closes every connection and takes 1.5 times as long for S3 requests. So bind()
itself is confined here, whichever server or service calls it.
"""

from __future__ import annotations

import socket
from typing import Any

_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_bind = socket.socket.bind


def _bind_to_loopback(self: socket.socket, address: Any) -> None:
    """Binds to the port that was asked for, on the loopback interface."""
    loopback = _LOOPBACK.get(self.family)
    _bind(self, (loopback, *address[1:]) if loopback else address)


def main() -> None:
    socket.socket.bind = _bind_to_loopback  # type: ignore[method-assign, assignment]
    from localstack.runtime.main import main as run_localstack

    run_localstack()


if __name__ == "__main__":
    main()
