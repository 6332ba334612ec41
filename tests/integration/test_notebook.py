"""docs/notebook.ipynb, executed by Jupyter's kernel."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from cosmicai.data import dc2
from cosmicai.packaging.places import ROOT
from tests.conftest import CACHE

pytestmark = pytest.mark.slow
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
_EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient
source, target = sys.argv[1:]
notebook = nbformat.read(source, 4)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, target)
"""
_PICTURES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the notebook writes, and the notebook itself after it was executed."""
    folder = tmp_path_factory.mktemp("executed")
    dc2.load("validation", CACHE)
    (folder / "notebook" / "cache").mkdir(parents=True)
    for path in CACHE.glob("*.hdf5"):  # else it downloads them again
        shutil.copyfile(path, folder / "notebook" / "cache" / path.name)
    command = [sys.executable, "-c", _EXECUTE, str(NOTEBOOK), "executed.ipynb"]
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    return folder


def _cells(path: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def _texts(path: Path) -> str:
    outputs = (output for cell in _cells(path) for output in cell["outputs"])
    return "".join("".join(output.get("text", "")) for output in outputs)


def _pictures(path: Path) -> int:
    return sum("image/png" in output.get("data", {}) for cell in _cells(path) for output in cell["outputs"])


def test_it_ends_with_a_calibrated_catalogue(folder: Path) -> None:
    text = _texts(folder / "executed.ipynb")
    assert "4 partitions of 1,000 galaxies" in text
    assert "Warning" not in text
    (nmad,) = re.findall(r"NMAD (0\.\d+)", text)
    assert float(nmad) == pytest.approx(0.03, abs=0.004)
    inside, inside_95 = map(float, re.findall(r"(\d+\.\d)%", text)[:2])
    assert inside == pytest.approx(68, abs=4.5)  # 3 standard errors
    assert inside_95 == pytest.approx(95, abs=2.1)
    assert _pictures(folder / "executed.ipynb") == _PICTURES
    results = folder / "notebook" / "results"
    with fits.open(results / "catalogue.fits") as hdus, np.load(folder / "notebook" / "survey.npz") as survey:
        assert hdus[1].data["id"].tolist() == survey["objectId"].tolist()


def test_what_is_committed_was_executed() -> None:
    """With its pictures, in order, and without errors."""
    cells = _cells(NOTEBOOK)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert _pictures(NOTEBOOK) == _PICTURES
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert kinds <= {"display_data", "execute_result", "stream"}
