"""LocalStack's own main program, with two changes: its sockets are on 127.0.0.1, and it knows Express children.

GATEWAY_LISTEN names a host, but LocalStack's Twisted server does not pass it on
(localstack/runtime/server/twisted.py: `TODO: interface = host?`) and listens on all interfaces. Its Hypercorn
server does pass it on, but closes every connection and takes 1.5 times as long for S3 requests. So bind()
itself is confined here, whichever server or service calls it.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from typing import Any

from cosmicai.emulator.settings import Settings

_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_bind = socket.socket.bind
_STATE_MACHINE_PARSER = "localstack.services.stepfunctions.asl.parse.asl_parser"


def _bind_to_loopback(self: socket.socket, address: Any) -> None:
    """Binds to the port that was asked for, on the loopback interface."""
    loopback = _LOOPBACK.get(self.family)
    _bind(self, (loopback, *address[1:]) if loopback else address)


class _AfterImport(MetaPathFinder):
    """Calls `then` once a module is imported: importing it here would slow every start down by seconds."""

    def __init__(self, module: str, then: Callable[[], None]) -> None:
        self._module, self._then = module, then

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self._module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_then(module: Any) -> None:
                execute(module)
                self._then()

            spec.loader.exec_module = execute_then  # type: ignore[method-assign]
        return spec


def _learn_express() -> None:
    from cosmicai.emulator.express import learn_express

    learn_express(Settings.from_environment(dict(os.environ)).express_seconds)


def main() -> None:
    sys.meta_path.insert(0, _AfterImport(_STATE_MACHINE_PARSER, _learn_express))
    socket.socket.bind = _bind_to_loopback  # type: ignore[method-assign, assignment]
    from localstack.runtime.main import main as run_localstack

    run_localstack()


if __name__ == "__main__":
    main()
