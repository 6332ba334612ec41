"""The documentation does what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cosmicai import reference
from cosmicai.packaging.places import ROOT
from inference.contract.names import COPY, METADATA
from summarize.contract.event import RankEvent
from summarize.contract.fields import Record
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import ReducedMetrics, Run, Summary

from .conftest import Cloud, Json, Ran

DOCS = ROOT / "docs"


def _commands(page: Path) -> str:
    """The text of a page's sh blocks, in order."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))


def test_the_tutorial_works_word_for_word(tmp_path: Path) -> None:
    shutil.rmtree(ROOT / "results" / "tutorial", ignore_errors=True)
    environment = {**os.environ, "COSMICAI_LOCAL": str(tmp_path / "local"), "COLUMNS": "120"}
    script = f"set -eu\ntrap 'cosmicai local down' EXIT\n{_commands(DOCS / 'tutorial.md')}"
    process = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=420
    )
    assert process.returncode == 0, process.stdout + process.stderr
    for message in (
        "succeeded: 1,530 redshifts",
        "Recommended:",
        "1 of 6 ranks left no result: 2.",
        "exit status 3",
        '"rank": 2',
        "CSVs and plots are in the same folder",
    ):
        assert message in process.stdout + process.stderr
    for left in ("first/report.html", "stamps.png", "sweep/sweep.html"):
        assert (ROOT / "results" / "tutorial" / left).exists()


def _anchors(page: Path) -> set[str]:
    """Those of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    """In README and its neighbours; `mkdocs build --strict` checks those of docs/ as well."""
    for page in [*ROOT.glob("*.md"), *DOCS.glob("*.md")]:
        for link in re.findall(r"\]\(([^):]+)\)", page.read_text()):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), f"{page}: {link}"
            assert not anchor or anchor in _anchors(target), f"{page}: {link}"


def test_the_reference_is_that_of_the_code() -> None:
    assert reference.PAGE.read_text() == reference.page(), "run `python -m cosmicai.reference`"
    assert str(ROOT) not in reference.page()


def _names(record: type[Record]) -> set[str]:
    return {one.name for one in record.described()}


def test_the_reference_names_every_field_of_a_run(
    cloud: Cloud, run: Callable[[Json], Ran], partitions: Callable[..., dict[str, bytes]], prefix: str
) -> None:
    cloud.put_all(prefix, partitions(1))
    ran = run(cloud.payload(prefix, collectives="direct", catalogue=f"growing/{prefix}"))  # with metrics.json
    assert _names(RankInfo) - set(ran.read("0.json")) == {  # of scripts, AWS Batch, imported networks, copies
        "total_gpu_time (seconds)", "total_gpu_memory (MB)", "number of batches", "batch size", "script_values",
        "left_out", "vcpus", "public_address", "instance_type", "billed (seconds)", "measures", "columns", COPY,
    }  # fmt: skip
    for name, record in {"0": RankInfo, "run": Run, "metrics": ReducedMetrics, "summary": Summary}.items():
        content = ran.read(f"{name}.json")
        assert set(content) <= _names(record)
        assert record.from_json(content).to_json() == content
    for event in ran.read("manifest.json"):
        assert set(event) == _names(RankEvent) - {"RENDEZVOUS", "ORIGINALS"}
        assert RankEvent.from_json(event).to_json() == event
    unasked = {"id", "ra", "dec", "embedding"}  # the source had none, the payload asked for none
    imported = {"other columns", METADATA}  # of networks that `model import-onnx` wrote
    assert set(reference.PREDICTIONS) - set(ran.predictions(0)) == unasked | imported | {COPY}
    assert set(ran.predictions(0)) <= set(reference.PREDICTIONS)


@pytest.mark.parametrize("command", ["run", "plan", "sweep", "watch", "results", "report", "resume"])
def test_every_command_has_an_example(command: str) -> None:
    cosmicai = str(Path(sys.executable).with_name("cosmicai"))
    process = subprocess.run([cosmicai, command, "--help"], capture_output=True, text=True, check=True)
    assert "Example: cosmicai" in process.stdout
