"""Packages that are not those whose hashes are recorded are refused, and none runs code when installed.

The real pip installs everything here from the real index. test_make_scripts.py has Terraform's provider.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from cosmicai.packaging.packages import ExtraPackages, PackagingError, install_extra, install_packages
from cosmicai.packaging.places import COMPILER_LOCK, LOCKS, ROOT, RUNTIME_LOCK

_SIX = "sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"
_WRONG = f"sha256:{'0' * 64}"


def _with_wrong_hashes(lock: Path, package: str, folder: Path) -> Path:
    """The entries of one package of a lock, in a new lock whose hashes are of other files."""
    lines = re.split(r"(?<!\\)\n", lock.read_text())
    kept = [line for line in lines if line.startswith((f"{package}==", "--"))]
    assert any(line.startswith(package) for line in kept)
    wrong = folder / lock.name
    wrong.write_text(re.sub(r"(?<=sha256:)[0-9a-f]{64}", lambda digest: digest[0][::-1], "\n".join(kept)))
    return wrong


@pytest.mark.parametrize(
    ("lock", "package"),
    [
        (LOCKS["lean"][0], "six"),
        (LOCKS["torch"][0], "markupsafe"),
        (LOCKS["torch"][1], "torch"),
        (RUNTIME_LOCK, "six"),
    ],
    ids=["lean", "torch variant", "torch", "runtime"],
)
def test_a_package_that_is_not_the_locked_file_is_refused(tmp_path: Path, lock: Path, package: str) -> None:
    folder = tmp_path / "task"
    with pytest.raises(PackagingError, match="DO NOT MATCH THE HASHES"):
        install_packages(folder, [_with_wrong_hashes(lock, package, tmp_path)])
    assert not folder.exists()


def test_a_refused_package_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "kept").touch()
    with pytest.raises(PackagingError):
        install_packages(tmp_path / "task", [_with_wrong_hashes(LOCKS["lean"][0], "six", tmp_path)])
    assert (tmp_path / "task" / "kept").exists()


def test_a_compiler_that_is_not_the_locked_file_is_refused(tmp_path: Path) -> None:
    """By the Dockerfile's own command; the file in place of the compiler is a small one."""
    lines = (ROOT / "docker" / "inference.Dockerfile").read_text().splitlines()
    (command,) = (
        line.removeprefix("RUN python ") for line in lines if COMPILER_LOCK.name in line and "pip" in line
    )
    (tmp_path / "functions").mkdir()
    install = [sys.executable, *shlex.split(command), "--target", str(tmp_path / "installed")]
    for digest, status in ((_WRONG, 1), (_SIX, 0)):
        (tmp_path / "functions" / COMPILER_LOCK.name).write_text(f"six==1.17.0 --hash={digest}\n")
        process = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True)
        assert process.returncode == status, process.stderr
        assert (tmp_path / "installed" / "six.py").exists() == (status == 0)
    (tmp_path / "functions" / COMPILER_LOCK.name).write_text("jmespath==1.1.0\n")
    process = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True)
    assert "Hashes are required" in process.stderr


def test_an_extra_package_with_another_hash_is_refused(tmp_path: Path) -> None:
    task = tmp_path / "task"
    task.mkdir()
    with pytest.raises(PackagingError, match="DO NOT MATCH THE HASHES"):
        install_extra(task, ExtraPackages((f"six==1.17.0 --hash={_WRONG}", "jmespath==1.1.0")))
    assert list(distributions(path=[str(task)])) == []
    extra = ExtraPackages((f"six==1.17.0 --hash={_WRONG} --hash={_SIX}", "jmespath==1.1.0"))
    assert install_extra(task, extra) == {"six": "1.17.0", "jmespath": "1.1.0"}
    assert {one.name for one in distributions(path=[str(task)])} == {"six", "jmespath"}


def test_a_dependency_may_be_locked_too(tmp_path: Path) -> None:
    """python-dateutil needs six."""
    (tmp_path / "task").mkdir()
    extra = ExtraPackages(("python-dateutil==2.9.0.post0", f"six==1.17.0 --hash={_WRONG}"))
    with pytest.raises(PackagingError, match="DO NOT MATCH THE HASHES"):
        install_extra(tmp_path / "task", extra)


@pytest.mark.parametrize("option", ["", " --no-deps"])
def test_a_source_distribution_is_not_built(tmp_path: Path, option: str) -> None:
    """python-terraform 0.10.1 is published as a source distribution only, whose setup.py would run."""
    (tmp_path / "task").mkdir()
    with pytest.raises(PackagingError, match="source distributions are not installed"):
        install_extra(tmp_path / "task", ExtraPackages((f"python-terraform==0.10.1{option}",)))
