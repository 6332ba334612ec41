"""Reproducible zips for three Lambdas, and the task folder of the inference image.

docker/inference.Dockerfile and the embedded AWS assemble the task folder with the same steps: `packages`,
`extra`, `code`. Standard library only, so that the image's build stage needs nothing else.
"""

from __future__ import annotations

import os
import platform
import shutil
import venv
import zipfile
from collections.abc import Sequence
from compileall import compile_dir
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from py_compile import PycInvalidationMode

from cosmicai.packaging.kernels import KERNELS, SOURCES, compile_kernels
from cosmicai.packaging.packages import (
    NO_EXTRAS,
    ExtraPackages,
    PackagingError,
    digest,
    install_extra,
    install_packages,
)
from cosmicai.packaging.places import (
    COMPILER_LOCK,
    FUNCTIONS,
    LOCKS,
    ROOT,
    RUNTIME_LOCK,
    ZIP_CONTENT,
    BuildFolder,
)

_NOT_SHIPPED = ("__pycache__",)
_REQUIREMENTS = (".txt", ".lock")  # suffixes of what pip reads, in functions/inference
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold: same input, same bytes


def package(build: BuildFolder) -> None:
    """The zips that Terraform deploys."""
    build.root.mkdir(parents=True, exist_ok=True)
    for function, extra in ZIP_CONTENT.items():
        _replace_if_changed(build.zip_file(function), _zipped(function, extra))


def assemble(build: BuildFolder, variants: Sequence[str] = ("lean",), extra: ExtraPackages = NO_EXTRAS) -> None:
    """The zips, and all that the embedded AWS needs to run functions; returns at once if nothing changed."""
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
    """Makes `folder` a copy of `base` with the extra packages, unless it is one; its files are hard links."""
    marker, content = folder / ".extra", (base / ".requirements").read_text() + extra.digest
    if marker.exists() and marker.read_text() == content:
        return
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder, copy_function=os.link)
    shutil.rmtree(folder / "inference", ignore_errors=True)  # what copy_code writes is not shared
    (folder / ".code").unlink(missing_ok=True)
    install_extra(folder, extra)
    marker.write_text(content)


def copy_code(folder: Path, machine: str = platform.machine()) -> None:
    """The inference package itself, next to its requirements, with the kernels of a machine, and as bytecode.

    Lambda lets no function write beside its code: without bytecode each cold start would compile every module.
    It is used whatever the times of the sources are, as layers of an image may change them.
    """
    compile_kernels(machine)
    source, target = FUNCTIONS / "inference", folder / "inference"
    shipped = _shipped(source, machine)
    contents = (str(path.relative_to(source)).encode() + path.read_bytes() for path in shipped)
    content = digest(MAGIC_NUMBER, *contents)
    marker = folder / ".code"
    if marker.exists() and marker.read_text() == content:
        return
    shutil.rmtree(target, ignore_errors=True)
    for path in shipped:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    if not compile_dir(target, quiet=1, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH):
        raise PackagingError(f"{target}: a module cannot be compiled; what is wrong stands above")
    marker.write_text(content)


def image_tag(extra: ExtraPackages = NO_EXTRAS) -> str:
    """A hash of all that the inference images are made of: what is the same is never built twice."""
    source = FUNCTIONS / "inference"
    steps = [ROOT / "docker" / "inference.Dockerfile", *sorted(Path(__file__).parent.glob("*.py"))]
    parts = [*steps, COMPILER_LOCK, *(lock for locks in LOCKS.values() for lock in locks)]
    parts += sorted(path for path in KERNELS.iterdir() if path.suffix in SOURCES)
    shipped = [path for path in _shipped(source) if path.parent != KERNELS]
    contents = (str(path.relative_to(source)).encode() + path.read_bytes() for path in shipped)
    extras = [extra.digest.encode()] if extra.packages else []
    return digest(*(path.read_bytes() for path in parts), *contents, *extras)[:16]


def _shipped(folder: Path, machine: str = platform.machine()) -> list[Path]:
    """The files below a function's folder, those of the contract that it links to among them."""
    files = (Path(at) / name for at, _, names in os.walk(folder, followlinks=True) for name in names)
    shipped = (path for path in files if not _is_build_input(path, machine))
    return sorted(path for path in shipped if not set(_NOT_SHIPPED) & set(path.relative_to(folder).parts))


def _is_build_input(path: Path, machine: str) -> bool:
    """Whether it is only read when the image is made, or belongs to the kernels of another machine."""
    if path.parent == KERNELS:
        return path.name != f"{machine}.so"
    return path.parent == FUNCTIONS / "inference" and path.suffix in _REQUIREMENTS


def _zipped(function: str, extra: tuple[Path, ...]) -> list[tuple[str, bytes]]:
    folder = FUNCTIONS / function
    own = [(f"{function}/{path.relative_to(folder)}", path.read_bytes()) for path in _shipped(folder)]
    return own + [(f"{function}/{path.name}", path.read_bytes()) for path in extra]


def _replace_if_changed(path: Path, content: list[tuple[str, bytes]]) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")  # another process may do the same
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content:
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.external_attr = 0o100644 << 16
            info.create_system = 3
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    if path.exists() and path.read_bytes() == partial.read_bytes():
        partial.unlink()
    else:
        partial.replace(path)
