"""Writes functions/inference/requirements.lock: python scripts/lock.py

All that the lean image installs, in the versions of the root's requirements.lock, with the hashes of all their
files on PyPI, so that an image for any architecture installs these and nothing else. To be run, with the
environment's Python, whenever the versions change; a test compares the two.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INFERENCE = ROOT / "functions" / "inference"


def closure() -> dict[str, str]:
    """Versions by name of what requirements.txt names and all that these need."""
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
    pip += [
        "--constraint",
        str(ROOT / "requirements.lock"),
        "--requirement",
        str(INFERENCE / "requirements.txt"),
    ]
    report = json.loads(subprocess.run(pip, capture_output=True, text=True, check=True).stdout)
    found = (item["metadata"] for item in report["install"])
    return {one["name"].lower().replace("_", "-"): one["version"] for one in found}


def hashes(name: str, version: str) -> list[str]:
    """SHA-256 of every file of a release (https://packaging.python.org/specifications/simple-repository-api)."""
    request = urllib.request.Request(
        f"https://pypi.org/simple/{name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - https, as it says
        files = json.load(answer)["files"]
    stems = {f"{spelled}-{version}" for spelled in (name, name.replace("-", "_"), name.replace("-", "."))}
    ours = (
        file["hashes"]["sha256"]
        for file in files
        if any(
            file["filename"].lower().startswith((f"{stem}-", f"{stem}.tar", f"{stem}.zip")) for stem in stems
        )
    )
    return sorted(ours)


def main() -> None:
    lines = ["# Made by scripts/lock.py: the lean image's packages with the hashes of their files on PyPI."]
    for name, version in sorted(closure().items()):
        found = hashes(name, version)
        if not found:
            raise SystemExit(f"{name} {version}: PyPI has no file of it")
        lines.append(" \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{digest}" for digest in found)]))
    (INFERENCE / "requirements.lock").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
