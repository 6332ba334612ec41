"""What reading a foreign file must keep: its time, its memory, and everything that our modules hold."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

_MEMORY = 96 << 20  # bytes beyond what the process has
_MEMORY_PER_BYTE = 24  # of the file
_MAPPINGS = (dict, MappingProxyType)
_PAGE = resource.getpagesize()

Holders = list[tuple[str, Any]]
"""Namespaces and containers, with what leads to them."""


class Broken(AssertionError):
    """A promise was not kept. The tested code never catches it, because it is not one of its own errors."""


@contextmanager
def bounded(size: int, seconds: float) -> Iterator[None]:
    """At most `seconds` of processor time of this thread, and memory for a file of `size` bytes.

    Raises Broken for too much time; whatever asks for more memory gets a MemoryError. The garbage collector
    passes over the objects that were there before: with millions of them, as a long test process has, one full
    collection takes longer than most readings.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE
    resource.setrlimit(resource.RLIMIT_AS, (held + _MEMORY + _MEMORY_PER_BYTE * size, hard))
    gc.freeze()
    began = time.thread_time()
    try:
        yield
    finally:
        taken = time.thread_time() - began
        gc.unfreeze()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    if taken > seconds:
        raise Broken(f"reading took {taken:.2f} s, more than {seconds} s")


@contextmanager
def unchanged(*packages: str) -> Iterator[None]:
    """Raises Broken where anything that is reached from modules of these packages is another afterwards."""
    holders = _holders(packages, len(sys.modules))
    before = [_held(holder) for _, holder in holders]
    yield
    changed = [name for (name, holder), was in zip(holders, before, strict=True) if _held(holder) != was]
    if changed:
        raise Broken(f"reading changed {', '.join(sorted(changed)[:5])}")


def _held(holder: Any) -> list[int]:
    """Which objects are in a namespace or container, in its order."""
    return list(map(id, holder.values() if isinstance(holder, _MAPPINGS) else holder))


@cache
def _holders(packages: tuple[str, ...], modules: int) -> Holders:
    """Namespaces of modules, classes and objects, and their containers. modules: the number imported so far."""
    holders: Holders = []
    seen: set[int] = set()
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and name.startswith(packages):
            _collect(name, vars(module), packages, holders, seen)
    return holders


def _collect(path: str, holder: Any, packages: tuple[str, ...], holders: Holders, seen: set[int]) -> None:
    holders.append((path, holder))
    items = holder.items() if isinstance(holder, _MAPPINGS) else enumerate(holder)
    for key, value in items:
        inner = None if key == "__builtins__" else _inside(value, packages)
        if inner is not None and id(value) not in seen:
            seen.add(id(value))
            _collect(f"{path}.{key}", inner, packages, holders, seen)


def _inside(value: Any, packages: tuple[str, ...]) -> Any:
    """What of a value can be changed: a container itself, or the namespace of a class or object of ours."""
    if isinstance(value, (*_MAPPINGS, list, set)):
        return value
    owner = value if isinstance(value, type) else type(value)
    return getattr(value, "__dict__", None) if owner.__module__.startswith(packages) else None
