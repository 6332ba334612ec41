"""The container's command: a handler's name for Lambda, `rank` for AWS Batch, `serve` for SageMaker."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    match arguments:
        case ["serve", *rest]:
            from .serving import serve

            serve(*rest)
        case ["rank"]:
            from .job import run

            sys.exit(run(os.environ))
        case [_]:
            runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)
        case _:
            raise SystemExit(
                "error: give one argument: serve, rank, or a handler's name such as inference.handler.handler"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
