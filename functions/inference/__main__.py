"""The container's command, by what starts it: Lambda with a handler's name, SageMaker with `serve`."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    match arguments:
        case ["serve", *rest]:
            from .serving import serve

            serve(*rest)
        case [_]:
            runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)
        case _:
            raise SystemExit("error: give serve, or the name of a handler such as inference.handler.handler")


if __name__ == "__main__":
    main(sys.argv[1:])
