"""What is deployed: reproducible zips for three Lambdas, and the task folder of the inference image.

docker/inference.Dockerfile and the embedded AWS assemble the task folder with the same steps of this file
(`packages`, `extra`, `code`). Standard library alone, so that the image's build stage needs nothing else;
compiling the kernels needs the package ziglang.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cosmicai import packages
from cosmicai.packages import NO_EXTRAS, ExtraPackages, PackagingError, digest, install_extra, install_packages

ROOT = Path(__file__).resolve().parent.parent
FUNCTIONS = ROOT / "functions"
SCHEMA = ROOT / "statemachine" / "payload.schema.json"
ZIP_CONTENT: dict[str, tuple[Path, ...]] = {"initialize": (SCHEMA,), "rendezvous": (), "summarize": ()}
"""Zip functions, with the files that they carry besides their own folder."""

_INFERENCE = FUNCTIONS / "inference"
LOCKS: dict[str, tuple[Path, ...]] = {
    "lean": (_INFERENCE / "requirements.lock",),
    "torch": (_INFERENCE / "requirements-torch.lock", _INFERENCE / "torch.lock"),
}
"""What pip installs into each variant of the inference image: without torch, and with it for the torch engine
and users' scripts. scripts/lock.py writes the locks."""
RUNTIME_LOCK = FUNCTIONS / "runtime-requirements.lock"
COMPILER_LOCK = FUNCTIONS / "build-requirements.lock"
IMAGE_NAMES = {"lean": "inference", "torch": "inference-torch"}
_NOT_SHIPPED = ("__pycache__",)
_REQUIREMENTS = (".txt", ".lock")  # suffixes of what pip reads, in functions/inference
_SOURCES = (".cpp", ".h")  # shipped as what they are compiled to
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold: same input, same bytes


@dataclass(frozen=True)
class BuildFolder:
    """Where everything that can be made again from the sources lies."""

    root: Path = ROOT / "build"

    @property
    def images(self) -> Path:
        return self.root / "images"

    def image(self, variant: str, extra: ExtraPackages = NO_EXTRAS) -> Path:
        """The task folder of a variant of the inference image."""
        return self.images / image_name(variant, extra)

    @property
    def runtime(self) -> Path:
        return self.root / "runtime"

    @property
    def python(self) -> Path:
        return self.root / "python"

    def zip_file(self, function: str) -> Path:
        return self.root / f"{function}.zip"


def image_name(variant: str, extra: ExtraPackages = NO_EXTRAS) -> str:
    """What the embedded AWS calls an image: other packages are another image."""
    name = IMAGE_NAMES[variant]
    return f"{name}-{extra.digest}" if extra.packages else name


def package(build: BuildFolder) -> None:
    """The zips that Terraform deploys."""
    build.root.mkdir(parents=True, exist_ok=True)
    for function, extra in ZIP_CONTENT.items():
        _replace_if_changed(build.zip_file(function), _zipped(function, extra))


def assemble(build: BuildFolder, variants: Sequence[str] = ("lean",), extra: ExtraPackages = NO_EXTRAS) -> None:
    """The zips, and all that the embedded AWS needs to run functions; at once when nothing has changed."""
    from filelock import FileLock

    build.root.mkdir(parents=True, exist_ok=True)
    with FileLock(build.root / ".lock"):
        package(build)
        if not build.python.exists():
            venv.create(build.python, with_pip=False, symlinks=True)
        install_packages(build.runtime, (RUNTIME_LOCK,))
        for variant in variants:
            install_packages(build.image(variant), LOCKS[variant])
            copy_code(build.image(variant))
            if extra.packages:
                _extend(build.image(variant), build.image(variant, extra), extra)
                copy_code(build.image(variant, extra))


def _extend(base: Path, folder: Path, extra: ExtraPackages) -> None:
    """`folder` as `base` with the extra packages, unless it is so already; its files are links to base's."""
    marker, wanted = folder / ".extra", (base / ".requirements").read_text() + extra.digest
    if marker.exists() and marker.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder, copy_function=os.link)
    shutil.rmtree(folder / "inference", ignore_errors=True)  # what copy_code writes is not shared
    (folder / ".code").unlink(missing_ok=True)
    install_extra(folder, extra)
    marker.write_text(wanted)


KERNELS = FUNCTIONS / "inference" / "kernels"
_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno")
_WARNINGS = ("-Wall", "-Wextra", "-Werror")
_NO_RUNTIME = ("-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics")  # no C++ library is linked


@dataclass(frozen=True)
class _Machine:
    """What the kernels are compiled for: zig's target, the oldest CPU, and a CPU for each instruction set."""

    target: str
    oldest: str
    instructions: dict[str, str]


_MACHINES = {  # by what Python calls them; glibc 2.28 is the oldest that onnxruntime itself takes
    "x86_64": _Machine(
        "x86_64-linux-gnu.2.28", "x86_64_v2", {"avx2": "x86_64_v3", "avx512": "x86_64_v4-prefer_256_bit"}
    ),
    "aarch64": _Machine("aarch64-linux-gnu.2.28", "neoverse_n1", {"neon": "neoverse_n1"}),  # Graviton2
    "arm64": _Machine("aarch64-macos", "apple_m1", {"neon": "apple_m1"}),
}


def kernels(machine: str = platform.machine()) -> Path | None:
    """The engine's kernels as a library for a machine, compiled by PyPI's zig unless they are already; None for
    a machine that they are not made for, where torch has to do."""
    library, marker, made_for = KERNELS / f"{machine}.so", KERNELS / f".{machine}", _MACHINES.get(machine)
    if made_for is None:
        return None
    sources = sorted(path for path in KERNELS.iterdir() if path.suffix in _SOURCES)
    wanted = digest(
        Path(__file__).read_bytes(), COMPILER_LOCK.read_bytes(), *(path.read_bytes() for path in sources)
    )
    if library.exists() and marker.exists() and marker.read_text() == wanted:
        return library
    zig = [sys.executable, "-m", "ziglang", "c++", "-target", made_for.target]
    with tempfile.TemporaryDirectory() as folder:
        parts = [("operators", "operators", made_for.oldest)]
        parts += [("kernels", name, cpu) for name, cpu in made_for.instructions.items()]
        objects = [f"{folder}/{name}.o" for _, name, _ in parts]
        for (source, name, cpu), made in zip(parts, objects, strict=True):
            options = [*_FLAGS, *_NO_RUNTIME, *_WARNINGS, f"-mcpu={cpu}", f"-DKERNELS={name}"]
            _compile([*zig, *options, "-c", str(KERNELS / f"{source}.cpp"), "-o", made])
        finished = library.with_suffix(".partial")
        # Threads free their buffers by its code when they end: it stays loaded.
        stays = ["-Wl,-z,nodelete"] if "linux" in made_for.target else []
        _compile([*zig, "-shared", "-s", "-nostdlib++", *stays, *objects, "-o", str(finished)])
    finished.rename(library)
    marker.write_text(wanted)
    return library


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PackagingError(f"the engine's kernels could not be compiled:\n{done.stderr.strip()[-2000:]}")


def copy_code(folder: Path) -> None:
    """The inference package itself, beside its requirements."""
    kernels()
    source, target = FUNCTIONS / "inference", folder / "inference"
    wanted = digest(*(str(p.relative_to(source)).encode() + p.read_bytes() for p in _shipped(source)))
    marker = folder / ".code"
    if marker.exists() and marker.read_text() == wanted:
        return
    shutil.rmtree(target, ignore_errors=True)
    for path in _shipped(source):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    marker.write_text(wanted)


def image_tag(extra: ExtraPackages = NO_EXTRAS) -> str:
    """A hash of all that the inference images are made of: what is the same is never built twice."""
    source = FUNCTIONS / "inference"
    steps = [ROOT / "docker" / "inference.Dockerfile", Path(__file__), Path(packages.__file__)]
    parts = [*steps, COMPILER_LOCK, *(lock for locks in LOCKS.values() for lock in locks)]
    parts += sorted(path for path in KERNELS.iterdir() if path.suffix in _SOURCES)
    shipped = [path for path in _shipped(source) if path.parent != KERNELS]
    named = (str(path.relative_to(source)).encode() + path.read_bytes() for path in shipped)
    extras = [extra.digest.encode()] if extra.packages else []
    return digest(*(path.read_bytes() for path in parts), *named, *extras)[:16]


def _shipped(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and not _is_build_input(path))
    return sorted(path for path in files if not set(_NOT_SHIPPED) & set(path.relative_to(folder).parts))


def _is_build_input(path: Path) -> bool:
    """Whether it is only read when the image is made, or belongs to the kernels of another machine."""
    if path.parent == KERNELS:
        return path.name != f"{platform.machine()}.so"
    return path.parent == _INFERENCE and path.suffix in _REQUIREMENTS


def _zipped(function: str, extra: tuple[Path, ...]) -> list[tuple[str, bytes]]:
    folder = FUNCTIONS / function
    own = [(f"{function}/{path.relative_to(folder)}", path.read_bytes()) for path in _shipped(folder)]
    return own + [(f"{function}/{path.name}", path.read_bytes()) for path in extra]


def _replace_if_changed(path: Path, content: list[tuple[str, bytes]]) -> None:
    partial = path.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content:
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.external_attr = 0o100644 << 16
            info.create_system = 3
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    if path.exists() and path.read_bytes() == partial.read_bytes():
        partial.unlink()
    else:
        partial.rename(path)


def main() -> None:
    """What make, deploy.sh and docker build call: `python -m cosmicai.packaging STEP [FOLDER]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["zips", "tag", "packages", "extra", "kernels", "code"])
    parser.add_argument("folder", type=Path, nargs="?", help="the image's task folder")
    parser.add_argument("--variant", choices=list(LOCKS), default="lean", help="of the inference image")
    parser.add_argument("--extra", default="", help="packages for scripts, with blanks between")
    arguments = parser.parse_args()
    if arguments.step in ("packages", "extra", "code") and arguments.folder is None:
        parser.error(f"{arguments.step} needs the FOLDER to fill")
    try:
        _step(arguments, ExtraPackages.parse(arguments.extra))
    except PackagingError as error:
        sys.exit(f"error: {error}")


def _step(arguments: argparse.Namespace, extra: ExtraPackages) -> None:
    folder = arguments.folder
    if arguments.step == "zips":
        package(BuildFolder())
        print("\n".join(str(BuildFolder().zip_file(function)) for function in ZIP_CONTENT))
    elif arguments.step == "tag":
        print(image_tag(extra))
    elif arguments.step == "kernels":
        kernels()
    elif arguments.step == "packages":
        install_packages(folder, LOCKS[arguments.variant])
    elif arguments.step == "extra":
        installed = install_extra(folder, extra)
        print(
            f"extra packages: {' '.join(f'{name}=={version}' for name, version in installed.items()) or 'none'}"
        )
    else:
        copy_code(folder)


if __name__ == "__main__":
    main()
