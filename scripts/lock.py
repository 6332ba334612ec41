"""Writes the locks of all that pip installs into the images: python scripts/lock.py

The lock of FILE.txt is FILE.lock: every package that FILE.txt needs, in the versions of the root's
requirements.lock, with the hashes of its wheels. pip then installs these files and nothing else. torch has a
lock of its own, torch.lock, because its builds without CUDA are only on torch's own index. That with CUDA is
PyPI's, of the version that requirements-cuda.txt names. Run this with the environment's Python on Linux for
x86_64, which CUDA's packages are for, whenever versions change. Tests compare the locks with the root's
requirements.lock.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote, urldefrag

ROOT = Path(__file__).resolve().parent.parent
FUNCTIONS = ROOT / "functions"
TORCH_LOCK = FUNCTIONS / "inference" / "torch.lock"
LOCKED = (
    FUNCTIONS / "inference" / "requirements.txt",
    FUNCTIONS / "inference" / "requirements-torch.txt",
    FUNCTIONS / "inference" / "requirements-cuda.txt",
    FUNCTIONS / "build-requirements.txt",
    FUNCTIONS / "runtime-requirements.txt",
)
PYPI, TORCH_INDEX = "https://pypi.org/simple", "https://download.pytorch.org/whl/cpu"
_TORCH_ON_LINUX = re.compile(r"cp3(1[1-4])-cp3\1-manylinux\w+_(x86_64|aarch64)\.whl$")
_TORCH_ON_MACOS = re.compile(r"cp3(1[1-4])-cp3\1-macosx\w+_arm64\.whl$")


class _Links(HTMLParser):
    """The links of a page of an index (https://packaging.python.org/specifications/simple-repository-api)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.targets += [value for name, value in attrs if name == "href" and value]


def wheels(page: str, version: str) -> dict[str, str]:
    """SHA-256 by file name of the wheels of one version on a package's page."""
    digests = {}
    for target in _Links(page).targets:
        url, fragment = urldefrag(target)
        name = unquote(url.rpartition("/")[2])
        if name.endswith(".whl") and name.split("-")[1] == version and fragment.startswith("sha256="):
            digests[name] = fragment.removeprefix("sha256=")
    return digests


def closure(requirements: Path) -> dict[str, str]:
    """Versions by name of what a file names and of all that these packages need."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--ignore-installed",
        "--report",
        "-",
    ]
    pip += ["--only-binary", ":all:"]
    pip += ["--extra-index-url", TORCH_INDEX] if requirements.stem.endswith("-torch") else []
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write(_constraints(requirements))
        constraints.flush()
        pip += ["--constraint", constraints.name, "--requirement", str(requirements)]
        report = json.loads(subprocess.run(pip, stdout=subprocess.PIPE, text=True, check=True).stdout)
    packages = (item["metadata"] for item in report["install"])
    return {one["name"].lower().replace("_", "-"): one["version"] for one in packages}


def _constraints(requirements: Path) -> str:
    """The root's versions; of torch the file's own, where that names another."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return "\n".join(line for line in lines if not (_has_cuda(requirements) and line.startswith("torch==")))


def _has_cuda(requirements: Path) -> bool:
    return requirements.stem.endswith("-cuda")


def _page(index: str, name: str) -> str:
    request = urllib.request.Request(f"{index}/{name}/", headers={"Accept": "text/html"})  # noqa: S310 - https
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return answer.read().decode()


def entry(requirement: str, digests: Iterable[str]) -> str:
    """One requirement with the hashes of its files."""
    listed = sorted(digests)
    if not listed:
        raise SystemExit(f"{requirement}: the index lists no wheel with a hash")
    return " \\\n".join([requirement, *(f"    --hash=sha256:{digest}" for digest in listed)])


def lock(requirements: Path) -> str:
    """The lock of a file; without torch, unless that is PyPI's with CUDA."""
    lines = [
        f"# Made by scripts/lock.py: what {requirements.name} needs, with the hashes of the wheels on PyPI."
    ]
    for name, version in sorted(closure(requirements).items()):
        if name != "torch" or _has_cuda(requirements):
            lines.append(entry(f"{name}=={version}", wheels(_page(PYPI, name), version).values()))
    return "\n".join(lines) + "\n"


def torch_lock(version: str) -> str:
    """The lock of torch: its builds without CUDA for Linux, and PyPI's for macOS."""
    linux, macos = wheels(_page(TORCH_INDEX, "torch"), f"{version}+cpu"), wheels(_page(PYPI, "torch"), version)
    on_linux = [digest for name, digest in linux.items() if _TORCH_ON_LINUX.search(name)]
    on_macos = [digest for name, digest in macos.items() if _TORCH_ON_MACOS.search(name)]
    lines = [
        "# Made by scripts/lock.py: torch without CUDA for Python 3.11 to 3.14, for Linux from torch's index.",
        f"--extra-index-url {TORCH_INDEX}",
        entry(f'torch=={version}+cpu ; sys_platform == "linux"', on_linux),
        entry(f'torch=={version} ; sys_platform == "darwin"', on_macos),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    for requirements in LOCKED:
        requirements.with_suffix(".lock").write_text(lock(requirements))
    (version,) = re.findall(r"^torch==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    try:
        TORCH_LOCK.write_text(torch_lock(version))
    except URLError as error:
        if f"torch=={version}+cpu " not in TORCH_LOCK.read_text():
            raise SystemExit(
                f"{TORCH_INDEX} cannot be reached, and torch.lock is of another version: {error}"
            ) from error
        print(f"{TORCH_INDEX} cannot be reached ({error.reason}): torch.lock stays as it is", file=sys.stderr)


if __name__ == "__main__":
    main()
