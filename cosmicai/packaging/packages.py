"""What pip installs into the task folders: packages locked by their hashes, and a team's extra packages.

Only wheels are installed: building a source distribution would run its code, with build tools that no hash
pins. Standard library only, because docker/inference.Dockerfile runs it too.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any


class PackagingError(RuntimeError):
    """A part of the deployment could not be assembled."""


_NO_DEPS, _HASH = "--no-deps", "--hash="
_NAME = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?==[0-9][A-Za-z0-9.!+_-]*"
_EXTRA = re.compile(rf"{_NAME}( {_NO_DEPS})?( {_HASH}sha256:[0-9a-f]{{64}})*")
_EXTRA_IN_TEXT = re.compile(rf"\S+(?: (?:{_NO_DEPS}|{_HASH}\S*)(?= |$))*")


@dataclass(frozen=True)
class ExtraPackages:
    """Packages that users' scripts need besides those of an image.

    Each is NAME==VERSION, optionally followed by --no-deps, which leaves out what it depends on, and by
    --hash=sha256:…, once for each file that may be installed. Raises PackagingError for anything else, and for
    a name that is listed twice.
    """

    packages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for package in self.packages:
            if not _EXTRA.fullmatch(package):
                allowed = "give a package of PyPI and one version, such as timm==0.4.12"
                options = "followed by --no-deps and --hash=sha256:… if you like, in this order"
                raise PackagingError(f"extra_packages: {package!r} is not allowed: {allowed}, {options}")
        if len(self.versions()) < len(self.packages):
            raise PackagingError(f"extra_packages: {' '.join(self.packages)}: name each package once")

    @classmethod
    def parse(cls, text: str) -> ExtraPackages:
        """Packages from one line, separated by spaces."""
        return cls(tuple(_EXTRA_IN_TEXT.findall(text)))

    def versions(self, no_deps: bool | None = None) -> dict[str, str]:
        """By normalised name: of all packages, or of those with or without --no-deps."""
        chosen = (one.split() for one in self.packages)
        pairs = (words[0].split("==") for words in chosen if no_deps in (None, _NO_DEPS in words))
        return {_normalised(name): version for name, version in pairs}

    def hashes(self) -> dict[str, tuple[str, ...]]:
        """The options --hash=… by normalised name, of the packages that have any."""
        split = (one.split() for one in self.packages)
        options = {words[0]: tuple(word for word in words if word.startswith(_HASH)) for words in split}
        return {_normalised(name.split("==")[0]): hashes for name, hashes in options.items() if hashes}

    @property
    def digest(self) -> str:
        return digest(*(package.encode() for package in sorted(self.packages)))[:12]


NO_EXTRAS = ExtraPackages()
_GLIBC = range(34, 4, -1)  # the minor versions that wheels may ask for; Amazon Linux 2023 has 2.34


def _for_machine(machine: str) -> list[str]:
    """pip's options to choose wheels for another Linux machine and this version of Python; [] for this machine.

    machine: as Python calls it, x86_64 or aarch64. pip still evaluates a requirement's markers for the machine
    that it runs on (https://pip.pypa.io/en/stable/cli/pip_install/, --platform).
    """
    if machine == platform.machine():
        return []
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC] + [f"manylinux2014_{machine}"]
    version = ".".join(map(str, sys.version_info[:2]))
    chosen = [option for one in platforms for option in ("--platform", one)]
    return [*chosen, "--implementation", "cp", "--python-version", version]


def install_packages(folder: Path, locks: Sequence[Path], machine: str = platform.machine()) -> None:
    """Makes `folder` hold what the locks name, for a Linux machine, unless it does so already.

    Raises PackagingError for a file whose hash is not in its lock, and for what pip cannot install.
    """
    marker, partial = ".requirements", folder.with_name(f"{folder.name}.partial")
    content = digest(sys.version.encode(), machine.encode(), *(lock.read_bytes() for lock in locks))
    if (folder / marker).exists() and (folder / marker).read_text() == content:
        return
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for lock in locks:
        _install(partial, str(lock), machine, "--require-hashes", "--requirement", str(lock))
    (partial / marker).write_text(content)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def install_extra(folder: Path, extra: ExtraPackages, machine: str = platform.machine()) -> dict[str, str]:
    """Installs users' packages into a task folder besides its own, which stay as they are.

    Returns what was installed, versions by name. Raises PackagingError for another version of a package that
    the image has, for one that needs torch in the lean image, for a file with another hash than those given,
    for a package whose dependencies differ between this machine and the one that is built for, and for what pip
    cannot install.
    """
    own = {_normalised(one.name): one.version.partition("+")[0] for one in distributions(path=[str(folder)])}
    for name, version in extra.versions().items():
        if name in own and version.partition("+")[0] != own[name]:
            raise PackagingError(
                f"extra_packages: {name}=={version}: the image has {name} {own[name]} and was tested "
                "with it; leave yours out"
            )
    needed = extra.versions(no_deps=True) | _with_dependencies(extra.versions(no_deps=False), own, machine)
    new = {name: version for name, version in needed.items() if name not in own}
    if "torch" in new:
        raise PackagingError(
            f"extra_packages: {' '.join(extra.packages)}: torch is needed, which the lean image does not have; "
            'choose the image variant "torch"'
        )
    hashes = extra.hashes()
    with_hashes, without = sorted(new.keys() & hashes.keys()), sorted(new.keys() - hashes.keys())
    _install_lines(folder, machine, [_line(name, new[name], hashes[name]) for name in with_hashes])
    _install_lines(folder, machine, [_line(name, new[name]) for name in without])
    return new


def _line(name: str, version: str, hashes: Iterable[str] = ()) -> str:
    return " ".join([f"{name}=={version}", *hashes])


def _install_lines(folder: Path, machine: str, lines: Sequence[str]) -> None:
    """Installs lines of a requirements file; all or none of them have hashes, as pip requires."""
    if lines:
        with tempfile.TemporaryDirectory() as apart:
            requirements = Path(apart, "requirements.txt")
            requirements.write_text("\n".join(lines))
            names = " ".join(line.split()[0] for line in lines)
            _install(folder, names, machine, "--requirement", str(requirements))


def _install(folder: Path, what: str, machine: str, *options: str) -> None:
    """Adds packages to a folder, without their dependencies; files that exist there stay."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as apart:
        _pip(what, "--target", apart, "--no-deps", *_for_machine(machine), *options)
        # pip would leave out a folder that exists already, such as bin or that of a namespace of packages.
        shutil.copytree(apart, folder, dirs_exist_ok=True, copy_function=_move_new)


def _move_new(source: str, target: str) -> None:
    if not os.path.lexists(target):
        Path(source).rename(target)


def _with_dependencies(packages: Mapping[str, str], own: Mapping[str, str], machine: str) -> dict[str, str]:
    """The packages and all that they need, in versions that agree with those of the image."""
    if not packages:
        return {}
    pinned = [f"{name}=={version}" for name, version in packages.items()]
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in own.items()))
        # Some versions of pip choose for another machine only with a target, which a dry run leaves alone.
        options = ["--target", folder, "--dry-run", "--ignore-installed"]
        options += ["--report", str(report), "--constraint", str(constraints)]
        _pip(" ".join(pinned), *_for_machine(machine), *options, *pinned)
        resolved = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    if machine != platform.machine():
        _check_same_dependencies([one for one in resolved if _normalised(one["name"]) not in own], machine)
    return {_normalised(one["name"]): one["version"] for one in resolved}


def _check_same_dependencies(resolved: Iterable[Mapping[str, Any]], machine: str) -> None:
    """Raises PackagingError if dependencies depend on the machine: pip would use those of its own machine."""
    for package in resolved:
        for requirement in package.get("requires_dist", []):
            if "platform_machine" in requirement and "extra ==" not in requirement:
                name = f"{_normalised(package['name'])}=={package['version']}"
                raise PackagingError(
                    f"extra_packages: {name}: what it needs depends on the machine ({requirement}), and "
                    f"the image for {machine} is built on {platform.machine()}. "
                    "Build it with BUILD=codebuild, or add --no-deps and list what it needs"
                )


_WHEELS_ONLY = " as a wheel (source distributions are not installed, because building one runs its code)"


def _pip(what: str, *options: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--root-user-action=ignore", "--only-binary", ":all:"]
    completed = subprocess.run([*command, *options], capture_output=True, text=True)
    if completed.returncode:
        hint = _WHEELS_ONLY if "No matching distribution" in completed.stderr else ""
        # pip prints a line for each hash that the file could have had, perhaps a hundred.
        errors = "\n".join(line for line in completed.stderr.splitlines() if "Expected     or " not in line)
        raise PackagingError(f"pip could not install {what}{hint}:\n{errors.strip()[-2000:]}")


def _normalised(name: str) -> str:
    """https://packaging.python.org/specifications/name-normalization"""
    return re.sub(r"[-_.]+", "-", name).lower()


def digest(*parts: bytes) -> str:
    """A SHA-256 of several contents, which depends on where each of them ends."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
