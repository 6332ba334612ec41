"""numpy with a BLAS of one thread: import this module before anything that imports numpy.

OpenBLAS starts a thread for each core when it is loaded, and its threads wait for each other by spinning. That
is a quarter of the CPU time of a cold start. Where a function has a part of a core, as on Lambda, or other work
shares the cores, the products of novelty.json take many times as long as on one thread (docs/benchmarks.md).
The engine has its own threads. Programs that a rank starts, such as a user's script, do not see the setting.
"""

from __future__ import annotations

import os

_VARIABLE = "OPENBLAS_NUM_THREADS"

if _VARIABLE not in os.environ:
    os.environ[_VARIABLE] = "1"
    try:
        import numpy  # noqa: F401
    finally:
        del os.environ[_VARIABLE]
