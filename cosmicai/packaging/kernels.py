"""Compiling the engine's kernels by PyPI's zig (the package ziglang)."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from cosmicai.packaging.packages import PackagingError, digest
from cosmicai.packaging.places import COMPILER_LOCK, FUNCTIONS

KERNELS = FUNCTIONS / "inference" / "engine" / "kernels"
SOURCES = (".cpp", ".h")  # shipped only as compiled
_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno")
_WARNINGS = ("-Wall", "-Wextra", "-Werror")
_NO_RUNTIME = ("-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics")  # no C++ library is linked


@dataclass(frozen=True)
class _Machine:
    """What the kernels are compiled for: zig's target, the oldest CPU, and a CPU for each instruction set.

    bfloat16: the instruction sets that have products of bfloat16, for which these are compiled in addition.
    """

    target: str
    oldest: str
    instructions: dict[str, str]
    bfloat16: dict[str, str] = field(default_factory=dict)


MACHINES = {  # by what Python calls them; glibc 2.28 is the oldest that onnxruntime itself supports
    "x86_64": _Machine(
        "x86_64-linux-gnu.2.28",
        "x86_64_v2",
        {"avx2": "x86_64_v3", "avx512": "x86_64_v4-prefer_256_bit"},
        {"avx512_bf16": "x86_64_v4-prefer_256_bit+avx512bf16"},
    ),
    "aarch64": _Machine(  # Graviton2, and from Graviton3 on
        "aarch64-linux-gnu.2.28", "neoverse_n1", {"neon": "neoverse_n1"}, {"neon_bf16": "neoverse_n1+bf16"}
    ),
    "arm64": _Machine("aarch64-macos", "apple_m1", {"neon": "apple_m1"}),
}


def compile_kernels(machine: str = platform.machine()) -> Path | None:
    """The engine's kernels as a library for a machine, compiled by PyPI's zig unless it is up to date; None
    for a machine that they are not written for, on which torch computes."""
    library, marker, made_for = KERNELS / f"{machine}.so", KERNELS / f".{machine}", MACHINES.get(machine)
    if made_for is None:
        return None
    sources = sorted(path for path in KERNELS.iterdir() if path.suffix in SOURCES)
    version = digest(
        Path(__file__).read_bytes(), COMPILER_LOCK.read_bytes(), *(path.read_bytes() for path in sources)
    )
    if library.exists() and marker.exists() and marker.read_text() == version:
        return library
    zig = [sys.executable, "-m", "ziglang", "c++", "-target", made_for.target]
    with tempfile.TemporaryDirectory() as folder:
        parts = [("operators", "operators", made_for.oldest)]
        parts += [("kernels", name, cpu) for name, cpu in made_for.instructions.items()]
        parts += [("bfloat16", name, cpu) for name, cpu in made_for.bfloat16.items()]
        objects = [f"{folder}/{name}.o" for _, name, _ in parts]
        for (source, name, cpu), made in zip(parts, objects, strict=True):
            options = [*_FLAGS, *_NO_RUNTIME, *_WARNINGS, f"-mcpu={cpu}", f"-DKERNELS={name}"]
            _compile([*zig, *options, "-c", str(KERNELS / f"{source}.cpp"), "-o", made])
        finished = library.with_suffix(f".{os.getpid()}.partial")  # another process may do the same
        # Threads free their buffers by its code when they end: it stays loaded.
        stays = ["-Wl,-z,nodelete"] if "linux" in made_for.target else []
        _compile([*zig, "-shared", "-s", "-nostdlib++", *stays, *objects, "-o", str(finished)])
    finished.replace(library)
    marker.write_text(version)
    return library


def _compile(command: list[str]) -> None:
    completed = subprocess.run(command, capture_output=True, text=True)
    if completed.returncode:
        raise PackagingError(f"the engine's kernels could not be compiled:\n{completed.stderr.strip()[-2000:]}")
