"""What is deployed: reproducible zips for three Lambdas, and the task folder of the inference image.

docker/inference.Dockerfile and the embedded AWS assemble the task folder with the same two steps of this file
(`packages`, `code`). Standard library alone, so that the image's build stage needs nothing else; compiling the
kernels needs the package ziglang.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FUNCTIONS = ROOT / "functions"
LOCK = ROOT / "requirements.lock"
SCHEMA = ROOT / "statemachine" / "payload.schema.json"
ZIP_CONTENT: dict[str, tuple[Path, ...]] = {"initialize": (SCHEMA,), "rendezvous": (), "summarize": ()}
"""Zip functions, with the files that they carry beside their own folder."""

_NOT_SHIPPED = ("__pycache__", "requirements.txt", "requirements-torch.txt", "requirements.lock")
_SOURCES = (".cpp", ".h")  # shipped as what they are compiled to
_REQUIREMENTS = {"lean": "requirements.txt", "torch": "requirements-torch.txt"}
"""Variants of the inference image: without torch, and with it for the torch engine and users' scripts."""
IMAGE_NAMES = {"lean": "inference", "torch": "inference-torch"}
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold: same input, same bytes


class PackagingError(RuntimeError):
    """Something that is to be deployed could not be put together."""


_NO_DEPS = " --no-deps"
_PINNED = re.compile(rf"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?==[0-9][A-Za-z0-9.!+_-]*({_NO_DEPS})?")


@dataclass(frozen=True)
class ExtraPackages:
    """Packages that users' scripts need beside those of an image.

    Each is NAME==VERSION, and what it depends on is installed with it, or NAME==VERSION --no-deps, alone.
    Raises PackagingError for anything else, and for a name that stands there twice.
    """

    packages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for package in self.packages:
            if not _PINNED.fullmatch(package):
                allowed = "give a package of PyPI and one version, such as timm==0.4.12"
                raise PackagingError(f"extra_packages: {package!r} is not allowed: {allowed}")
        if len(self.versions()) < len(self.packages):
            raise PackagingError(f"extra_packages: {' '.join(self.packages)}: name each package once")

    @classmethod
    def parse(cls, text: str) -> ExtraPackages:
        """All of them in a line, with blanks between."""
        return cls(tuple(re.findall(rf"\S+(?:{_NO_DEPS}(?= |$))?", text)))

    def versions(self, no_deps: bool | None = None) -> dict[str, str]:
        """By normalised name: of all packages, or of those with or without --no-deps."""
        chosen = (one for one in self.packages if no_deps in (None, one.endswith(_NO_DEPS)))
        pairs = (package.removesuffix(_NO_DEPS).split("==") for package in chosen)
        return {_normalised(name): version for name, version in pairs}

    @property
    def digest(self) -> str:
        return _digest(*(package.encode() for package in sorted(self.packages)))[:12]


NO_EXTRAS = ExtraPackages()


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
        install_packages(build.runtime, FUNCTIONS / "runtime-requirements.txt")
        for variant in variants:
            install_packages(build.image(variant), requirements(variant))
            copy_code(build.image(variant))
            if extra.packages:
                _extend(build.image(variant), build.image(variant, extra), extra)
                copy_code(build.image(variant, extra))


def requirements(variant: str) -> Path:
    return FUNCTIONS / "inference" / _REQUIREMENTS[variant]


def install_packages(folder: Path, requirements: Path) -> None:
    """Installs pinned requirements into `folder`, unless just these are there already: by the hashes of their
    own lock where they have one, else in the versions of the project's."""
    marker, hashed = folder / ".requirements", requirements.with_suffix(".lock")
    others = sorted(requirements.parent.glob("*requirements*.*"))  # they may name each other
    wanted = _digest(
        sys.version.encode(), requirements.name.encode(), *(p.read_bytes() for p in [*others, LOCK])
    )
    if marker.exists() and marker.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    if hashed.exists():
        asked = ["--require-hashes", "--no-deps", "--requirement", str(hashed)]
    else:
        asked = ["--constraint", str(LOCK), "--requirement", str(requirements)]
    _pip(str(requirements), "--target", str(folder), *asked)
    marker.write_text(wanted)


def install_extra(folder: Path, extra: ExtraPackages) -> dict[str, str]:
    """Installs users' packages into a task folder beside its own, which stay as they are.

    Returns what was installed, versions by name. Raises PackagingError for another version of a package that
    the image has, for one that needs torch in the lean image, and for what pip cannot install.
    """
    own = {_normalised(one.name): one.version.partition("+")[0] for one in distributions(path=[str(folder)])}
    for name, version in extra.versions().items():
        if name in own and version.partition("+")[0] != own[name]:
            raise PackagingError(
                f"extra_packages: {name}=={version}: the image has {name} {own[name]} and was tested "
                "with it; leave yours out"
            )
    asked = extra.versions(no_deps=True) | _with_dependencies(extra.versions(no_deps=False), own)
    new = {name: version for name, version in asked.items() if name not in own}
    if "torch" in new:
        raise PackagingError(
            f"extra_packages: {' '.join(extra.packages)}: torch is needed, which the lean image does not have; "
            'choose the image variant "torch"'
        )
    if new:
        pinned = [f"{name}=={version}" for name, version in sorted(new.items())]
        with tempfile.TemporaryDirectory(dir=folder.parent) as apart:
            _pip(" ".join(pinned), "--target", apart, "--no-deps", *pinned)
            # pip would leave out a folder that is there already, such as that of a namespace of packages.
            shutil.copytree(apart, folder, dirs_exist_ok=True, copy_function=_copy_new)
    return new


def _copy_new(source: str, target: str) -> None:
    if not os.path.lexists(target):
        shutil.copy2(source, target)


def _with_dependencies(packages: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The packages and all that they need, in versions that agree with those of the image."""
    if not packages:
        return {}
    pinned = [f"{name}=={version}" for name, version in packages.items()]
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in own.items()))
        options = ["--dry-run", "--ignore-installed", "--report", str(report), "--constraint", str(constraints)]
        _pip(" ".join(pinned), *options, *pinned)
        found = (item["metadata"] for item in json.loads(report.read_text())["install"])
        return {_normalised(one["name"]): one["version"] for one in found}


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


def _pip(what: str, *options: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--root-user-action=ignore", *options], capture_output=True, text=True)
    if done.returncode:
        raise PackagingError(f"pip could not install {what}:\n{done.stderr.strip()[-2000:]}")


def _normalised(name: str) -> str:
    """https://packaging.python.org/specifications/name-normalization"""
    return re.sub(r"[-_.]+", "-", name).lower()


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
    wanted = _digest(Path(__file__).read_bytes(), LOCK.read_bytes(), *(path.read_bytes() for path in sources))
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
    wanted = _digest(*(str(p.relative_to(source)).encode() + p.read_bytes() for p in _shipped(source)))
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
    parts = [LOCK, ROOT / "docker" / "inference.Dockerfile", Path(__file__), *map(requirements, _REQUIREMENTS)]
    parts += [requirements("lean").with_suffix(".lock")]
    parts += sorted(path for path in KERNELS.iterdir() if path.suffix in _SOURCES)
    shipped = [path for path in _shipped(source) if path.parent != KERNELS]
    named = (str(path.relative_to(source)).encode() + path.read_bytes() for path in shipped)
    extras = [extra.digest.encode()] if extra.packages else []
    return _digest(*(path.read_bytes() for path in parts), *named, *extras)[:16]


def _shipped(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and not _is_beside(path))
    return sorted(path for path in files if not set(_NOT_SHIPPED) & set(path.relative_to(folder).parts))


def _is_beside(path: Path) -> bool:
    """Whether it only serves to make the kernels, or they are for another machine."""
    return path.parent == KERNELS and path.name != f"{platform.machine()}.so"


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


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def main() -> None:
    """What make, deploy.sh and docker build call: `python packaging.py STEP [FOLDER]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["zips", "tag", "packages", "extra", "kernels", "code"])
    parser.add_argument("folder", type=Path, nargs="?", help="the image's task folder")
    parser.add_argument("--variant", choices=list(_REQUIREMENTS), default="lean", help="of the inference image")
    parser.add_argument("--extra", default="", help="NAME==VERSION with blanks between: packages for scripts")
    parser.add_argument(
        "--no-deps", choices=["true", "false"], default="false", help="the extra packages alone"
    )
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
        install_packages(folder, requirements(arguments.variant))
    elif arguments.step == "extra":
        installed = install_extra(folder, extra)
        print(
            f"extra packages: {' '.join(f'{name}=={version}' for name, version in installed.items()) or 'none'}"
        )
    else:
        copy_code(folder)


if __name__ == "__main__":
    main()
