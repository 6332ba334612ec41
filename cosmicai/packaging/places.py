"""Where sources are, and what is built from them. Standard library only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cosmicai.packaging.packages import NO_EXTRAS, ExtraPackages

_PACKAGE = Path(__file__).resolve().parents[1]
IS_INSTALLED = (_PACKAGE / "functions").is_dir()
"""Whether this is a wheel's copy, which carries functions/, statemachine/, terraform/ and payloads/ itself."""
ROOT = _PACKAGE if IS_INSTALLED else _PACKAGE.parent
HOME = Path(os.environ.get("COSMICAI_HOME") or Path.home()) if IS_INSTALLED else ROOT
"""Where .cosmicai/ keeps the state of deployments and what is built: the checkout, or the user's home."""
STATE = HOME / ".cosmicai"
FUNCTIONS = ROOT / "functions"
SCHEMA = ROOT / "statemachine" / "payload.schema.json"
BUNDLED_MODEL = FUNCTIONS / "inference" / "models" / "dc2-small"
ZIP_CONTENT: dict[str, tuple[Path, ...]] = {
    "initialize": (SCHEMA, *(BUNDLED_MODEL / f"{name}.json" for name in ("graphs", "card", "calibration"))),
    "rendezvous": (),
    "summarize": (),
}
"""Zip functions, with the files that they carry besides their own folder."""

_INFERENCE = FUNCTIONS / "inference"
LOCKS: dict[str, tuple[Path, ...]] = {
    "lean": (_INFERENCE / "requirements.lock",),
    "torch": (_INFERENCE / "requirements-torch.lock", _INFERENCE / "torch.lock"),
    "cuda": (_INFERENCE / "requirements-cuda.lock",),
}
"""What pip installs into each variant of the inference image: without torch, with it for the torch engine and
users' scripts, and with torch for CUDA. scripts/lock.py writes the locks."""
RUNTIME_LOCK = FUNCTIONS / "runtime-requirements.lock"
COMPILER_LOCK = FUNCTIONS / "build-requirements.lock"
IMAGE_NAMES = {"lean": "inference", "torch": "inference-torch", "cuda": "inference-cuda"}


@dataclass(frozen=True)
class BuildFolder:
    """The folder of everything that can be made again from the sources."""

    root: Path = STATE / "build" if IS_INSTALLED else ROOT / "build"

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
