"""`import fmi` in users' own scripts: the library of this bundle.

It is loaded by its path, not as inference.fmi: such scripts are often called inference.py themselves.
"""

import importlib.util
import sys
from pathlib import Path

_LIBRARY = Path(__file__).parents[1] / "fmi"
_spec = importlib.util.spec_from_file_location(
    __name__, _LIBRARY / "__init__.py", submodule_search_locations=[str(_LIBRARY)]
)
if _spec is None or _spec.loader is None:
    raise ImportError(f"{_LIBRARY} is missing")
_module = importlib.util.module_from_spec(_spec)
sys.modules[__name__] = _module
_spec.loader.exec_module(_module)
