"""numpy with a BLAS of one thread: import this module before anything that imports numpy.

OpenBLAS starts a thread for each core when it is loaded, which takes a third of the time that numpy takes. Its
threads wait for each other by spinning: where a function has a part of a core, as on Lambda, or other work
shares the cores, the products of novelty.json take several times as long as on one thread. The engine has its
own threads. Programs that a rank starts, such as a user's script, do not see the setting.
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
