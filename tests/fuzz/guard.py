"""What reading a foreign file must keep: its time, its memory, and everything that our modules hold."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

_MEMORY = 96 << 20  # bytes beyond what the process has
_MEMORY_PER_BYTE = 24  # of the file
_PAGE = resource.getpagesize()


class Broken(AssertionError):
    """A promise was not kept; never caught by what is tested, as it is no error of ours."""


@contextmanager
def bounded(size: int, seconds: float) -> Iterator[None]:
    """At most `seconds` of processor time of this thread, and memory for a file of `size` bytes.

    Raises Broken for too much time; whatever asks for more memory gets a MemoryError.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE
    resource.setrlimit(resource.RLIMIT_AS, (held + _MEMORY + _MEMORY_PER_BYTE * size, hard))
    began = time.thread_time()
    try:
        yield
    finally:
        taken = time.thread_time() - began
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    if taken > seconds:
        raise Broken(f"reading took {taken:.2f} s, more than {seconds} s")


@contextmanager
def unchanged(*packages: str) -> Iterator[None]:
    """Raises Broken where anything that is reached from modules of these packages is another afterwards."""
    before = _state(packages)
    yield
    after = _state(packages)
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    if changed:
        raise Broken(f"reading changed {', '.join(sorted(changed)[:5])}")


def _state(packages: tuple[str, ...]) -> dict[str, object]:
    """What every name of the modules, their classes and containers stands for."""
    state: dict[str, object] = {}
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and name.startswith(packages):
            for key, value in vars(module).items():
                _note(f"{name}.{key}", value, state, name)
    return state


def _note(name: str, value: object, state: dict[str, object], module: str) -> None:
    state[name] = id(value)
    if isinstance(value, type) and value.__module__ == module:
        for key, attribute in vars(value).items():
            _note(f"{name}.{key}", attribute, state, module)
    elif isinstance(value, Mapping):
        state[f"{name}{{}}"] = [(id(key), id(item)) for key, item in value.items()]
    elif isinstance(value, list | set):
        state[f"{name}[]"] = [id(item) for item in value]
    elif type(value).__module__ == module:
        parts = [getattr(value, slot, None) for slot in getattr(type(value), "__slots__", ())]
        state[f"{name}:"] = [id(part) for part in parts] + [
            (k, id(v)) for k, v in getattr(value, "__dict__", {}).items()
        ]
