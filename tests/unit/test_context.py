"""What is sent to the build of the inference image: what docker build would send, and no secret."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from cosmicai.deploy.context import DOCKERFILE, Ignored, context_files, write_context
from cosmicai.packaging.places import ROOT
from tests.replica import environment

_FILES = (
    ".git/config",
    ".env",
    "a",
    "a.txt",
    "b/a.txt",
    "b/c/a.txt",
    "b/c/d.so",
    "b/kept/x.py",
    "b/kept/__pycache__/x.pyc",
    "docker/inference.Dockerfile",
    "docs/[x].md",
    "docs/x.md",
    "docs/y.md",
    "w x/y",
)
_IGNORES = (
    "",
    "*\n!b/kept\n**/__pycache__\n",
    "*\n!b\nb/c\n!b/c/d.so\n",
    "# a comment\n\n/a.txt\nb/\n",
    "**/a.txt\n!b/c/a.txt",
    "**\n!**/*.py",
    "b/**\n!b/c/a.txt",
    "b/*/a.txt\n",
    "*/c\n",
    "docs/[x-z].md\n!docs/x.md",
    "?\n?.txt",
    "b/kept\n! b/kept/x.py\n",
    "./b/../a.txt\n",
    ".*\n!.env\n",
    "w x\n",
    "**/kept/**/x.py*",
)
# In the replica's environment, which has Docker's own SDK for Python; it prints what that would send.
_SDK = """
import json, sys
from docker.utils.build import exclude_paths
lines = [line.strip() for line in open(".dockerignore").read().splitlines()]
lines = [line for line in lines if line and not line.startswith("#")]
print(json.dumps(sorted(exclude_paths(".", lines, "docker/inference.Dockerfile"))))
"""


@pytest.mark.parametrize("ignore", _IGNORES)
def test_the_context_is_the_one_that_dockers_sdk_sends(tmp_path: Path, ignore: str) -> None:
    for name in _FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".dockerignore").write_text(ignore)
    process = subprocess.run(
        [environment(), "-c", _SDK], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    theirs = {name for name in json.loads(process.stdout) if not (tmp_path / name).is_dir()}
    assert set(context_files(tmp_path)) == theirs | {".dockerignore", DOCKERFILE}


def test_a_backslash_takes_the_next_character_as_it_is() -> None:
    """As Go's filepath.Match; Docker's SDK for Python leaves that out."""
    ignored = Ignored("docs/\\[x\\].md")
    assert [ignored.leaves_out(name) for name in ("docs/[x].md", "docs/x.md")] == [True, False]


def test_a_folder_that_is_left_out_is_not_read(tmp_path: Path) -> None:
    """Such as .venv, with a hundred thousand files."""
    ignored = Ignored("*\n!functions/inference\n")
    assert not ignored.may_keep_below(".venv")
    assert ignored.may_keep_below("functions")


def test_the_context_is_what_the_dockerfile_copies() -> None:
    """And nothing else: no history, no state of Terraform, no values of a team, no test."""
    held = set(context_files(ROOT))
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / DOCKERFILE).read_text(), re.MULTILINE)
    sources = tuple(source for line in copied for source in line.split())
    assert {name for name in held if not name.startswith(sources)} == {".dockerignore", DOCKERFILE}
    for source in sources:
        assert any(name == source or name.startswith(f"{source}/") for name in held), source
    assert not any(
        re.search(r"\.git/|tfstate|tfvars|tfbackend|\.env|__pycache__|\.venv", name) for name in held
    )


def test_the_archive_holds_the_files_and_links_as_they_are(tmp_path: Path) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    write_context(ROOT, first)
    write_context(ROOT, second)
    assert first.getvalue() == second.getvalue()
    with tarfile.open(fileobj=io.BytesIO(first.getvalue())) as archive:
        archive.extractall(tmp_path, filter="data")
    for name in context_files(ROOT):
        copy, source = tmp_path / name, ROOT / name
        assert copy.is_symlink() == source.is_symlink()
        assert copy.read_bytes() == source.read_bytes() if copy.is_file() else source.is_dir()
        assert os.access(copy, os.X_OK) == os.access(source, os.X_OK)
    assert (tmp_path / "functions" / "inference" / "contract").is_symlink()
