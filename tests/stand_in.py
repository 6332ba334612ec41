"""Images without Docker: buildah, and a stand-in for Lambda's base image that Debian's packages make.

Lambda's own base image is in a registry that the tests cannot count on. The stand-in has its layout (/var/task,
`python` on the PATH) with the Python of Debian 12, 3.11 instead of 3.12: the locks hold wheels for both.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from cosmicai.packaging.places import ROOT

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_TOOLS = ("buildah", "debootstrap", "dpkg-deb", "unshare")
_RELEASE, _PACKAGES = "bookworm", "python3,python3-pip"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_CACHE = ROOT / "build" / "stand-in"
_LEFT_OUT = (
    "var/cache/apt",
    "var/lib/apt",
    "debootstrap",
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
)
_STAND_IN = "localhost/stand-in:latest"


def missing() -> str:
    """Why no image can be built here; empty where one can."""
    tools = [tool for tool in _TOOLS if not shutil.which(tool)]
    if sys.platform != "linux" or os.geteuid() != 0:
        return "building an image needs root on Linux"
    return f"{', '.join(tools)}: packages of their own" if tools else ""


@dataclass(frozen=True)
class Buildah:
    """buildah with all that it keeps below one folder."""

    folder: Path

    def run(self, *arguments: str | Path, at: Path | None = None) -> str:
        """What it prints. Raises RuntimeError."""
        options = [
            "--root",
            self.folder / "images",
            "--runroot",
            self.folder / "run",
            "--storage-driver",
            "vfs",
        ]
        command = ["buildah", *map(str, [*options, *arguments])]
        environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
        process = subprocess.run(command, cwd=at, env=environment, capture_output=True, text=True)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}:\n{process.stdout[-3000:]}{process.stderr[-3000:]}")
        return process.stdout.strip()

    def close(self) -> None:
        """Lets go of the file systems that `build` has mounted."""
        self.run("umount", "--all")

    def make_stand_in(self) -> None:
        """The base image for both architectures under one name, as registries have it."""
        self.run("manifest", "create", _STAND_IN)
        for architecture in MACHINES:
            container = self.run("from", "--arch", architecture, "scratch")
            self.run("add", "--quiet", container, root_folder(architecture), "/")
            settings = ["--env", "LAMBDA_TASK_ROOT=/var/task", "--workingdir", "/var/task"]
            self.run("config", "--os", "linux", "--arch", architecture, *settings, container)
            self.run("commit", "--quiet", "--rm", container, f"localhost/{architecture}")
            platform = ["--os", "linux", "--arch", architecture]
            self.run("manifest", "add", *platform, _STAND_IN, f"localhost/{architecture}")

    def build(self, context: Path, build_architecture: str, architecture: str) -> tuple[dict[str, Any], Path]:
        """The configuration and the file system of the image that docker/inference.Dockerfile makes."""
        name = f"localhost/inference:{architecture}"
        # BuildKit sets BUILDPLATFORM itself; this buildah does not.
        values = {"BASE": _STAND_IN, "BUILDPLATFORM": f"linux/{build_architecture}"}
        options = [option for key, value in values.items() for option in ("--build-arg", f"{key}={value}")]
        target = ["--platform", f"linux/{architecture}", "--pull-never", "-t", name]
        self.run("bud", *target, *options, "-f", "docker/inference.Dockerfile", ".", at=context)
        described = json.loads(self.run("inspect", "--type", "image", name))["OCIv1"]
        return described, Path(self.run("mount", self.run("from", "--pull-never", name)).split()[-1])


def root_folder(architecture: str) -> Path:
    """The stand-in's file system. It is made once. No program in it runs: packages are only unpacked."""
    folder = _CACHE / architecture
    _CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(_CACHE / ".lock"):
        if not folder.exists():
            partial = _CACHE / f"{architecture}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            options = ["--foreign", f"--arch={architecture}", "--variant=minbase", f"--include={_PACKAGES}"]
            subprocess.run(["debootstrap", *options, _RELEASE, partial], check=True, capture_output=True)
            for package in sorted((partial / "var/cache/apt/archives").glob("*.deb")):
                subprocess.run(["dpkg-deb", "-x", package, partial], check=True)
            for name in _LEFT_OUT:
                shutil.rmtree(partial / name, ignore_errors=True)
            (partial / "usr/bin/python").symlink_to("python3")
            for marker in partial.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
                marker.unlink()
            (partial / "var/task").mkdir()
            certificates = partial / _CERTIFICATES.relative_to("/")
            certificates.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_CERTIFICATES, certificates)
            partial.rename(folder)
    return folder


def entering(root: str, *command: str, mounted: str = "proc sys dev") -> list[str]:
    """Runs a command in an image's file system, with some of the machine's own mounted in it."""
    mounts = f'for place in {mounted}; do mount --rbind "/$place" "$0/$place"; done; exec chroot "$0" "$@"'
    return ["unshare", "--mount", "sh", "-ec", mounts, root, *command]
