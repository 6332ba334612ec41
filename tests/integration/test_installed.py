"""The wheel, built and installed by pip into an environment of its own, and used from an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import setuptools
from torch.utils.data import TensorDataset

from cosmicai import __version__
from cosmicai.packaging.kernels import MACHINES
from cosmicai.packaging.places import COMPILER_LOCK, ROOT

_FOLDERS = ("cosmicai", "functions", "payloads", "statemachine", "terraform")
_FILES = ("LICENSE", "NOTICE", "README.md", "pyproject.toml", "setup.py")
_WITHOUT = """
import sys
sys.modules["{module}"] = None  # as if it were not installed
from cosmicai.cli import run
sys.exit(run({words!r}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by pip from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", ".terraform")
    for name in _FOLDERS:
        shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True, ignore=ignored)
    for name in _FILES:
        shutil.copyfile(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
    process = subprocess.run([*command, folder / "source"], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    (built,) = folder.glob("*.whl")
    return built


class Installed:
    """An environment with the wheel; what it needs is this environment's."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.python = folder / "venv" / "bin" / "python"
        (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
        self.packages = packages
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "--no-deps", wheel]
        subprocess.run(pip, check=True)
        (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.folder = folder / "empty"
        self.folder.mkdir()

    def __call__(self, *words: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """Runs a command in the empty folder, without a path to the checkout."""
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        environment = {**kept, "HOME": str(self.folder.parent), "COLUMNS": "120"}
        process = subprocess.run([*words], cwd=self.folder, env=environment, capture_output=True, text=True)
        assert process.returncode == expect, process.stdout + process.stderr
        return process

    def cosmicai(self, *words: str | Path) -> str:
        return self(self.python.with_name("cosmicai"), *words).stdout

    def code(self, code: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        return self(self.python, "-c", code, expect=expect)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


@pytest.fixture
def partition(
    tmp_path: Path, saved: Callable[[object], bytes], make_partition: Callable[..., TensorDataset]
) -> Path:
    path = tmp_path / "1.pt"
    path.write_bytes(saved(make_partition(5)))
    return path


def _data_files() -> list[str]:
    """All files that git holds of the packages, except Python modules and the kernels' sources."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "cosmicai", "functions"], capture_output=True, check=True
    )
    paths = [Path(name) for name in listed.stdout.decode().splitlines()]
    data = [path for path in paths if path.suffix not in (".py", ".cpp", ".h", "") and path.name != "py.typed"]
    return [str(path).removeprefix("cosmicai/") for path in data] + ["py.typed"]


def test_a_wheel_is_one_package_with_its_files(wheel: Path, installed: Installed) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {name.partition("/")[0].partition("-")[0] for name in names} == {"cosmicai"}
        metadata = archive.read(f"cosmicai-{__version__}.dist-info/METADATA").decode()
    for name in (
        *_data_files(),
        *(f"functions/inference/engine/kernels/{machine}.so" for machine in MACHINES),
        "functions/rendezvous/server.py",
        "statemachine/payload.schema.json",
        "terraform/.terraform.lock.hcl",
        "terraform/modules/state_machine/main.tf",
        "payloads/demo.json",
    ):
        assert f"cosmicai/{name}" in names
    for extra in ("local", "data", "report", "rail"):
        assert f"Provides-Extra: {extra}\n" in metadata
    taken = {path.name.partition("-")[0] for path in installed.packages.iterdir()} - {"needed.pth"}
    assert taken == {"cosmicai"}


def test_the_kernels_are_compiled_by_the_compiler_of_the_lock() -> None:
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    (compiler,) = (one for one in required if one.startswith("ziglang"))
    assert f"{compiler} " in COMPILER_LOCK.read_text()
    assert int(setuptools.__version__.split(".")[0]) >= 77


def test_every_module_finds_the_functions_within(installed: Installed) -> None:
    code = """
import importlib, pkgutil, sys, cosmicai
for module in pkgutil.walk_packages(cosmicai.__path__, "cosmicai."):
    if not module.name.endswith("__main__") and "fmilib" not in module.name:
        importlib.import_module(module.name)
print(sorted({"inference", "initialize", "rendezvous", "summarize", "contract"} & sys.modules.keys()))
print("cosmicai.functions.inference.rank" in sys.modules)
"""
    assert installed.code(code).stdout == "[]\nTrue\n"


def test_from_an_empty_folder(installed: Installed, partition: Path) -> None:
    assert installed.cosmicai("--version") == f"cosmicai {__version__}\n"
    output = installed.cosmicai("infer", partition, "--out", "mine")
    assert "5 redshifts in mine" in output
    out = installed.folder / "mine"
    (info,) = json.loads((out / "combined_data.json").read_text())
    assert info["engine"] == "onnxruntime"
    with np.load(out / "predictions" / "0.npz") as arrays:
        assert arrays["z_pred"].shape == (5,)
    assert (out / "inference.png").exists()
    (out / "report.html").unlink()
    installed.cosmicai("report", "mine")
    assert "echarts" in (out / "report.html").read_text()
    installed.cosmicai("catalogue", "mine", "--format", "csv,parquet,fits,qp")
    assert (out / "catalogue.fits").exists()
    assert "nothing is deployed" in installed(installed.python, "-m", "cosmicai", "list", expect=1).stderr


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("pyarrow", ("catalogue", "{out}", "--format", "parquet"), "report"),
        ("qp", ("catalogue", "{out}", "--format", "qp"), "formats"),
        ("torch", ("model", "calibrate", "{model}", "--calibration", "{folder}"), "data"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    installed: Installed, partition: Path, tmp_path: Path, module: str, words: tuple[str, ...], extra: str
) -> None:
    out, model = (
        tmp_path / "out",
        installed.packages / "cosmicai" / "functions" / "inference" / "models" / "dc2-small",
    )
    installed.cosmicai("infer", partition, "--out", out)
    places = {"out": out, "model": model, "folder": tmp_path}
    arguments = [word.format(**places) for word in words]
    process = installed.code(_WITHOUT.format(module=module, words=arguments), expect=1)
    assert f"error: {module}, which this needs, is not installed: pip install 'cosmicai[" in process.stderr
    assert f"pip install 'cosmicai[{extra}]'" in process.stderr


def test_without_matplotlib_there_is_no_picture(installed: Installed, partition: Path, tmp_path: Path) -> None:
    words = ["infer", str(partition), "--out", str(tmp_path / "out")]
    installed.code(_WITHOUT.format(module="matplotlib", words=words))
    assert (tmp_path / "out" / "report.html").exists()
    assert not (tmp_path / "out" / "inference.png").exists()


def test_an_import_is_cheap(installed: Installed) -> None:
    heavy = ("numpy", "torch", "astropy", "boto3", "rich")
    code = f"import sys, cosmicai; print([name for name in {heavy} if name in sys.modules])"
    assert installed.code(code).stdout == "[]\n"
